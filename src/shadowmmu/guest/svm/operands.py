"""Decoded machine code, and the registers and memory that it works on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ...kvm.registers.invlpg import is_noncanonical
from ...kvm.state.vcpu import QueuedException, Vcpu
from ...x86.bits import GP_VECTOR, MASK64
from ...x86.insn import Insn, Op
from .processor import SvmProcessor
from .registers import DS, FS

CF, PF, AF, ZF, SF, OF = 1, 4, 0x10, 0x40, 0x80, 0x800
ARITHMETIC = CF | PF | AF | ZF | SF | OF


@dataclass(slots=True)
class Operand:
    """One operand.

    `kind` is r (register), h (AH to BH), x (XMM), y (MMX), s (segment register, by number), m (memory),
    i (immediate) or b (a branch's distance from RIP).
    """

    kind: str
    size: int
    number: int = 0
    value: int = 0


@dataclass(slots=True)
class Code:
    """An instruction as decoded; `name` in lower case, `execute` None if it is not executed here.

    `is_far`: a far JMP or CALL, to `target` (selector, offset) or to what its memory operand holds.
    `word`: bytes of each word on the stack, if it pushes or pops several or none of its operands.

    For the memory operand: registers by number (-1: none), displacement, segment, and whether RIP is added.
    """

    name: str
    code: bytes
    operands: list[Operand]
    op: Op
    execute: "Executor | None"
    size: int = 0
    base: int = -1
    index: int = -1
    scale: int = 1
    displacement: int = 0
    segment: int = DS
    rip_relative: bool = False
    address_size: int = 8
    repeat: bool = False
    repeat_while_equal: bool | None = None
    has_memory: bool = False
    is_far: bool = False
    target: tuple[int, int] | None = None
    word: int = 0

    @property
    def length(self) -> int:
        return len(self.code)


@dataclass(slots=True)
class CodeInsn(Insn):
    """What the emulator is given: an instruction with its machine code."""

    decoded: Code | None = None


class Memory(Protocol):
    """Operands in memory, by linear address: the emulator."""

    vcpu: Vcpu

    def read(self, address: int, size: int) -> int: ...
    def write(self, address: int, size: int, value: int) -> bool: ...
    def write_in_turn(self, writes: list[tuple[int, int, int]]) -> None: ...
    def write_memory(self, address: int, size: int, value: int) -> None: ...
    def cmpxchg(self, address: int, size: int, value: int) -> None: ...


def mask(size: int) -> int:
    """Return all ones in that many bytes."""
    return (1 << 8 * size) - 1


class Context:
    """The registers that an instruction works on, and memory.

    `load_segment(register, selector)`, `far_transfer(code)` and `far_return(code)` are somebody else's: False
    after an exception. `shadows_interrupts`: the instruction has loaded SS; no interrupt follows it.
    """

    def __init__(self, processor: SvmProcessor, memory: Memory) -> None:
        self.processor = processor
        self.memory = memory
        self.load_segment: Callable[[int, int], bool] = lambda register, selector: False
        self.far_transfer: Callable[[Code], bool] = lambda code: False
        self.far_return: Callable[[Code], bool] = lambda code: False
        self.shadows_interrupts = False

    def register(self, number: int, size: int) -> int:
        return self.processor.q[number] & mask(size)

    def set_register(self, number: int, size: int, value: int) -> None:
        q = self.processor.q
        if size >= 4:
            q[number] = value & mask(size)
        else:
            q[number] = q[number] & ~mask(size) | value & mask(size)

    def linear(self, code: Code) -> int:
        """Return the linear address of the memory operand."""
        q = self.processor.q
        address = code.displacement
        if code.base >= 0:
            address += q[code.base]
        if code.index >= 0:
            address += q[code.index] * code.scale
        if code.rip_relative:
            address += self.processor.rip
        return self.in_segment(code.segment, address & mask(code.address_size))

    def in_segment(self, segment: int, offset: int) -> int:
        """Return the linear address of an offset: only FS and GS have a base in 64-bit mode."""
        processor = self.processor
        if processor.is_64bit:
            return (offset + processor.segment_base(segment)) & MASK64 if segment >= FS else offset
        return (offset + processor.segment_base(segment)) & 0xFFFFFFFF

    def get(self, code: Code, operand: Operand) -> int:
        match operand.kind:
            case "r":
                return self.register(operand.number, operand.size)
            case "i":
                return operand.value
            case "b":
                return self.processor.rip + operand.value & mask(operand.size)
            case "y":
                return self.processor.mmx(operand.number)
            case "s":
                return self.processor.selector(operand.number)
            case "m":
                return self.memory.read(self.linear(code), operand.size)
            case "h":
                return self.processor.q[operand.number] >> 8 & 0xFF
            case _:
                return self.processor.xmm(operand.number) & mask(operand.size)

    def put(self, code: Code, operand: Operand, value: int) -> None:
        match operand.kind:
            case "r":
                self.set_register(operand.number, operand.size, value)
            case "m":
                self.memory.write(self.linear(code), operand.size, value & mask(operand.size))
            case "y":
                self.processor.set_mmx(operand.number, value)
            case "h":
                q = self.processor.q
                q[operand.number] = q[operand.number] & ~0xFF00 | (value & 0xFF) << 8
            case _:
                self.processor.set_xmm(operand.number, value)

    def put_back(self, code: Code, operand: Operand, value: int) -> None:
        """Write an operand that was read before: memory atomically."""
        if operand.kind == "m":
            self.memory.cmpxchg(self.linear(code), operand.size, value & mask(operand.size))
        else:
            self.put(code, operand, value)

    def raise_exception(self, vector: int, error_code: int | None = None) -> bool:
        """Queue an exception; False, since the instruction is not done."""
        self.memory.vcpu.exception = QueuedException(vector, error_code, None)
        return False

    def jump(self, code: Code, target: int) -> bool:
        """Let RIP be `target` once the instruction's length has been added; #GP if it is not canonical."""
        if self.processor.is_64bit and is_noncanonical(self.memory.vcpu, target):
            return self.raise_exception(GP_VECTOR, 0)
        self.processor.rip = target - code.length & MASK64
        return True

    def set_flags(self, affected: int, value: int) -> None:
        processor = self.processor
        processor.rflags = processor.rflags & ~affected | value & affected


Executor = Callable[[Context, Code], bool]
"""Executes an instruction; False: it is not done, or has raised an exception."""
