"""Draws scenes with the true label of every pixel: training data without a licence."""
