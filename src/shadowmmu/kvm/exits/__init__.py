"""VM exits, emulation, and completion of accesses that no memslot backs."""
