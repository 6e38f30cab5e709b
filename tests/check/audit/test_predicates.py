"""Every predicate finds the one thing that it guards against, and no other predicate takes it for its own.

Each case makes a machine and breaks its structures in one way; its name is the predicate that must see it.
The cases of a file of predicates are in `broken`, in a file of the same name.
"""

import importlib
import pkgutil

import pytest
from check.audit.broken.machines import CASES, GVA, store
from check.audit.broken.tdp import tdp_leaf
from kvm.tdp_world import PHYSICAL, TDP
from kvm.world import World

from shadowmmu.check.audit import predicates
from shadowmmu.check.audit.audit import PREDICATES
from shadowmmu.kvm.bits import (
    SPTE_MMU_PRESENT,
)
from shadowmmu.x86.bits import ADDR, P, U, W

for module in pkgutil.iter_modules(predicates.__path__):
    importlib.import_module(f"check.audit.broken.{module.name}")

ONLY_IN_SWEEPS = {
    "page-hashed": "the bucket is no part of any page",
    "rmap-lists-the-leaves": "no SPTE changed",
    "rmap-encoding": "no SPTE changed",
    "parents-encoding": "the head is the same",
    "tracking-counted": "no guest table has these counts",
    "huge-page-disallowed": "no page changed",
    "write-tracked": "no page changed",
    "no-page-twice": "nothing points to such a page",
    "no-bug": "no SPTE changed",
}


# -- a TLB ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("processor", [TDP, ("vendor intel", "param kvm_intel ept=1")])
@pytest.mark.parametrize("lost", ["write", "execute", "all"])
def test_a_nested_translation_has_no_more_rights_than_its_tables(
    processor: tuple[str, ...], lost: str
) -> None:
    mapping = f"map 0x1000 {PHYSICAL:#x} 0x0 0x67 level=3 n=4"
    world = World("long4", *processor, mapping, "code 0x800000", tlb=True)
    world.ok(f"write {PHYSICAL + 0x800008:#x} 1", f"exec {PHYSICAL + 0x800000:#x}")
    masks = {
        "write": W,
        "execute": world.kvm.shadow_x_mask,
        "all": SPTE_MMU_PRESENT,
    }
    spte = world.kvm.read_spte(tdp_leaf(world)) & ~masks[lost]
    if lost == "execute":
        spte |= world.kvm.shadow_nx_mask
    store(world, tdp_leaf(world), world.kvm.design.empty_spte if lost == "all" else spte)
    found = {violation.predicate for violation in world.audit.look()}
    assert "tlb-as-tables" in found
    assert found <= {"tlb-as-tables", "page-statistics"}


def test_pages_that_share_the_hosts_huge_page_of_zeros_are_not_mixed_up() -> None:
    mapping = ("map 0x1000 0x400000 0x10200000 0xe7 level=2", "map 0x1000 0x600000 0x28000000 0xe7 level=2")
    slots = ("slot 1 0x10000000 4M lazy thp", "slot 4 0x28000000 4M lazy thp")
    world = World("long4", *TDP, *slots, *mapping, tlb=True)
    world.ok("slot 5 0xd0000000 64K", "read 0x400000", "delslot 5", "read 0x600000")
    assert not world.audit.look()


def test_a_translation_is_one_of_a_root_of_its_pcid() -> None:
    lines = (f"map 0x700000 {GVA:#x} 0x801000 0x67", "tramp 0x700000")
    world = World.of(
        "\n".join(["vendor intel", "mode long4", "slot 0 0x0 16M", "alloc 0x2000", "tramp 0x1000",
                   f"map 0x1000 {GVA:#x} 0x800000 0x67", *lines, "start cr3=0x1000"]) + "\n",
        tlb=True,
    )  # fmt: skip
    cpu = world.vcpu.cpu
    world.ok("cr4 0x20020")
    for cr3, pcid in ((0x1000, 0), (0x700001, 1), (0x1000, 0), (0x700001, 1)):
        world.ok(f"cr3 {1 << 63 | cr3:#x}", f"write {GVA:#x} 1")
        assert cpu.pcid == pcid
        assert not world.audit.look()
    owners = {pcid: entry & ADDR for gva, pcid, _, entry in cpu.tlb.translations() if gva == GVA}
    assert owners.keys() == {0, 1}
    cpu.tlb.insert(GVA, 0, owners[1] | P | W | U, 1)
    assert {violation.predicate for violation in world.audit.look()} == {"tlb-as-tables"}


# -- the tests -------------------------------------------------------------------------------------------


def test_every_predicate_has_a_case() -> None:
    assert set(CASES) == set(PREDICATES)


@pytest.mark.parametrize("name", CASES)
def test_a_sweep_finds_it(name: str) -> None:
    broken, expected = CASES[name]
    found = broken().audit.sweep()
    assert {violation.predicate for violation in found} == expected, [v.text() for v in found]


@pytest.mark.parametrize("name", CASES)
def test_a_look_at_what_changed_finds_it(name: str) -> None:
    """And what it finds is what the sweep does."""
    broken, expected = CASES[name]
    world = broken()
    world.audit.sweep_every = 1 << 60
    found = {violation.predicate for violation in world.audit.look()}
    assert found <= expected
    assert (name in found) == (name not in ONLY_IN_SWEEPS)


@pytest.mark.parametrize("name", [name for name in CASES if name != "no-bug"])
def test_it_is_told_once(name: str) -> None:
    world = CASES[name][0]()
    assert world.audit.sweep()
    assert not world.audit.sweep()


@pytest.mark.parametrize("name", PREDICATES)
def test_it_says_what_it_is(name: str) -> None:
    predicate = PREDICATES[name]
    assert predicate.means and "\n" not in predicate.means
    assert predicate.symbols
