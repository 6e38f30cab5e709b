"""Mapping one address: fetch, direct maps, prefetch, emulated page-table writes."""
