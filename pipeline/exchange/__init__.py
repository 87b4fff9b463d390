"""Exchange: exports of segment tables in the formats of other tools, and imports from them."""
