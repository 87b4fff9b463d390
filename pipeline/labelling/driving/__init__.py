"""Driving: the units of a run through readers, actors and commits, until all are done."""
