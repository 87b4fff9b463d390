"""Reading: the images of a unit, decoded in CPU tasks into blocks of pixels."""
