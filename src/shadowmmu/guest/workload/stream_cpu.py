"""A vCPU that runs streams of instructions: at full speed where the MMU suffices, else one by one."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from ...kvm.exits.page_fault_exit import complete_page_fault
from ...kvm.state.vcpu import QueuedException
from ...x86.bits import MASK64, NESTED_FAULT, PF_VECTOR, WRITE
from ...x86.insn import Insn, Op
from ..play.cpu import GuestCpu
from ..play.stubs import Step
from .stream import CLEAR, INVLPG, MOV_CR3, STORE4, STORE8, run_stream

__all__ = ["Stream", "StreamCpu"]

_WORD = 8


class Stream:
    """Instructions of a guest, in order; kinds as in `stream`.

    Attributes:
        kinds: Kind of each instruction, 'B'.
        gvas: Its linear address, 'Q'; 0 for MOV to CR3.
        values: What it stores or loads into CR3, 'Q'; 0 for the others.
    """

    __slots__ = ("gvas", "kinds", "values")

    def __init__(self) -> None:
        self.kinds = array("B")
        self.gvas = array("Q")
        self.values = array("Q")

    def add(self, kind: int, gva: int, value: int = 0) -> None:
        """Append an instruction."""
        self.kinds.append(kind)
        self.gvas.append(gva & MASK64)
        self.values.append(value)

    def accesses(self, kinds: array[int] | int, gvas: array[int]) -> None:
        """Append accesses, all of one kind or each of its own."""
        count = len(gvas)
        self.kinds.extend(array("B", bytes([kinds]) * count) if isinstance(kinds, int) else kinds)
        self.gvas.extend(gvas)
        self.values.frombytes(bytes(_WORD * count))

    def stores(self, kind: int, gvas: list[int], values: list[int]) -> None:
        """Append stores of one kind."""
        self.kinds.frombytes(bytes([kind]) * len(gvas))
        self.gvas.extend(gvas)
        self.values.extend(values)

    def __len__(self) -> int:
        return len(self.kinds)


@dataclass(slots=True)
class Counts:
    """What a vCPU's guest did so far.

    Attributes:
        instructions: Instructions completed.
        stores: Of these, stores to page tables.
        cr3_writes: Of these, MOV to CR3.
        invlpgs: Of these, INVLPG.
        page_faults: Page faults that the guest's own handler got.
    """

    instructions: int = 0
    stores: int = 0
    cr3_writes: int = 0
    invlpgs: int = 0
    page_faults: int = 0


@dataclass(slots=True)
class StreamCpu:
    """A vCPU that runs streams.

    Attributes:
        cpu: The vCPU as it runs single instructions.
        counts: What its guest did.
    """

    cpu: GuestCpu
    counts: Counts = field(default_factory=Counts)

    def run(self, stream: Stream, start: int = 0) -> tuple[int, QueuedException | None]:
        """Run from index `start` on. Return (index, exception): where the guest got one, or (length, None).

        Raises EndlessFaults, TripleFault, KvmRunError, DirtyRingFull, EmulationError.
        """
        kinds, gvas, values = memoryview(stream.kinds), memoryview(stream.gvas), memoryview(stream.values)
        vcpu, at, end = self.cpu.vcpu, start, len(stream)
        while True:
            at = run_stream(vcpu, kinds, gvas, values, at)
            if at == end:
                break
            if kinds[at] > CLEAR:
                self._paging_instruction(kinds[at], gvas[at], values[at])
                at += 1
                continue
            done = self._finish(kinds[at], gvas[at], values[at])
            if vcpu.exception is not None:
                exception, vcpu.exception = vcpu.exception, None
                self._count(kinds[start:at])
                self.counts.page_faults += 1
                return at, exception
            at += done
        self._count(kinds[start:])
        return end, None

    def _paging_instruction(self, kind: int, gva: int, value: int) -> None:
        op = Op.INVLPG if kind == INVLPG else Op.MOV_CR3
        self.cpu.in_guest = True
        self.cpu.execute(Step(kind, user=False, insn=Insn(op, address=gva, value=value)))

    def _finish(self, kind: int, gva: int, value: int) -> bool:
        """Do what the last fault asks for beyond the MMU: emulate, or let the guest have its exception.

        Return whether the instruction is completed.
        """
        vcpu = self.cpu.vcpu
        cpu, nested = vcpu.cpu, vcpu.kvm.parameters.tdp_enabled
        if vcpu.exception is not None:
            return False
        if cpu.fault_vector != (NESTED_FAULT if nested else PF_VECTOR):
            vcpu.exception = QueuedException(cpu.fault_vector, cpu.fault_error_code, gva)
            return False
        stores = kind in (STORE4, STORE8, CLEAR)
        vcpu.rip = kind
        vcpu.cpl = 3 if kind & 4 and not stores else 0
        insn = Insn(Op.STORE if stores or kind & 3 == WRITE else Op.LOAD, address=gva, size=4, value=value)
        if kind != STORE4:
            insn.address, insn.size = gva & ~7, 8
        if kind == CLEAR:
            insn = Insn(Op.STOS, address=gva, size=8, count=512)
        elif insn.op is Op.STORE and not stores:
            insn.value = self.cpu.emulator.peek(insn.address, insn.size)
        address = cpu.fault_gpa if nested else gva
        return complete_page_fault(vcpu, self.cpu.emulator, insn, address)

    def _count(self, kinds: memoryview) -> None:
        done = bytes(kinds)
        counts = self.counts
        counts.instructions += len(done)
        counts.stores += done.count(STORE4) + done.count(STORE8)
        counts.cr3_writes += done.count(MOV_CR3)
        counts.invlpgs += done.count(INVLPG)
