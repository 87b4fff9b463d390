"""Comparison: what two segment tables say of the same images, and which images to look at."""
