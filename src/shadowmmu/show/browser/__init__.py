"""The browser of page tables: one HTML file with a history in it, which needs no network."""
