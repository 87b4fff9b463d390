"""Training: labelled images in, a better model out."""
