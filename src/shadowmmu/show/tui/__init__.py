"""A history in the terminal, stepped through by keys (Textual, the extra `tui`)."""
