"""What became of the entries on the way of one address, from the start of a program on.

After each exit the words of those entries are compared with what they were. Only where one differs is the
exit looked at: what the guest did, and which tracepoints fired in it. So the record is small, whatever the
guest has mapped, and costs the comparison of a few words for each exit. Tracepoints are heard in exits that
may change an entry on the way, as long as nobody else listens; a change in another exit, as when the limit of
shadow pages is reached, has no events.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...host.backing import HostError
from ...kvm.bits import INVALID_PAGE, SPTE_MMU_PRESENT
from ...kvm.pages.shadow_walk import shadow_walk_level, shadow_walk_root, shadow_walk_sptep
from ...kvm.state.shadow_page import ShadowPage
from ...kvm.tracepoints.event import Event
from ...x86.bits import ADDR, PFERR_P, PFERR_U, PS
from ...x86.svm import (
    SVM_EXIT_CPUID,
    SVM_EXIT_EXCP_BASE,
    SVM_EXIT_HLT,
    SVM_EXIT_INVLPG,
    SVM_EXIT_MSR,
    SVM_EXIT_NPF,
    SVM_EXIT_RDTSC,
    SVM_EXIT_RDTSCP,
    SVM_EXIT_VMMCALL,
    SVM_EXIT_WRITE_CR0,
    exit_reason,
)
from ..play.guest_walk import guest_walk
from ..svm.execution import ExitHandler
from ..svm.interrupts import PF
from .entries import after_exits
from .running import Running, Who
from .word_watch import WordWatch

__all__ = ["HEARD", "EntryChange", "EntryHistory", "ShadowEntry", "shadow_walk"]

HEARD = (
    "kvm_page_fault",
    "kvm_emulate_insn",
    "kvm_mmu_get_page",
    "kvm_mmu_sync_page",
    "kvm_mmu_unsync_page",
    "kvm_mmu_prepare_zap_page",
    "kvm_mmu_zap_all_fast",
    "kvm_mmu_set_spte",
    "mark_mmio_spte",
    "fast_page_fault",
    "kvm_tdp_mmu_spte_changed",
    "kvm_mmu_split_huge_page",
    "kvm_unmap_hva_range",
    "kvm_age_hva",
)
"""Tracepoints that say why an entry changes."""
_FAULTS = (SVM_EXIT_EXCP_BASE + PF, SVM_EXIT_NPF)
_SYNCS = (SVM_EXIT_INVLPG, SVM_EXIT_WRITE_CR0 + 3)
"""Exits that change entries only if there are unsync pages."""
_QUIET = (SVM_EXIT_CPUID, SVM_EXIT_MSR, SVM_EXIT_HLT, SVM_EXIT_RDTSC, SVM_EXIT_RDTSCP, SVM_EXIT_VMMCALL)
"""Exits that change no entries."""
_MOST_ENTRIES = 24
"""Entries that are compared: those of the last three address spaces or so."""
MOST_CHANGES = 4096
MOST_EVENTS = 256
"""Of one exit."""


@dataclass(frozen=True, slots=True)
class ShadowEntry:
    """An SPTE: the address of its table, its index, value and level."""

    table: int
    index: int
    value: int
    level: int

    @property
    def sptep(self) -> int:
        """Where the SPTE is."""
        return self.table + 8 * self.index


@dataclass(frozen=True, slots=True)
class EntryChange:
    """A change of an entry, and the exit in which it was noticed.

    place    hpa of the entry
    guest    whether it is one of the guest's tables
    gpa      of a guest entry, where it is
    old      the value before; None: the entry was not on the way before, or its table was another one
    new      the value afterwards; None: its shadow page was freed
    exit     number of the exit, counted from 1
    reason   what made the exit; rip: where; symbol: its name
    who      who ran
    call     the system call that was being made, or an empty string
    events   what fired in the exit
    """

    place: int
    guest: bool
    gpa: int
    old: int | None
    new: int | None
    exit: int
    reason: str
    rip: int
    symbol: str
    who: Who
    call: str
    events: tuple[Event, ...]


@dataclass(slots=True)
class _Watched:
    """An entry that is compared; `owner` is the shadow page that it belonged to, None for a guest's table."""

    owner: ShadowPage | None
    guest: bool
    gpa: int
    value: int


def shadow_walk(running: Running, gva: int) -> list[ShadowEntry]:
    """Return the SPTEs on the way of an address through KVM's tables, topmost first."""
    vcpu = running.machine.vcpu
    address: int | None = gva
    if vcpu.mmu.direct():
        address = guest_walk(running.machine.machine, vcpu, gva)[1]
    found: list[ShadowEntry] = []
    if address is None or vcpu.mmu.root_hpa in (0, INVALID_PAGE):
        return found
    table, level = shadow_walk_root(vcpu, address), shadow_walk_level(vcpu)
    while table and level:
        sptep = shadow_walk_sptep(table, address, level)
        spte = running.machine.kvm.read_spte(sptep)
        found.append(ShadowEntry(table, (sptep & 0xFFF) >> 3, spte, level))
        if not spte & SPTE_MMU_PRESENT or level == 1 or spte & PS:
            break
        table, level = spte & ADDR, level - 1
    return found


class EntryHistory:
    """The history of the entries on the way of `gva`; made before the program starts.

    Attributes:
        changes: The changes so far, oldest first.
        running: What runs.
        lost: Number of changes that were too many to be kept: the oldest ones.
    """

    def __init__(self, running: Running, gva: int) -> None:
        self.gva = gva
        self.changes: list[EntryChange] = []
        self.lost = 0
        self.running = running
        self._machine = running.machine
        self._kvm = running.machine.kvm
        self._words: Any = running.machine.machine.arena.buffer
        self._events: list[Event] = []
        self._watched: dict[int, _Watched] = {}
        self._reach: dict[int, int] = {}
        """Root that was used -> low bits of an address in which a fault may differ that makes entries on the
        way: those that the lowest entry maps, or the lowest table, whose entries are prefetched."""
        self._shift = 64
        """That of the root in use."""
        self._address = gva
        """What KVM's tables map for it: with nested paging the guest-physical address."""
        self._compared = WordWatch(self._words)
        tracer = self._kvm.tracer
        alone = not tracer.listeners
        tracer.add(self._heard, *HEARD)
        if alone:
            self._hear_what_matters()
        after_exits(running.machine, self._comparison(alone=alone))

    def of(self, place: int) -> list[EntryChange]:
        """Return the changes of the entry at a host-physical address, newest first."""
        return [change for change in reversed(self.changes) if change.place == place]

    def of_guest(self, gpa: int) -> list[EntryChange]:
        """Return the changes of the guest's entry at a guest-physical address, newest first."""
        return [change for change in reversed(self.changes) if change.guest and change.gpa == gpa]

    def _heard(self, event: Event) -> None:
        self._events.append(event)
        if len(self._events) > MOST_EVENTS:
            del self._events[: MOST_EVENTS // 2]

    def _comparison(self, *, alone: bool) -> Callable[[], None]:
        """Return what is called after each exit; `alone`: nobody else listens to tracepoints."""
        kvm = self._kvm
        changed, reach, cpu, events = (
            self._compared.changed,
            self._reach,
            self._machine.vcpu.cpu,
            self._events,
        )
        last = -1

        def after_exit() -> None:
            nonlocal last
            root = cpu.root
            if changed() or root not in reach:
                self._look()
                last = -1
            if root != last:
                last, self._shift = root, reach[root]
            if events:
                events.clear()
            if alone:
                kvm.tracing = False

        return after_exit

    def _hear_what_matters(self) -> None:
        """Let tracepoints fire only in exits that may change an entry on the way."""
        kvm, processor, handlers = self._kvm, self._machine.processor, self._machine.loop.handlers
        stat = kvm.stat

        def quiet(handler: ExitHandler) -> ExitHandler:
            def handle(code: int) -> None:
                kvm.tracing = False
                handler(code)

            return handle

        def heard_if_unsync(handler: ExitHandler) -> ExitHandler:
            def handle(code: int) -> None:
                kvm.tracing = stat.mmu_unsync > 0
                handler(code)

            return handle

        def heard_if_near(handler: ExitHandler) -> ExitHandler:
            def handle(code: int) -> None:
                kvm.tracing = (
                    processor.exit_info1 & (PFERR_P | PFERR_U) == PFERR_P  # a write to a table, it may be
                    or (processor.exit_info2 ^ self._address) >> self._shift == 0
                )
                handler(code)

            return handle

        def heard(handler: ExitHandler) -> ExitHandler:
            def handle(code: int) -> None:
                kvm.tracing = True
                handler(code)

            return handle

        for code, handler in handlers.items():
            wrap = quiet if code in _QUIET else heard_if_near if code in _FAULTS else heard
            handlers[code] = (heard_if_unsync if code in _SYNCS else wrap)(handler)

    def _look(self) -> None:
        """Note what has changed, and look for the entries that are on the way now."""
        for index, watched in list(self._watched.items()):
            value = self._words[index]
            if watched.owner is not None and self._kvm.page_at(index << 3 & -4096) is not watched.owner:
                self._note(index, watched, watched.value, None)
                del self._watched[index]
            elif value != watched.value:
                self._note(index, watched, watched.value, value)
                watched.value = value
        for index, found in self._on_the_way().items():
            if index not in self._watched:
                self._watched[index] = found
                if found.value not in (0, self._kvm.design.empty_spte):
                    self._note(index, found, None, found.value)
        while len(self._watched) > _MOST_ENTRIES:
            del self._watched[next(iter(self._watched))]
        self._compared.watch(list(self._watched))

    def _on_the_way(self) -> dict[int, _Watched]:
        machine = self._machine.machine
        found: dict[int, _Watched] = {}
        for entry in guest_walk(machine, self._machine.vcpu, self.gva)[0]:
            try:
                hpa = machine.host.touch(machine.hva(entry.gpa), write=False) | entry.gpa & 0xFFF
            except HostError:
                break
            found[hpa >> 3] = _Watched(None, True, entry.gpa, self._words[hpa >> 3])
        walk = shadow_walk(self.running, self.gva)
        self._reach[self._machine.vcpu.cpu.root] = 12 + 9 * max(walk[-1].level - 1, 1) if walk else 64
        self._address = self.gva
        if self._machine.npt:
            self._address = guest_walk(machine, self._machine.vcpu, self.gva)[1] or 0
        for spte in walk:
            found[spte.sptep >> 3] = _Watched(self._kvm.page_at(spte.table), False, 0, spte.value)
        return found

    def _note(self, index: int, watched: _Watched, old: int | None, new: int | None) -> None:
        running, machine = self.running, self._machine
        history = machine.history
        record = history[-1] if history else None
        rip = machine.processor.rip if record is None else record.rip
        self.changes.append(
            EntryChange(
                index << 3,
                watched.guest,
                watched.gpa,
                old,
                new,
                machine.exits.total(),
                "start" if record is None else exit_reason(record.code),
                rip,
                running.symbol(rip),
                running.who,
                running.call,
                tuple(self._events),
            )
        )
        if len(self.changes) > MOST_CHANGES:
            self.lost += MOST_CHANGES // 2
            del self.changes[: MOST_CHANGES // 2]
