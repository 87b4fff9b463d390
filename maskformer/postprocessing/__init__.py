"""From a model's outputs to maps, segments and their run lengths."""
