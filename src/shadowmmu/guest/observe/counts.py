"""Counts by cause while a program runs: exits, page faults, syncs, unsync pages, zaps.

Who runs, the instruction and the address of an event are known when it fires; they are counted then, so that
a long run needs no more memory than it has different causes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from ...kvm.tracepoints.event import Event
from ...kvm.tracepoints.exits import Exit, PageFault
from ...kvm.tracepoints.reasons import pferr_flags
from ...x86.svm import exit_reason
from .entries import after_exits
from .running import Running, Who

__all__ = ["OUTCOMES", "PAGES", "Counts"]

OUTCOMES: Mapping[str, str] = {
    "pf_mmio_spte_created": "MMIO",
    "pf_emulate": "emulated",
    "pf_guest": "the guest's own",
    "pf_fast": "fixed without mmu_lock",
    "pf_fixed": "mapped",
    "pf_spurious": "spurious",
}
"""Statistic that a page fault advances -> what became of the fault; the first that has advanced counts."""
PAGES: Mapping[str, str] = {
    "kvm_mmu_sync_page": "syncs",
    "kvm_mmu_unsync_page": "unsync",
    "kvm_mmu_prepare_zap_page": "zaps",
}
"""Tracepoint -> what is counted by it."""
_OTHER = "other"


class Counts:
    """Counts of one run; made before the program starts.

    Attributes:
        running: What runs.
        exits: Number of exits by (process, reason).
        faults: Number of page faults by (process, access, outcome).
        by_rip: Number of page faults by (process, symbol or address of the instruction).
        by_region: Number of page faults by (process, symbol or mapping of the address).
        pages: For each of PAGES, the number by (process, what happened).
    """

    def __init__(self, running: Running) -> None:
        self.exits: Counter[tuple[Who, str]] = Counter()
        self.faults: Counter[tuple[Who, str, str]] = Counter()
        self.by_rip: Counter[tuple[Who, str]] = Counter()
        self.by_region: Counter[tuple[Who, str]] = Counter()
        self.pages: dict[str, Counter[tuple[Who, str]]] = {what: Counter() for what in PAGES.values()}
        self.running = running
        self._machine = running.machine
        self._npt = running.machine.npt
        self._exit = 0
        self._fault: tuple[Who, str] | None = None
        self._outcomes = self._statistics()
        tracer = running.machine.kvm.tracer
        tracer.add(self._exited, "kvm_exit")
        tracer.add(self._faulted, "kvm_page_fault")
        tracer.add(self._page, *PAGES)
        after_exits(running.machine, self._handled)

    def _statistics(self) -> tuple[int, ...]:
        stat = self._machine.vcpu.stat
        return tuple([getattr(stat, name) for name in OUTCOMES])

    def _exited(self, event: Event) -> None:
        assert isinstance(event, Exit)
        self._exit = event.exit_reason
        self.exits[self.running.who, exit_reason(event.exit_reason)] += 1

    def _faulted(self, event: Event) -> None:
        assert isinstance(event, PageFault)
        running, who = self.running, self.running.who
        self._fault = who, pferr_flags(event.error_code & 0x1F) or "read"
        self.by_rip[who, running.symbol(event.guest_rip)] += 1
        address = event.fault_address
        self.by_region[
            who, f"gpa {address & -(1 << 21):#x}, 2 MiB" if self._npt else running.region(address)
        ] += 1

    def _page(self, event: Event) -> None:
        call = self.running.call
        what = exit_reason(self._exit) + (f" for {call}" if call else "")
        self.pages[PAGES[event.name]][self.running.who, what] += 1

    def _handled(self) -> None:
        """Count the fault of an exit that KVM is done with."""
        if self._fault is None:
            return
        (who, access), self._fault = self._fault, None
        before, self._outcomes = self._outcomes, self._statistics()
        advanced = [
            what
            for (_, what), old, new in zip(OUTCOMES.items(), before, self._outcomes, strict=True)
            if new > old
        ]
        self.faults[who, access, advanced[0] if advanced else _OTHER] += 1
