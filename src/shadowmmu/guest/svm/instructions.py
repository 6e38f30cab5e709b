"""Machine code: decoded once by iced-x86, then executed as KVM's emulator does where memory is concerned.

Only instructions that a guest uses on page tables and devices are executed here; for others `decode` still
gives length and operands, and whoever asked finds another way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ...x86.bits import MASK64
from ...x86.insn import Insn, Op
from .layout import decoder_module
from .processor import (
    CS,
    DS,
    ES,
    FLAG_DF,
    FS,
    GS,
    RAX,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    RSP,
    SS,
    SvmProcessor,
)

CF, PF, AF, ZF, SF, OF = 1, 4, 0x10, 0x40, 0x80, 0x800
LONGEST = 15
CACHED = 8192
REP_BATCH = 0x3FF
"""Iterations of a string instruction between two looks at the guest's events."""


@dataclass(slots=True)
class Operand:
    """One operand: `kind` is r (register), h (AH to BH), x (XMM), m (memory) or i (immediate)."""

    kind: str
    size: int
    number: int = 0
    value: int = 0


@dataclass(slots=True)
class Code:
    """An instruction as decoded; `name` in lower case, `execute` None if it is not executed here.

    `is_far`: a far JMP or CALL, to `target` (selector, offset) or to what its memory operand holds.

    For the memory operand: registers by number (-1: none), displacement, segment, and whether RIP is added.
    """

    name: str
    code: bytes
    operands: list[Operand]
    op: Op
    execute: "Callable[[Context, Code], bool] | None"
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

    @property
    def length(self) -> int:
        return len(self.code)


@dataclass(slots=True)
class CodeInsn(Insn):
    """What the emulator is given: an instruction with the machine code behind it."""

    decoded: Code | None = None


class Memory(Protocol):
    """Operands in memory, by linear address: the emulator."""

    def read(self, address: int, size: int) -> int: ...
    def write(self, address: int, size: int, value: int) -> bool: ...
    def cmpxchg(self, address: int, size: int, value: int) -> None: ...


def mask(size: int) -> int:
    """All ones in that many bytes."""
    return (1 << 8 * size) - 1


class Context:
    """The registers that an instruction works on, and memory."""

    def __init__(self, processor: SvmProcessor, memory: Memory) -> None:
        self.processor = processor
        self.memory = memory

    def register(self, number: int, size: int) -> int:
        return self.processor.q[number] & mask(size)

    def set_register(self, number: int, size: int, value: int) -> None:
        q = self.processor.q
        if size >= 4:
            q[number] = value & mask(size)
        else:
            q[number] = q[number] & ~mask(size) | value & mask(size)

    def linear(self, code: Code) -> int:
        """The linear address of the memory operand."""
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
        """The linear address of an offset: only FS and GS have a base in 64-bit mode."""
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

    def set_flags(self, affected: int, value: int) -> None:
        processor = self.processor
        processor.rflags = processor.rflags & ~affected | value & affected


# -- flags -----------------------------------------------------------------------------------------------


def _result_flags(result: int, size: int) -> int:
    flags = 0 if (result & 0xFF).bit_count() & 1 else PF
    if not result & mask(size):
        flags |= ZF
    if result >> 8 * size - 1 & 1:
        flags |= SF
    return flags


def _sum_flags(a: int, b: int, total: int, size: int) -> int:
    flags = _result_flags(total, size)
    if total >> 8 * size:
        flags |= CF
    if (a ^ b ^ total) & 0x10:
        flags |= AF
    if (a ^ total) & (b ^ total) & 1 << 8 * size - 1:
        flags |= OF
    return flags


def _difference_flags(a: int, b: int, difference: int, size: int) -> int:
    flags = _result_flags(difference, size)
    if difference < 0:
        flags |= CF
    if (a ^ b ^ difference) & 0x10:
        flags |= AF
    if (a ^ b) & (a ^ difference) & 1 << 8 * size - 1:
        flags |= OF
    return flags


ALL = CF | PF | AF | ZF | SF | OF


def _compute(name: str, a: int, b: int, size: int, carry: int) -> tuple[int, int]:
    """(result, flags) of an arithmetic instruction with two operands."""
    match name:
        case "add" | "xadd" | "inc":
            total = a + b
            return total, _sum_flags(a, b, total, size)
        case "adc":
            total = a + b + carry
            return total, _sum_flags(a, b, total, size)
        case "sub" | "cmp" | "dec" | "scas" | "cmps":
            difference = a - b
            return difference, _difference_flags(a, b, difference, size)
        case "sbb":
            difference = a - b - carry
            return difference, _difference_flags(a, b, difference, size)
        case "and" | "test":
            result = a & b
        case "or":
            result = a | b
        case _:
            result = a ^ b
    return result, _result_flags(result, size)


# -- instructions ----------------------------------------------------------------------------------------


def _mov(c: Context, code: Code) -> bool:
    target, source = code.operands
    c.put(code, target, c.get(code, source))
    return True


def _movsx(c: Context, code: Code) -> bool:
    target, source = code.operands
    value = c.get(code, source)
    if value >> 8 * source.size - 1:
        value -= 1 << 8 * source.size
    c.put(code, target, value & mask(target.size))
    return True


def _xchg(c: Context, code: Code) -> bool:
    first, second = code.operands
    if second.kind == "m":
        first, second = second, first
    old = c.get(code, first)
    c.put_back(code, first, c.get(code, second))
    c.put(code, second, old)
    return True


def _arithmetic(c: Context, code: Code) -> bool:
    target, source = code.operands
    b = c.get(code, source) & mask(target.size)
    a = c.get(code, target)
    result, flags = _compute(code.name, a, b, target.size, c.processor.rflags & CF)
    if code.name not in ("cmp", "test"):
        c.put_back(code, target, result)
    c.set_flags(ALL, flags)
    return True


def _xadd(c: Context, code: Code) -> bool:
    target, source = code.operands
    a, b = c.get(code, target), c.get(code, source)
    result, flags = _compute("add", a, b, target.size, 0)
    c.put_back(code, target, result)
    c.put(code, source, a)
    c.set_flags(ALL, flags)
    return True


def _inc_dec(c: Context, code: Code) -> bool:
    (target,) = code.operands
    result, flags = _compute(code.name, c.get(code, target), 1, target.size, 0)
    c.put_back(code, target, result)
    c.set_flags(ALL & ~CF, flags)
    return True


def _not(c: Context, code: Code) -> bool:
    (target,) = code.operands
    c.put_back(code, target, ~c.get(code, target))
    return True


def _neg(c: Context, code: Code) -> bool:
    (target,) = code.operands
    result, flags = _compute("sub", 0, c.get(code, target), target.size, 0)
    c.put_back(code, target, result)
    c.set_flags(ALL, flags)
    return True


def _shift(c: Context, code: Code) -> bool:
    target, source = code.operands
    size = target.size
    count = c.get(code, source) & (63 if size == 8 else 31)
    value = c.get(code, target)
    bits = 8 * size
    if not count:
        c.put_back(code, target, value)
        return True
    if code.name in ("shl", "sal"):
        result = value << count
        carry = result >> bits & 1
        overflow = (result >> bits - 1 & 1) ^ carry
    elif code.name == "shr":
        result = value >> count
        carry = value >> count - 1 & 1
        overflow = value >> bits - 1
    else:
        signed = value - (1 << bits) if value >> bits - 1 else value
        result = signed >> count
        carry = signed >> count - 1 & 1
        overflow = 0
    c.put_back(code, target, result)
    flags = _result_flags(result & mask(size), size) | (CF if carry else 0) | (OF if overflow else 0)
    c.set_flags(ALL, flags)
    return True


def _rotate(c: Context, code: Code) -> bool:
    target, source = code.operands
    bits = 8 * target.size
    count = c.get(code, source) & (63 if bits == 64 else 31)
    value = c.get(code, target)
    turn = count % bits
    if code.name == "ror":
        turn = -turn % bits
    result = (value << turn | value >> bits - turn) & mask(target.size)
    c.put_back(code, target, result)
    if count:
        top = result >> bits - 1
        carry = result & 1 if code.name == "rol" else top
        other = top ^ carry if code.name == "rol" else top ^ result >> bits - 2 & 1
        c.set_flags(CF | OF, (CF if carry else 0) | (OF if other else 0))
    return True


def _imul(c: Context, code: Code) -> bool:
    """The forms with two and three operands."""
    target, factors = code.operands[0], code.operands[-2:]
    size = target.size
    half = 1 << 8 * size - 1
    a, b = ((c.get(code, factor) & mask(size) ^ half) - half for factor in factors)
    result = a * b
    c.put(code, target, result & mask(size))
    lost = not -half <= result < half
    c.set_flags(ALL, _result_flags(result & mask(size), size) & (SF | PF) | (CF | OF if lost else 0))
    return True


def _pop(c: Context, code: Code) -> bool:
    (target,) = code.operands
    stack = 8 if c.processor.is_64bit else 4 if c.processor.stack_is_32bit else 2
    pointer = c.register(RSP, stack)
    value = c.memory.read(c.in_segment(SS, pointer), code.size)
    if target.kind == "m":
        address = c.linear(code)
        if code.base == RSP:
            address += code.size  # the address is computed behind the increment
        c.memory.write(address, code.size, value)
        c.set_register(RSP, stack, pointer + code.size)
    else:
        c.set_register(RSP, stack, pointer + code.size)
        c.put(code, target, value)
    return True


def _bit(c: Context, code: Code) -> bool:
    target, source = code.operands
    bits = 8 * target.size
    number = c.get(code, source)
    address = 0
    if target.kind == "m":
        address = c.linear(code)
        if source.kind == "r":
            signed = number - (1 << 8 * source.size) if number >> 8 * source.size - 1 else number
            address += signed // bits * target.size
            address &= MASK64 if c.processor.is_64bit else 0xFFFFFFFF
        value = c.memory.read(address, target.size)
    else:
        value = c.get(code, target)
    bit = 1 << number % bits
    carry = CF if value & bit else 0
    if code.name != "bt":
        value = {"bts": value | bit, "btr": value & ~bit, "btc": value ^ bit}[code.name]
        if target.kind == "m":
            c.memory.cmpxchg(address, target.size, value)
        else:
            c.put(code, target, value)
    c.set_flags(CF, carry)
    return True


def _cmpxchg(c: Context, code: Code) -> bool:
    target, source = code.operands
    old, expected = c.get(code, target), c.register(RAX, target.size)
    _, flags = _compute("cmp", expected, old, target.size, 0)
    if flags & ZF:
        c.put_back(code, target, c.get(code, source))
    else:
        c.put_back(code, target, old)
        c.set_register(RAX, target.size, old)
    c.set_flags(ALL, flags)
    return True


def _cmpxchg8b(c: Context, code: Code) -> bool:
    half = 4 if code.name == "cmpxchg8b" else 8
    address, size = c.linear(code), 2 * half
    if size == 16:
        old = c.memory.read(address, 8) | c.memory.read(address + 8, 8) << 64
    else:
        old = c.memory.read(address, 8)
    expected = c.register(RAX, half) | c.register(RDX, half) << 8 * half
    equal = old == expected
    new = c.register(RBX, half) | c.register(RCX, half) << 8 * half if equal else old
    if size == 16:
        c.memory.write(address, 8, new & MASK64)
        c.memory.write(address + 8, 8, new >> 64)
    else:
        c.memory.cmpxchg(address, 8, new)
    if not equal:
        c.set_register(RAX, half, old)
        c.set_register(RDX, half, old >> 8 * half)
    c.set_flags(ZF, ZF if equal else 0)
    return True


def _wide(c: Context, code: Code) -> bool:
    """MOVs of SSE: 4, 8 or 16 bytes between memory and an XMM register, or a general one."""
    target, source = code.operands
    size = code.size
    if source.kind == "m":
        address = c.linear(code)
        value = 0
        for offset in range(0, size, 8):
            value |= c.memory.read(address + offset, min(8, size - offset)) << 8 * offset
        c.put(code, target, value)
    else:
        value = c.get(code, Operand(source.kind, size, source.number))
        address = c.linear(code)
        for offset in range(0, size, 8):
            length = min(8, size - offset)
            c.memory.write(address + offset, length, value >> 8 * offset & mask(length))
    return True


def _push(c: Context, code: Code) -> bool:
    (source,) = code.operands
    size = code.size
    value = c.get(code, source)
    if source.kind == "i" or source.size < size:
        value &= mask(size)
    stack = 8 if c.processor.is_64bit else 4 if c.processor.stack_is_32bit else 2
    pointer = c.register(RSP, stack) - size & mask(stack)
    c.memory.write(c.in_segment(SS, pointer), size, value)
    c.set_register(RSP, stack, pointer)
    return True


def _setcc(c: Context, code: Code) -> bool:
    c.put(code, code.operands[0], int(_condition(code.name[3:], c.processor.rflags)))
    return True


def _cmov(c: Context, code: Code) -> bool:
    target, source = code.operands
    value = c.get(code, source)
    c.put(code, target, value if _condition(code.name[4:], c.processor.rflags) else c.get(code, target))
    return True


def _condition(name: str, flags: int) -> bool:
    negated = name.startswith("n") and name != "n"
    base = name[1:] if negated else name
    sign_differs = bool(flags & SF) != bool(flags & OF)
    truth = {
        "o": bool(flags & OF),
        "b": bool(flags & CF),
        "c": bool(flags & CF),
        "e": bool(flags & ZF),
        "z": bool(flags & ZF),
        "be": bool(flags & (CF | ZF)),
        "s": bool(flags & SF),
        "p": bool(flags & PF),
        "l": sign_differs,
        "le": bool(flags & ZF) or sign_differs,
    }
    if base in truth:
        return truth[base] != negated
    return {
        "ae": not flags & CF,
        "a": not flags & (CF | ZF),
        "ge": not sign_differs,
        "g": not flags & ZF and not sign_differs,
    }[name]


# -- strings ---------------------------------------------------------------------------------------------


def _string(c: Context, code: Code) -> bool:
    """One or, with REP, many iterations; False if more are to follow."""
    name, size = code.name[:4], code.size
    wide = code.address_size
    step = -size if c.processor.rflags & FLAG_DF else size
    done = 0
    while not code.repeat or c.register(RCX, wide):
        if done == REP_BATCH:
            return False
        exited = _iterate(c, code, name, size)
        if name in ("movs", "lods", "cmps"):
            c.set_register(RSI, wide, c.register(RSI, wide) + step)
        if name != "lods":
            c.set_register(RDI, wide, c.register(RDI, wide) + step)
        if not code.repeat:
            return True
        c.set_register(RCX, wide, c.register(RCX, wide) - 1)
        done += 1
        if name in ("cmps", "scas") and bool(c.processor.rflags & ZF) != code.repeat_while_equal:
            return True
        if exited and c.register(RCX, wide):
            return False
    return True


def _iterate(c: Context, code: Code, name: str, size: int) -> bool:
    """One iteration; whether it went to a device."""
    source = c.in_segment(code.segment, c.register(RSI, code.address_size))
    target = c.in_segment(ES, c.register(RDI, code.address_size))
    memory = c.memory
    if name == "stos":
        return memory.write(target, size, c.register(RAX, size))
    if name == "movs":
        return memory.write(target, size, memory.read(source, size))
    if name == "lods":
        c.set_register(RAX, size, memory.read(source, size))
        return False
    a = c.register(RAX, size) if name == "scas" else memory.read(source, size)
    b = memory.read(target, size)
    c.set_flags(ALL, _compute("cmp", a, b, size, 0)[1])
    return False


# -- decoding --------------------------------------------------------------------------------------------

_EXECUTE: dict[str, Callable[[Context, Code], bool]] = {
    **dict.fromkeys(("mov", "movzx", "movnti"), _mov),
    **dict.fromkeys(("movsx", "movsxd"), _movsx),
    "xchg": _xchg,
    **dict.fromkeys(("add", "adc", "sub", "sbb", "and", "or", "xor", "cmp", "test"), _arithmetic),
    "xadd": _xadd,
    "inc": _inc_dec,
    "dec": _inc_dec,
    "not": _not,
    "neg": _neg,
    **dict.fromkeys(("shl", "sal", "shr", "sar"), _shift),
    "rol": _rotate,
    "ror": _rotate,
    "imul": _imul,
    "pop": _pop,
    **dict.fromkeys(("bt", "bts", "btr", "btc"), _bit),
    "cmpxchg": _cmpxchg,
    "cmpxchg8b": _cmpxchg8b,
    "cmpxchg16b": _cmpxchg8b,
    "push": _push,
    **dict.fromkeys(
        ("movaps", "movups", "movapd", "movupd", "movdqa", "movdqu", "movntdq", "movntps", "movq", "movd"),
        _wide,
    ),
    **{
        f"{name}{suffix}": _string
        for name in ("stos", "movs", "lods", "cmps", "scas")
        for suffix in ("b", "w", "d", "q")
    },
}
_OPS = {
    "mov": Op.STORE,
    "xchg": Op.XCHG,
    "cmpxchg": Op.CMPXCHG,
    "cmpxchg8b": Op.CMPXCHG8B,
    "cmpxchg16b": Op.CMPXCHG8B,
    "or": Op.XCHG,
    "and": Op.XCHG,
    "bts": Op.XCHG,
    "btr": Op.ADD,
    "invlpg": Op.INVLPG,
}
"""What KVM knows as an instruction that writes page tables is STORE, XCHG or CMPXCHG; strings and what has
two operands in memory are STOS, for which the address of a nested fault is no hint; the others are ADD."""
_TWO_OPERANDS = ("stos", "movs", "lods", "cmps", "scas", "push", "pop", "call")


class Decoder:
    """Decodes, and remembers what it decoded."""

    def __init__(self) -> None:
        self.iced: Any = decoder_module()
        self.known: dict[tuple[int, bytes], Code | None] = {}
        register = self.iced.Register
        self.names = {
            value: name.lower() for name, value in vars(self.iced.Mnemonic).items() if isinstance(value, int)
        }
        self.numbers = {getattr(register, f"R{n}"): n for n in range(8, 16)}
        for number, name in enumerate(("RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI")):
            self.numbers[getattr(register, name)] = number
        self.high = {getattr(register, name): n for n, name in enumerate(("AH", "CH", "DH", "BH"))}
        self.xmm = {getattr(register, f"XMM{n}"): n for n in range(16)}
        self.segments = {
            register.ES: ES,
            register.CS: CS,
            register.SS: SS,
            register.DS: DS,
            register.FS: FS,
            register.GS: GS,
        }

    def decode(self, data: bytes, bits: int) -> Code | None:
        """The instruction that `data` begins with; None if it is none, or is not complete."""
        key = (bits, data)
        if key in self.known:
            return self.known[key]
        if len(self.known) >= CACHED:
            self.known.clear()
        code = self.known[key] = self._decode(data, bits)
        return code

    def _decode(self, data: bytes, bits: int) -> Code | None:
        decoder = self.iced.Decoder(bits, data, ip=0)
        insn = decoder.decode()
        if insn.is_invalid:
            return None
        name = self.names[insn.mnemonic]
        if name in ("movsd", "cmpsd") and insn.op_count and self._is_xmm(insn):
            name = f"{name} xmm"
        operands = [self._operand(insn, i) for i in range(insn.op_count)]
        execute = None if name == "imul" and insn.op_count == 1 else _EXECUTE.get(name)
        if name.startswith("set"):
            execute = _setcc
        elif name.startswith("cmov"):
            execute = _cmov
        known = [operand for operand in operands if operand is not None]
        if len(known) != len(operands) and execute is not _string:
            execute = None
        code = Code(name, bytes(data[: insn.len]), known, _OPS.get(name, Op.ADD), execute)
        if name.startswith(_TWO_OPERANDS):
            code.op = Op.STOS
        self._memory(insn, code, bits)
        code.is_far = (
            insn.is_jmp_far or insn.is_call_far or insn.is_jmp_far_indirect or insn.is_call_far_indirect
        )
        if insn.is_jmp_far or insn.is_call_far:
            wide = insn.op_kind(0) == self.iced.OpKind.FAR_BRANCH32
            code.target = insn.far_branch_selector, insn.far_branch32 if wide else insn.far_branch16
        code.repeat = insn.has_rep_prefix or insn.has_repne_prefix
        if execute is _string:
            code.repeat_while_equal = not insn.has_repne_prefix if code.repeat else None
        return code

    def _is_xmm(self, insn: Any) -> bool:
        return any(insn.op_register(i) in self.xmm for i in range(insn.op_count) if insn.op_kind(i) == 0)

    def _operand(self, insn: Any, i: int) -> Operand | None:
        kinds = self.iced.OpKind
        kind = insn.op_kind(i)
        if kind == kinds.REGISTER:
            register = insn.op_register(i)
            if register in self.high:
                return Operand("h", 1, self.high[register])
            if register in self.xmm:
                return Operand("x", 16, self.xmm[register])
            info = self.iced.RegisterInfo(register)
            if info.full_register in self.numbers:
                return Operand("r", info.size, self.numbers[info.full_register])
            return None
        if kind == kinds.MEMORY:
            return Operand("m", self.iced.MemorySizeInfo(insn.memory_size).size)
        try:
            return Operand("i", 8, value=insn.immediate(i) & MASK64)
        except ValueError:
            return None

    def _memory(self, insn: Any, code: Code, bits: int) -> None:
        kinds = self.iced.OpKind
        code.address_size = bits // 8
        code.size = self.iced.MemorySizeInfo(insn.memory_size).size
        if code.name in ("push", "pop"):
            code.size = abs(insn.stack_pointer_increment)
        for i in range(insn.op_count):
            kind = insn.op_kind(i)
            if kind == kinds.MEMORY:
                code.has_memory = True
                code.base = self._number(insn.memory_base)
                code.index = self._number(insn.memory_index)
                code.scale = insn.memory_index_scale
                code.displacement = insn.memory_displacement
                code.rip_relative = insn.is_ip_rel_memory_operand
                code.segment = self.segments[insn.memory_segment]
                if code.base >= 0 and not code.rip_relative:
                    code.address_size = self.iced.RegisterInfo(insn.memory_base).size
                elif code.index >= 0:
                    code.address_size = self.iced.RegisterInfo(insn.memory_index).size
            elif kind in (kinds.MEMORY_SEG_SI, kinds.MEMORY_ESDI):
                code.address_size = 2
            elif kind in (kinds.MEMORY_SEG_ESI, kinds.MEMORY_ESEDI):
                code.address_size = 4
            if kind in (kinds.MEMORY_SEG_SI, kinds.MEMORY_SEG_ESI, kinds.MEMORY_SEG_RSI):
                code.segment = self.segments[insn.memory_segment]

    def _number(self, register: int) -> int:
        if register in (self.iced.Register.NONE, self.iced.Register.RIP, self.iced.Register.EIP):
            return -1
        return self.numbers[self.iced.RegisterInfo(register).full_register]
