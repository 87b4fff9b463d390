"""Nightly labelling: plans what is new, labels it, and reports, with nobody watching."""
