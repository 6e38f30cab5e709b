"""Proof that the MMU does what it must: audit of its structures, coherence, races, historic defects."""
