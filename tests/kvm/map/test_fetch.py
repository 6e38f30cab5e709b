"""Building the shadow of a walk (specification 5.10 to 5.12 and appendix A)."""

import pytest
from kvm.world import World, names

from shadowmmu.kvm.bits import RET_PF_EFAULT, RET_PF_FIXED, RET_PF_RETRY, RET_PF_SPURIOUS, SPTE_EMPTY
from shadowmmu.kvm.fault.page_fault import kvm_mmu_do_page_fault, kvm_mmu_page_fault
from shadowmmu.x86.bits import PFERR_P, PFERR_U, PFERR_W

WINDOW = 0x7F0000000000
GVA = 0x400000


@pytest.fixture
def world() -> World:
    return World("long4", f"map 0x1000 {GVA:#x} 0x800000 0x67")


def test_a_first_touch(world: World) -> None:
    """A.1: the walk from level 4 down, new pages of levels 3, 2, 1, the request, the SPTE."""
    world.ok("nop")
    before = world.stats
    events = world.ok(f"write {GVA:#x} 1")
    assert names(events) == [
        "kvm_exit", "kvm_page_fault", "kvm_mmu_pagetable_walk", *["kvm_mmu_paging_element"] * 4,
        *["kvm_mmu_get_page"] * 3, "kvm_mmu_spte_requested", "kvm_mmu_set_spte",
    ]  # fmt: skip
    elements = [(e.level, e.pte) for e in events if e.name == "kvm_mmu_paging_element"]
    assert elements == [(4, 0x2027), (3, 0x3027), (2, 0x4027), (1, 0x800067)]
    made = [(e.gfn, e.role & 0xF, e.created) for e in events if e.name == "kvm_mmu_get_page"]
    assert made == [(2, 3, 1), (3, 2, 1), (4, 1, 1)]
    assert {name: n - before[name] for name, n in world.stats.items() if n != before[name]} == {
        "pf_taken": 1, "pf_fixed": 1, "mmu_cache_miss": 3, "pages_4k": 1,
    }  # fmt: skip


def test_accessed_and_dirty_are_set_on_the_way() -> None:
    world = World("long4", "nonleaf 0x7", f"map 0x1000 {GVA:#x} 0x800000 0x7")
    world.ok("nop")
    events = world.ok(f"read {GVA:#x}")
    accessed = [e.gpa for e in events if e.name == "kvm_mmu_set_accessed_bit"]
    assert accessed == [0x1000, 0x2000, 0x3010, 0x4000]
    assert [world.gpte(t, i) & 0x60 for t, i in ((0x1000, 0), (0x2000, 0), (0x3000, 2), (0x4000, 0))] == [
        0x20
    ] * 4
    events = world.ok(f"write {GVA:#x} 1")
    assert [e.gpa for e in events if e.name == "kvm_mmu_set_dirty_bit"] == [0x4000]
    assert world.gpte(0x4000, 0) == 0x800067


def test_a_clean_page_is_mapped_read_only_by_a_read() -> None:
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0x27")
    world.ok(f"read {GVA:#x}")
    assert not world.spte(GVA) & 2
    world.ok(f"write {GVA:#x} 1")
    assert world.spte(GVA) & 2


def test_the_same_again_is_spurious_and_prefetches_nothing() -> None:
    """5.12: a writable SPTE built anew loses D; built once more it is the same, and there is no event."""
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0x67 n=2")
    world.ok(f"write {GVA:#x} 1")
    assert kvm_mmu_do_page_fault(world.vcpu, GVA, PFERR_P | PFERR_W, 0) == RET_PF_FIXED
    assert world.spte(GVA) & 0xFFF == 0xE27
    neighbour = (world.sptep(GVA) >> 3) + 1
    words = world.machine.arena.view()
    words[neighbour] = SPTE_EMPTY
    world.player.log.take()
    assert kvm_mmu_do_page_fault(world.vcpu, GVA, PFERR_P | PFERR_W, 0) == RET_PF_SPURIOUS
    assert "kvm_mmu_set_spte" not in names(list(world.player.log.take()))
    assert words[neighbour] == SPTE_EMPTY


def test_a_guest_fault_is_injected(world: World) -> None:
    world.ok(f"read {GVA:#x}")
    taken, fixed = world.stats["pf_taken"], world.stats["pf_fixed"]
    result = world.do("read 0x600000").result
    assert [result[key] for key in ("vector", "error_code", "cr2")] == [14, "0x0", "0x600000"]
    assert (world.stats["pf_guest"], world.stats["pf_taken"]) == (1, taken + 1)
    assert world.stats["pf_fixed"] == fixed


@pytest.mark.parametrize(
    ("gpte", "line", "code"),
    [
        (0x800066, "read", 0x0),
        (0x800066, "uwrite", 0x6),
        (0x800065, "write", 0x3),
        (0x800063, "uread", 0x5),
        (0x800067 | 1 << 63, "exec", 0x11),
        (0x800067 | 1 << 45, "read", 0x9),
        (0x800067 | 1 << 45, "uwrite", 0xF),
    ],
)
def test_error_codes(gpte: int, line: str, code: int) -> None:
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0x67", f"pt 0x4000 0 {gpte:#x}")
    value = "" if line in ("read", "uread", "exec") else " 1"
    assert int(world.do(f"{line} {GVA:#x}{value}").result["error_code"], 16) == code


def test_the_dummy_root_retries_until_the_table_is_there() -> None:
    """5.10 2: a root without memory is asked to go; nothing is mapped."""
    world = World("long4")
    world.ok("nop")
    world.vcpu.mmu.root_hpa = 0
    assert kvm_mmu_do_page_fault(world.vcpu, 0xFFFFFFFF80000000, 0, 0) == RET_PF_RETRY
    assert world.vcpu.requests & 1
    world.vcpu.mmu.root_hpa = (1 << 64) - 1
    assert kvm_mmu_page_fault(world.vcpu, 0xFFFFFFFF80000000, 0) == RET_PF_RETRY


def test_a_missing_directory_is_an_error() -> None:
    world = World("pae", f"map 0x1000 {GVA:#x} 0x800000 0x67")
    world.ok("nop")
    world.machine.arena.view()[world.vcpu.mmu.pae_root >> 3] = 0
    sp = next(sp for sp in world.pages(2, 2))
    sp.root_count -= 1
    assert kvm_mmu_do_page_fault(world.vcpu, GVA, 0, 0) == RET_PF_EFAULT


def test_a_huge_guest_page_is_split_into_direct_pages() -> None:
    """Small host pages below a 2 MiB gpde: one direct page of its rights, filled fault by fault."""
    world = World("long4", f"map 0x1000 {GVA:#x} 0x800000 0xe7 level=2")
    world.ok(f"read {GVA + 0x123000:#x}")
    direct = world.page(0x800, 1, direct=True)
    assert direct.role == 0x3781
    assert world.level(GVA + 0x123000) == 1
    assert world.spte(GVA + 0x123000) == world.hpa(0x923000) | 0xE67


def test_a_direct_page_of_other_rights_is_unlinked() -> None:
    """5.10 6d: the guest's huge page lost W; the old page stays cached."""
    world = World(
        "long4", f"map 0x1000 {GVA:#x} 0x800000 0xe7 level=2", f"map 0x1000 {WINDOW:#x} 0x3000 0x67"
    )
    world.ok(f"read {GVA:#x}")
    old = world.page(0x800, 1, direct=True)
    world.ok("hostwrite 0x3010 0x8000e5 size=8", f"read {GVA + 0x9000:#x}")
    requests = world.kvm.stat.remote_tlb_flush_requests
    world.ok(f"read {GVA + 0x19000:#x}")
    assert old in world.pages()
    assert old.parent_ptes == 0
    assert world.sptep(GVA + 0x9000) >> 12 != old.hpa >> 12
    assert world.kvm.stat.remote_tlb_flush_requests == requests


def test_a_write_through_its_own_table_is_told_to_the_emulator(world: World) -> None:
    """5.10 4g: write and table are the same frame."""
    world = World("long4", f"map 0x1000 {GVA:#x} 0x4000 0x67")
    world.ok("nop")
    kvm_mmu_page_fault(world.vcpu, GVA, PFERR_W | PFERR_U)
    assert world.vcpu.fault.write_fault_to_shadow_pgtable
    assert world.vcpu.emulation_type & 1 << 8


def test_pse36_reaches_above_4_gib() -> None:
    world = World(
        "32",
        "physbits 40",
        "slot 1 0x200000000 4M",
        "map 0x1000 0x40000000 0 0xe7 level=2",
        "pt 0x1000 256 0x40e7",
    )
    world.ok("write 0x40000000 5")
    assert world.spte(0x40000000) == world.hpa(0x200000000) | 0xE67
    assert world.machine.host_read(0x200000000, 4) == 5


@pytest.mark.parametrize(("cr4", "level"), [(0x10, 2), (0x0, 1)])
def test_the_huge_bit_counts_only_under_pse(cr4: int, level: int) -> None:
    world = World("32", "map 0x1000 0x40000000 0x800000 0x67", "pt 0x1000 256 0x800067")
    world.ok(f"hostwrite 0x1400 {0x8000E7:#x} size=4", f"hostwrite 0x800000 {0x900067:#x} size=4")
    world.ok(f"hostsregs cr4={cr4:#x}", "read 0x40000000")
    assert world.spte(0x40000000) & ~0xFFF == world.hpa(0x800000 if level == 2 else 0x900000)
