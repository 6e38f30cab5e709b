"""The invariants hold after every operation: of every recorded scenario, and of random ones."""

from pathlib import Path

import pytest
from kvm.random_scenarios import MODES, random_scenario
from kvm.tlb_audit import play_with_tlb
from kvm.world import World

import shadowmmu
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.kvm.bits import REQ_TLB_FLUSH_GUEST
from shadowmmu.kvm.design.switches import PROFILES

SCENARIOS = sorted((Path(__file__).parents[1] / "conformance" / "scenarios").glob("*.txt"))
SEEDS = range(12 if shadowmmu.native else 4)
CASES = [(mode, seed) for mode in MODES for seed in SEEDS]
OPS = 100


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_recorded_scenarios(path: Path) -> None:
    text = path.read_text()
    world = World.of(text)
    for op in parse_scenario(text).ops:
        world.play(op)


@pytest.mark.parametrize("kernel", [profile.kernel for profile in PROFILES])
@pytest.mark.parametrize(("mode", "seed"), CASES)
def test_random_scenarios(mode: str, seed: int, kernel: str) -> None:
    text = random_scenario(mode, seed, OPS)
    world = World.of(text, kernel=kernel)
    for op in parse_scenario(text).ops:
        world.play(op)


@pytest.mark.parametrize(("mode", "seed"), CASES[::2])
def test_random_scenarios_with_tlb(mode: str, seed: int) -> None:
    play_with_tlb(random_scenario(mode, 1000 + seed, OPS))


@pytest.mark.parametrize("mode", MODES)
def test_a_guest_that_flushes_does_not_see_the_tlb(mode: str) -> None:
    """If every vCPU flushes after every operation, results and guest tables are the same without a TLB."""
    text = random_scenario(mode, 5, OPS)
    with_tlb, without = World.of(text, tlb=True), World.of(text)
    for op in parse_scenario(text).ops:
        one, two = with_tlb.play(op), without.play(op)
        assert (one.result, one.gptes) == (two.result, two.gptes), op.text
        for vcpu in (*with_tlb.kvm.vcpus, *without.kvm.vcpus):
            vcpu.make_request(REQ_TLB_FLUSH_GUEST)
