"""Memory traces of real programs: readers, reduction to page changes, a compact file of columns."""
