"""Exporting: reads a table image by image, and writes each image in one format."""
