"""What one instruction does to memory and to the paging registers.

The model does not decode bytes: whoever runs a guest says what the instruction at RIP is. `code` is only
shown. Addresses are linear, sizes in bytes.
"""

from dataclasses import dataclass
from enum import Enum


class Op(Enum):
    """Kinds of instructions. The second value says whether KVM takes it for one that edits page tables."""

    LOAD = ("mov reg, mem", True)
    STORE = ("mov mem, reg", True)
    XCHG = ("xchg", True)
    CMPXCHG = ("lock cmpxchg", True)
    CMPXCHG8B = ("lock cmpxchg8b", True)
    ADD = ("add mem, reg", False)
    STOS = ("rep stosd", False)
    INVLPG = ("invlpg", False)
    MOV_CR0 = ("mov cr0, reg", False)
    MOV_CR3 = ("mov cr3, reg", False)
    MOV_CR4 = ("mov cr4, reg", False)
    WRMSR = ("wrmsr", False)
    NOP = ("nop", False)
    IRET = ("iret", False)
    INT = ("int", False)
    OUT = ("out", False)

    def __init__(self, text: str, writes_page_tables: bool) -> None:
        self.text = text
        self.writes_page_tables = writes_page_tables


@dataclass(slots=True)
class Insn:
    """An instruction with its operands as the registers have them.

    value     what is stored, added, written to the register; for OUT the port, for INT the vector
    expected  what CMPXCHG compares with
    count     iterations left of STOS (it changes, as rcx does), the MSR of WRMSR
    result    what LOAD, XCHG and CMPXCHG read
    """

    op: Op
    code: bytes = b""
    address: int = 0
    size: int = 0
    value: int = 0
    expected: int = 0
    count: int = 0
    result: int = 0
