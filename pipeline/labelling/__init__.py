"""Labelling: a corpus's images in, a committed segment table out."""
