"""Initial contents of the frames of a new shadow page."""

from cython import ulonglong as u64

from .vm import Kvm

BITS_63 = memoryview(bytearray((1 << 63).to_bytes(8, "little") * 512)).cast("Q")
ZEROS = memoryview(bytearray(4096)).cast("Q")


def clear_table(kvm: Kvm, hpa: u64) -> None:
    """Fill the frame at hpa with 512 non-present SPTEs."""
    start: u64 = hpa >> 3
    kvm.words[start : start + 512] = BITS_63 if kvm.design.empty_spte else ZEROS


def clear_translations(kvm: Kvm, hpa: u64) -> None:
    """Fill the frame at hpa with 512 unknown translations (0)."""
    start: u64 = hpa >> 3
    kvm.words[start : start + 512] = ZEROS
