"""One image through the model several times: scales, mirrored copies, windows."""
