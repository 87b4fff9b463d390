"""Stores a table: layout and columns of its files, readers, and the latest rows."""
