"""The guest's page tables as a boot loader would write them: from outside, unseen by KVM."""

from __future__ import annotations

from collections.abc import Callable

from ..guest.play.machine import Machine
from ..guest.scenario.modes import Mode
from ..host.backing import HostError
from ..x86.bits import ADDR, NX, PS, A, D, P, U, W
from .config import PAGE, ConfigurationError, aligned, bytes_of

__all__ = ["GuestTables", "TablePages"]

_SIZES = {1 << 12: "4K", 1 << 21: "2M", 1 << 22: "4M", 1 << 30: "1G"}


class TablePages:
    """Guest memory for page tables, taken downwards from an address."""

    def __init__(self, end: int) -> None:
        self.end = end

    def take(self) -> int:
        """Return the address of an unused page. Raises MemoryError if no memory is left."""
        if not self.end:
            raise MemoryError("no guest memory is left for page tables; give the Vm more memory")
        self.end -= PAGE
        return self.end


class GuestTables:
    """Tables of one format below one root; new ones are taken from `pages`. `note` gets a line a write."""

    def __init__(
        self, machine: Machine, mode: Mode, root: int, pages: TablePages, note: Callable[[str], object]
    ) -> None:
        self.machine = machine
        self.mode = mode
        self.root = root
        self.pages = pages
        self._note = note

    def top(self) -> int:
        """Return the first address that is too high to be mapped."""
        return 1 << (12 + self.mode.index_bits * self.mode.levels) if self.mode.is64 else 1 << 32

    def _level(self, page_size: int | str) -> int:
        """Return the level whose leaves map `page_size` bytes. Raises ConfigurationError."""
        size = bytes_of("page_size", page_size)
        levels = {"32": 2, "pae": 2}.get(self.mode.name, 3)
        known = {self.mode.page_size(level): level for level in range(1, levels + 1)}
        if size not in known:
            names = ", ".join(f"'{_SIZES[each]}'" for each in known)
            raise ConfigurationError(f"page_size={page_size!r} must be one of {names} for {self.mode.name}")
        return known[size]

    def _canonical(self, gva: int, page: int) -> int:
        aligned("gva", gva, page, 1 << 64)
        top = self.top()
        if gva >= top and not (self.mode.is64 and gva >= (1 << 64) - top // 2):
            raise ConfigurationError(f"gva={gva:#x} must be below {top:#x} for {self.mode.name}")
        if self.mode.is64 and top // 2 <= gva < (1 << 64) - top // 2:
            upper = (1 << 64) - top // 2
            raise ConfigurationError(
                f"gva={gva:#x} is not canonical: it must be below {top // 2:#x} or at least {upper:#x}"
            )
        return gva

    def address(self, gva: int, level: int = 1) -> int:
        """Return the guest-physical address of the entry of `level` for gva. Raises LookupError."""
        table = self.root
        for upper in range(self.mode.levels, level, -1):
            entry = self._read(self._entry(table, gva, upper))
            if not entry & P or self._is_leaf(entry, upper):
                raise LookupError(f"gva {gva:#x} has no table of level {upper - 1}")
            table = entry & ADDR
        return self._entry(table, gva, level)

    def _entry(self, table: int, gva: int, level: int) -> int:
        return table + self.mode.index(gva, level) * self.mode.entry_size

    def _read(self, gpa: int) -> int:
        return self.machine.host_read(gpa, self.mode.entry_size)

    def _write(self, gpa: int, value: int) -> None:
        self.machine.host_write(gpa, self.mode.entry_size, value)
        self._note(f"pt {gpa & ~0xFFF:#x} {(gpa & 0xFFF) // self.mode.entry_size} {value:#x}")

    def _is_leaf(self, entry: int, level: int) -> bool:
        return level == 1 or bool(entry & PS and not (self.mode.name == "pae" and level == 3))

    def check_range(
        self, gva: int, gpa: int, size: int | str, page_size: int | str, *, mmio: bool
    ) -> tuple[int, int, int]:
        """Return (level, bytes of a page, number of pages) of a mapping. Raises ConfigurationError."""
        level = self._level(page_size)
        page = self.mode.page_size(level)
        length = bytes_of("size", size)
        if length <= 0 or length % page:
            raise ConfigurationError(f"size={size!r} must be a positive multiple of page_size={page:#x}")
        self._canonical(gva, page)
        self._canonical(gva + length - page, page)
        aligned("gpa", gpa, page)
        limit = 1 << 32 if self.mode.entry_size == 4 else 1 << 52
        if gpa + length > limit:
            raise ConfigurationError(f"gpa={gpa:#x} with size={length:#x} must end at {limit:#x} at most")
        if not mmio:
            self._check_memory(gpa, length)
        return level, page, length // page

    def _check_memory(self, gpa: int, length: int) -> None:
        at = gpa
        used = sorted((slot.gpa, slot.gpa + slot.size) for slot in self.machine.slots.values() if slot.used)
        for start, end in used:
            if start <= at < end:
                at = end
        if at < gpa + length:
            known = ", ".join(f"[{start:#x}, {end:#x})" for start, end in used)
            raise ConfigurationError(
                f"gpa {at:#x} must be in a slot: {known}; add_slot() first, or mmio=True for none"
            )

    def map(self, gva: int, gpa: int, level: int, pages: int, flags: int) -> None:
        """Write the leaves for `pages` consecutive pages, with the tables above them that are missing."""
        step = self.mode.page_size(level)
        for page in range(pages):
            self._map_one(gva + page * step, (gpa + page * step) | flags, level)

    def _map_one(self, gva: int, leaf: int, level: int) -> None:
        table = self.root
        for upper in range(self.mode.levels, level, -1):
            address = self._entry(table, gva, upper)
            entry = self._read(address)
            if not entry & P:
                entry = self.mode.nonleaf(self.pages.take(), upper, P | W | U | A)
                self._write(address, entry)
            elif self._is_leaf(entry, upper):
                raise ConfigurationError(f"gva {gva:#x} is mapped by a larger page; unmap that first")
            table = entry & ADDR
        address = self._entry(table, gva, level)
        old = self._read(address)
        if level > 1 and old & P and not self._is_leaf(old, level):
            raise ConfigurationError(f"gva {gva:#x} is mapped by smaller pages; choose another address")
        self._write(address, leaf)

    def unmap(self, gva: int, size: int | str) -> int:
        """Clear the leaves of [gva, gva + size); return the bytes that they mapped."""
        length = bytes_of("size", size)
        aligned("gva", gva, PAGE, 1 << 64)
        end, at, cleared = gva + length, gva, 0
        while at < end:
            address, level, entry = self._lowest(at)
            page = self.mode.page_size(level)
            if entry & P:
                if at % page or at + page > end:
                    raise ConfigurationError(
                        f"gva {at:#x} is inside a page of {page:#x} bytes: unmap whole pages"
                    )
                self._write(address, 0)
                cleared += page
            at = (at // page + 1) * page
        return cleared

    def _lowest(self, gva: int) -> tuple[int, int, int]:
        """Return (address, level, value) of the leaf for gva, or of the entry that is not present."""
        table = self.root
        for level in range(self.mode.levels, 0, -1):
            address = self._entry(table, gva, level)
            try:
                entry = self._read(address)
            except HostError:
                return address, level, 0
            if not entry & P or self._is_leaf(entry, level):
                break
            table = entry & ADDR
        return address, level, entry

    def flags(
        self, level: int, *, writable: bool, user: bool, executable: bool, accessed: bool, dirty: bool
    ) -> int:
        """Return the bits of a leaf beside its address."""
        flags = P | (W if writable else 0) | (U if user else 0) | (A if accessed else 0) | (D if dirty else 0)
        if not executable:
            if self.mode.entry_size == 4:
                raise ConfigurationError(
                    "executable=False needs 8-byte entries: paging 'pae', 'long4', 'long5'"
                )
            flags |= NX
        return flags | (PS if level > 1 else 0)
