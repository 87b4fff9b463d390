"""Compaction: small units joined into larger files, and what crashed runs left behind removed."""
