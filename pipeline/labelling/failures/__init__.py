"""Failures: images and GPUs that end processes, found, counted and left out."""
