"""Arithmetic, logic, shifts and bits, with the flags that they set."""

from ...x86.bits import MASK64
from .operands import AF, ARITHMETIC, CF, OF, PF, SF, ZF, Code, Context, Executor, mask
from .registers import RAX, RBX, RCX, RDX

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


DE = 0
"""The divide error's vector."""


def compute(name: str, a: int, b: int, size: int, carry: int) -> tuple[int, int]:
    """Return (result, flags) of an arithmetic instruction with two operands."""
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


def _arithmetic(c: Context, code: Code) -> bool:
    target, source = code.operands
    b = c.get(code, source) & mask(target.size)
    a = c.get(code, target)
    result, flags = compute(code.name, a, b, target.size, c.processor.rflags & CF)
    if code.name not in ("cmp", "test"):
        c.put_back(code, target, result)
    c.set_flags(ARITHMETIC, flags)
    return True


def _xadd(c: Context, code: Code) -> bool:
    target, source = code.operands
    a, b = c.get(code, target), c.get(code, source)
    result, flags = compute("add", a, b, target.size, 0)
    c.put_back(code, target, result)
    c.put(code, source, a)
    c.set_flags(ARITHMETIC, flags)
    return True


def _inc_dec(c: Context, code: Code) -> bool:
    (target,) = code.operands
    result, flags = compute(code.name, c.get(code, target), 1, target.size, 0)
    c.put_back(code, target, result)
    c.set_flags(ARITHMETIC & ~CF, flags)
    return True


def _not(c: Context, code: Code) -> bool:
    (target,) = code.operands
    c.put_back(code, target, ~c.get(code, target))
    return True


def _neg(c: Context, code: Code) -> bool:
    (target,) = code.operands
    result, flags = compute("sub", 0, c.get(code, target), target.size, 0)
    c.put_back(code, target, result)
    c.set_flags(ARITHMETIC, flags)
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
        overflow = value >> bits - 1 if count == 1 else 0
    else:
        signed = value - (1 << bits) if value >> bits - 1 else value
        result = signed >> count
        carry = signed >> count - 1 & 1
        overflow = 0
    c.put_back(code, target, result)
    flags = _result_flags(result & mask(size), size) | (CF if carry else 0) | (OF if overflow else 0)
    c.set_flags(ARITHMETIC, flags)
    return True


def _double_shift(c: Context, code: Code) -> bool:
    """Execute SHLD and SHRD; a count of more than 16 continues with the target again, in 16 bits."""
    target, source, counter = code.operands
    bits = 8 * target.size
    count = c.get(code, counter) & (63 if bits == 64 else 31)
    value, other = c.get(code, target), c.get(code, source)
    if not count:
        c.put_back(code, target, value)
        return True
    chain = value << 2 * bits | other << bits | value
    if code.name == "shld":
        before, result = (chain >> 2 * bits - turn & mask(target.size) for turn in (count - 1, count))
        carry = before >> bits - 1
    else:
        before, result = (chain >> turn & mask(target.size) for turn in (count - 1, count))
        carry = before & 1
    c.put_back(code, target, result)
    overflow = (before ^ result) >> bits - 1
    flags = _result_flags(result, target.size) | (CF if carry else 0) | (OF if overflow else 0)
    c.set_flags(ARITHMETIC, flags)
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


def _rotate_through_carry(c: Context, code: Code) -> bool:
    """Execute RCL and RCR of an operand whose load has faulted; where the store faults, the carry is lost."""
    target, source = code.operands
    bits = 8 * target.size
    count = (c.get(code, source) & (63 if bits == 64 else 31)) % (bits + 1)
    value = c.get(code, target)
    chain = value | (c.processor.rflags & CF) << bits
    turn = count if code.name == "rcl" else (bits + 1 - count) % (bits + 1)
    turned = (chain << turn | chain >> bits + 1 - turn) & (1 << bits + 1) - 1
    result, carry = turned & mask(target.size), turned >> bits
    c.put_back(code, target, result)
    if count:
        overflow = (value ^ result) >> bits - 1
        c.set_flags(CF | OF, (CF if carry else 0) | (OF if overflow else 0))
    return True


def _signed(value: int, size: int) -> int:
    half = 1 << 8 * size - 1
    return (value & mask(size) ^ half) - half


def _imul(c: Context, code: Code) -> bool:
    """Execute IMUL with two and three operands."""
    target, factors = code.operands[0], code.operands[-2:]
    size = target.size
    a, b = (_signed(c.get(code, factor), size) for factor in factors)
    result = a * b & mask(size)
    c.put(code, target, result)
    lost = _signed(result, size) != a * b
    c.set_flags(ARITHMETIC, _result_flags(result, size) | (CF | OF if lost else 0))
    return True


def _multiply(c: Context, code: Code) -> bool:
    """Execute MUL, and IMUL with one operand: the product is in RDX:RAX, or AX."""
    if len(code.operands) > 1:
        return _imul(c, code)
    (source,) = code.operands
    size = source.size
    a, b = c.register(RAX, size), c.get(code, source)
    if code.name == "imul":
        a, b = _signed(a, size), _signed(b, size)
    product = a * b
    _put_double(c, size, product)
    low = product & mask(size)
    lost = product != (_signed(low, size) if code.name == "imul" else low)
    c.set_flags(ARITHMETIC, _result_flags(low, size) | (CF | OF if lost else 0))
    return True


def _put_double(c: Context, size: int, value: int) -> None:
    if size == 1:
        c.set_register(RAX, 2, value)
    else:
        c.set_register(RAX, size, value)
        c.set_register(RDX, size, value >> 8 * size)


def _divide(c: Context, code: Code) -> bool:
    (source,) = code.operands
    size = source.size
    divisor = c.get(code, source)
    low, high = (c.register(RAX, 2), 0) if size == 1 else (c.register(RAX, size), c.register(RDX, size))
    dividend, width = (low, 2) if size == 1 else (high << 8 * size | low, 2 * size)
    if code.name == "idiv":
        dividend, divisor = _signed(dividend, width), _signed(divisor, size)
    if not divisor:
        return c.raise_exception(DE)
    quotient = abs(dividend) // abs(divisor)
    if (dividend < 0) is not (divisor < 0):
        quotient = -quotient
    fits = _signed(quotient, size) == quotient if code.name == "idiv" else not quotient >> 8 * size
    if not fits:
        return c.raise_exception(DE)
    remainder = dividend - quotient * divisor
    if size == 1:
        c.set_register(RAX, 2, quotient & 0xFF | (remainder & 0xFF) << 8)
    else:
        c.set_register(RAX, size, quotient)
        c.set_register(RDX, size, remainder)
    return True


def _scan(c: Context, code: Code) -> bool:
    """Execute BSF and BSR, and TZCNT and LZCNT, which KVM takes for them."""
    target, source = code.operands
    value = c.get(code, source)
    if value:
        forward = code.name in ("bsf", "tzcnt")
        c.put(code, target, (value & -value if forward else value).bit_length() - 1)
    c.set_flags(ARITHMETIC, _result_flags(value, source.size))
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
    _, flags = compute("cmp", expected, old, target.size, 0)
    if flags & ZF:
        c.put_back(code, target, c.get(code, source))
    else:
        c.put_back(code, target, old)
        c.set_register(RAX, target.size, old)
    c.set_flags(ARITHMETIC, flags)
    return True


def _cmpxchg8b(c: Context, code: Code) -> bool:
    address = c.linear(code)
    old = c.memory.read(address, 8)
    equal = old == c.register(RAX, 4) | c.register(RDX, 4) << 32
    c.memory.cmpxchg(address, 8, c.register(RBX, 4) | c.register(RCX, 4) << 32 if equal else old)
    if not equal:
        c.set_register(RAX, 4, old)
        c.set_register(RDX, 4, old >> 32)
    c.set_flags(ZF, ZF if equal else 0)
    return True


ROTATES_CARRY = frozenset(("rcl", "rcr"))
EXECUTE: dict[str, Executor] = {
    **dict.fromkeys(("add", "adc", "sub", "sbb", "and", "or", "xor", "cmp", "test"), _arithmetic),
    "xadd": _xadd,
    "inc": _inc_dec,
    "dec": _inc_dec,
    "not": _not,
    "neg": _neg,
    **dict.fromkeys(("shl", "sal", "shr", "sar"), _shift),
    **dict.fromkeys(("rol", "ror"), _rotate),
    **dict.fromkeys(ROTATES_CARRY, _rotate_through_carry),
    **dict.fromkeys(("shld", "shrd"), _double_shift),
    **dict.fromkeys(("mul", "imul"), _multiply),
    **dict.fromkeys(("div", "idiv"), _divide),
    **dict.fromkeys(("bt", "bts", "btr", "btc"), _bit),
    **dict.fromkeys(("bsf", "bsr", "tzcnt", "lzcnt"), _scan),
    "cmpxchg": _cmpxchg,
    "cmpxchg8b": _cmpxchg8b,
}
