"""Frames given the contents of a new shadow page: empty SPTEs, or no translations."""

from cython import ulonglong as u64

from .bits import SPTE_EMPTY
from .vm import Kvm

EMPTY_TABLE = memoryview(bytearray(SPTE_EMPTY.to_bytes(8, "little") * 512)).cast("Q")
NO_TRANSLATIONS = memoryview(bytearray(4096)).cast("Q")


def clear_table(kvm: Kvm, hpa: u64) -> None:
    """Make the frame a table that maps nothing."""
    start: u64 = hpa >> 3
    kvm.words[start : start + 512] = EMPTY_TABLE


def clear_translations(kvm: Kvm, hpa: u64) -> None:
    """Make the frame an array of translations of which none is known."""
    start: u64 = hpa >> 3
    kvm.words[start : start + 512] = NO_TRANSLATIONS
