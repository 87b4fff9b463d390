"""Verifies a table: rows, masks, files, plans and reports."""
