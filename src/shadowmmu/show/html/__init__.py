"""HTML for notebooks: small tables, complete in themselves."""
