"""Labelled images: where they lie, and what is known of each; read by evaluation and training."""
