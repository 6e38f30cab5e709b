"""The audit: what must hold for the MMU's structures whenever mmu_lock is free, looked at while a guest runs.

KVM had an MMU auditor (arch/x86/kvm/mmu/mmu_audit.c) until 2022. This one checks the predicates (predicates/)
on what changed since the last look (tables.py), and on everything now and then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, ClassVar

from ...guest.play.player import OpResult, Player
from ...guest.scenario import ops as kinds
from ...guest.scenario.ops import Op
from ...kvm.tracepoints.event import Event
from ...kvm.tracepoints.exits import Exit
from ..checker import CORRUPT, Checker, Violation
from . import predicates as _predicates
from .explain import explain
from .predicate import PREDICATES, Finding, Predicate, Scope
from .tables import Changes, Tables

__all__ = ["PREDICATES", "SWEEP_EVERY", "Audit", "Level", "ask", "findings"]

assert _predicates, "importing them is what enters them into PREDICATES"

SWEEP_EVERY = 1000
SPTES_PER_OP = 64
"""Ops between two full sweeps: so many at least, and one for so many SPTEs, so that sweeps cost little."""

SEEN = (
    *kinds.GUEST_OPS,
    kinds.Meanwhile,
    kinds.GetDirty,
    kinds.ClearDirty,
    kinds.SetSlotFlag,
    kinds.ModParam,
)
"""Ops in which nobody but the guest writes to its memory: KVM sees what it does to its tables."""


class Level(Enum):
    """When to look: never (there is no Audit then), after each op, or also at each exit of a guest: that is
    when the MMU is done with what came before, and mmu_lock is free.
    """

    OFF = "off"
    OP = "op"
    STEP = "step"


Found = Iterator[tuple[Predicate, Finding]]


def _asked_of(scope: Scope) -> list[Predicate]:
    return [p for p in PREDICATES.values() if p.scope is scope]


_OF_PAGE = [*_asked_of(Scope.ANY_PAGE), *_asked_of(Scope.PAGE)]
_OF_SPECIAL = [*_asked_of(Scope.ANY_PAGE), *_asked_of(Scope.SPECIAL)]
_OF_TDP_PAGE = _asked_of(Scope.TDP_PAGE)
_OF_ENTRY = _asked_of(Scope.ENTRY)
_OF_LEAF = [*_OF_ENTRY, *_asked_of(Scope.LEAF)]
_OF_LINK = [*_OF_ENTRY, *_asked_of(Scope.LINK)]
_OF_FRAME, _OF_TABLE = _asked_of(Scope.FRAME), _asked_of(Scope.TABLE)
_OF_VCPU, _OF_VM, _OF_SWEEP = _asked_of(Scope.VCPU), _asked_of(Scope.VM), _asked_of(Scope.SWEEP)


def _subjects(t: Tables, changes: Changes) -> Iterator[tuple[list[Predicate], Any]]:
    """Yield the subjects that changed, or all there are, each with the predicates about it."""
    everything = changes.everything
    for hpa in t.pages if everything else sorted(changes.pages & t.pages.keys()):
        page = t.pages[hpa]
        yield (_OF_TDP_PAGE if page.tdp else _OF_SPECIAL if page.special else _OF_PAGE), page
    for spte in t.all_sptes() if everything else t.sptes_at(changes.sptes):
        yield (_OF_LEAF if spte.is_leaf else _OF_LINK if spte.present else _OF_ENTRY), spte
    for frame in t.all_frames() if everything else sorted(changes.frames):
        yield _OF_FRAME, frame
    for gfn in list(t.shadowing) if everything else sorted(changes.tables):
        yield _OF_TABLE, gfn
    for vcpu in t.kvm.vcpus:
        yield _OF_VCPU, vcpu
    yield _OF_VM, t.kvm
    if everything:
        yield _OF_SWEEP, t.kvm


def ask(t: Tables, changes: Changes) -> Found:
    """Yield what does not hold of the subjects that changed, or of all there are."""
    for predicates, subject in _subjects(t, changes):
        for predicate in predicates:
            for finding in predicate.ask(t, subject):
                yield predicate, finding


def findings(t: Tables, changes: Changes) -> Found:
    """Yield the same; structures that cannot be read are a finding too."""
    try:
        yield from ask(t, changes)
    except CORRUPT as error:
        yield NO_BUG, Finding(f"the tables cannot be read: {type(error).__name__}: {error}")


NO_BUG = Predicate(
    "no-bug",
    "the MMU does not meet an impossible state: it would be a BUG() or a WARN() in the kernel",
    ("KVM_BUG_ON_DATA_CORRUPTION", "KVM_MMU_WARN_ON"),
    Scope.VM,
    lambda t, kvm: (),
)
PREDICATES[NO_BUG.name] = NO_BUG


class Audit(Checker):
    """Asks all predicates. A finding that persists is reported once.

    `sweep_every`: ops between two full sweeps, if there are not very many SPTEs.
    """

    name: ClassVar[str] = "audit"

    def __init__(self, player: Player, *, level: Level = Level.OP, sweep_every: int = SWEEP_EVERY) -> None:
        super().__init__(player)
        self.sweep_every = sweep_every
        self.tables = Tables(player.machine)
        self._told: set[tuple[Any, ...]] = set()
        self._pending: list[Violation] = []
        self._op: Op | None = None
        self._unseen = False
        self._swept_at = -1
        self._step = ""
        self._exits = 0
        self.tables.look()
        self.tables.number(())
        if level is Level.STEP:
            self._watch_exits()

    def unseen(self) -> None:
        """Record that guest memory changed since the last look, or will until the next, without
        KVM noticing.
        """
        self._unseen = True

    def before_op(self, op: Op) -> None:
        self._op = op
        self._unseen |= _is_unseen(op)
        self._exits = 0
        self._step = ""

    def after_op(self, op: Op, played: OpResult | None) -> list[Violation]:
        if played is None:
            return []
        self._step = f"after exit {self._exits}" if self._exits else ""
        number = played.op
        leaves = sum(self.tables.leaves.values())
        full = number >= self._swept_at + max(self.sweep_every, leaves // SPTES_PER_OP)
        if full:
            self._swept_at = number
        found = [*self._pending, *self._look(number, op.text, played.events, again=full)]
        self._pending = []
        self._unseen = False
        return found

    def finish(self) -> list[Violation]:
        if self._op is not None:
            self._step = f"or by one before it, from op {max(self._swept_at, 0)} on"
        return self.sweep()

    def sweep(self) -> list[Violation]:
        """Check everything, between two ops."""
        return self.look(again=True)

    def look(self, *, again: bool = False) -> list[Violation]:
        """Check what changed, between two ops; `again`: everything."""
        do = "start" if self._op is None else self._op.text
        return list(self._look(self.player.op_number - 1, do, (), again=again))

    # -- looking -------------------------------------------------------------------------------------------

    def _look(self, number: int, do: str, events: Iterable[Event], *, again: bool) -> Iterator[Violation]:
        t = self.tables
        changes = t.look(again=again)
        self._note_unseen(changes)
        if self.player.dump:
            t.number(events)
        self.checks += 1
        for predicate, finding in findings(t, changes):
            if self._is_new(predicate, finding):
                yield self._violation(predicate, finding, number, do)

    def _note_unseen(self, changes: Changes) -> None:
        """Exempt guest tables that changed without KVM noticing: they need not agree with their shadow."""
        t = self.tables
        if changes.rewritten:
            if self._unseen:
                t.unseen |= changes.rewritten
            t.unseen |= changes.rewritten & {vmcb.gpa >> 12 for vmcb in self.player.vmcbs}
        t.unseen -= {gfn for gfn in t.unseen if not t.shadowing.get(gfn)}

    def _is_new(self, predicate: Predicate, finding: Finding) -> bool:
        what = (finding.sptes, finding.pages, finding.frames, tuple(vcpu.id for vcpu in finding.vcpus))
        key = (predicate.name, *what) if any(what) else (predicate.name,)
        if key in self._told:
            return False
        self._told.add(key)
        return True

    def _violation(self, predicate: Predicate, finding: Finding, number: int, do: str) -> Violation:
        shows = explain(self.tables, finding)
        return Violation(self.name, predicate.name, finding.says, number, do, self._step, shows)

    # -- steps ---------------------------------------------------------------------------------------------

    def _watch_exits(self) -> None:
        """Check whenever a guest exits, before KVM does anything about it."""

        def exited(event: Event) -> None:
            if self._op is not None and isinstance(event, Exit):
                self._exits += 1
                what = f"{event.reason_name}, {event.info1:#x}, {event.info2:#x}"
                self._step = f"before exit {self._exits} ({what})"
                self._pending += self._look(self.player.op_number, self._op.text, (), again=False)

        self.player.machine.kvm.tracer.add(exited, "kvm_exit")


def _is_unseen(op: Op) -> bool:
    """Return whether an op may change guest memory without KVM noticing.

    Of an emulated 4-byte write that straddles two gptes KVM sees only the first: it widens the write to the 8
    bytes around its start (kvm_mmu_track_write).
    """
    if isinstance(op, kinds.Access):
        return (op.gva & 7) + op.size > 8
    return not isinstance(op, SEEN)
