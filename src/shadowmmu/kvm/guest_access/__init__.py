"""Access to guest memory: walks of guest page tables, PDPTRs, dirty marks."""
