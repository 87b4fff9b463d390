"""Importing: takes annotations that people corrected in other tools back as reviews of a table."""
