"""Shadow page table entries: their bits, how they are made, changed, found and flushed."""
