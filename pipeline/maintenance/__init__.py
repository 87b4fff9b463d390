"""Verifies a table, and joins its small files."""
