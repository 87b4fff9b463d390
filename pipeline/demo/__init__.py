"""Draws the scenes that the demo labels, keeps the sample model, and runs the demo.

Nothing else of the project imports it, and it does not travel to the nodes of a cluster.
"""
