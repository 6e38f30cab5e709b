"""A VM's tracepoints as a timeline: tracks of its vCPUs, of user space and KVM's workers, and of mmu_lock."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from shadowmmu.kvm.state.vm import Kvm
from shadowmmu.kvm.tracepoints.event import Event

from .phases import ENTRY, EXIT, FLUSH, Phase, phase_of
from .trace_file import TraceFile, Track
from .vm_watch import VmWatch

__all__ = ["Timeline"]

_USER_SPACE, _LOCK, _WAITERS, _FIRST_WORKER = 1, 2, 3, 4
_ARROW = "TLB flush"


@dataclass(frozen=True, slots=True)
class _Step:
    """What happened at one step of the clock."""

    at: int
    phase: Phase
    name: str
    says: str
    task: str = ""


@dataclass(slots=True)
class _Work:
    """Something that is being done: an op, or what a program does between two exits."""

    start: int
    name: str
    """Empty: it has no slice of its own."""
    track: Track
    who: str
    of_guest: bool
    steps: list[_Step] = field(default_factory=list)
    held_since: int | None = None
    """When mmu_lock was taken that it holds; None while it does not."""
    held_for: str = ""
    held_until: int = 0
    waited_since: int | None = None
    """When the stretch with mmu_lock began at whose end it was dropped; None if it was not held."""
    arrows: list[tuple[int, int]] = field(default_factory=list)
    """(number, time) of the arrows that begin in it."""

    @property
    def worker(self) -> str:
        """Return the track of KVM's work that it is, or an empty string."""
        if self.of_guest:
            return ""
        return next((step.phase.worker for step in self.steps if step.phase.worker), "")


class Timeline:
    """Listens to a VM's tracepoints and writes its timeline. Its clock takes one step a tracepoint.

    `first` is the number of its first process in the file, and `start` the time at which it begins.
    """

    def __init__(self, kvm: Kvm, file: TraceFile, name: str, *, first: int = 1, start: int = 0) -> None:
        self._file = file
        self._watch = VmWatch(kvm)
        self._guest, self._host = first, first + 1
        self.now = start
        """The time: steps since the beginning of the file."""
        self._pending: dict[int, list[int]] = {vcpu.id: [] for vcpu in kvm.vcpus}
        self._workers: dict[str, Track] = {}
        self._work: list[_Work] = []
        file.process(self._guest, f"{name}: vCPUs")
        for vcpu in kvm.vcpus:
            file.thread(self._vcpu(vcpu.id), f"vCPU {vcpu.id}")
        file.process(self._host, f"{name}: KVM")
        for tid, what in (
            (_USER_SPACE, "user space"),
            (_LOCK, "mmu_lock: holder"),
            (_WAITERS, "mmu_lock: waiters"),
        ):
            file.thread(Track(self._host, tid), what)
        self._count()

    # -- what happens ------------------------------------------------------------------------------------

    def __call__(self, event: Event) -> None:
        """Hear a tracepoint."""
        if not self._work or (event.name == "kvm_exit" and not self._work[-1].name):
            self._next_of_program(getattr(event, "vcpu_id", 0))
        self._look()
        phase = phase_of(event.name)
        self._lock(phase)
        name = f"exit {event.reason_name}" if event.name == "kvm_exit" else event.name  # type: ignore[attr-defined]
        self._work[-1].steps.append(_Step(self._tick(), phase, name, event.text(), event.task))

    def begin(self, name: str, vcpu: int, *, of_guest: bool) -> None:
        """Begin an op, perhaps in the middle of another one, which has dropped mmu_lock."""
        if self._work and not self._work[-1].name:
            self.end({})
        if self._work:
            self._look()
            outer = self._work[-1]
            self._unlock(outer)
            dropped = self._tick()
            since = dropped if outer.waited_since is None else outer.waited_since
            self._file.instant(Track(self._host, _LOCK), "mmu_lock dropped", dropped)
            self._file.slice(Track(self._host, _WAITERS), name, since, self.now, {"for": outer.name})
        track = self._vcpu(vcpu) if of_guest else Track(self._host, _USER_SPACE)
        who = f"vCPU {vcpu}" if of_guest else "user space"
        self._work.append(_Work(self.now, name, track, who, of_guest))
        if not of_guest:
            self._tick()

    def end(self, result: Mapping[str, Any]) -> None:
        """End the op that was begun last."""
        self._look()
        work = self._work.pop()
        self._draw(work, {"result": str(result.get("outcome", ""))})
        if not self._work:
            self._file.flush()

    def finish(self) -> None:
        """End the timeline: what is left of a program, and arrows of flushes that nobody served."""
        while self._work:
            self.end({})
        at = self.now
        for vcpu, numbers in self._pending.items():
            if numbers:
                self._file.slice(self._vcpu(vcpu), "TLB flush pending at the end", at, at + 1, {})
                self._land(vcpu, at)
        self._tick()
        self._file.flush()

    def _next_of_program(self, vcpu: int) -> None:
        if self._work:
            self.end({})
        self._work.append(_Work(self.now, "", self._vcpu(vcpu), f"vCPU {vcpu}", of_guest=True))

    def _tick(self) -> int:
        self.now += 1
        return self.now - 1

    # -- what is seen between the tracepoints ----------------------------------------------------------------

    def _look(self) -> None:
        work = self._work[-1]
        for what, vcpus in self._watch.requests():
            at = self._tick()
            task = work.steps[-1].task if work.steps else ""
            work.steps.append(_Step(at, FLUSH, "flush request", f"of {what}", task))
            for vcpu in vcpus:
                number = self._file.new_arrow()
                work.arrows.append((number, at))
                self._pending.setdefault(vcpu, []).append(number)
        for vcpu in self._watch.flushes():
            at = self._tick()
            served = {"requests": len(self._pending.setdefault(vcpu, []))}
            self._file.slice(self._vcpu(vcpu), "TLB flush", at, at + 1, served)
            self._land(vcpu, at)
        self._count()

    def _land(self, vcpu: int, at: int) -> None:
        """End the arrows that lead to a vCPU's flush."""
        for number in self._pending[vcpu]:
            self._file.arrow(_ARROW, number, self._vcpu(vcpu), at, ends=True)
        self._pending[vcpu].clear()

    def _count(self) -> None:
        for name, values in self._watch.counters():
            self._file.counter(self._host, name, self.now, values)

    def _lock(self, phase: Phase) -> None:
        """Take mmu_lock, keep it or drop it, as the tracepoint that fires says."""
        work = self._work[-1]
        if not phase.locked:
            self._unlock(work)
            return
        if work.held_since is None:
            work.held_since, work.held_for = self.now, phase.name
        work.held_until = self.now + 1

    def _unlock(self, work: _Work) -> None:
        if work.held_since is None:
            return
        args = {"holder": work.who, "during": work.name}
        name = f"{work.who}: {work.held_for}"
        self._file.slice(Track(self._host, _LOCK), name, work.held_since, work.held_until, args)
        work.waited_since, work.held_since = work.held_since, None

    # -- drawing ---------------------------------------------------------------------------------------------

    def _draw(self, work: _Work, args: Mapping[str, Any]) -> None:
        self._unlock(work)
        end = max(self.now, work.start + 1)
        self.now = end
        track = self._worker(work.worker) if work.worker else work.track
        for line in {work.track, track} if work.name else ():
            self._file.slice(line, work.name, work.start, end, args)
        for step, until in _stays(work, end):
            name = "guest" if step.phase is ENTRY else step.name
            self._file.slice(track, name, step.at, until, {"text": step.says})
        for (phase, task), group in groupby(work.steps, lambda step: (step.phase, step.task)):
            steps = list(group)
            where = self._worker(task) if task else track
            if phase in (ENTRY, EXIT):
                continue
            if phase is not FLUSH:
                self._file.slice(where, phase.name, steps[0].at, steps[-1].at + 1, {})
            for step in steps:
                self._file.slice(where, step.name, step.at, step.at + 1, {"text": step.says})
        for number, at in work.arrows:
            self._file.arrow(_ARROW, number, self._place(work, track, at), at, ends=False)

    def _place(self, work: _Work, track: Track, at: int) -> Track:
        task = next(step.task for step in work.steps if step.at == at)
        return self._worker(task) if task else track

    def _vcpu(self, number: int) -> Track:
        return Track(self._guest, number + 1)

    def _worker(self, name: str) -> Track:
        track = self._workers.get(name)
        if track is None:
            track = self._workers[name] = Track(self._host, _FIRST_WORKER + len(self._workers))
            self._file.thread(track, name)
        return track


def _stays(work: _Work, end: int) -> Iterator[tuple[_Step, int]]:
    """Yield entries, each with the end of the guest's stay, and exits with the end of their handling."""
    turns: Sequence[_Step] = [step for step in work.steps if step.phase in (ENTRY, EXIT)]
    yield from zip(turns, [*(step.at for step in turns[1:]), end], strict=bool(turns))
