"""Paging formats: the shape of the tables in each mode, reserved bits and permission rules.

Pure functions on integers, for the processor's walker and for software walks. Levels count from the page
upwards: 1 is the table that maps 4 KiB pages. Addresses count bytes, gfns 4 KiB frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

from .bits import ACC_U, ACC_W, ACC_X, ADDR, MASK64, NX, PS

__all__ = [
    "FIVE_LEVEL",
    "FOUR_LEVEL",
    "NO_PAGING",
    "PAE",
    "TWO_LEVEL",
    "PagingFormat",
    "ReservedBits",
    "entry_gfn",
    "ept_reserved_bits",
    "is_canonical",
    "paging_format",
    "permission_bitmask",
    "pse36_gfn_delta",
    "reserved_bits",
]

ReservedBits = tuple[tuple[int, ...], tuple[int, ...]]
"""Masks of the bits that must be zero: `[bit 7 of the entry][level - 1]`."""


@dataclass(frozen=True, slots=True)
class PagingFormat:
    """The shape of the tables in one paging mode (AMD APM vol. 2, 5.2 and 5.3).

    Attributes:
        name: Name of the mode.
        levels: Number of levels: 0 (no paging), 2, 3 (PAE), 4 or 5.
        entry_bytes: Bytes of an entry: 4 or 8.
        index_bits: Bits of the address that index a table (the PAE page-directory-pointer table has only 4
            entries).
        virtual_bits: Bits of a linear address.
    """

    name: str
    levels: int
    entry_bytes: int
    index_bits: int
    virtual_bits: int

    def level_shift(self, level: int) -> int:
        """Return the number of address bits below the index of `level`: log2 of the bytes that one of its
        entries maps.
        """
        return 12 + self.index_bits * (level - 1)

    def index(self, address: int, level: int) -> int:
        """Return the index of `address` in its table at `level`."""
        return address >> self.level_shift(level) & (1 << self.index_bits) - 1


NO_PAGING: Final = PagingFormat("none", 0, 8, 9, 32)
TWO_LEVEL: Final = PagingFormat("2-level", 2, 4, 10, 32)
PAE: Final = PagingFormat("PAE", 3, 8, 9, 32)
FOUR_LEVEL: Final = PagingFormat("4-level", 4, 8, 9, 48)
FIVE_LEVEL: Final = PagingFormat("5-level", 5, 8, 9, 57)

_FORMATS: Final = {form.levels: form for form in (NO_PAGING, TWO_LEVEL, PAE, FOUR_LEVEL, FIVE_LEVEL)}


def paging_format(levels: int) -> PagingFormat:
    """Return the format with that number of levels. Raises ValueError for a number that no mode has."""
    try:
        return _FORMATS[levels]
    except KeyError:
        raise ValueError(f"no paging mode has {levels} levels") from None


def entry_gfn(form: PagingFormat, entry: int, level: int) -> int:
    """Return the gfn in an entry of `level`, rounded to what an entry of that level maps; without the PSE36
    bits.

    For an entry that points to a table, pass level 1: a table is always one frame.
    """
    address = ADDR & (1 << 8 * form.entry_bytes) - 1
    return (entry & address & ~((1 << form.level_shift(level)) - 1)) >> 12


def pse36_gfn_delta(entry: int) -> int:
    """Return what bits 16:13 of a 4 MiB entry add to its gfn: physical bits 35:32 (`pse36_gfn_delta`,
    6.12.111).
    """
    return (entry >> 13 & 0xF) << 20


def is_canonical(form: PagingFormat, address: int) -> bool:
    """Return whether a 64-bit address is the sign extension of a linear address (32-bit modes: zero
    extension).
    """
    if form.virtual_bits == 32:
        return address >> 32 == 0
    half = 1 << form.virtual_bits - 1
    return (address + half & MASK64) >> form.virtual_bits == 0


def _bits(high: int, low: int) -> int:
    """Return a mask of bits high..low; 0 if high < low."""
    return (1 << high + 1) - (1 << low) if high >= low else 0


@cache
def reserved_bits(
    levels: int, maxphyaddr: int, *, nx: bool, pse: bool, gbpages: bool, amd: bool
) -> ReservedBits:
    """Return the bits that must be zero in a present entry, as `[bit 7 of the entry][level - 1]`.

    `nx` is EFER.NX, `pse` CR4.PSE (2-level only; PSE36 is assumed), `gbpages` whether 1 GiB pages exist, and
    `amd` adds bit 8 of levels 4 and 5. Without paging both rows are empty. Raises ValueError for a number of
    levels that no mode has. Models `__reset_rsvds_bits_mask`, 6.12.111.
    """
    if paging_format(levels) is NO_PAGING:
        return (), ()
    nx_bit = 0 if nx else NX
    if levels == 2:
        return (0, 0), (0, _bits(21, 17) if pse else 0)
    if levels == 3:
        high = _bits(62, maxphyaddr) | nx_bit
        pdpte = NX | high | _bits(8, 5) | _bits(2, 1)
        return (high, high, pdpte), (high, high | _bits(20, 13), 0)
    high = _bits(51, maxphyaddr) | nx_bit
    no_gb = 0 if gbpages else PS
    top = (high | PS | (_bits(8, 8) if amd else 0),) * (levels - 3)
    return (high, high, high | no_gb, *top), (high, high | _bits(20, 13), high | no_gb | _bits(29, 13), *top)


@cache
def ept_reserved_bits(levels: int, maxphyaddr: int) -> ReservedBits:
    """Return the bits that must be zero in a present EPT entry, as `[whether it is a leaf][level - 1]`.

    1 GiB pages exist (Intel SDM vol. 3C, 29.3.2).
    """
    high = _bits(51, maxphyaddr)
    low = high | _bits(6, 3)
    top = (high | _bits(7, 3),) * (levels - 3)
    return (high, low, low, *top), (high, high | _bits(20, 12), high | _bits(29, 12), *(0 for _ in top))


@cache
def permission_bitmask(*, wp: bool, nx: bool, smep: bool, smap: bool) -> bytes:
    """Return what faults: bit `ACC` of byte `i` is set if access `i` to a page with the rights ACC faults.

    Bits of `i`: 0 write, 1 user, 2 SMAP off (EFLAGS.AC set and the access not implicit), 3 fetch. The
    arguments are CR0.WP, EFER.NX, CR4.SMEP and CR4.SMAP. Models `update_permission_bitmask`, 6.12.111,
    without its EPT form.
    """
    lacks_x, lacks_w, lacks_u = (
        sum(1 << acc for acc in range(8) if not acc & right) for right in (ACC_X, ACC_W, ACC_U)
    )
    user_pages = ~lacks_u & 0xFF
    table = bytearray(16)
    for i in range(16):
        write, user, smap_off, fetch = (i >> bit & 1 for bit in range(4))
        if write and (user or wp):
            table[i] |= lacks_w
        if fetch and nx:
            table[i] |= lacks_x
        if user:
            table[i] |= lacks_u
        elif (fetch and smep) or (smap and not fetch and not smap_off):
            table[i] |= user_pages
    return bytes(table)
