"""One image through the model several times: scales, mirror images, windows."""
