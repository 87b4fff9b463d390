"""The table: where its files lie, what they hold, and how readers see its latest state."""
