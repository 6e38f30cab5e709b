"""What a guest does where the host lets go of mmu_lock in the middle of something long."""

import pytest

from shadowmmu.check.audit.audit import Level
from shadowmmu.check.checker import Violation
from shadowmmu.check.checks import checks_of
from shadowmmu.check.coherence import Coherence
from shadowmmu.check.museum.search import check_scenario
from shadowmmu.check.random.fuzz import player_of
from shadowmmu.guest.play.player import OpResult

COUNT = 24
"""So many leaf tables that a zap of everything takes several steps."""
SETUP = [
    "mode long4",
    "vcpus 2",
    "slot 0 0x0 16M",
    "slot 1 0x10000000 8M huge2m",
    "slot 2 0x20000000 64K",
    "alloc 0x2000",
    "tramp 0x1000",
    f"map 0x1000 0x40000000 0x800000 0x67 n={COUNT + 8} stride=0x200000",
    "start cr3=0x1000",
]


def play(*lines: str, setup: list[str] = SETUP) -> list[OpResult]:
    player, scenario = player_of([*setup, *lines])
    return list(player.play(scenario.ops))


def read(n: int) -> str:
    return f"read {0x40000000 + n * 0x200000:#x}"


def test_zapping_everything_lets_others_in_between() -> None:
    reads = [read(n) for n in range(COUNT)]
    *_, played = play(*reads, "meanwhile 1 @1 " + read(COUNT), "meanwhile 9 nop", "delslot 2")
    (done,) = played.result["meanwhile"]
    assert done == {"do": "@1 " + read(COUNT), "outcome": "ok", "value": "0x0"}


@pytest.mark.parametrize("op", ["dirtylog on 2", "getdirty 2", "cleardirty 2 0 16"])
def test_the_log_is_flushed_when_the_lock_is_free(op: str) -> None:
    before = [] if op == "dirtylog on 2" else ["dirtylog on 2", "nop"]
    setup = [*SETUP[:-1], *(["cap 168 1"] if "clear" in op else []), SETUP[-1]]
    *_, played = play(*before, "meanwhile 1 nop", "meanwhile 2 nop", op, setup=setup)
    assert played.result["outcome"] == "ok"
    assert len(played.result["meanwhile"]) == 1


def test_an_op_that_never_lets_go_leaves_others_out() -> None:
    *_, nop = play("meanwhile 1 read 0x0", "nop")
    assert nop.result["meanwhile"] == []
    *_, nop = play("meanwhile 1 read 0x0", "nop", "nop")
    assert "meanwhile" not in nop.result


def test_what_the_guest_does_in_between_counts_for_coherence() -> None:
    setup = [*SETUP[:-1], "map 0x1000 0x7f0000000000 0x4000 0x67", SETUP[-1]]
    edit = "write 0x7f0000000000 0x810067"
    lines = [read(0), f"meanwhile 1 {edit}", "meanwhile 1 cr3 0x1000", "dirtylog on 2", read(0)]
    player, scenario = player_of([*setup, *lines])
    coherence, audit = checks_of(player, Level.OP)
    assert isinstance(coherence, Coherence)
    found: list[Violation] = []
    for op in scenario.ops:
        for checker in (coherence, audit):
            checker.before_op(op)
        played = next(player.play([op]), None)
        for checker in (coherence, audit):
            found += checker.after_op(op, played)
    assert not found, found[0].text()
    assert coherence.memory.word(0x4000) == 0x810067
    assert coherence.flushes[0].context() > 0


ORDERS = [("fifo", None), ("lifo", "generation")]


@pytest.mark.parametrize(("order", "predicate"), ORDERS)
def test_new_pages_in_between_must_not_be_among_old_ones(order: str, predicate: str | None) -> None:
    lines = [*SETUP, *(read(n) for n in range(COUNT)), "meanwhile 1 " + read(COUNT), "delslot 2"]
    _, found = check_scenario(lines, {"active_pages": order})
    assert (found and found.predicate) == predicate
