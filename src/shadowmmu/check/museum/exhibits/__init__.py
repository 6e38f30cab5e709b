"""The texts of the museum, by what was wrong."""

from .exhibit import Exhibit
from .guest_tables import GUEST_TABLES
from .mappings import MAPPINGS
from .shadow_pages import SHADOW_PAGES

__all__ = ["EXHIBITS", "Exhibit"]

EXHIBITS = (*SHADOW_PAGES, *GUEST_TABLES, *MAPPINGS)
"""What the museum shows, in the order of a walk through it."""
