"""A notifier that writes down what it is called for, and a mapping that it listens to."""

from shadowmmu.host.address_space import AddressSpace
from shadowmmu.host.backing import Backing
from shadowmmu.host.mapping import Mapping

MIB = 1 << 20


class Listener:
    """Writes down what it is called for, in pages from the start of the mapping."""

    def __init__(self) -> None:
        self.base = 0
        self.accessed = False
        self.calls: list[tuple[str, int, int]] = []
        self.replaced: list[tuple[int, int, bool]] = []

    def invalidate_range_start(self, start: int, end: int) -> None:
        self.calls.append(("start", (start - self.base) >> 12, (end - self.base) >> 12))

    def invalidate_range_end(self, start: int, end: int) -> None:
        self.calls.append(("end", (start - self.base) >> 12, (end - self.base) >> 12))

    def change_pte(self, address: int, pfn: int, *, writable: bool) -> None:
        self.replaced.append(((address - self.base) >> 12, pfn, writable))

    def clear_young(self, start: int, end: int) -> bool:
        self.calls.append(("young", (start - self.base) >> 12, (end - self.base) >> 12))
        return self.accessed

    def clear_flush_young(self, start: int, end: int) -> bool:
        self.calls.append(("flush young", (start - self.base) >> 12, (end - self.base) >> 12))
        return self.accessed

    def take(self) -> list[tuple[int, int]]:
        """Ranges whose invalidation began, and that all of them ended."""
        begun = [call[1:] for call in self.calls if call[0] == "start"]
        assert sorted(begun) == sorted(call[1:] for call in self.calls if call[0] == "end")
        self.calls.clear()
        return begun


def mapped(
    space: AddressSpace, listener: Listener, size: int, kind: Backing, *, populated: bool = True
) -> Mapping:
    mapping = space.map(size >> 12, kind, populated=populated)
    listener.base = mapping.hva
    return mapping


def at(mapping: Mapping, page: int) -> int:
    return mapping.hva + (page << 12)
