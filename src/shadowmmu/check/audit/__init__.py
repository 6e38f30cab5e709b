"""The audit: predicates that must hold between the structures of the MMU."""
