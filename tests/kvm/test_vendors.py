"""Random guests see the same on every processor and however guest-physical memory is mapped.

Results, and what changes in the guest's tables, of guests without a TLB: when a TLB forgets is not their
affair. KVM's emulator is not quite like the processor (a read that belongs to a write faults as a write; a
read whose walk ended at a read-only table reads that; PDPTEs that are not valid are replaced by older ones),
and it is not needed everywhere for the same instructions: AMD's write MSRs by it, and every processor but one
with EPT without A/D reads the guest's tables as if it wrote them. A guest may differ from there on.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache

import pytest
from kvm.random_scenarios import MODES, random_scenario
from kvm.world import World

import shadowmmu
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.x86.implementation import INTEL, MANUAL

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
PROCESSOR = replace(MANUAL, efer=INTEL.efer)
"""A processor of either vendor without habits of its own, with the bits of EFER that both have."""
SEEDS = range(6 if shadowmmu.native else 1)
DIFFERENT = (("long4", 5), ("pae", 2))
"""Guests that see what emulates them."""


def reference(mode: str, seed: int, processor: str) -> str:
    """The machine that a guest is compared on. With EPT a PAE guest's PDPTEs are in registers, as with shadow
    paging; with NPT they are in memory. In one such guest the processor's walk sets A where KVM's, which
    shadow paging needs, has ended in a fault.
    """
    if mode == "pae" and processor.startswith("ept"):
        return EPT if seed == 2 else "vendor intel\n"
    return NPT


@dataclass
class Seen:
    """What the guest sees of an operation, and the host of its memory; `emulations` are not compared."""

    text: str
    result: dict[str, object]
    gptes: list[object]
    emulations: int = field(compare=False)


def seen(text: str, *, check: bool) -> list[Seen]:
    """Op by op; `check`: with the invariants."""
    world = World.of(text, implementation=PROCESSOR)
    found = []
    for op in parse_scenario(text).ops:
        if check:
            played = world.play(op)
        else:
            played = next(iter(world.player.play([op])))
        result = {name: value for name, value in played.result.items() if name != "dirty"}
        emulations = sum(counters.get("insn_emulation", 0) for counters in played.stats.values())
        found.append(Seen(played.text, result, played.gptes, emulations))
    return found


@lru_cache(maxsize=8)
def expected(text: str) -> list[Seen]:
    """What all processors in turn are compared with, played once."""
    return seen(text, check=False)


def until_emulated_otherwise(ours: list[Seen], theirs: list[Seen]) -> tuple[list[Seen], list[Seen]]:
    """Both up to the first operation that differs, if only one of them was emulated."""
    for i, (our, their) in enumerate(zip(ours, theirs, strict=True)):
        if our != their:
            return (ours[:i], theirs[:i]) if our.emulations != their.emulations else (ours, theirs)
    return ours, theirs


@pytest.mark.parametrize(("mode", "seed"), [(mode, seed) for mode in MODES for seed in SEEDS])
@pytest.mark.parametrize("processor", PROCESSORS)
def test_nested_paging(mode: str, seed: int, processor: str) -> None:
    text = random_scenario(mode, 300 + seed, 90)
    ours = seen(PROCESSORS[processor] + text, check=True)
    theirs = expected(reference(mode, seed, processor) + text)
    if (mode, seed) in DIFFERENT:
        ours, theirs = until_emulated_otherwise(ours, theirs)
    assert ours == theirs


@pytest.mark.parametrize(("mode", "seed"), [(mode, seed) for mode in MODES for seed in SEEDS])
def test_shadow_paging(mode: str, seed: int) -> None:
    text = random_scenario(mode, 300 + seed, 90)
    assert seen(f"vendor intel\n{text}", check=True) == seen(text, check=False)
