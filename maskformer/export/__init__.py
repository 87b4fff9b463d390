"""Export: a model as an ONNX graph, which ONNX Runtime computes on CPUs."""
