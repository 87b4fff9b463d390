"""Decides which images a run labels: all of a corpus, less what earlier runs hold."""
