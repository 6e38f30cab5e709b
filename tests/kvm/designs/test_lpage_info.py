"""lpage_info_below_slot: logging is switched off, and a direct page begins below the slot."""

import pytest
from kvm.world import World

from shadowmmu.check.audit.audit import Audit
from shadowmmu.check.checker import play_checked
from shadowmmu.guest.play.player import Player
from shadowmmu.guest.scenario.ops import Op
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.guest.scenario.setup import resolve
from shadowmmu.kvm.tracepoints.tracer import EventLog

GUEST = """\
mode long4
slot 0 0x0 16M
slot 1 {start:#x} 6M huge2m
alloc 0x2000
tramp 0x1000
map 0x1000 0x40000000 0x40000000 0xe7 level=3
start cr3=0x1000
nop
write 0x7fc00000 1
dirtylog on 1
dirtylog off 1
write 0x7fc01000 3
"""
"""A guest page of 1 GiB, which is shadowed by a direct page of level 2 from gfn 0x40000 on."""


def play(kernel: str, start: int = 0x7FA00000, **design: str) -> list[dict[str, object]]:
    scenario = parse_scenario(GUEST.format(start=start)).with_kernel(kernel).with_design(design)
    player = Player(resolve(scenario), EventLog(), lambda machine: {})
    return [dict(played.result) for played in player.play(scenario.ops)]


def test_the_fixed_kernel_leaves_the_page_alone() -> None:
    assert [result["outcome"] for result in play("6.12.111")] == ["ok"] * 5


@pytest.mark.parametrize(
    ("kernel", "design"), [("6.1.176", {}), ("6.12.111", {"lpage_info_below_slot": "unchecked"})]
)
def test_others_read_in_front_of_lpage_info(kernel: str, design: dict[str, str]) -> None:
    results = play(kernel, **design)
    assert [result["outcome"] for result in results] == ["ok", "ok", "ok", "oops", "oops"]
    assert str(results[3]["reason"]).startswith(
        "KVM reads beyond lpage_info here: slot 1 begins at gfn 0x7fa00"
    )
    assert results[4] == results[3], "nothing is carried out any more"


def test_a_page_that_begins_in_the_slot_s_first_huge_page_is_read_within_bounds() -> None:
    """The index is 0: the entry says that the slot's first huge page is not allowed."""
    text = """\
mode long4
slot 0 0x0 16M
slot 1 0x7fb00000 5M
alloc 0x2000
tramp 0x1000
map 0x1000 0x40000000 0x7fa00000 0xe7 level=2
start cr3=0x1000
nop
write 0x40100000 1
dirtylog on 1
dirtylog off 1
write 0x40101000 3
"""
    world = World.of(text, kernel="6.1.176")
    for op in parse_scenario(text).ops:
        assert world.play(op).result["outcome"] == "ok"


def test_checks_find_it() -> None:
    scenario = parse_scenario(GUEST.format(start=0x7FA00000)).with_kernel("6.1.176")
    player = Player(resolve(scenario), EventLog(), lambda machine: {})
    found: list[tuple[Op, str]] = []
    for op, _, violations in play_checked(player, scenario.ops, [Audit(player)]):
        found += [(op, violation.predicate) for violation in violations]
    ((op, predicate),) = found
    assert (op.text, predicate) == ("dirtylog off 1", "no-bug")
