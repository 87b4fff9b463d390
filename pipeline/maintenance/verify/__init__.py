"""Verification: whether a table is what its files, plans and reports say that it is."""
