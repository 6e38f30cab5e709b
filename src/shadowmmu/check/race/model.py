"""The model's own code as the threads of a case: its memory, atomic operations and locks made visible.

Interpreted only. A VM is built and brought to where the case begins; then every read and write of its
arena's words and of the fields in FIELDS, and every atomic operation on an SPTE, can be a stop of the
engine (it is one once two threads are known to conflict there). The model itself knows no locks: mmu_lock
is taken where KVM takes it, by wrapping the functions that run under it. Statistics and requests are atomic
in KVM; here they are no stops.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, ClassVar

import shadowmmu
from shadowmmu.guest.play.player import Player
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.guest.scenario.setup import resolve
from shadowmmu.kvm.bits import SPTE_MMU_PRESENT
from shadowmmu.kvm.fault import page_fault
from shadowmmu.kvm.fault.page_fault import kvm_mmu_page_fault
from shadowmmu.kvm.memory import notifier
from shadowmmu.kvm.spte import atomic
from shadowmmu.kvm.state.shadow_page import ShadowPage
from shadowmmu.kvm.state.vm import Kvm

from .case import Case
from .engine import CaseError, Execution, Op
from .memory import Lock, shown

__all__ = ["ModelCase"]

FIELDS = {
    "Kvm": frozenset({"mmu_invalidate_seq", "mmu_invalidate_in_progress", "mmu_valid_gen"}),
    "ShadowPage": frozenset({"unsync", "role", "mmu_valid_gen"}),
}
"""The fields that are shared memory, by class."""


class Words:
    """The arena's words, as the functions of the MMU see them."""

    def __init__(self, execution: Execution, words: Any, name: Callable[[int], str]) -> None:
        self.execution = execution
        self.words = words
        self.name = name

    def __getitem__(self, index: int) -> int:
        if self.execution.visible(index, write=False):
            value: int = self.execution.load(index, lambda: self.words[index], f"read {self.name(index)}")
            self.execution.say(f": {shown(value)}")
            return value
        return int(self.words[index])

    def __setitem__(self, index: int | slice, value: Any) -> None:
        if isinstance(index, slice):  # a table is made: nobody else knows it yet
            self.words[index] = value
        elif self.execution.visible(index, write=True):
            text = f"{self.name(index)} = {shown(value)}"
            self.execution.store(index, lambda: self.words.__setitem__(index, value), value, text)
        else:
            self.words[index] = value

    def atomically(self, index: int, text: str, change: Callable[[int], int]) -> int:
        """Run one atomic operation. Return the word's former value."""
        visible = self.execution.visible(index, write=True)
        if visible:
            self.execution.atomic(f"{text.format(self.name(index))}", ((index, True),))
        old = int(self.words[index])
        self.words[index] = change(old)
        if visible:
            self.execution.say(f" (was {shown(old)})")
        return old


@cache
def _visible_class(base: type) -> type:
    """Return a subclass whose FIELDS are stops. Its objects have a `race`: (execution,
    name for people, key).
    """
    fields = FIELDS[base.__name__]

    class Visible(base):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            if name in fields:
                execution, title, key = object.__getattribute__(self, "race")
                if execution.visible((key, name), write=False):
                    execution.stop(Op(f"read {title}{name}", (((key, name), False),)))
                    value = object.__getattribute__(self, name)
                    execution.say(f": {shown(value)}")
                    return value
            return object.__getattribute__(self, name)

        def __setattr__(self, name: str, value: Any) -> None:
            if name in fields:
                execution, title, key = object.__getattribute__(self, "race")
                if execution.visible((key, name), write=True):
                    execution.stop(Op(f"{title}{name} = {shown(value)}", (((key, name), True),)))
            object.__setattr__(self, name, value)

    Visible.__name__ = base.__name__
    return Visible


def cmpxchg64(kvm: Kvm, sptep: int, old: int, new: int) -> int:
    """Run atomic.cmpxchg64 as one step, or as load and store if the case took its atomicity away."""
    words: Any = kvm.words
    if not isinstance(words, Words):
        return atomic.cmpxchg64(kvm, sptep, old, new)
    if "cmpxchg" in getattr(kvm, "race_without", ()):
        seen = words[sptep >> 3]
        if seen == old:
            words[sptep >> 3] = new
        return seen
    text = f"cmpxchg {{}}, {shown(old)} -> {shown(new)}"
    return words.atomically(sptep >> 3, text, lambda seen: new if seen == old else seen)


def xchg64(kvm: Kvm, sptep: int, new: int) -> int:
    """Run atomic.xchg64 as one step."""
    words: Any = kvm.words
    if not isinstance(words, Words):
        return atomic.xchg64(kvm, sptep, new)
    return words.atomically(sptep >> 3, f"xchg {{}}, {shown(new)}", lambda _: new)


def fetch_andnot64(kvm: Kvm, sptep: int, bits: int) -> int:
    """Run atomic.fetch_andnot64 as one step."""
    words: Any = kvm.words
    if not isinstance(words, Words):
        return atomic.fetch_andnot64(kvm, sptep, bits)
    return words.atomically(sptep >> 3, f"clear {shown(bits)} of {{}}", lambda seen: seen & ~bits)


def _under_lock(function: Callable[..., Any], *, write: bool) -> Callable[..., Any]:
    """Return the function with mmu_lock taken before it, which the thread keeps until the
    end of its fault.
    """

    def locked(vcpu: Any, fault: Any) -> Any:
        lock: Lock | None = getattr(vcpu.kvm, "race_lock", None)
        if lock is not None and not lock.held():
            lock.acquire(write=write)
        return function(vcpu, fault)

    return locked


def _locked_method(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of MmuNotifier with mmu_lock held for writing."""

    def locked(self: Any, *args: Any) -> Any:
        lock: Lock | None = getattr(self.kvm, "race_lock", None)
        if lock is None:
            return function(self, *args)
        with lock.write():
            return function(self, *args)

    return locked


@contextmanager
def instrumented(more: list[tuple[Any, str, Callable[..., Any]]]) -> Iterator[None]:
    """Make the atomic operations of the MMU's modules visible, and mmu_lock taken where KVM takes it."""
    changes: list[tuple[Any, str, Any]] = []

    def change(place: Any, name: str, new: Any) -> None:
        changes.append((place, name, getattr(place, name)))
        setattr(place, name, new)

    try:
        for place, name, new in more:
            change(place, name, new)
        for new in (cmpxchg64, xchg64, fetch_andnot64):
            old = getattr(atomic, new.__name__)
            for name, module in list(sys.modules.items()):
                known = getattr(module, new.__name__, None) if name.startswith("shadowmmu.kvm.") else None
                if known is old and module is not atomic:
                    change(module, new.__name__, new)
        change(page_fault, "is_page_fault_stale", _under_lock(page_fault.is_page_fault_stale, write=False))
        change(page_fault, "_prepare_to_map", _under_lock(page_fault._prepare_to_map, write=True))
        for name in ("invalidate_range_start", "invalidate_range_end"):
            change(notifier.MmuNotifier, name, _locked_method(getattr(notifier.MmuNotifier, name)))
        yield
    finally:
        for place, name, old in reversed(changes):
            setattr(place, name, old)


class ModelCase(Case):
    """A case whose threads run the model's code.

    scenario   the VM, in the scenario language; its operations are played before the threads begin
    design     switches of the MMU's design
    """

    scenario: ClassVar[str]
    design: ClassVar[dict[str, str]] = {}

    def setup(self) -> None:
        scenario = parse_scenario(self.scenario).with_design(dict(self.design_of()))
        player = Player(resolve(scenario), None, lambda machine: {}, tlb=False)
        for played in player.play(scenario.ops):
            outcome = played.result.get("outcome", "ok")
            assert outcome in ("ok", "vmexit"), played.result
        self.machine = player.machine
        self.kvm: Any = self.machine.kvm
        self.mmu_lock = self.lock(held=self.has("mmu_lock"))
        self.prepare()
        self._show()

    @classmethod
    def environment(cls) -> AbstractContextManager[None]:
        if shadowmmu.native:
            raise CaseError(f"{cls.name} runs the model's own code, which must be interpreted")
        return instrumented(cls.changes())

    @classmethod
    def changes(cls) -> list[tuple[Any, str, Callable[..., Any]]]:
        """Return the functions to be replaced, as (module, name, new), to take a protection away."""
        return []

    def design_of(self) -> dict[str, str]:
        """Return the switches, which may depend on the protections."""
        return self.design

    def prepare(self) -> None:
        """Do what else is to be done before the threads begin."""

    def _show(self) -> None:
        kvm = self.kvm
        kvm.words = Words(self.execution, kvm.words, self._name)
        kvm.race = (self.execution, "", "kvm")
        kvm.race_lock = self.mmu_lock
        kvm.race_without = self.without
        for sp in kvm.owners:
            if sp is not None:
                sp.race = (self.execution, f"page {sp.spt >> 12:#x}'s ", sp.spt)
                sp.__class__ = _visible_class(ShadowPage)
        kvm.__class__ = _visible_class(Kvm)

    def _name(self, index: int) -> str:
        """Return the name of a word of the arena."""
        sp = self.machine.kvm.page_at(index << 3)
        if sp is None:
            return f"word {index << 3:#x}"
        return f"SPTE {index & 511} of level {object.__getattribute__(sp, 'role') & 15}"

    # -- for the threads -----------------------------------------------------------------------------------

    def page_fault(self, vcpu: int, gpa: int, error_code: int) -> int:
        """Handle one fault of a vCPU, with mmu_lock taken where KVM takes it. Return a RET_PF_* code."""
        result = int(kvm_mmu_page_fault(self.kvm.vcpus[vcpu], gpa, error_code))
        if self.mmu_lock.held():
            self.mmu_lock.release()
        return result

    def leaf(self, gpa: int) -> int:
        """Return the SPTE that maps a page of a guest without L2 on vCPU 0; 0 if there is none."""
        from shadowmmu.kvm.fault.fast_fault import last_sptep_lockless

        sptep = last_sptep_lockless(self.kvm.vcpus[0], gpa)
        spte = int(self.kvm.read_spte(sptep)) if sptep else 0
        return spte if spte & SPTE_MMU_PRESENT else 0
