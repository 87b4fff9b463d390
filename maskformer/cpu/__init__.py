"""Code compiled for CPUs with numba: convolutions, mask losses, arg-max of masks, run lengths.

Takes and gives arrays. The model calls it where tensors are on a CPU, and torch's operations
elsewhere; the results are the same. Imports nothing of the model.
"""
