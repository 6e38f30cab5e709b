"""What one instruction does to memory and to the paging registers.

The model does not decode bytes: whoever runs a guest says what the instruction at RIP is. `code` is only
shown. Addresses are linear, sizes in bytes.
"""

from dataclasses import dataclass
from enum import Enum


class Op(Enum):
    """Kinds of instructions."""

    LOAD = "mov reg, mem"
    STORE = "mov mem, reg"
    XCHG = "xchg"
    CMPXCHG = "lock cmpxchg"
    CMPXCHG8B = "lock cmpxchg8b"
    ADD = "add mem, reg"
    STOS = "rep stosd"
    INVLPG = "invlpg"
    MOV_CR0 = "mov cr0, reg"
    MOV_CR3 = "mov cr3, reg"
    MOV_CR4 = "mov cr4, reg"
    WRMSR = "wrmsr"
    VMRUN = "vmrun"
    VMMCALL = "vmmcall"
    INVLPGA = "invlpga"
    NOP = "nop"
    IRET = "iret"
    INT = "int"
    OUT = "out"

    @property
    def writes_page_tables(self) -> bool:
        """Return whether KVM takes the instruction for one that edits page tables."""
        return self in _WRITES_PAGE_TABLES


_WRITES_PAGE_TABLES = frozenset((Op.STORE, Op.XCHG, Op.CMPXCHG, Op.CMPXCHG8B))


@dataclass(slots=True)
class Insn:
    """An instruction with the values of its operands.

    Attributes:
        op: Its kind.
        code: Its bytes, only to be shown.
        address: Linear address of the memory operand.
        size: Bytes of the memory operand.
        value: Value stored, added, or written to the register; for OUT the port, for INT the vector, for
            VMRUN the address of the VMCB, for INVLPGA the address to flush.
        expected: Value that CMPXCHG compares with.
        count: Iterations left of STOS (it changes, as rcx does), the MSR of WRMSR, the ASID of INVLPGA.
        result: Value that LOAD, XCHG and CMPXCHG read.
    """

    op: Op
    code: bytes = b""
    address: int = 0
    size: int = 0
    value: int = 0
    expected: int = 0
    count: int = 0
    result: int = 0
