"""Exports tables to other tools, and imports their corrections."""
