"""The names in a program's symbol table.

A file is hostile: every number in it is held against the file's size; what does not fit is left out.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["NO_SYMBOLS", "Symbols", "read_symbols"]

SHT_SYMTAB = 2
NOTYPE, OBJECT, FUNC = 0, 1, 2
SHN_UNDEF = 0
MOST_SYMBOLS = 1 << 20


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name of `size` bytes from an address; 0 if that is not known. `kind` is NOTYPE, OBJECT or FUNC."""

    address: int
    size: int
    kind: int
    name: str


class Symbols:
    """The symbols of a program where it is in memory."""

    def __init__(self, found: list[Symbol]) -> None:
        best: dict[int, Symbol] = {}
        for symbol in found:
            known = best.get(symbol.address)
            if known is None or (symbol.kind != NOTYPE, symbol.size) > (known.kind != NOTYPE, known.size):
                best[symbol.address] = symbol
        self._sorted = [best[address] for address in sorted(best)]
        self._addresses = [symbol.address for symbol in self._sorted]
        self._by_name = {symbol.name: symbol for symbol in reversed(found)}

    def __len__(self) -> int:
        return len(self._sorted)

    def address(self, name: str) -> int | None:
        """Return the address of a symbol; None if no symbol has this name."""
        symbol = self._by_name.get(name)
        return None if symbol is None else symbol.address

    def at(self, address: int) -> Symbol | None:
        """Return the symbol that an address belongs to."""
        position = bisect_right(self._addresses, address) - 1
        if position < 0:
            return None
        symbol = self._sorted[position]
        if symbol.size and address >= symbol.address + symbol.size:
            return None
        return symbol

    def text(self, address: int) -> str | None:
        """Return `main+0x12` for an address; None if it belongs to no symbol."""
        symbol = self.at(address)
        if symbol is None:
            return None
        offset = address - symbol.address
        return f"{symbol.name}+{offset:#x}" if offset else symbol.name

    def like(self, name: str) -> list[str]:
        """Return the names that are most like one that does not exist."""
        from difflib import get_close_matches

        return get_close_matches(name, self._by_name, 3)


NO_SYMBOLS = Symbols([])


def read_symbols(data: bytes, base: int = 0) -> Symbols:
    """Return the symbols of an ELF file for x86 that is loaded `base` bytes above its addresses.

    Files of other kinds, stripped ones and damaged ones have none.
    """
    try:
        return Symbols(list(_symbols(data, base)))
    except struct.error:
        return NO_SYMBOLS


def _symbols(data: bytes, base: int) -> Iterator[Symbol]:
    if data[:4] != b"\x7fELF" or data[4:6] not in (b"\1\1", b"\2\1"):
        return
    wide = data[4] == 2
    (offset,) = struct.unpack_from("<Q" if wide else "<I", data, 40 if wide else 32)
    size, count = struct.unpack_from("<HH", data, 58 if wide else 46)
    section = struct.Struct("<IIQQQQII" if wide else "<8I")
    entry = struct.Struct("<IBBHQQ" if wide else "<IIIBBH")
    if size < section.size or offset + size * count > len(data):
        return
    sections = [section.unpack_from(data, offset + size * number) for number in range(count)]
    for _, kind, _, _, start, length, link, _ in sections:
        if kind != SHT_SYMTAB or link >= len(sections) or start + length > len(data):
            continue
        names = data[sections[link][4] :][: sections[link][5]]
        for number in range(min(length // entry.size, MOST_SYMBOLS)):
            fields = entry.unpack_from(data, start + entry.size * number)
            if wide:
                name, info, _, where, value, extent = fields
            else:
                name, value, extent, info, _, where = fields
            if where == SHN_UNDEF or info & 15 not in (NOTYPE, OBJECT, FUNC) or not 0 < name < len(names):
                continue
            text = names[name : names.find(b"\0", name)].decode("utf-8", "replace")
            if text and text.isprintable():
                yield Symbol(value + base, extent, info & 15, text)
