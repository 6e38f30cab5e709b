"""Moves: between registers and memory, with a condition, to and from XMM registers."""

from ...x86.bits import GP_VECTOR, MASK64
from .operands import CF, OF, PF, SF, ZF, Code, Context, Executor, Operand, mask
from .registers import DS, ES, FS, GDTR, GS, IDTR, LDTR, RAX, RBX, SS, TR


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


def _wide(c: Context, code: Code) -> bool:
    """Execute MOVs of SSE: 4, 8 or 16 bytes between memory and an XMM register, or a general one."""
    target, source = code.operands
    size, address = code.size, c.linear(code)
    if code.name in ALIGNED and address & 0xF:
        return c.raise_exception(GP_VECTOR, 0)
    if source.kind == "m":
        value = 0
        for offset in range(0, size, 8):
            value |= c.memory.read(address + offset, min(8, size - offset)) << 8 * offset
        c.put(code, target, value)
    else:
        value = c.get(code, Operand(source.kind, size, source.number))
        for offset in range(0, size, 8):
            length = min(8, size - offset)
            c.memory.write(address + offset, length, value >> 8 * offset & mask(length))
    return True


def _setcc(c: Context, code: Code) -> bool:
    c.put(code, code.operands[0], int(_condition(code.name[3:], c.processor.rflags)))
    return True


def _cmov(c: Context, code: Code) -> bool:
    target, source = code.operands
    value = c.get(code, source)
    c.put(code, target, value if _condition(code.name[4:], c.processor.rflags) else c.get(code, target))
    return True


def _mov(c: Context, code: Code) -> bool:
    target, source = code.operands
    value = c.get(code, source)
    if target.kind == "s":
        return c.load_segment(target.number, value & 0xFFFF)
    c.put(code, target, value)
    return True


def _load_pointer(c: Context, code: Code) -> bool:
    """Execute LDS, LES, LFS, LGS and LSS."""
    target, address = code.operands[0], c.linear(code)
    offset = c.memory.read(address, target.size)
    if not c.load_segment(POINTERS[code.name], c.memory.read(address + target.size & MASK64, 2)):
        return False
    c.put(code, target, offset)
    return True


def _movbe(c: Context, code: Code) -> bool:
    target, source = code.operands
    value = c.get(code, source).to_bytes(target.size, "little")
    c.put(code, target, int.from_bytes(value, "big"))
    return True


def _xlat(c: Context, code: Code) -> bool:
    pointer = c.register(RBX, code.address_size) + c.register(RAX, 1) & mask(code.address_size)
    c.set_register(RAX, 1, c.memory.read(c.in_segment(code.segment, pointer), 1))
    return True


def _store_selector(c: Context, code: Code) -> bool:
    """Execute SLDT and STR."""
    c.put(code, code.operands[0], c.processor.selector(LDTR if code.name == "sldt" else TR))
    return True


def _store_table(c: Context, code: Code) -> bool:
    """Execute SGDT and SIDT."""
    table, address = c.processor.segment(GDTR if code.name == "sgdt" else IDTR), c.linear(code)
    size = 8 if c.processor.is_64bit else 4
    c.memory.write_memory(address, 2 + size, table.limit & 0xFFFF | (table.base & mask(size)) << 16)
    return True


def _store_x87(c: Context, code: Code) -> bool:
    """Execute FNSTCW and FNSTSW."""
    c.put(code, code.operands[0], c.processor.x87("FPCW" if code.name == "fnstcw" else "FPSW"))
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


ALIGNED = "movaps", "movapd", "movdqa", "movntdq", "movntps", "movntpd"
"""MOVs whose operand in memory is aligned to 16 bytes."""
POINTERS = {"lds": DS, "les": ES, "lfs": FS, "lgs": GS, "lss": SS}
EXECUTE: dict[str, Executor] = {
    **dict.fromkeys(("mov", "movzx", "movnti"), _mov),
    **dict.fromkeys(("movsx", "movsxd"), _movsx),
    "xchg": _xchg,
    **dict.fromkeys(POINTERS, _load_pointer),
    "movbe": _movbe,
    "xlatb": _xlat,
    **dict.fromkeys(("sldt", "str"), _store_selector),
    **dict.fromkeys(("sgdt", "sidt"), _store_table),
    **dict.fromkeys(("fnstcw", "fnstsw"), _store_x87),
    **dict.fromkeys(
        ("movq", "movaps", "movups", "movapd", "movupd", "movdqa", "movdqu", "movntdq", "movntps", "movntpd"),
        _wide,
    ),
}
CONDITIONAL: dict[str, Executor] = {"set": _setcc, "cmov": _cmov}
"""Those whose names go on with a condition."""
