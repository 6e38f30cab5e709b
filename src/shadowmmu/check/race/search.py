"""Which orders of steps are run.

AllOrders  every order that can make a difference, or every one with at most `bound` preemptions: depth first,
           with dynamic partial-order reduction: two orders that differ only in steps that do not depend on
           each other are one. Source sets and sleep sets (Abdulla and others, POPL 2014) leave few of those;
           with a bound they would lose orders, and more points are tried instead (Coons, Musuvathi and
           McKinley, OOPSLA 2013).
Randomly   the next thread is drawn each time
Pct        random priorities that change at few random places (Burckhardt and others, ASPLOS 2010)
Replay     a given order
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from .engine import CaseError, Execution, Location, Op

__all__ = ["AllOrders", "Pct", "Randomly", "Replay", "Search"]

Make = Callable[[set[Location]], Execution]
"""A new execution of the program, in which these locations are stops."""


class Search(Protocol):
    """A way of choosing orders; `states` counts the points where a step was chosen for the first time."""

    states: int

    def executions(self, make: Make) -> Iterator[Execution]:
        """Run one order after the other; each is handed out after its end."""


@dataclass(slots=True)
class _Node:
    """A state on the way to the present one, and what is known of the orders that go through it.

    last: the thread that made the step before; sleep: who need not go next, because an order that had it do
    so here is equal to one that was run.
    """

    pending: dict[int, Op]
    ready: list[int]
    last: int
    preemptions: int
    chosen: int = -1
    backtrack: set[int] = field(default_factory=set)
    done: set[int] = field(default_factory=set)
    sleep: dict[int, Op] = field(default_factory=dict)


class _Past:
    """The steps so far, and which happened before which (vector clocks)."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.stamps: list[dict[int, int]] = []
        self.clocks: dict[int, dict[int, int]] = {}
        self.written: dict[Location, dict[int, int]] = {}
        self.read: dict[Location, dict[int, int]] = {}
        self.accesses: dict[Location, list[tuple[int, int, bool]]] = {}

    def clock(self, actor: int, op: Op, *, effects: bool) -> dict[int, int]:
        """Return what happened before `op`: the actor's steps, and the store that its buffer carries.

        With effects also what it would read, or overwrite, if it came now.
        """
        clock = dict(self.clocks.get(actor, ()))
        for location, write in op.accesses:
            if _of_buffer(location) or (effects and not op.release):
                _join(clock, self.written.get(location))
                if write:
                    _join(clock, self.read.get(location))
        return clock

    def add(self, actor: int, op: Op) -> None:
        """Add a step that was made."""
        clock = self.clock(actor, op, effects=True)
        index = len(self.steps)
        clock[actor] = index
        self.clocks[actor] = clock
        self.steps.append(actor)
        self.stamps.append(clock)
        for location, write in op.accesses:
            if write:
                self.written[location] = clock
                self.read.pop(location, None)
            else:
                _join(self.read.setdefault(location, {}), clock)
            if not op.release:
                self.accesses.setdefault(location, []).append((index, actor, write))

    def races(self, actor: int, op: Op) -> list[int]:
        """Return the steps that could have come after `op` instead, the last first."""
        found: set[int] = set()
        if op.release:
            return []
        clock = self.clock(actor, op, effects=False)
        for location, write in op.accesses:
            if _of_buffer(location):
                continue
            seen = set()
            for index, other, written in reversed(self.accesses.get(location, ())):
                if other in seen or other == actor or not (write or written):
                    continue
                seen.add(other)
                if clock.get(other, -1) < index:
                    found.add(index)
        return sorted(found, reverse=True)

    def initials(self, index: int, actor: int, op: Op) -> set[int]:
        """Return who may be first if all that does not depend on step `index` comes
        before it, and `op` then too.
        """
        moved = [
            (self.steps[at], self.stamps[at], at)
            for at in range(index + 1, len(self.steps))
            if self.stamps[at].get(self.steps[index], -1) < index
        ]
        moved.append((actor, self.clock(actor, op, effects=True), len(self.steps)))
        first: dict[int, int] = {}
        for who, _, at in moved:
            first.setdefault(who, at)
        return {
            who
            for who, stamp, at in moved
            if first[who] == at
            and not any(stamp.get(n, -1) >= start for n, start in first.items() if n != who)
        }


def _of_buffer(location: Location) -> bool:
    return isinstance(location, tuple) and location[0] == "buffer"


def _join(clock: dict[int, int], other: dict[int, int] | None) -> None:
    for actor, index in (other or {}).items():
        if clock.get(actor, -1) < index:
            clock[actor] = index


class AllOrders:
    """See above; bound None: any number of preemptions. `reduce` false: truly all orders, to test with."""

    def __init__(self, bound: int | None = None, *, reduce: bool = True) -> None:
        self.bound = bound
        self.reduce = reduce
        self.states = 0
        self.nodes: list[_Node] = []
        self.threads = 0
        self.buffers = range(0)

    def executions(self, make: Make) -> Iterator[Execution]:
        conflicts: set[Location] = set()
        while True:
            execution = make(conflicts)
            self.threads = len(execution.actors)
            self.buffers = range(self.threads, 2 * self.threads)
            self.depth = 0
            self.past = _Past()
            execution.run(self._choose)
            if execution.found:
                conflicts |= execution.found
                self.nodes.clear()
                self.states = 0
                continue
            if not execution.abandoned:
                yield execution
            if not self._backtrack():
                return

    def _choose(self, pending: dict[int, Op], ready: list[int]) -> int | None:
        if self.depth == len(self.nodes):
            self._new_node(pending, ready)
        node = self.nodes[self.depth]
        if node.chosen < 0:
            self.nodes.pop()
            return None
        if node.chosen not in ready:
            raise RuntimeError("the program does not do the same in the same order")
        self.past.add(node.chosen, pending[node.chosen])
        self.depth += 1
        return node.chosen

    def _new_node(self, pending: dict[int, Op], ready: list[int]) -> None:
        node = _Node(pending, ready, -1, 0)
        if self.nodes:
            parent = self.nodes[-1]
            op = parent.pending[parent.chosen]
            node.last = parent.chosen if parent.chosen < self.threads else parent.last
            node.preemptions = parent.preemptions + self._cost(parent, parent.chosen)
            node.sleep = {n: other for n, other in parent.sleep.items() if not other.depends_on(op)}
        if self.reduce:
            for actor, op in pending.items():
                for index in self.past.races(actor, op):
                    self._add_backtrack(index, actor, op)
        awake = [n for n in ready if n not in node.sleep]
        if awake:
            node.chosen = node.last if node.last in awake else awake[0]
            free = self.bound is not None and node.last not in ready
            node.backtrack.update([node.chosen] if self.reduce and not free else ready)
            self.states += 1
        self.nodes.append(node)

    def _cost(self, node: _Node, chosen: int) -> int:
        """Return 1 if that takes the processor from a thread that could continue."""
        return int(chosen < self.threads and chosen != node.last and node.last in node.ready)

    def _add_backtrack(self, index: int, actor: int, op: Op) -> None:
        """Let `actor` also make its step `op` before step `index`."""
        node = self.nodes[index]
        if self.bound is None:
            first = self.past.initials(index, actor, op)
            if first & (node.backtrack | node.sleep.keys()):
                return
            able = first & set(node.ready)
            node.backtrack.update([min(able)] if able else node.ready)
            return
        block = index
        while block and self.past.steps[block - 1] in (self.past.steps[index], *self.buffers):
            block -= 1
        for place in (node, self.nodes[block]):
            place.backtrack.update([actor] if actor in place.ready else place.ready)

    def _backtrack(self) -> bool:
        """Prepare the next order. Return False if there is none."""
        while self.nodes:
            node = self.nodes[-1]
            node.done.add(node.chosen)
            if self.bound is None and self.reduce:
                node.sleep[node.chosen] = node.pending[node.chosen]
            for n in sorted(node.backtrack - node.done - node.sleep.keys()):
                if self.bound is None or node.preemptions + self._cost(node, n) <= self.bound:
                    node.chosen = n
                    return True
            self.nodes.pop()
        return False


class _Sampling:
    """Runs `runs` orders, each chosen step by step."""

    def __init__(self, runs: int, seed: int) -> None:
        self.runs = runs
        self.random = Random(seed)
        self.states = 0
        self.length = 1

    def begin(self, threads: int) -> None:
        """Begin a new order."""

    def pick(self, ready: list[int], step: int) -> int:
        """Return the thread that runs next."""
        raise NotImplementedError

    def executions(self, make: Make) -> Iterator[Execution]:
        conflicts: set[Location] = set()
        done = 0
        while done < self.runs:
            execution = make(conflicts)
            self.begin(len(execution.actors))
            step = 0

            def choose(pending: dict[int, Op], ready: list[int]) -> int | None:
                nonlocal step
                step += 1
                return self.pick(ready, step) if ready else None

            execution.run(choose)
            conflicts |= execution.found
            self.states += step
            self.length = max(self.length, step)
            if not execution.found:
                done += 1
                yield execution


class Randomly(_Sampling):
    """Whoever can go next is as likely as the others."""

    def pick(self, ready: list[int], step: int) -> int:
        return self.random.choice(ready)


class Pct(_Sampling):
    """Runs the thread of the highest priority; at `depth` - 1 places the one that would run gets
    the lowest.
    """

    def __init__(self, runs: int, seed: int, depth: int = 3) -> None:
        super().__init__(runs, seed)
        self.depth = depth

    def begin(self, threads: int) -> None:
        self.priority = {n: self.random.random() + 1 for n in range(2 * threads)}
        self.places = {self.random.randint(1, self.length): place for place in range(self.depth - 1)}

    def pick(self, ready: list[int], step: int) -> int:
        best = max(ready, key=self.priority.__getitem__)
        if step in self.places:
            self.priority[best] = -1.0 - self.places[step]
            best = max(ready, key=self.priority.__getitem__)
        return best


class Replay:
    """One given order, with the locations that were stops in it; what it leaves open runs by itself.

    texts: what each step was then. Raises CaseError if it cannot be made, or is another one now.
    """

    def __init__(self, steps: list[int], conflicts: set[Location], texts: list[str]) -> None:
        self.steps = steps
        self.conflicts = conflicts
        self.texts = texts
        self.states = 0

    def executions(self, make: Make) -> Iterator[Execution]:
        execution = make(self.conflicts)
        execution.run(lambda pending, ready: self._choose(len(execution.steps), pending, ready))
        yield execution

    def _choose(self, at: int, pending: dict[int, Op], ready: list[int]) -> int | None:
        self.states += 1
        if at >= len(self.steps) or not ready:
            return next(iter(ready), None)
        if self.steps[at] not in ready:
            raise CaseError(f"step {at + 1} of the schedule cannot be made now: {self.texts[at]!r}")
        if pending[self.steps[at]].text != self.texts[at]:
            now = pending[self.steps[at]].text
            raise CaseError(f"step {at + 1} of the schedule is {self.texts[at]!r}, but now {now!r}")
        return self.steps[at]
