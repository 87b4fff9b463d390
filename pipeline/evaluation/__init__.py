"""Evaluation: predictions beside truth, counted where they are made, summed up by the driver."""
