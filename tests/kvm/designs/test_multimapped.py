"""Mail 002, patch 1: the parents of a shadow page, one pointer and a flag or a tagged word."""

import pytest
from hypothesis import given, settings, strategies as st
from kvm.world import World

from shadowmmu.kvm.bits import SPTE_EMPTY
from shadowmmu.kvm.pages.unprotect import kvm_mmu_unprotect_gfn
from shadowmmu.kvm.spte.parent_pte import mmu_page_add_parent_pte, mmu_page_remove_parent_pte
from shadowmmu.kvm.spte.rmap import pte_list
from shadowmmu.kvm.state.shadow_page import ShadowPage

PARENTS = 7
TABLE = 0x4000
"""The leaf table, which entries 0 .. PARENTS - 1 of the directory at 0x3000 name."""


def shared_table(multimapped: str, parents: int = PARENTS) -> World:
    """A leaf table that several entries of one directory point to, all of them used."""
    entries = [f"pt 0x3000 {n} {TABLE | 0x27:#x}" for n in range(1, parents)]
    world = World("long4", "map 0x1000 0x0 0x800000 0x67", *entries, design={"multimapped": multimapped})
    for n in range(parents):
        world.ok(f"read {n << 21:#x}")
    return world


def parent_indices(world: World, sp: ShadowPage) -> list[int]:
    """Which SPTEs of the directory are the page's parents, in the order of the list."""
    return [(sptep & 0xFFF) >> 3 for sptep in pte_list(world.kvm, sp.parents())]


def test_one_parent_is_a_pointer_in_both() -> None:
    for value in ("no", "yes"):
        sp = shared_table(value, 1).page(4, 1)
        assert not sp.multimapped
        assert sp.parent_ptes == sp.parents() != 0
        assert sp.parent_ptes & 7 == 0


def test_a_tagged_word_names_a_list_by_its_bit_0() -> None:
    world = shared_table("no")
    sp = world.page(4, 1)
    assert sp.parent_ptes & 1
    assert not sp.multimapped
    assert world.kvm.read_spte((sp.parent_ptes & ~1) + 8) == PARENTS, "all fit into one descriptor"
    assert parent_indices(world, sp) == [0, 1, 2, 3, 4, 5, 6]


def test_the_flag_names_a_chain_of_blocks_of_five() -> None:
    world = shared_table("yes")
    sp = world.page(4, 1)
    assert sp.multimapped
    assert sp.parent_ptes & 1 == 0, "the word is a plain pointer"
    first, second = sp.parent_ptes, world.kvm.read_spte(sp.parent_ptes)
    assert [world.kvm.read_spte(block + 8) for block in (first, second)] == [2, 5]
    assert world.kvm.read_spte(second) == 0
    assert parent_indices(world, sp) == [5, 6, 0, 1, 2, 3, 4], "the new block comes in front"


@pytest.mark.parametrize(
    ("value", "left"),
    [("no", [0, 6, 2, 3, 4, 5]), ("yes", [5, 6, 0, 2, 3, 4])],
)
def test_the_hole_that_a_parent_leaves(value: str, left: list[int]) -> None:
    """The list's last entry fills it, or the rest of its block moves up."""
    world = shared_table(value)
    sp = world.page(4, 1)
    mmu_page_remove_parent_pte(world.kvm, sp, world.page(3, 2).hpa + 8)
    assert parent_indices(world, sp) == left


@pytest.mark.parametrize("value", ["no", "yes"])
def test_a_list_of_one_stays_a_list_and_an_empty_one_is_none(value: str) -> None:
    world = shared_table(value)
    sp, directory = world.page(4, 1), world.page(3, 2)
    for n in range(PARENTS - 1):
        mmu_page_remove_parent_pte(world.kvm, sp, directory.hpa + 8 * n)
    assert parent_indices(world, sp) == [6]
    assert sp.multimapped == (value == "yes")
    mmu_page_remove_parent_pte(world.kvm, sp, directory.hpa + 8 * 6)
    assert (sp.parent_ptes, sp.multimapped) == (0, False)
    with pytest.raises(LookupError):
        mmu_page_remove_parent_pte(world.kvm, sp, directory.hpa)


@pytest.mark.parametrize("value", ["no", "yes"])
def test_zapping_a_page_empties_all_that_point_to_it(value: str) -> None:
    world = shared_table(value, 12)
    sp, directory = world.page(4, 1), world.page(3, 2)
    assert sorted(parent_indices(world, sp)) == list(range(12))
    kvm_mmu_unprotect_gfn(world.kvm, 4)
    assert world.kvm.read_table(directory.hpa)[:12] == [SPTE_EMPTY] * 12
    world.ok("read 0x200000")


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 40), max_size=120))
def test_both_hold_the_same_parents(toggled: list[int]) -> None:
    """Parents come and go at random; both encodings hold what a set holds, and give all descriptors back."""
    for value in ("no", "yes"):
        world = World("long4", design={"multimapped": value})
        sp, held = ShadowPage(1, 1, 0x7000, 0), set()
        for n in toggled:
            sptep = 0x10000 + 8 * n
            if sptep in held:
                mmu_page_remove_parent_pte(world.kvm, sp, sptep)
            else:
                mmu_page_add_parent_pte(world.kvm, sp, sptep)
            held ^= {sptep}
            assert sorted(pte_list(world.kvm, sp.parents())) == sorted(held)
