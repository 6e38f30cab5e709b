"""The invariants on the TDP MMU: random guests, and walks that others interrupt at every page."""

import random
from collections.abc import Callable

import pytest
from kvm.random_scenarios import MODES, random_scenario
from kvm.tdp_world import BIG, PHYSICAL, TDP, huge_world
from kvm.world import World

import shadowmmu
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.kvm.pages.zap import ZapAllFast, kvm_mmu_start_zap_all_fast
from shadowmmu.kvm.state.vm import Kvm
from shadowmmu.kvm.tdp.collapse import ZapCollapsible
from shadowmmu.kvm.tdp.dirty_log import WriteProtectSlot
from shadowmmu.kvm.tdp.split import SplitHugePages
from shadowmmu.kvm.tdp.walk import TdpWalk
from shadowmmu.kvm.tdp.zap import ZapLeafs

SEEDS = range(12 if shadowmmu.native else 4)
GFN = BIG >> 12


@pytest.mark.parametrize(("mode", "seed"), [(mode, seed) for mode in MODES for seed in SEEDS])
def test_random_scenarios(mode: str, seed: int) -> None:
    text = "\n".join((*TDP, random_scenario(mode, 50 + seed, 100)))
    world = World.of(text)
    for op in parse_scenario(text).ops:
        world.play(op)


WALKS: dict[str, Callable[[Kvm], TdpWalk | ZapAllFast]] = {
    "zap a range": lambda kvm: ZapLeafs(kvm, GFN, GFN + 1500, 1),
    "zap all": kvm_mmu_start_zap_all_fast,
    "write-protect": lambda kvm: WriteProtectSlot(kvm, GFN, GFN + 2048, 1),
    "split": lambda kvm: SplitHugePages(kvm, GFN, GFN + 2048, 1, 1),
    "collapse": lambda kvm: ZapCollapsible(kvm, kvm.memslot_of(GFN)),
}
OTHERS = (
    "madvise_dontneed 0x10200000 0x200000",
    "mprotect 0x10000000 0x200000 ro",
    "mprotect 0x10000000 0x200000 rw",
    "slot 5 0x50000000 64K",
    "delslot 5",
    "dirtylog on 1",
    "dirtylog off 1",
)


@pytest.mark.parametrize("kind", WALKS)
@pytest.mark.parametrize("seed", range(4))
def test_walks_with_others_in_between(kind: str, seed: int) -> None:
    """At every point where the walk lets go of mmu_lock: accesses, host operations, other walks."""
    rng = random.Random(f"{kind} {seed}")
    world = huge_world("vcpus 2")
    for line in (f"write {PHYSICAL + BIG + 0x1000 * rng.randrange(2048):#x} 1" for _ in range(20)):
        world.quick(line)
    if seed % 2:
        world.quick("dirtylog on 1")
        world.quick(f"write {PHYSICAL + BIG + 0x5000:#x} 1")
    world.kvm.need_resched = True
    walk = WALKS[kind](world.kvm)
    nested = None
    for step in range(100_000):
        if not walk.step():
            break
        if step < 60 or not rng.randrange(50):
            page = PHYSICAL + BIG + 0x1000 * rng.randrange(2048)
            world.quick(rng.choice(("@1 ", "")) + rng.choice((f"read {page:#x}", f"write {page:#x} 3")))
        if step < 200 and not rng.randrange(8):
            world.do_quietly(rng.choice(OTHERS))
        if step < 200 and nested is None and not rng.randrange(6):
            nested = WALKS[rng.choice([name for name in WALKS if name != "zap all"])](world.kvm)
        if nested is not None and not nested.step():
            nested = None
    while nested is not None and nested.step():
        pass
    world.kvm.need_resched = False
    for line in ("nop", "@1 nop"):
        world.quick(line)
    world.check()
