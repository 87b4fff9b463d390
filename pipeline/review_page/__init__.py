"""Serves a page to look at a segment table and to correct it; see README.md here."""
