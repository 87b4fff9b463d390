"""Segmenting: blocks of pixels into rows, on the device of an actor."""
