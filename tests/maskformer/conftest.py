"""Puts this folder on the path of the tests below it, which import `tiny` and `stand_ins`."""
