"""Checks a table against its promises, and joins its small files."""
