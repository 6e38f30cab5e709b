"""The stack, and jumps whose target or stack is not plain memory."""

from ...x86.bits import MASK64
from .operands import ARITHMETIC, Code, Context, Executor, mask
from .registers import (
    FLAG_AC,
    FLAG_DF,
    FLAG_ID,
    FLAG_IF,
    FLAG_NT,
    FLAG_RF,
    FLAG_TF,
    FLAG_VM,
    FLAGS_IOPL,
    RAX,
    RBP,
    RDI,
    RSP,
    SS,
)

POPPED = ARITHMETIC | FLAG_TF | FLAG_DF | FLAG_NT | FLAG_AC | FLAG_ID
"""Flags that POPF loads at every CPL."""


def _width(c: Context) -> int:
    """Return the bytes of a stack pointer."""
    return 8 if c.processor.is_64bit else 4 if c.processor.stack_is_32bit else 2


def push_all(c: Context, size: int, values: list[int]) -> None:
    """Push words of `size` bytes, the first one first. Raises OperandFault."""
    width = _width(c)
    pointer = c.register(RSP, width)
    writes = []
    for value in values:
        pointer = pointer - size & mask(width)
        writes.append((c.in_segment(SS, pointer), size, value & mask(size)))
    c.memory.write_in_turn(writes)
    c.set_register(RSP, width, pointer)


def _push_value(c: Context, size: int, value: int) -> None:
    push_all(c, size, [value])


def word_on_stack(c: Context, number: int, size: int) -> int:
    """Return word `number` from the top of the stack, counted from 0. Raises OperandFault."""
    width = _width(c)
    return c.memory.read(c.in_segment(SS, c.register(RSP, width) + number * size & mask(width)), size)


def _top(c: Context, size: int) -> int:
    return word_on_stack(c, 0, size)


def drop(c: Context, size: int) -> None:
    """Add `size` bytes to the stack pointer."""
    width = _width(c)
    c.set_register(RSP, width, c.register(RSP, width) + size)


def _push(c: Context, code: Code) -> bool:
    """Execute PUSH; of 4 bytes for a segment register KVM writes the lower 2."""
    (source,) = code.operands
    value = c.get(code, source)
    if source.kind != "s" or code.size != 4:
        _push_value(c, code.size, value)
        return True
    width = _width(c)
    pointer = c.register(RSP, width) - 4 & mask(width)
    c.memory.write(c.in_segment(SS, pointer), 2, value)
    c.set_register(RSP, width, pointer)
    return True


def _pop(c: Context, code: Code) -> bool:
    (target,) = code.operands
    if target.kind == "s":
        selector = _top(c, 2)
        drop(c, code.size)
        if c.load_segment(target.number, selector):
            return True
        drop(c, -code.size)
        return False
    value = _top(c, code.size)
    if target.kind == "m":
        address = c.linear(code)
        if code.base == RSP:
            address += code.size  # the address is computed after the increment
        c.memory.write(address, code.size, value)
        drop(c, code.size)
    else:
        drop(c, code.size)
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
    drop(c, code.size + (code.operands[0].value if code.operands else 0))
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


def _pusha(c: Context, code: Code) -> bool:
    push_all(c, code.word, [c.register(number, code.word) for number in range(RAX, RDI + 1)])
    return True


def _popa(c: Context, code: Code) -> bool:
    """Execute POPA; the word for RSP is not read."""
    found = [
        (register, word_on_stack(c, RDI - register, code.word))
        for register in range(RDI, RAX - 1, -1)
        if register != RSP
    ]
    drop(c, 8 * code.word)
    for register, value in found:
        c.set_register(register, code.word, value)
    return True


def _pushf(c: Context, code: Code) -> bool:
    _push_value(c, code.word, c.processor.rflags & ~(FLAG_VM | FLAG_RF))
    return True


def _popf(c: Context, code: Code) -> bool:
    """Execute POPF (emulate_popf): the CPL decides about IOPL and IF."""
    processor = c.processor
    value = _top(c, code.word)
    affected = POPPED | (0 if processor.cpl else FLAGS_IOPL)
    if processor.cpl <= (processor.system_flags & FLAGS_IOPL) >> 12:
        affected |= FLAG_IF
    drop(c, code.word)
    c.set_flags(affected & mask(code.word), value)
    return True


def _far_return(c: Context, code: Code) -> bool:
    return c.far_return(code)


EXECUTE: dict[str, Executor] = {
    **dict.fromkeys(("pusha", "pushad"), _pusha),
    **dict.fromkeys(("popa", "popad"), _popa),
    **dict.fromkeys(("pushf", "pushfd", "pushfq"), _pushf),
    **dict.fromkeys(("popf", "popfd", "popfq"), _popf),
    "retf": _far_return,
    "push": _push,
    "pop": _pop,
    "call": _call,
    "jmp": _jmp,
    "ret": _ret,
    "enter": _enter,
    "leave": _leave,
}
