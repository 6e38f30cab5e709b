"""Access to guest memory: walks of guest page tables, PDPTEs, dirty marks."""
