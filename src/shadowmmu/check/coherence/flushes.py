"""When a vCPU flushed which of its translations."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Flushes"]


@dataclass(slots=True)
class Flushes:
    """When a vCPU flushed last: all, all of a PCID but global translations, single pages (by number).

    pcid    the current PCID, which flushes of single pages and what is asked here are of; 0 without PCIDs
    roots   the CR3s that it had since it flushed all: global translations found there stay usable
    kept    the CR3s that a PCID had since it was flushed: all translations found there stay usable
    pdptrs  the PDPTE registers that it had since it flushed all, with the time when each set was replaced:
            translations found through them stay usable until a flush, global ones until one of all
    """

    everything: int = -1
    pcid: int = 0
    contexts: dict[int, int] = field(default_factory=lambda: {0: -1})
    pages: dict[int, dict[int, int]] = field(default_factory=dict)
    global_pages: dict[int, int] = field(default_factory=dict)
    roots: set[int] = field(default_factory=set)
    kept: dict[int, set[int]] = field(default_factory=dict)
    pdptrs: list[tuple[int, list[int]]] = field(default_factory=list)

    def context(self) -> int:
        """Return when all of the current PCID but global translations was flushed last."""
        return max(self.everything, self.contexts[self.pcid])

    def single_pages(self) -> dict[int, int]:
        """Return when pages of the current PCID were flushed one by one."""
        return self.pages.get(self.pcid, {})

    def since(self, address: int) -> int:
        return max(self.context(), self.single_pages().get(address >> 12, -1))

    def since_global(self, address: int) -> int:
        return max(self.everything, self.global_pages.get(address >> 12, -1))

    def oldest(self) -> int:
        """Return the time before which values that ended are of no use."""
        return self.everything if self.roots else max(self.everything, min(self.contexts.values()))

    def flush(self, time: int) -> None:
        """Drop all translations."""
        self.everything = time
        self.contexts = {self.pcid: time}
        self.pages.clear()
        self.global_pages.clear()
        self.roots.clear()
        self.kept.clear()
        self.pdptrs.clear()

    def flush_page(self, address: int, time: int) -> None:
        """Record an INVLPG: it flushes an address of the current PCID, and global translations of it."""
        self.pages.setdefault(self.pcid, {})[address >> 12] = time
        self.global_pages[address >> 12] = time

    def load_root(self, old: int, pcid: int, time: int | None) -> None:
        """Record a MOV to CR3: it flushes all of the PCID but global translations, also of another CR3;
        without a time it flushes nothing.
        """
        self.kept.setdefault(self.pcid, set()).add(old)
        self.pcid = pcid
        self.contexts.setdefault(pcid, -1)
        if time is not None:
            self.contexts[pcid] = time
            self.pages.pop(pcid, None)
            self.kept.pop(pcid, None)
        self.roots.add(old)
