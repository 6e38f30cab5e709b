"""The engine and the search, on programs of a few lines whose outcomes are known."""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from shadowmmu.check.race.engine import Bad, Execution
from shadowmmu.check.race.memory import Lock, Rcu, Shared
from shadowmmu.check.race.search import AllOrders, Pct, Randomly, Search

Thread = Callable[[Any], None]


def outcomes(
    search: Search, threads: list[Thread], *, tso: bool = False, **values: Any
) -> tuple[list[Any], int]:
    """What the variables, and the threads' own notes, are at the end of each order; how many there were."""
    found = []
    made: list[Any] = []

    def make(conflicts: set[Any]) -> Execution:
        execution = Execution(conflicts, tso=tso)
        shared = Shared(execution, **values)
        notes: dict[int, Any] = {}
        made[:] = [shared, notes]
        for number, thread in enumerate(threads):
            execution.add(f"t{number}", lambda n=number, run=thread: notes.update({n: run(shared)}))
        return execution

    for execution in search.executions(make):
        shared, notes = made
        state = tuple(shared.peek(name) for name in values)
        found.append((state, tuple(notes.get(n) for n in range(len(threads))), execution.bad))
    return found, len(found)


def writer(name: str, value: int) -> Thread:
    return lambda s: setattr(s, name, value)


def test_store_buffering_needs_store_buffers() -> None:
    def thread(mine: str, other: str) -> Thread:
        def run(s: Any) -> Any:
            setattr(s, mine, 1)
            return getattr(s, other)

        return run

    threads = [thread("x", "y"), thread("y", "x")]
    plain, _ = outcomes(AllOrders(), threads, x=0, y=0)
    assert {notes for _, notes, _ in plain} == {(0, 1), (1, 0), (1, 1)}
    buffered, _ = outcomes(AllOrders(), threads, tso=True, x=0, y=0)
    assert {notes for _, notes, _ in buffered} == {(0, 0), (0, 1), (1, 0), (1, 1)}


@pytest.mark.parametrize("fences", [1, 2])
def test_store_buffering_needs_both_fences(fences: int) -> None:
    def thread(mine: str, other: str, *, fence: bool) -> Thread:
        def run(s: Any) -> Any:
            setattr(s, mine, 1)
            if fence:
                s._execution.fence()
            return getattr(s, other)

        return run

    threads = [thread("x", "y", fence=True), thread("y", "x", fence=fences == 2)]
    found, _ = outcomes(AllOrders(), threads, tso=True, x=0, y=0)
    assert ((0, 0) in {notes for _, notes, _ in found}) == (fences == 1)


@pytest.mark.parametrize("tso", [False, True])
def test_messages_pass_in_order(tso: bool) -> None:
    def send(s: Any) -> None:
        s.data = 1
        s.flag = 1

    def receive(s: Any) -> Any:
        flag = s.flag
        return flag, s.data

    found, _ = outcomes(AllOrders(), [send, receive], tso=tso, data=0, flag=0)
    assert {notes[1] for _, notes, _ in found} == {(0, 0), (0, 1), (1, 1)}


def test_a_thread_sees_its_own_buffered_store() -> None:
    def thread(s: Any) -> Any:
        s.x = 1
        return s.x

    found, _ = outcomes(AllOrders(), [thread, writer("x", 2)], tso=True, x=0)
    assert {notes[0] for _, notes, _ in found} == {1, 2}


def test_lost_update_and_its_cures() -> None:
    def plain(s: Any) -> None:
        s.x = s.x + 1

    assert {state for state, _, _ in outcomes(AllOrders(), [plain, plain], x=0)[0]} == {(1,), (2,)}
    added = outcomes(AllOrders(), [lambda s: s.add("x", 1)] * 3, x=0)[0]
    assert {state for state, _, _ in added} == {(3,)}


def test_equal_orders_are_run_once() -> None:
    """n writers of one variable: n! orders; of different ones: 1."""
    assert outcomes(AllOrders(), [writer("x", n) for n in range(3)], x=9)[1] == 6
    assert outcomes(AllOrders(), [writer("x", n) for n in range(4)], x=9)[1] == 24
    assert outcomes(AllOrders(), [writer(name, 1) for name in "xyz"], x=0, y=0, z=0)[1] == 1
    assert outcomes(AllOrders(), [lambda s: s.x] * 4, x=0)[1] == 1
    assert outcomes(AllOrders(reduce=False), [lambda s: s.x] * 4, x=0)[1] == 24


def test_a_bound_limits_preemptions() -> None:
    def twice(s: Any) -> None:
        s.x = 1
        s.x = 2

    def watch(s: Any) -> Any:
        return s.x

    for bound, seen in ((0, {0, 2}), (1, {0, 1, 2})):
        found, _ = outcomes(AllOrders(bound), [twice, watch], x=0)
        assert {notes[1] for _, notes, _ in found} == seen


def test_deadlock_is_told() -> None:
    execution_locks: list[Lock] = []

    def make(conflicts: set[Any]) -> Execution:
        execution = Execution(conflicts, tso=False)
        execution_locks[:] = [Lock(execution, "a"), Lock(execution, "b")]

        def thread(first: int, second: int) -> None:
            with execution_locks[first], execution_locks[second]:
                pass

        execution.add("one", lambda: thread(0, 1))
        execution.add("two", lambda: thread(1, 0))
        return execution

    ends = {execution.bad for execution in AllOrders().executions(make)}
    assert ends == {None, "deadlock: one: lock b; two: lock a"}


def test_an_endless_program_is_told() -> None:
    def endless(s: Any) -> None:
        while s.x == 0:
            pass

    found = next(iter(outcomes(AllOrders(0), [endless], x=0)[0]))
    assert "no end" in found[2]


def test_readers_of_rcu_end_before_what_waits_for_them() -> None:
    ends = set()
    for held in (True, False):

        def make(conflicts: set[Any], held: bool = held) -> Execution:
            execution = Execution(conflicts, tso=False)
            shared, rcu = Shared(execution, link=1, freed=0), Rcu(execution, held=held)

            def reader() -> None:
                with rcu.read():
                    if shared.link and shared.freed:
                        raise Bad("freed")

            def free() -> None:
                shared.link = 0
                rcu.synchronize()
                shared.freed = 1

            execution.add("reader", reader)
            execution.add("free", free)
            return execution

        ends.add((held, any(execution.bad for execution in AllOrders().executions(make))))
    assert ends == {(True, False), (False, True)}


@pytest.mark.parametrize("search", [lambda: Randomly(200, 1), lambda: Pct(200, 1)])
def test_sampling_finds_and_repeats(search: Callable[[], Search]) -> None:
    def plain(s: Any) -> None:
        s.x = s.x + 1

    first, count = outcomes(search(), [plain, plain], x=0)
    assert count == 200
    assert {state for state, _, _ in first} == {(1,), (2,)}
    assert outcomes(search(), [plain, plain], x=0)[0] == first


def random_program(random: Random, threads: int, length: int) -> list[list[tuple[str, str, int]]]:
    kinds = ["load", "store", "cas", "add", "fence", "locked", "rcu", "sync", "wait"]
    return [
        [(random.choice(kinds), random.choice("xy"), random.randint(1, 2)) for _ in range(length)]
        for _ in range(threads)
    ]


def ends(search: Search, program: list[list[tuple[str, str, int]]], *, tso: bool) -> set[Any]:
    """All ends of a random program: the variables, what each thread read, and how it ended."""
    made: list[Any] = []

    def make(conflicts: set[Any]) -> Execution:
        execution = Execution(conflicts, tso=tso)
        s: Any = Shared(execution, x=0, y=0)
        lock, rcu = Lock(execution, "lock"), Rcu(execution)
        seen: list[list[Any]] = [[] for _ in program]
        made[:] = [s, seen]

        def run(number: int) -> None:
            for kind, name, value in program[number]:
                if kind == "load":
                    seen[number].append(getattr(s, name))
                elif kind == "store":
                    setattr(s, name, value + 10 * number)
                elif kind == "cas":
                    seen[number].append(s.cmpxchg(name, 0, value + 10 * number))
                elif kind == "add":
                    s.add(name, value)
                elif kind == "fence":
                    execution.fence()
                elif kind == "locked":
                    with lock:
                        seen[number].append(getattr(s, name))
                        setattr(s, name, value + 100)
                elif kind == "rcu":
                    with rcu.read():
                        seen[number] += [s.x, s.y]
                elif kind == "sync":
                    rcu.synchronize()
                else:
                    s.wait(lambda values: values[name] != 0, name, "wait")  # noqa: B023

        for number in range(len(program)):
            execution.add(f"t{number}", lambda n=number: run(n))
        return execution

    found = set()
    for execution in search.executions(make):
        s, seen = made
        found.add((s.peek("x"), s.peek("y"), tuple(map(tuple, seen)), execution.bad))
    return found


@pytest.mark.parametrize("tso", [False, True])
@pytest.mark.parametrize("shape", [(2, 3), (3, 1)])
def test_the_reduction_loses_no_outcome(tso: bool, shape: tuple[int, int]) -> None:
    random = Random(f"{tso} {shape}")
    for _ in range(4 if tso else 10):
        program = random_program(random, *shape)
        everything = ends(AllOrders(reduce=False), program, tso=tso)
        assert ends(AllOrders(), program, tso=tso) == everything, program


@pytest.mark.parametrize(
    ("program", "tso"),
    [
        (
            [[("rcu", "x", 1), ("locked", "x", 2)], [("cas", "x", 1), ("rcu", "y", 2), ("sync", "x", 2)]],
            False,
        ),
        ([[("store", "y", 2)], [("rcu", "x", 1)], [("load", "y", 1)]], False),
        ([[("rcu", "y", 1)], [("locked", "y", 2)]], True),
    ],
)
def test_what_the_reduction_lost_once(program: list[list[tuple[str, str, int]]], tso: bool) -> None:
    assert ends(AllOrders(), program, tso=tso) == ends(AllOrders(reduce=False), program, tso=tso)
