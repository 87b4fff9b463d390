"""What the model is trained by: targets, their matching with queries, and the losses."""
