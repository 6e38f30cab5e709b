"""Frames given the contents of a new shadow page: empty SPTEs, or no translations."""

from cython import ulonglong as u64

from .vm import Kvm

BITS_63 = memoryview(bytearray((1 << 63).to_bytes(8, "little") * 512)).cast("Q")
ZEROS = memoryview(bytearray(4096)).cast("Q")


def clear_table(kvm: Kvm, hpa: u64) -> None:
    """Make the frame a table that maps nothing."""
    start: u64 = hpa >> 3
    kvm.words[start : start + 512] = BITS_63 if kvm.design.empty_spte else ZEROS


def clear_translations(kvm: Kvm, hpa: u64) -> None:
    """Make the frame an array of translations of which none is known."""
    start: u64 = hpa >> 3
    kvm.words[start : start + 512] = ZEROS
