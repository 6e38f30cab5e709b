"""What the fields of events mean: a name for each kind of integer, and how people read it.

An event's fields are annotated with these names; all are plain integers.
"""

from collections.abc import Callable
from typing import Any, TypeAlias

from ...x86.bits import EPT_XU
from ..bits import FROZEN_BITS, SPTE_MMU_PRESENT

Word: TypeAlias = int
"""A hexadecimal word: error codes, registers, MSRs."""
Gpa: TypeAlias = int
"""A guest physical address, in bytes."""
Gva: TypeAlias = int
"""A guest virtual address, in bytes."""
Hva: TypeAlias = int
"""A host virtual address, in bytes."""
Gfn: TypeAlias = int
"""A guest frame: gpa >> 12."""
Pfn: TypeAlias = int
"""A host frame; 1 << 63 for an address without a slot."""
Sptep: TypeAlias = int
"""Physical address of an SPTE, 0 for none."""
Spte: TypeAlias = int
"""Value of an SPTE."""
LeafSpte: TypeAlias = int
"""Value of an SPTE that cannot point to a shadow page."""
TdpSpte: TypeAlias = int
"""Value of an SPTE of the TDP MMU: one of level 1 cannot point to a page table."""
Role: TypeAlias = int
"""kvm_mmu_page_role.word."""


def _hex(value: int) -> str:
    return f"{value:#x}"


def _spte(spte: int) -> str:
    """Return the word, and the frame and W that mean the same in all formats."""
    word = f"{spte:#x}"
    if spte & SPTE_MMU_PRESENT:
        return f"{word} (pfn {(spte & 0x000F_FFFF_FFFF_F000) >> 12:#x}{' w' if spte & 2 else ''})"
    rest = spte & ~(1 << 63)
    return f"{word} ({'empty' if not rest else 'frozen' if rest | EPT_XU == FROZEN_BITS else 'not present'})"


SHOWN: dict[str, Callable[[Any], str]] = {
    "int": lambda value: f"{value:d}",
    "bool": lambda value: f"{value:d}",
    "str": repr,
    "bytes": lambda value: f"'{value.hex(' ')}'",
    "Spte": _spte,
    "LeafSpte": _spte,
    "TdpSpte": _spte,
    **dict.fromkeys(("Word", "Gpa", "Gva", "Hva", "Gfn", "Pfn", "Sptep", "Role"), _hex),
}
"""How repr shows a field of a kind."""
