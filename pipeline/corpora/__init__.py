"""Corpora: what lies under a prefix, and the images in it, read and decoded. Without torch."""
