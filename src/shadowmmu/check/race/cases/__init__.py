"""The programs, in the order of the protocol's description."""

from .layout import CASES as LAYOUT

__all__ = ["ALL"]

ALL = (*LAYOUT,)
