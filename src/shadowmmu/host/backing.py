"""What mappings are made with: kinds of memory, mmu notifiers, settings of huge pages; and failed calls."""

from enum import Enum
from typing import Protocol

from .bits import THP_MADVISE


class Backing(Enum):
    """What the memory is made of. HUGE2M and HUGE1G are hugetlb, MEMFD is shared memory in small pages."""

    ANON = "anon"
    THP = "thp"
    HUGE2M = "huge2m"
    HUGE1G = "huge1g"
    MEMFD = "memfd"


class Notifier(Protocol):
    """An mmu_notifier: called for [start, end) before and after the host takes pages of that range away.

    Between the two, change_pte reports the page that is at an address now, if it replaced another at once.
    clear_young and clear_flush_young ask whether a range was accessed, and mark it as not accessed; the
    latter flushes. Addresses are host virtual.
    """

    def invalidate_range_start(self, start: int, end: int) -> None: ...
    def invalidate_range_end(self, start: int, end: int) -> None: ...
    def change_pte(self, address: int, pfn: int, *, writable: bool) -> None: ...
    def clear_young(self, start: int, end: int) -> bool: ...
    def clear_flush_young(self, start: int, end: int) -> bool: ...


class HostError(OSError):
    """A host call that failed; `errno` says how."""


class HugePages:
    """The administrator's settings of transparent huge pages (/sys/kernel/mm/transparent_hugepage).

    Attributes:
        enabled: Which VMAs get huge pages: THP_NEVER, THP_MADVISE or THP_ALWAYS.
        use_zero_page: A read maps the one huge page of zeros, else a huge page of its own.
    """

    def __init__(self) -> None:
        self.enabled = THP_MADVISE
        self.use_zero_page = True
