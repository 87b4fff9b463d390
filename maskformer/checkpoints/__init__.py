"""Checkpoints of every dialect: files to named tensors, and their names to ours.

`stored` reads what a file holds without reading the weights, `pickled` the files that are pickles,
`dialects` translates names, `backbones` fills a backbone alone, `labels` keeps what two label sets
share, `conversion` writes transformers' format, `checkpoint` fills a model from them.
"""
