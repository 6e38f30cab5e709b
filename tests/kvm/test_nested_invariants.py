"""The invariants hold after every operation of random hypervisors and their guests."""

import pytest
from kvm.random_nested import MODES, random_nested
from kvm.tlb_audit import play_with_tlb
from kvm.world import World

import shadowmmu
from shadowmmu.guest.scenario.parser import parse_scenario

SEEDS = range(20 if shadowmmu.native else 5)
CASES = [(mode, seed) for mode in MODES for seed in SEEDS]
OPS = 100


@pytest.mark.parametrize(("mode", "seed"), CASES)
def test_random_scenarios(mode: str, seed: int) -> None:
    text = random_nested(mode, seed, OPS)
    world = World.of(text)
    entered = 0
    for op in parse_scenario(text).ops:
        world.play(op)
        entered = max(entered, world.stats["nested_run"])
    assert entered


@pytest.mark.parametrize(("mode", "seed"), CASES[::2])
def test_random_scenarios_with_tlb(mode: str, seed: int) -> None:
    play_with_tlb(random_nested(mode, 1000 + seed, OPS))


@pytest.mark.parametrize("mode", MODES)
def test_neither_guest_sees_the_tlb(mode: str) -> None:
    """L1's tables stay as they are, each VMRUN and #VMEXIT flushes: outcomes are the same without."""
    text = random_nested(mode, 5, OPS)
    with_tlb, without = World.of(text, tlb=True), World.of(text)
    for op in parse_scenario(text).ops:
        one, two = with_tlb.play(op), without.play(op)
        assert (one.result, one.gptes) == (two.result, two.gptes), op.text


def test_the_same_seed_gives_the_same_scenario() -> None:
    assert random_nested("pae", 7, 50) == random_nested("pae", 7, 50)
    assert random_nested("pae", 7, 50) != random_nested("pae", 8, 50)
