"""Switches of the design: the table, the kernels' profiles, and what each switch changes."""

from collections.abc import Callable

import pytest
from kvm.world import World, names

from shadowmmu.guest.play.machine import Machine
from shadowmmu.host.backing import Backing
from shadowmmu.kvm.bits import (
    EMULTYPE_ALLOW_RETRY_PF,
    EMULTYPE_WRITE_PF_TO_SP,
    INVALID_PAGE,
    RET_PF_EMULATE,
    RET_PF_RETRY,
    ROLE_INVALID,
    SPTE_HOST_WRITABLE,
    SPTE_MMU_WRITABLE,
)
from shadowmmu.kvm.design.design import Design
from shadowmmu.kvm.design.switches import PROFILES
from shadowmmu.kvm.fault.page_fault import kvm_mmu_page_fault
from shadowmmu.kvm.memory.notifier import MmuNotifier
from shadowmmu.kvm.memory.nx_recovery import kvm_recover_nx_huge_pages
from shadowmmu.kvm.pages.get_page import kvm_mmu_child_role
from shadowmmu.kvm.spte.rmap import pte_list, pte_list_add, pte_list_count, pte_list_remove
from shadowmmu.x86.bits import PFERR_P, PFERR_W, A, W

WINDOW = 0x7F0000000000
LAB_HEADER = "6.1.0-50-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-02)"


# -- what each changes -----------------------------------------------------------------------------------

BOTH = pytest.mark.parametrize("on", [False, True])


def world(switch: str, on: bool, *setup: str, mode: str = "long4", start: str = "start cr3=0x1000") -> World:
    made = World(mode, *setup, start=start)
    made.switch(switch, "yes" if on else "no")
    return made


@pytest.mark.parametrize(("value", "empty"), [("0", 0), ("1<<63", 1 << 63)])
def test_empty_spte(value: str, empty: int) -> None:
    made = World("long4", "map 0x1000 0x400000 0x800000 0x67")
    made.switch("empty_spte", value)
    made.ok("read 0x400000")
    table = made.kvm.read_table(made.page(4, 1).hpa)
    assert table[1:] == [empty] * 511
    made.ok("madvise_dontneed 0x800000 0x1000")
    assert made.spte(0x400000) == empty


@pytest.mark.parametrize(("kernel", "flushes"), [("6.12.111", 1), ("6.1.176", 0)])
def test_set_sregs_flushes(kernel: str, flushes: int) -> None:
    made = World("long4", kernel=kernel)
    made.ok("nop")
    assert made.stats["tlb_flush"] == flushes
    made.ok("hostsregs cr3=0x1000 cr4=0xa0", "nop")
    assert made.stats["tlb_flush"] == 2 * flushes


@BOTH
def test_cr0_wp_resets_without_paging(on: bool) -> None:
    made = world("cr0_wp_resets_without_paging", on, mode="nopaging", start="start")
    made.ok("nop", "cr0 0x10011")
    events = made.ok("cr0 0x11")
    assert names(events).count("kvm_mmu_get_page") == (4 if on else 0)


@BOTH
def test_rmap_grows_at_tail(on: bool) -> None:
    kvm = world("rmap_grows_at_tail", on).kvm
    sptes = [0x10000 + 8 * n for n in range(40)]
    head = 0
    for sptep in sptes[:31]:
        head = pte_list_add(kvm, head, sptep)
    assert pte_list(kvm, head) == (sptes[:31] if on else sptes[28:31] + sptes[14:28] + sptes[:14])
    head = pte_list_remove(kvm, head, sptes[3])
    kept = pte_list(kvm, head)
    if on:
        assert kept == [*sptes[:3], sptes[13], *sptes[4:13], *sptes[14:31]], "the hole is filled from there"
    else:
        assert kept == [*sptes[28:30], *sptes[14:28], *sptes[:3], sptes[30], *sptes[4:14]]
    assert pte_list_count(kvm, head) == 30
    head = pte_list_add(kvm, head, sptes[31])
    assert pte_list(kvm, head)[13 if on else 2] == sptes[31], "the first gap"
    for sptep in sptes[14:28]:
        head = pte_list_remove(kvm, head, sptep)
    assert sorted(pte_list(kvm, head)) == sorted([*sptes[:3], *sptes[4:14], *sptes[28:32]])
    for sptep in pte_list(kvm, head):
        head = pte_list_remove(kvm, head, sptep)
    assert head == 0


def test_an_rmap_with_a_gap_counts_only_to_the_gap() -> None:
    """6.1's maximum is what the addition has seen: with a gap in front less than there is."""
    made = world("rmap_grows_at_tail", True, "map 0x1000 0x40000000 0x800000 0x67 n=24 gstride=0")
    made.ok(*(f"read {0x40000000 + n * 0x1000:#x}" for n in (0, 8, 16)))
    assert made.kvm.stat.max_mmu_rmap_size == 23
    slot = made.kvm.memslots[0]
    head = slot.rmap_head(0x800, 1)
    slot.set_rmap_head(0x800, 1, pte_list_remove(made.kvm, head, pte_list(made.kvm, head)[2]))
    assert pte_list_count(made.kvm, slot.rmap_head(0x800, 1)) == 23
    assert pte_list(made.kvm, slot.rmap_head(0x800, 1))[2] == pte_list(made.kvm, head)[2]


def unsync(switch: str, on: bool) -> World:
    """A leaf table that is unsync: the table of 0x400000 at 0x4000, with a window on it."""
    made = world(switch, on, "map 0x1000 0x400000 0x800000 0x67 n=16", f"map 0x1000 {WINDOW:#x} 0x4000 0x63")
    made.ok("write 0x400000 1", f"write {WINDOW + 0x50:#x} 0x80a067")
    assert made.page(4, 1).unsync
    return made


@BOTH
def test_sync_always_rebuilds(on: bool) -> None:
    made = unsync("sync_always_rebuilds", on)
    requests = made.stats["remote_tlb_flush_requests"]
    assert made.spte(0x400000) & A
    made.ok("cr3 0x1000")
    assert bool(made.spte(0x400000) & A) == (not on), "rebuilt as for a prefetch"
    assert made.stats["remote_tlb_flush_requests"] == requests + (2 if on else 1)


@BOTH
def test_invlpg_zaps(on: bool) -> None:
    made = unsync("invlpg_zaps", on)
    made.ok(f"write {WINDOW:#x} 0x80f067")
    events = made.ok("invlpg 0x400000")
    assert names(events).count("kvm_mmu_set_spte") == on
    assert made.is_mapped(0x400000) == on, "6.12 only drops what maps another frame"
    assert not on or made.spte(0x400000) & ~0xFFF == made.hpa(0x80F000) | 0
    assert made.page(4, 1).unsync
    events = made.ok("invlpg 0x401000")
    assert names(events).count("kvm_mmu_set_spte") == on, "an unchanged one too"


def test_invlpg_zaps_and_maps_pages_that_log() -> None:
    """no_dirty_log is false: the page is mapped writable and gets dirty."""
    made = unsync("invlpg_zaps", on=True)
    made.ok("dirtylog on 0", f"write {WINDOW:#x} 0x80f067")
    made.ok("getdirty 0", "invlpg 0x400000")
    assert made.spte(0x400000) & W
    assert "0x80f000" in made.do("getdirty 0").result["dirty"]


@BOTH
def test_child_lookup_compares_role(on: bool) -> None:
    """The host takes W from a directory entry behind KVM's back: the table below stays linked or not."""
    made = world("child_lookup_compares_role", on, "map 0x1000 0x400000 0x800000 0x67 n=16")
    made.ok("read 0x400000", "pt 0x3000 2 0x4025")
    child = made.page(4, 1)
    made.ok("read 0x408000")
    assert len(made.pages(4, 1)) == (2 if on else 1)
    assert bool(child.parent_ptes) == (not on)
    assert made.do("write 0x408000 1").result["outcome"] == "exception", "the walk knows"


@BOTH
def test_child_inherits_invalid(on: bool) -> None:
    made = world("child_inherits_invalid", on, "map 0x1000 0x400000 0x800000 0x67")
    made.ok("read 0x400000")
    parent = made.page(2, 3)
    parent.role |= ROLE_INVALID
    role = kvm_mmu_child_role(made.kvm, parent, parent.hpa, 0, 7)
    assert bool(role & ROLE_INVALID) == on


def short_of_pages(switch: str, on: bool) -> World:
    """Fewer than five shadow pages are left, and a page is the host's zero page."""
    made = world(
        switch,
        on,
        "slot 1 0x10000000 1M lazy",
        "map 0x1000 0x40000000 0x800000 0x67 n=60 stride=0x200000",
        "map 0x1000 0x50000000 0x10000000 0x67",
    )
    made.ok("nop", "nrmmu 64", "read 0x50000000")
    n = 0
    while made.kvm.n_max_mmu_pages - made.kvm.n_used_mmu_pages >= 5:
        made.quick(f"read {0x40000000 + n * 0x200000:#x}")
        n += 1
    return made


@pytest.mark.parametrize(
    ("early", "first", "recycles"), [(True, False, False), (False, False, True), (False, True, False)]
)
def test_early_invalidation_check_and_stale_check_before_recycling(
    early: bool, first: bool, recycles: bool
) -> None:
    """A write replaces the zero page, which invalidates: the fault is stale. Has it made room before?"""
    made = short_of_pages("early_invalidation_check", early)
    made.switch("stale_check_before_recycling", "yes" if first else "no")
    assert kvm_mmu_page_fault(made.vcpu, 0x50000000, PFERR_P | PFERR_W) == RET_PF_RETRY
    assert bool(made.stats["mmu_recycled"]) == recycles


@BOTH
def test_write_protected_is_emulate(on: bool) -> None:
    """Whether the emulation of a write to a shadowed directory may be retried is the emulator's to decide."""
    made = world(
        "write_protected_is_emulate",
        on,
        "map 0x1000 0x400000 0x800000 0x67",
        f"map 0x1000 {WINDOW:#x} 0x3000 0x67",
    )
    made.switch("retry_without_zapping", "yes" if on else "no")  # as in 6.1, whose emulator decides
    made.ok("read 0x400000", f"read {WINDOW:#x}")
    before = made.stats["pf_emulate"]
    made.vcpu.rip = 0x1234
    assert kvm_mmu_page_fault(made.vcpu, WINDOW, PFERR_P | PFERR_W) == RET_PF_EMULATE
    assert made.stats["pf_emulate"] == before + 1
    made.vcpu.last_retry_rip, made.vcpu.last_retry_addr = 0x1234, WINDOW
    assert kvm_mmu_page_fault(made.vcpu, WINDOW, PFERR_P | PFERR_W) == RET_PF_EMULATE
    assert bool(made.vcpu.emulation_type & EMULTYPE_ALLOW_RETRY_PF) == on, "the emulator decides"
    made.vcpu.last_retry_rip = 0


@BOTH
def test_emulation_of_read_only_memory_may_be_retried(on: bool) -> None:
    made = world(
        "write_protected_is_emulate", on, "slot 1 0x10000000 1M ro", "map 0x1000 0x400000 0x10000000 0x67"
    )
    made.ok("read 0x400000")
    assert kvm_mmu_page_fault(made.vcpu, 0x400000, PFERR_P | PFERR_W) == RET_PF_EMULATE
    assert bool(made.vcpu.emulation_type & EMULTYPE_ALLOW_RETRY_PF) == on


@BOTH
def test_reinjection_unprotects_first(on: bool) -> None:
    """A #PF whose delivery faults, because the stack's page is a page directory too and write-protected."""
    made = world(
        "reinjection_unprotects_first",
        on,
        "map 0x1000 0x400000 0x800000 0x67",
        "pt 0x1000 2 0x13067",
        "pt 0x13000 0 0xf0000067",
        "pt 0x12000 0 0x800067",
    )
    made.ok("nop", "pt 0xf0000000 500 0x12067", "read 0x1003e800000")
    assert made.pages(0xF0000, 2)
    before = made.stats
    played = made.do("read 0x700000")
    assert played.result["outcome"] == "exception"
    assert not made.pages(0xF0000, 2)
    assert made.stats["mmu_shadow_zapped"] == before["mmu_shadow_zapped"] + 1
    assert made.stats["pf_taken"] == before["pf_taken"] + (2 if on else 3), "6.12 takes the fault again"


@BOTH
def test_retry_without_zapping(on: bool) -> None:
    """`add` to read-only memory: nothing shadows it, yet 6.1 runs the instruction again once."""
    made = world(
        "retry_without_zapping", on, "slot 1 0x10000000 1M ro", "map 0x1000 0x400000 0x10000000 0x67"
    )
    made.switch("write_protected_is_emulate", "yes")
    made.ok("read 0x400000")
    events = made.ok("add 0x400000 1")
    assert names(events).count("kvm_page_fault") == (2 if on else 1)
    assert made.vcpu.last_retry_rip == 0


@BOTH
def test_self_map_test_before_fetch(on: bool) -> None:
    """A read of a page directory through itself is found out before; a write by either."""
    made = world("self_map_test_before_fetch", on, "pt 0x1000 0x1ed 0x1067")
    made.ok("nop")
    gva = 0xFFFFF6FB7DBED000
    kvm_mmu_page_fault(made.vcpu, gva, 0)
    assert bool(made.vcpu.emulation_type & EMULTYPE_WRITE_PF_TO_SP) == on
    kvm_mmu_page_fault(made.vcpu, gva + 8, PFERR_W)
    assert made.vcpu.emulation_type & EMULTYPE_WRITE_PF_TO_SP


@BOTH
@pytest.mark.parametrize(
    ("mode", "break_root"), [("long4", "hostsregs cr3=0x70000000"), ("pae", "cr3 0x1000")]
)
def test_invisible_root_is_triple_fault(on: bool, mode: str, break_root: str) -> None:
    made = world("invisible_root_is_triple_fault", on, mode=mode)
    made.ok("nop")
    if mode == "pae":
        made.ok("pt 0x1000 1 0x70000001")
    played = [made.do(break_root), made.do("nop")][-1]
    assert (played.result == {"outcome": "exit", "reason": 8}) == (on or mode == "long4")
    assert (made.vcpu.mmu.root_hpa == INVALID_PAGE) == on
    made.ok("hostsregs cr3=0x1000 cr4=0xa0" if mode == "long4" else "pt 0x1000 1 0")
    if mode == "pae":
        made.ok("hostsregs cr3=0x1000 cr4=0xa0")
    made.do("nop")
    made.ok("nop")


@BOTH
def test_translations_at_all_levels(on: bool) -> None:
    made = world("translations_at_all_levels", on)
    made.ok("nop")
    assert bool(made.page(1, 4).translations) == on
    assert made.page(0xF0004, 3).translations


def nx_world(switch: str, on: bool) -> World:
    made = world(
        switch,
        on,
        "slot 1 0x10000000 4M huge2m",
        "map 0x1000 0x40000000 0x10000000 0xe7 level=2 n=2",
        "map 0x1000 0x50000000 0x800000 0xe7 level=2",
        *(f"code {gpa:#x}" for gpa in (0x10000000, 0x10005000, 0x800000)),
    )
    made.ok("modparam kvm nx_huge_pages Y")
    return made


@BOTH
def test_nx_marks_only_possible_huge_pages(on: bool) -> None:
    """The host has no huge page behind 0x50000000, so that none is forbidden there."""
    made = nx_world("nx_marks_only_possible_huge_pages", on)
    made.ok("exec 0x50000000", "exec 0x40000000")
    assert made.page(0x800, 1, direct=True).nx_huge_page_disallowed == (not on)
    assert made.page(0x10000, 1, direct=True).nx_huge_page_disallowed
    assert made.stats["nx_lpage_splits"] == 1


@BOTH
def test_a_table_that_is_not_marked(on: bool) -> None:
    """Recovery takes the mark of a logged page; a fault then replaces the table by a huge page, or never."""
    made = nx_world("nx_marks_only_possible_huge_pages", on)
    made.ok("exec 0x40005000", "dirtylog on 1")
    kvm_recover_nx_huge_pages(made.kvm)
    made.ok("nop")
    assert not made.page(0x10000, 1, direct=True).nx_huge_page_disallowed
    made.ok("dirtylog off 1", "read 0x40100000")
    assert made.level(0x40100000) == (1 if on else 2)


@BOTH
def test_nx_marks_without_paging(on: bool) -> None:
    made = world(
        "nx_marks_without_paging",
        on,
        "slot 1 0x10000000 4M huge2m",
        "code 0x10005000",
        mode="nopaging",
        start="start",
    )
    made.ok("modparam kvm nx_huge_pages Y", "exec 0x10005000")
    assert made.level(0x10005000) == 1
    assert made.stats["nx_lpage_splits"] == on


@BOTH
def test_nx_recovery_skips_logged_slots(on: bool) -> None:
    made = nx_world("nx_recovery_skips_logged_slots", on)
    made.ok("exec 0x40000000", "dirtylog on 1")
    kvm_recover_nx_huge_pages(made.kvm)
    assert made.stats["nx_lpage_splits"] == 0
    assert made.is_mapped(0x40000000) == on


@BOTH
def test_change_pte(on: bool) -> None:
    made = world("change_pte", on, "slot 1 0x10000000 1M lazy", "map 0x1000 0x400000 0x10000000 0x67")
    made.ok("read 0x400000")
    events = made.ok("hosttouch 0x10000000 0x1000")
    assert names(events) == ["kvm_unmap_hva_range", *["kvm_set_spte_hva"] * on]
    assert not made.is_mapped(0x400000)


@pytest.mark.parametrize("writable", [False, True])
def test_change_pte_of_a_page_that_is_mapped(writable: bool) -> None:
    """Without the zap before it, SPTEs would get the new page, read-only; the page statistics lose one."""
    made = world("change_pte", True, "map 0x1000 0x400000 0x800000 0x67 n=2")
    made.ok("write 0x400000 1", "write 0x401000 1")
    slot = made.kvm.memslot_of(0x800)
    hva = slot.mapping.hva + (0x800 << 12)
    notifier = MmuNotifier(made.kvm)
    notifier.change_pte(hva, 0x1234, writable=writable)
    assert made.is_mapped(0x400000), "nothing without an invalidation in progress"
    made.kvm.mmu_invalidate_in_progress = 1
    before = made.stats
    notifier.change_pte(hva, 0x1234, writable=writable)
    made.kvm.mmu_invalidate_in_progress = 0
    assert made.stats["pages_4k"] == before["pages_4k"] - 1
    assert made.stats["remote_tlb_flush_requests"] == before["remote_tlb_flush_requests"] + 1
    assert made.is_mapped(0x401000)
    assert made.is_mapped(0x400000) == (not writable)
    if not writable:
        spte = made.spte(0x400000)
        assert spte & ~0xFFF == 0x1234 << 12
        assert not spte & (W | A | SPTE_HOST_WRITABLE | SPTE_MMU_WRITABLE)


@BOTH
def test_hugetlb_unmap_notifies_again(on: bool) -> None:
    machine = Machine(design=Design({"hugetlb_unmap_notifies_again": "yes" if on else "no"}))
    machine.set_slot(0, 0, 4 << 20, kind=Backing.HUGE2M)
    machine.set_slot(1, 4 << 20, 1 << 20, kind=Backing.ANON)
    told: list[tuple[int, int]] = []

    class Host(MmuNotifier):
        def invalidate_range_start(self, start: int, end: int) -> None:
            told.append((start, end))
            super().invalidate_range_start(start, end)

    machine.host.notifiers[:] = [Host(machine.kvm)]
    machine.host.madvise_dontneed(machine.hva(0), 4 << 20)
    assert len(told) == 1 + on
    told.clear()
    machine.host.remap(machine.hva(0), 2 << 20)
    machine.host.remap(machine.hva(0), 4 << 20)
    assert len(told) == 2 + 2 * on, "the anonymous part is told of once"
    told.clear()
    machine.host.madvise_dontneed(machine.hva(4 << 20), 1 << 20)
    assert len(told) == 1
    assert machine.kvm.mmu_invalidate_in_progress == 0


@BOTH
def test_pre_fault_memory(on: bool) -> None:
    made = world("pre_fault_memory", on, "map 0x1000 0x400000 0x800000 0x67")
    played = made.do("prefault 0x800000 0x1000")
    assert played.result == {"outcome": "error", "errno": "EOPNOTSUPP" if on else "EINVAL"}
    assert bool(made.pages()) == on


# -- guests do not notice --------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["long4", "pae", "32"])
def test_both_kernels_give_the_same_results(mode: str) -> None:
    """A guest that flushes sees the same on either kernel, whatever KVM does meanwhile."""
    lines: list[Callable[[int], str]] = [
        lambda n: f"write {0x400000 + n * 0x1000:#x} {n}",
        lambda n: f"read {0x400000 + n * 0x1000:#x}",
        lambda n: f"invlpg {0x400000 + n * 0x1000:#x}",
        lambda n: f"add {0x400000 + n * 0x1000:#x} 1 size=4",
    ]
    worlds = [
        World(mode, "map 0x1000 0x400000 0x800000 0x67 n=16", kernel=profile.kernel) for profile in PROFILES
    ]
    for n in range(16):
        for line in lines:
            results = [made.do(line(n)).result for made in worlds]
            assert results[0] == results[1]
