"""The stack, and near jumps whose target or stack is not plain memory."""

from ...x86.bits import MASK64
from .operands import Code, Context, Executor, mask
from .registers import RBP, RSP, SS


def _width(c: Context) -> int:
    """Return the bytes of a stack pointer."""
    return 8 if c.processor.is_64bit else 4 if c.processor.stack_is_32bit else 2


def _push_value(c: Context, size: int, value: int) -> None:
    width = _width(c)
    pointer = c.register(RSP, width) - size & mask(width)
    c.memory.write(c.in_segment(SS, pointer), size, value & mask(size))
    c.set_register(RSP, width, pointer)


def _top(c: Context, size: int) -> int:
    return c.memory.read(c.in_segment(SS, c.register(RSP, _width(c))), size)


def _drop(c: Context, size: int) -> None:
    width = _width(c)
    c.set_register(RSP, width, c.register(RSP, width) + size)


def _push(c: Context, code: Code) -> bool:
    _push_value(c, code.size, c.get(code, code.operands[0]))
    return True


def _pop(c: Context, code: Code) -> bool:
    (target,) = code.operands
    value = _top(c, code.size)
    if target.kind == "m":
        address = c.linear(code)
        if code.base == RSP:
            address += code.size  # the address is computed after the increment
        c.memory.write(address, code.size, value)
        _drop(c, code.size)
    else:
        _drop(c, code.size)
        c.put(code, target, value)
    return True


def _call(c: Context, code: Code) -> bool:
    if code.is_far:
        return c.far_transfer(code)
    following = c.processor.rip + code.length & MASK64
    target = c.get(code, code.operands[0])
    if c.jump(code, target):
        _push_value(c, code.size, following)
        return True
    return False


def _jmp(c: Context, code: Code) -> bool:
    if code.is_far:
        return c.far_transfer(code)
    return c.jump(code, c.get(code, code.operands[0]))


def _ret(c: Context, code: Code) -> bool:
    if not c.jump(code, _top(c, code.size)):
        return False
    _drop(c, code.size + (code.operands[0].value if code.operands else 0))
    return True


def _enter(c: Context, code: Code) -> bool:
    """Execute ENTER without nesting."""
    size, width = code.operands[0].value, _width(c)
    _push_value(c, code.size, c.register(RBP, code.size))
    c.set_register(RBP, code.size, c.register(RSP, code.size))
    c.set_register(RSP, width, c.register(RSP, width) - size)
    return True


def _leave(c: Context, code: Code) -> bool:
    width = _width(c)
    value = c.memory.read(c.in_segment(SS, c.register(RBP, width)), code.size)
    c.set_register(RSP, width, c.register(RBP, width) + code.size)
    c.set_register(RBP, code.size, value)
    return True


EXECUTE: dict[str, Executor] = {
    "push": _push,
    "pop": _pop,
    "call": _call,
    "jmp": _jmp,
    "ret": _ret,
    "enter": _enter,
    "leave": _leave,
}
