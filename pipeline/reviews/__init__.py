"""Reviews: what people say of a table's images, as revisions that are only ever added."""
