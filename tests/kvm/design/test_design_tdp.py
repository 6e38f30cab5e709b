"""Switches of the design that concern two-dimensional paging: what each changes."""

import pytest
from kvm.tdp_world import BIG, PHYSICAL, huge_world, tables
from kvm.world import World

from shadowmmu.kvm.bits import (
    ROLE_INVALID,
    SPTE_MMU_PRESENT,
)
from shadowmmu.kvm.tracepoints.mmu import TdpMmuSpteChanged

WINDOW = 0x7F0000000000
LAB_HEADER = "6.1.0-50-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-02)"


BOTH = pytest.mark.parametrize("on", [False, True])


@BOTH
def test_unused_role_is_invalid(on: bool) -> None:
    made = World("long4", design={"unused_role_is_invalid": "yes" if on else "no"})
    assert made.player.cpus[0].vcpu.guest_mmu.root_role == (ROLE_INVALID if on else 0)
    assert not made.player.cpus[0].vcpu.root_mmu.root_role & ROLE_INVALID


def changed_sptes(made: World, line: str) -> list[TdpMmuSpteChanged]:
    return [event for event in made.ok(line) if isinstance(event, TdpMmuSpteChanged)]


def tdp_design_world(switch: str, value: str) -> World:
    made = huge_world()
    made.switch(switch, value)
    return made


@pytest.mark.parametrize(("value", "first"), [("4K", 1), ("1G", 3)])
def test_tdp_zap_starts_at(value: str, first: int) -> None:
    made = tdp_design_world("tdp_zap_starts_at", value)
    made.ok("slot 5 0x50000000 64K")
    changes = changed_sptes(made, "delslot 5")
    assert changes[0].level == first
    assert {change.level for change in changes} == {1, 2, 3, 4}


@pytest.mark.parametrize("on", [False, True])
def test_tdp_zap_reports_frozen(on: bool) -> None:
    made = tdp_design_world("tdp_zap_reports_frozen", "yes" if on else "no")
    made.ok("dirtylog on 1", f"write {PHYSICAL + BIG:#x} 2")
    changes = [change for change in changed_sptes(made, "dirtylog off 1") if change.level == 2]
    assert changes
    assert all((change.new_spte == made.kvm.frozen_spte) == on for change in changes)
    assert made.spte(BIG) == made.kvm.design.empty_spte


@BOTH
def test_tdp_fault_splits(on: bool) -> None:
    made = huge_world("param kvm eager_page_split=N")
    made.switch("tdp_fault_splits", "yes" if on else "no")
    made.ok("dirtylog on 1", f"write {PHYSICAL + BIG + 0x5000:#x} 2")
    (table,) = (sp for sp in tables(made, 1) if sp.gfn == BIG >> 12)
    mapped = sum(spte & SPTE_MMU_PRESENT != 0 for spte in made.kvm.read_table(table.hpa))
    assert mapped == (512 if on else 1)
