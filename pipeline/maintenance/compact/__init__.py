"""Joins small units into larger files, and removes leftovers of crashed runs."""
