"""String instructions, one iteration or many."""

from .arithmetic import compute
from .operands import ARITHMETIC, ZF, Code, Context, Executor
from .registers import ES, FLAG_DF, RAX, RCX, RDI, RDX, RSI

REP_BATCH = 0x3FF
"""Iterations of a string instruction between two looks at the guest's events."""


def _string(c: Context, code: Code) -> bool:
    """Execute one or, with REP, many iterations; False if more are to follow."""
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
    """Execute one iteration. Return whether it accessed a device."""
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
    c.set_flags(ARITHMETIC, compute("cmp", a, b, size, 0)[1])
    return False


def _port_string(c: Context, code: Code) -> bool:
    """Execute INS and OUTS; False if more are to follow."""
    size, wide, processor = code.size, code.address_size, c.processor
    step = -size if processor.rflags & FLAG_DF else size
    port, inward = c.register(RDX, 2), code.name.startswith("ins")
    if code.repeat and not c.register(RCX, wide):
        return True
    index = RDI if inward else RSI
    address = c.in_segment(ES if inward else code.segment, c.register(index, wide))
    if inward:
        c.memory.write(address, size, processor.on_in(port, size))
    else:
        processor.on_out(port, size, c.memory.read(address, size))
    c.set_register(index, wide, c.register(index, wide) + step)
    if code.repeat:
        c.set_register(RCX, wide, c.register(RCX, wide) - 1)
    return not code.repeat or not c.register(RCX, wide)


EXECUTE: dict[str, Executor] = {
    **{
        f"{name}{suffix}": _string
        for name in ("stos", "movs", "lods", "cmps", "scas")
        for suffix in ("b", "w", "d", "q")
    },
    **{f"{name}{suffix}": _port_string for name in ("ins", "outs") for suffix in ("b", "w", "d")},
}
