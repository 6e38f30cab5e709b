"""The bug museum: historic defects, and the search that finds them."""
