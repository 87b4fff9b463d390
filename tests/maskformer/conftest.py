"""Lets the tests of the folders below import `tiny` and `stand_ins`: pytest adds a conftest's folder
to the path."""
