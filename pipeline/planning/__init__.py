"""Plans the images that a run labels: those of a corpus that earlier runs do not hold."""
