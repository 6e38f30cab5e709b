"""The audit: what must hold for the MMU's structures whenever mmu_lock is free, looked at while a guest runs.

KVM had an MMU auditor (arch/x86/kvm/mmu/mmu_audit.c) until 2022. This one asks the predicates of
check.predicates of what changed since the last look (check.tables) and of everything now and then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from typing import Any, ClassVar

from ..guest import ops as kinds
from ..guest.ops import Op
from ..guest.player import OpResult, Player
from ..trace.events import Event, exit_reason
from . import predicates as _predicates
from .checker import CORRUPT, Checker, Violation
from .explain import explain
from .predicate import PREDICATES, Finding, Predicate, Scope
from .tables import Changes, Page, Tables

__all__ = ["SWEEP_EVERY", "Audit", "Level", "ask", "findings"]

assert _predicates, "importing them is what enters them into PREDICATES"

SWEEP_EVERY = 1000
"""Ops between two full sweeps."""

GUEST_OPS = (
    kinds.Access,
    kinds.Nop,
    kinds.Exec,
    kinds.Invlpg,
    kinds.WriteCr,
    kinds.WriteMsr,
    kinds.L2Exit,
    kinds.SetNestedCr3,
    kinds.Invlpga,
)
"""Ops that the guest carries out: KVM sees what they do to its tables."""


class Level(Enum):
    """When to look: never, after each op, or also at each exit of a guest, when mmu_lock is free."""

    OFF = "off"
    OP = "op"
    STEP = "step"


def _scopes() -> dict[Scope, list[Predicate]]:
    return {scope: [p for p in PREDICATES.values() if p.scope is scope] for scope in Scope}


def _of_page(page: Page) -> tuple[Scope, ...]:
    if page.tdp:
        return (Scope.TDP_PAGE,)
    return (Scope.ANY_PAGE, Scope.SPECIAL if page.special else Scope.PAGE)


def ask(t: Tables, changes: Changes) -> Iterator[tuple[Predicate, Finding]]:
    """What does not hold of the subjects that changed, or of all there are."""
    by_scope = _scopes()

    def each(scope: Scope, subject: Any) -> Iterator[tuple[Predicate, Finding]]:
        for predicate in by_scope[scope]:
            for finding in predicate.ask(t, subject):
                yield predicate, finding

    everything = changes.everything
    for hpa in t.pages if everything else sorted(changes.pages & t.pages.keys()):
        for scope in _of_page(t.pages[hpa]):
            yield from each(scope, t.pages[hpa])
    for spte in t.all_sptes() if everything else t.sptes_at(changes.sptes):
        yield from each(Scope.ENTRY, spte)
        if spte.is_leaf:
            yield from each(Scope.LEAF, spte)
        elif spte.is_link:
            yield from each(Scope.LINK, spte)
    for frame in t.all_frames() if everything else sorted(changes.frames):
        yield from each(Scope.FRAME, frame)
    for gfn in list(t.shadowing) if everything else sorted(changes.tables):
        yield from each(Scope.TABLE, gfn)
    for vcpu in t.kvm.vcpus:
        yield from each(Scope.VCPU, vcpu)
    yield from each(Scope.VM, t.kvm)
    if everything:
        yield from each(Scope.SWEEP, t.kvm)


def findings(t: Tables, changes: Changes) -> Iterator[tuple[Predicate, Finding]]:
    """The same; structures on which the questions themselves stumble are a finding too."""
    try:
        yield from ask(t, changes)
    except CORRUPT as error:
        yield NO_BUG, Finding(f"the tables cannot be read: {type(error).__name__}: {error}")


NO_BUG = Predicate(
    "no-bug",
    "the MMU finds nothing that cannot be: it would be a BUG() or a WARN() in the kernel",
    ("KVM_BUG_ON_DATA_CORRUPTION", "KVM_MMU_WARN_ON"),
    Scope.VM,
    lambda t, kvm: (),
)
PREDICATES[NO_BUG.name] = NO_BUG


class Audit(Checker):
    """Asks all predicates. A finding is told once, though it stays.

    `sweep_every`: ops between two full sweeps.
    """

    name: ClassVar[str] = "audit"

    def __init__(self, player: Player, *, level: Level = Level.OP, sweep_every: int = SWEEP_EVERY) -> None:
        super().__init__(player)
        self.level = level
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
        """Guest memory changed since the last look, or will until the next, without KVM's knowing."""
        self._unseen = True

    def before_op(self, op: Op) -> None:
        self._op = op
        self._unseen |= _is_unseen(op)
        self._exits = 0
        self._step = ""

    def after_op(self, op: Op, played: OpResult | None) -> list[Violation]:
        if played is None or self.level is Level.OFF:
            return []
        self._step = f"after exit {self._exits}" if self._exits else ""
        number = played.op
        full = number >= self._swept_at + self.sweep_every
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
        """Look at everything, between two ops."""
        if self.level is Level.OFF:
            return []
        do = "start" if self._op is None else self._op.text
        return list(self._look(self.player.op_number - 1, do, (), again=True))

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
        """Guest tables that changed without KVM's knowing need not agree with their shadow."""
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
        """Look whenever a guest exits, before KVM does anything about it."""
        log = self.player.log
        exited = log.kvm_exit

        def kvm_exit(vcpu_id: int, reason: int, rip: int, info1: int, info2: int) -> None:
            exited(vcpu_id, reason, rip, info1, info2)
            if self._op is not None:
                self._exits += 1
                self._step = f"before exit {self._exits} ({exit_reason(reason)}, {info1:#x}, {info2:#x})"
                self._pending += self._look(self.player.op_number, self._op.text, (), again=False)

        setattr(log, "kvm_exit", kvm_exit)  # noqa: B010  (a method of a Tracer)


def _is_unseen(op: Op) -> bool:
    """Whether an op may change guest memory without KVM's knowing.

    Of an emulated 4-byte write that straddles two gptes KVM sees only the first: it widens the write to the
    8 bytes around its start (kvm_mmu_track_write).
    """
    if isinstance(op, kinds.Access):
        return (op.gva & 7) + op.size > 8
    return not isinstance(op, GUEST_OPS)
