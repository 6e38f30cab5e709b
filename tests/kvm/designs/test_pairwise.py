"""Every design gives a guest the same: random guests under combinations that cover every pair of values."""

import functools
import itertools

import pytest
from allpairspy import AllPairs
from kvm.random_nested import random_nested
from kvm.random_scenarios import random_scenario
from kvm.world import World

from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.kvm.bits import REQ_TLB_FLUSH_GUEST
from shadowmmu.kvm.design.switches import SWITCHES, Switch

OPS, SEEDS = 25, 4
TDP0, TDP1 = ("param kvm_amd npt=1\nparam kvm tdp_mmu=" + value + "\n" for value in "01")
GUESTS = {
    **{mode: lambda seed, mode=mode: random_scenario(mode, seed, OPS) for mode in ("long4", "pae", "32")},
    "long5": lambda seed: random_scenario("long5", seed, OPS),
    "nopaging": lambda seed: random_scenario("nopaging", seed, OPS),
    "tdp_mmu=0": lambda seed: TDP0 + random_scenario("long4", seed, OPS),
    "tdp_mmu=1": lambda seed: TDP1 + random_scenario("long4", seed, OPS),
    "nested": lambda seed: random_nested("long4", seed, OPS),
    "nested pae": lambda seed: random_nested("pae", seed, OPS),
}
LEFT_AT_THE_DEFAULT = {"nested pae": ("gva_walk_shared", "invalid_l1_pdptes_shut_down")}
"""Switches that decide what L1 sees if KVM refuses its PDPTEs at an exit. The processor of these guests sets
Accessed in PDPTEs, so that KVM refuses them at all exits to an L1 of mode pae that were in use; each value
has a test in registers/test_nested.py.
"""
NOT_OUTCOMES = {"dirty", "harvested"}
"""What the log holds is the host's affair: pages that KVM writes to count too."""


def safe_values(switch: Switch) -> list[str]:
    """The values to combine; of a range its ends and its middle."""
    numbers = sorted({switch.numbers[i] for i in (0, len(switch.numbers) // 2, -1)}) if switch.numbers else []
    return [value for value in (*switch.values, *map(str, numbers)) if value not in switch.unsafe]


CHOSEN = [switch for switch in SWITCHES if switch.mail or len(safe_values(switch)) > 1]
DESIGNS = [
    dict(zip((switch.name for switch in CHOSEN), row, strict=True))
    for row in AllPairs([safe_values(switch) for switch in CHOSEN])
]


def test_every_pair_of_values_is_covered() -> None:
    for one, other in itertools.combinations(CHOSEN, 2):
        seen = {(design[one.name], design[other.name]) for design in DESIGNS}
        assert seen == set(itertools.product(safe_values(one), safe_values(other)))


@functools.cache
def default_outcomes(text: str) -> list[tuple[str, object, object]]:
    return outcomes(text, {})


def outcomes(text: str, design: dict[str, str]) -> list[tuple[str, object, object]]:
    """What the guest sees of each operation, if every vCPU flushes after it."""
    world = World.of(text, design=design)
    seen: list[tuple[str, object, object]] = []
    for op in parse_scenario(text).ops:
        played = world.play(op)
        result = {key: value for key, value in played.result.items() if key not in NOT_OUTCOMES}
        seen.append((op.text, result, played.gptes))
        for vcpu in world.kvm.vcpus:
            vcpu.make_request(REQ_TLB_FLUSH_GUEST)
    return seen


@pytest.mark.parametrize("kind", GUESTS)
@pytest.mark.parametrize("number", range(len(DESIGNS)))
def test_outcomes_are_those_of_the_default(kind: str, number: int) -> None:
    text = GUESTS[kind](100 + number % SEEDS)
    left = LEFT_AT_THE_DEFAULT.get(kind, ())
    design = {name: value for name, value in DESIGNS[number].items() if name not in left}
    for seen, expected in zip(outcomes(text, design), default_outcomes(text), strict=True):
        assert seen == expected, f"{text}\n{design}"
