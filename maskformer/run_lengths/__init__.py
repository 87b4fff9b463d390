"""Masks as run lengths: COCO's compressed counts, and runs of pixels. Starts without numba."""
