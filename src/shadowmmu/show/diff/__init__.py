"""Two histories of the same scenario side by side: another design, kernel, vendor or parameter."""
