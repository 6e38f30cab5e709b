"""Runs the threads of a program one step at a time, in an order that somebody else chooses.

A thread is a coroutine. Before each access to shared memory, and each operation on a lock, it stops and says
what it is about to do (Op); what it does from there to the next stop is one step. With store buffers
(x86-TSO) each thread has a second actor, its buffer, whose steps carry one store to memory each.

A location is the name of a program's own variable (str), always a stop; the index of a word of the arena
(int) or a field of the model (tuple), a stop only once two threads are known to conflict there, else nothing
can come of it: the search adds such locations and begins anew.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

__all__ = ["Actor", "Bad", "CaseError", "Execution", "Location", "Op", "Store"]

type_ = type
Location = Any
"""str, int or tuple: see above."""
STEPS = 5_000
"""Steps after which a program is taken for endless."""


class Bad(Exception):
    """The outcome that the protection exists to prevent."""


class CaseError(ValueError):
    """No such case or protection, or a text that is not a schedule; the message says what there is."""


@dataclass(slots=True)
class Op:
    """What a thread is about to do: its accesses as (location, is it a write), and when it can.

    release: it only lets others continue, so that ordering it before them is not a choice.
    """

    text: str
    accesses: tuple[tuple[Location, bool], ...]
    ready: Callable[[], bool] | None = None
    release: bool = False

    def depends_on(self, other: Op) -> bool:
        """Return whether the order of the two may matter."""
        for location, write in self.accesses:
            for elsewhere, written in other.accesses:
                if location == elsewhere and (write or written):
                    return True
        return False


@dataclass(slots=True)
class Store:
    """A store on its way to memory: what it does there, and the value for the thread's own loads."""

    location: Location
    commit: Callable[[], None]
    value: Any
    text: str
    number: int
    release: bool = False


@dataclass(slots=True)
class Actor:
    """A thread."""

    name: str
    body: Callable[[], None]
    number: int
    coroutine: greenlet | None = None
    pending: Op | None = None
    buffer: deque[Store] = field(default_factory=deque)
    stored: int = 0


class Execution:
    """One run of the threads.

    steps      who made each step (a thread's number, or that of its buffer: number of threads + number)
    texts      what each step was, before it was made
    events     (thread, text) of what is worth telling, in order
    conflicts  locations that are stops, and `found` those that turned out to be
    bad        why the outcome is one that must not be; None: it is not
    """

    def __init__(self, conflicts: set[Location], *, tso: bool) -> None:
        self.tso = tso
        self.conflicts = conflicts
        self.found: set[Location] = set()
        self.seen: dict[Location, list[int]] = {}
        self.actors: list[Actor] = []
        self.current: Actor | None = None
        self.quiet = 0
        self.steps: list[int] = []
        self.texts: list[str] = []
        self.events: list[tuple[int, str]] = []
        self.bad: str | None = None
        self.witness: str | None = None
        self.abandoned = False
        self.scheduler = getcurrent()

    # -- for the search ------------------------------------------------------------------------------------

    def add(self, name: str, body: Callable[[], None]) -> None:
        """Add a thread."""
        self.actors.append(Actor(name, body, len(self.actors)))

    def pending(self) -> dict[int, Op]:
        """Return what every thread, and every buffer that is not empty, will do next."""
        ops = {actor.number: actor.pending for actor in self.actors if actor.pending is not None}
        if self.tso:
            for actor in self.actors:
                if actor.buffer:
                    ops[len(self.actors) + actor.number] = self._drain(actor, actor.buffer[0])
        return ops

    def _drain(self, actor: Actor, store: Store) -> Op:
        accesses = ((store.location, True), (("buffer", actor.number, store.number), True))
        return Op(store.text, accesses, None, store.release)

    def run(self, choose: Callable[[dict[int, Op], list[int]], int | None]) -> None:
        """Run all threads; choose(pending, ready) says who makes the next step, None: give up."""
        try:
            for actor in self.actors:
                actor.coroutine = greenlet(lambda actor=actor: self._body(actor))
                self._resume(actor)
            while self.bad is None:
                pending = self.pending()
                ready = [n for n, op in pending.items() if op.ready is None or op.ready()]
                chosen = choose(pending, ready)
                if not ready:
                    self._deadlock()
                    break
                if chosen is None:
                    self.abandoned = True
                    break
                self._step(chosen)
                if len(self.steps) > STEPS:
                    self.bad = f"no end after {STEPS} steps"
        finally:
            self._stop()

    def _deadlock(self) -> None:
        stuck = [f"{actor.name}: {actor.pending.text}" for actor in self.actors if actor.pending]
        if stuck:
            self.bad = "deadlock: " + "; ".join(stuck)

    def _step(self, number: int) -> None:
        self.steps.append(number)
        if number >= len(self.actors):
            store = self.actors[number - len(self.actors)].buffer.popleft()
            store.commit()
            self.texts.append(store.text)
            self.events.append((number, store.text))
            return
        actor = self.actors[number]
        assert actor.pending is not None
        self.texts.append(actor.pending.text)
        self.events.append((number, actor.pending.text))
        actor.pending = None
        self._resume(actor)

    def _resume(self, actor: Actor) -> None:
        assert actor.coroutine is not None
        self.current = actor
        actor.coroutine.switch()
        self.current = None

    def _body(self, actor: Actor) -> None:
        try:
            actor.body()
        except GreenletExit:
            raise
        except Bad as outcome:
            self.bad = str(outcome)
        except Exception as error:  # whatever the model trips over is an outcome of this order
            self.bad = f"{type(error).__name__}: {error}"

    def _stop(self) -> None:
        self.current = None
        for actor in self.actors:
            if actor.coroutine is not None and not actor.coroutine.dead:
                actor.coroutine.throw(GreenletExit)

    # -- for the threads -----------------------------------------------------------------------------------

    def visible(self, location: Location, *, write: bool) -> bool:
        """Return whether an access of the running thread to a location is a stop, and
        record who accessed it.
        """
        actor = self.current
        if actor is None or self.quiet:
            return False
        if location in self.conflicts or type_(location) is str:
            return True
        bit = 1 << actor.number
        masks = self.seen.setdefault(location, [0, 0])
        masks[write] |= bit
        if masks[1] and (masks[0] | masks[1]) != bit:
            self.found.add(location)
        return False

    def stop(self, op: Op) -> None:
        """Let others continue before `op`."""
        actor = self.current
        if actor is None:
            return
        actor.pending = op
        self.scheduler.switch()

    def say(self, text: str) -> None:
        """Add to the text of the step that runs."""
        if self.current is not None and self.events:
            number, before = self.events[-1]
            self.events[-1] = (number, before + text)

    def note(self, text: str) -> None:
        """Show something that is not a memory access."""
        if self.current is not None:
            self.events.append((self.current.number, text))

    def load(self, location: Location, read: Callable[[], Any], text: str) -> Any:
        """Load as the running thread, from its own store if that has not reached memory."""
        self.stop(Op(text, ((location, False),)))
        actor = self.current
        if actor is not None:
            for store in reversed(actor.buffer):
                if store.location == location:
                    return store.value
        return read()

    def store(
        self, location: Location, commit: Callable[[], None], value: Any, text: str, *, release: bool = False
    ) -> None:
        """Store as the running thread; it reaches memory later if there are store buffers."""
        actor = self.current
        if actor is None or not self.tso:
            self.stop(Op(text, ((location, True),), None, release))
            commit()
            return
        number = actor.stored
        actor.stored += 1
        self.stop(Op(f"{text} (buffered)", ((("buffer", actor.number, number), True),)))
        actor.buffer.append(Store(location, commit, value, text, number, release))

    def atomic(
        self,
        text: str,
        accesses: tuple[tuple[Location, bool], ...],
        ready: Callable[[], bool] | None = None,
    ) -> None:
        """Stop before a locked operation or a fence: it waits until the thread's stores are in memory."""
        actor = self.current
        if actor is None:
            return
        if self.tso and actor.stored:
            accesses += ((("buffer", actor.number, actor.stored - 1), True),)
            wanted = ready
            ready = lambda: not actor.buffer and (wanted is None or wanted())  # noqa: E731
        self.stop(Op(text, accesses, ready))

    def fence(self, text: str = "smp_mb()") -> None:
        """Execute a full barrier; without store buffers there is nothing to do."""
        if self.tso:
            self.atomic(text, ())
