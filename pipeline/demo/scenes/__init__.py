"""Scenes drawn by code, with the truth of every pixel: data for a model that anyone may have."""
