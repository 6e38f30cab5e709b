"""Random guests see the same on every processor and however guest-physical memory is mapped.

Results, and what changes in the guest's tables, of guests without a TLB: when a TLB forgets is not their
affair.
"""

import pytest
from kvm.random_scenarios import MODES, random_scenario
from kvm.world import World

import shadowmmu
from shadowmmu.guest.scenario import Scenario

NPT = "param kvm_amd npt=1\n"
SHADOW_PAGES = "param kvm tdp_mmu=0\n"
EPT = "vendor intel\nparam kvm_intel ept=1\n"
PROCESSORS = {
    "npt, shadow pages": NPT + SHADOW_PAGES,
    "ept": EPT,
    "ept without pml": f"{EPT}param kvm_intel pml=0\n",
    "ept without a/d": f"{EPT}param kvm_intel eptad=0\n",
    "ept, shadow pages": EPT + SHADOW_PAGES,
    "ept without pml, shadow pages": f"{EPT}param kvm_intel pml=0\n{SHADOW_PAGES}",
    "ept without a/d, shadow pages": f"{EPT}param kvm_intel eptad=0\n{SHADOW_PAGES}",
}
SEEDS = range(6 if shadowmmu.native else 1)


def seen(text: str, *, check: bool) -> list[tuple[object, ...]]:
    """What the guest sees, and the host of its memory, op by op; `check`: with the invariants."""
    world = World.of(text)
    found = []
    for op in Scenario.parse(text).ops:
        if check:
            played = world.play(op)
        else:
            played = next(iter(world.player.play([op])))
        result = {name: value for name, value in played.result.items() if name != "dirty"}
        found.append((played.text, result, played.gptes))
    return found


@pytest.mark.parametrize(("mode", "seed"), [(mode, seed) for mode in MODES for seed in SEEDS])
@pytest.mark.parametrize("processor", PROCESSORS)
def test_nested_paging(mode: str, seed: int, processor: str) -> None:
    text = random_scenario(mode, 300 + seed, 90)
    assert seen(PROCESSORS[processor] + text, check=True) == seen(NPT + text, check=False)


@pytest.mark.parametrize(("mode", "seed"), [(mode, seed) for mode in MODES for seed in SEEDS])
def test_shadow_paging(mode: str, seed: int) -> None:
    text = random_scenario(mode, 300 + seed, 90)
    assert seen(f"vendor intel\n{text}", check=True) == seen(text, check=False)
