"""Nested SVM: VMRUN, #VMEXIT, what goes to L1 and what L0 settles by itself."""

from itertools import pairwise

import pytest
from kvm.nested_world import (
    DATA,
    HUGE,
    L1_HUGE,
    L2_HUGE,
    NPT,
    WINDOW,
    nested_spte,
    nested_text,
    nested_world,
    vmexit,
)
from kvm.world import World, names

from shadowmmu.guest.play.cpu import GuestCpu
from shadowmmu.guest.scenario.setup import NESTED_GPA
from shadowmmu.kvm.bits import (
    INVALID_PAGE,
    REQ_MMU_SYNC,
    REQ_TLB_FLUSH_CURRENT,
    ROLE_CR0_WP,
    ROLE_DIRECT,
    ROLE_GUEST_MODE,
    ROLE_LEVEL,
    ROLE_PASSTHROUGH,
    SPTE_MMU_WRITABLE,
)
from shadowmmu.kvm.exits.svm_exits import TripleFault, shutdown_exit
from shadowmmu.kvm.guest_access.guest_memory import write_guest
from shadowmmu.kvm.guest_access.pdptrs import read_pdptrs, refresh_pdptrs
from shadowmmu.kvm.pages.role import nested_npt_root_role, tdp_root_role
from shadowmmu.kvm.registers.inject import kvm_inject_page_fault
from shadowmmu.kvm.registers.nested import nested_svm_can_vmrun, nested_svm_check_permissions
from shadowmmu.kvm.registers.regs import kvm_vcpu_reset
from shadowmmu.x86.bits import NX, A, D, P, U, W

MODES = ("long4", "long5", "pae", "32")
NPF, FINAL = 0x400, 1 << 32
SHUTDOWN = 8
"""KVM_EXIT_SHUTDOWN"""
PT = NPT + 0x3000
"""L1's leaf table for DATA in mode long4."""


def pt(page: int, value: int) -> str:
    """L1 writes the entry of a page of DATA in its nested tables."""
    return f"write {WINDOW + 0x3000 + 8 * page:#x} {value:#x}"


# -- VMRUN and #VMEXIT -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_vmrun_and_vmexit_switch_mmus_and_registers(mode: str) -> None:
    world = nested_world(mode=mode)
    vcpu = world.vcpu
    registers = (vcpu.cr0, vcpu.cr3, vcpu.cr4, vcpu.efer)
    events = world.ok("l2write 0x800000 7")
    assert names(events)[:1] == ["kvm_exit"]
    assert {"kvm_nested_vmenter", "kvm_nested_intercepts"} <= set(names(events))
    assert vcpu.guest_mode
    assert (vcpu.mmu, vcpu.walk_mmu) == (vcpu.guest_mmu, vcpu.nested_mmu)
    assert (vcpu.cr0, vcpu.cr4, vcpu.efer, vcpu.nested_cr3) == (0x11, 0, 0x1000, NPT)
    assert vcpu.cpu.levels == 0
    assert (world.stats["nested_run"], world.stats["guest_mode"]) == (1, 1)
    assert world.do("hostread 0x800000").result["value"] == "0x7"
    played = world.do("l2exit")
    assert vmexit(played) == (0x81, 0, 0)
    assert {"kvm_nested_vmexit", "kvm_nested_vmexit_inject"} <= set(names(played.events))
    assert not vcpu.guest_mode
    assert (vcpu.mmu, vcpu.walk_mmu) == (vcpu.root_mmu, vcpu.root_mmu)
    assert (vcpu.cr0, vcpu.cr3, vcpu.cr4, vcpu.efer) == registers
    assert (world.stats["nested_run"], world.stats["guest_mode"]) == (1, 0)
    if mode != "pae":  # the processor marks PDPTEs accessed, which KVM refuses: nothing may need a root now
        world.ok("read 0x40000000", "l2read 0x800000")


def test_each_switch_asks_for_sync_and_flush() -> None:
    world = nested_world()
    flushes = world.stats["tlb_flush"]
    world.ok("l2nop")
    assert world.stats["tlb_flush"] == flushes + 1
    world.ok("l2nop", "l2read 0x800000")
    assert world.stats["tlb_flush"] == flushes + 1
    world.do("l2exit")
    assert world.stats["tlb_flush"] == flushes + 2
    assert not world.vcpu.requests & (REQ_MMU_SYNC | REQ_TLB_FLUSH_CURRENT)


@pytest.mark.parametrize(
    ("field", "size", "value", "text"),
    [
        (0x4D0, 8, 0, "!(save->efer & EFER_SVME)"),
        (0x558, 8, 0x20000011, "(save->cr0 & X86_CR0_CD) == 0 && (save->cr0 & X86_CR0_NW)"),
        (0x558, 8, 1 << 32 | 0x11, "save->cr0 & ~0xffffffffULL"),
        (0x548, 8, 1 << 31, "!__kvm_is_valid_cr4(vcpu, save->cr4)"),
        (0x548, 8, 1 << 12, "!__kvm_is_valid_cr4(vcpu, save->cr4)"),
        (0x4D0, 8, 1 << 63 | 0x1000, "!kvm_valid_efer(vcpu, save->efer)"),
        (0x10, 4, 2, "!vmcb12_is_intercept(control, INTERCEPT_VMRUN)"),
        (0x58, 4, 0, "control->asid == 0"),
        (0xB0, 8, 1 << 40, "(control->nested_ctl & SVM_NESTED_CTL_NP_ENABLE) && "
         "!kvm_vcpu_is_legal_gpa(vcpu, control->nested_cr3)"),
    ],
)  # fmt: skip
def test_an_invalid_vmcb12(field: int, size: int, value: int, text: str) -> None:
    """L1 stays L1 and finds VMEXIT_INVALID; the next VMRUN of a valid one works."""
    world = nested_world()
    old = world.machine.host_read(NESTED_GPA + field, size)
    world.machine.host_write(NESTED_GPA + field, size, value)
    played = world.do("l2read 0x800000")
    assert vmexit(played) == ((1 << 64) - 1, 0, 0)
    (failed,) = [event for event in played.events if event.name == "kvm_nested_vmenter_failed"]
    assert failed.msg == text
    assert "kvm_nested_vmenter" not in names(played.events)
    assert not world.vcpu.guest_mode
    assert (world.stats["nested_run"], world.stats["guest_mode"]) == (0, 0)
    world.machine.host_write(NESTED_GPA + field, size, old)
    world.ok("nop", "l2read 0x800000")


def test_what_only_the_processor_refuses_is_an_exit_of_l2() -> None:
    """EFER.LMSLE on a processor without: KVM enters L2, VMRUN fails, L1 sees that of its own."""
    world = nested_world()
    world.machine.host_write(NESTED_GPA + 0x4D0, 8, 0x3000)
    played = world.do("l2nop")
    assert vmexit(played) == (0xFFFFFFFF, 0, 0)
    assert "kvm_nested_vmenter" in names(played.events)
    assert (world.stats["nested_run"], world.stats["guest_mode"]) == (0, 0)
    world.machine.host_write(NESTED_GPA + 0x4D0, 8, 0x1000)
    world.ok("l2nop")


@pytest.mark.parametrize("ncr3", [(1 << 40) - 0x1000, 0xD0000000, 0xFEE00000, 0x70000000])
@pytest.mark.parametrize("mode", MODES)
def test_a_nested_cr3_without_memory_gets_the_dummy_root(mode: str, ncr3: int) -> None:
    """Every access of L2, its code first, is L1's nested page fault; no shadow page is made for it."""
    if mode == "32":
        ncr3 &= 0xFFFFFFFF
    world = nested_world(mode=mode)
    world.ok(f"vmcb ncr3={ncr3:#x}")
    before = world.kvm.indirect_shadow_pages
    if mode == "pae":
        assert world.do("l2read 0x800000").result["outcome"] in ("vmexit", "exit")
        return
    code, info1, info2 = vmexit(world.do("l2read 0x800000"))
    assert (code, info1 & FINAL, info2 >> 12) == (NPF, FINAL, 0xF010D)
    assert world.vcpu.guest_mmu.root_hpa == 0
    assert world.kvm.indirect_shadow_pages == before
    world.ok(f"vmcb ncr3={NPT:#x}", "l2read 0x800000")
    assert world.vcpu.guest_mmu.root_hpa not in (0, INVALID_PAGE)


def test_instructions_of_svm_need_svme_and_paging() -> None:
    world = nested_world()
    vcpu = world.vcpu
    assert nested_svm_check_permissions(vcpu)
    vcpu.efer &= ~0x1000
    assert not nested_svm_check_permissions(vcpu)
    assert (vcpu.exception.vector, vcpu.exception.error_code) == (6, None)
    vcpu.efer |= 0x1000
    vcpu.exception = None
    world.ok("efer 0xd00")
    for line in ("l2nop", "l1invlpga 0x1000 1"):
        assert world.do(line).result["vector"] == 6
    assert world.stats["nested_run"] == world.stats["invlpg"] == 0
    world.ok("efer 0x1d00", "l1invlpga 0x1000 1", "l2nop")
    assert world.stats["invlpg"] == 1


@pytest.mark.parametrize("vmcb", [0xD0000000, NESTED_GPA + 8, 0x1000000, 1 << 51])
def test_a_vmcb12_without_memory_is_a_general_protection_fault(vmcb: int) -> None:
    world = nested_world()
    assert nested_svm_can_vmrun(world.vcpu, NESTED_GPA)
    assert not nested_svm_can_vmrun(world.vcpu, vmcb)
    assert (world.vcpu.exception.vector, world.vcpu.exception.error_code) == (13, 0)


def test_vmrun_needs_a_host_save_area() -> None:
    world = nested_world()
    world.ok("wrmsr 0xc0010117 0x0")
    for line in ("l2nop", "l2exit"):
        assert world.do(line).result["vector"] == 13
    assert world.do("wrmsr 0xc0010117 0xf0104001").result["vector"] == 13
    assert world.do("wrmsr 0xc0010117 0x10000000000").result["vector"] == 13
    world.ok("wrmsr 0xc0010117 0xf0104000", "l2nop")
    assert world.vcpu.hsave_msr == 0xF0104000
    world.do("l2exit")
    world.ok("wrmsr 0xc0010114 0x0")
    assert world.do("wrmsr 0xc0010114 0x10").result["vector"] == 13, "SVM is on"
    assert world.do("wrmsr 0xc0010114 0x20").result["vector"] == 13
    world.ok("efer 0xd00", "wrmsr 0xc0010114 0x10")


def test_a_shutdown_of_l2_is_an_exit_to_l1_of_l1_the_end() -> None:
    world = nested_world()
    world.ok("l2nop")
    vcpu = world.vcpu
    shutdown_exit(vcpu)
    assert not vcpu.guest_mode
    assert world.machine.host_read(NESTED_GPA + 0x70, 8) == 0x7F
    with pytest.raises(TripleFault):
        shutdown_exit(vcpu)
    assert (vcpu.cr0, vcpu.cr3, vcpu.cr4, vcpu.efer, vcpu.rip) == (0x60000010, 0, 0, 0, 0xFFF0)


def test_reset_unloads_a_paging_vcpu() -> None:
    world = nested_world()
    world.ok("l2nop")
    world.do("l2exit")
    vcpu = world.vcpu
    assert vcpu.root_mmu.root_hpa != INVALID_PAGE
    vcpu.exception = object()
    kvm_vcpu_reset(vcpu)
    assert vcpu.root_mmu.root_hpa == vcpu.guest_mmu.root_hpa == INVALID_PAGE
    assert vcpu.exception is None
    assert vcpu.requests
    requests, vcpu.requests = vcpu.requests, 0
    kvm_vcpu_reset(vcpu)
    assert requests != vcpu.requests == 0, "without paging nothing is to be flushed"


# -- nested page faults ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "line", "code"),
    [
        (0, "l2read 0x800000", 4),
        (0, "l2write 0x800000 1", 6),
        (0x800065, "l2write 0x800000 1", 7),
        (0x800063, "l2read 0x800000", 5),
        (0x800067 | NX, "l2exec 0x800000", 0x15),
        (0x800067 | 1 << 45, "l2read 0x800000", 0xD),
        (0x800067 | 1 << 45, "l2write 0x800000 1", 0xF),
    ],
)
@pytest.mark.parametrize("tdp_mmu", [0, 1])
def test_what_l1_s_tables_refuse_goes_to_l1(entry: int, line: str, code: int, tdp_mmu: int) -> None:
    """With the guest walk's error code, and bit 32 of the hardware's."""
    world = nested_world(f"npt pt {PT:#x} 0 {entry:#x}", tdp_mmu=tdp_mmu)
    played = world.do(line)
    assert vmexit(played) == (NPF, FINAL | code, DATA)
    assert not world.vcpu.guest_mode
    assert world.vcpu.exception is None
    world.ok(pt(0, 0x800067), line.replace("exec", "read"))


def test_what_l0_has_not_mapped_l1_does_not_notice() -> None:
    world = nested_world("slot 2 0x20000000 64K lazy", f"npt pt {PT:#x} 1 0x20000067")
    runs = world.stats["nested_run"]
    for line in ("l2write 0x801000 5", "madvise_dontneed 0x20000000 0x1000", "l2read 0x801000"):
        assert world.do(line).result["outcome"] == "ok"
    assert world.stats["nested_run"] == runs + 1
    assert world.vcpu.guest_mode


def test_memory_that_is_none_is_mmio_of_user_space() -> None:
    world = nested_world(f"npt pt {PT:#x} 1 0xd0000067")
    played = world.do("l2write 0x801000 0x1234")
    assert played.result["mmio"] == [{"gpa": "0xd0000000", "len": 4, "write": True, "data": "0x1234"}]
    assert world.do("l2read 0x801004").result["value"] == "0x55667788"
    assert world.vcpu.guest_mode


def test_accessed_and_dirty_are_set_in_l1_s_tables() -> None:
    world = nested_world(f"npt pt {PT:#x} 0 0x800007", f"npt pt {NPT + 0x2000:#x} 4 {PT | 7:#x}")
    played = world.do("l2read 0x800000")
    assert played.gptes == [[f"{NPT + 0x2020:#x}", f"{PT | 7:#x}", f"{PT | 0x27:#x}"],
                            [f"{PT:#x}", "0x800007", "0x800027"]]  # fmt: skip
    assert not nested_spte(world, DATA) & W
    assert world.do("l2write 0x800000 1").gptes == [[f"{PT:#x}", "0x800027", "0x800067"]]
    assert nested_spte(world, DATA) & W


def test_the_vcpu_keeps_the_first_info_if_the_exit_was_another() -> None:
    """An NPF that the emulator found while another exit is handled: bit 32 and the address are made up."""
    world = nested_world()
    world.ok("l2nop")
    world.vcpu.exit_code = 0x7A
    kvm_inject_page_fault(world.vcpu, 0x12345, 6)
    read = world.machine.host_read
    assert [read(NESTED_GPA + offset, 8) for offset in (0x70, 0x78, 0x80)] == [NPF, FINAL | 6, 0x12345]
    assert world.stats["pf_guest"] == 0


def test_a_permission_fault_of_l2_syncs_its_spte_first() -> None:
    """L1 takes W away behind L2's back: the table is unsync and shadowed with W; the fault mends it."""
    world = nested_world(vcpus=2)
    world.ok("l2write 0x800000 1", "@1 read 0x40000000")
    world.ok("@1 " + pt(1, 0x801067), "@1 " + pt(0, 0x800065))
    assert nested_spte(world, DATA) & W, "still the old translation"
    spte = nested_spte(world, DATA)
    kvm_inject_page_fault(world.vcpu, DATA, P | W | U)
    world.vcpu.mmu = world.vcpu.guest_mmu
    assert nested_spte(world, DATA) != spte
    assert not nested_spte(world, DATA) & W
    world.vcpu.mmu = world.vcpu.root_mmu


# -- roots and roles -------------------------------------------------------------------------------------


def test_roles_of_nested_roots() -> None:
    assert nested_npt_root_role(0x704, 4) == 0x704
    assert nested_npt_root_role(0x704, 5) == 0x705 | ROLE_PASSTHROUGH
    assert nested_npt_root_role(0x705, 5) == 0x705
    assert nested_npt_root_role(0x703, 4) == 0x704
    assert nested_npt_root_role(0x712, 5) == 0x715


@pytest.mark.parametrize("mode", MODES)
def test_the_root_of_l2_is_a_page_of_its_own_role(mode: str) -> None:
    world = nested_world(mode=mode)
    l1_role = tdp_root_role(world.vcpu)
    assert not l1_role & ROLE_GUEST_MODE
    world.ok("l2nop")
    mmu = world.vcpu.guest_mmu
    assert mmu.root_role & ROLE_GUEST_MODE
    assert not mmu.root_role & (ROLE_CR0_WP | ROLE_DIRECT), "CR0 counts as PG alone"
    assert mmu.guest_level() == {"long4": 4, "long5": 5, "pae": 3, "32": 2}[mode]
    assert mmu.shadow_level() == (5 if mode == "long5" else 4)
    assert mmu.root_is_special() == (mode in ("pae", "32"))
    assert world.vcpu.cpu.nested_root == mmu.root_hpa


@pytest.mark.parametrize("host_la57", [False, True])
@pytest.mark.parametrize("mode", ["pae", "32"])
def test_special_roots(mode: str, host_la57: bool) -> None:
    """Four directories under one or two more tables; never cached, and let go of with all in them."""
    world = nested_world(mode=mode, host_la57=host_la57)
    world.ok("l2write 0x800000 1")
    mmu, read = world.vcpu.guest_mmu, world.kvm.read_spte
    tables = [mmu.pml5_root, mmu.pml4_root, mmu.pae_root] if host_la57 else [mmu.pml4_root, mmu.pae_root]
    assert mmu.root_hpa == tables[0]
    assert bool(mmu.pml5_root) == host_la57
    for table, below in pairwise(tables):
        assert read(table) == below | P | W | U | A
    entries = [read(mmu.pae_root + 8 * i) for i in range(4)]
    expected = [True, True, mode == "32", True]
    assert [bool(entry & P) for entry in entries] == expected
    pages = [world.kvm.sptep_to_sp(entry & ~0xFFF) for entry in entries if entry & P]
    assert [sp.root_count for sp in pages] == [1] * sum(expected)
    assert all(sp.role & ROLE_LEVEL == 2 for sp in pages)
    if mode == "32":
        assert [sp.role >> 5 & 3 for sp in pages] == [0, 1, 2, 3]
    world.do("l2exit")
    assert all(hpa == INVALID_PAGE for _, hpa in (mmu.prev_root(i) for i in range(3)))
    for vcpu in world.kvm.vcpus:
        kvm_vcpu_reset(vcpu)
    assert [sp.root_count for sp in pages] == [0] * len(pages)
    assert [read(mmu.pae_root + 8 * i) for i in range(4)] == [0] * 4


def test_special_tables_start_empty() -> None:
    """A table that was a shadow page before: what it mapped must not be reached through the new root."""
    world = nested_world(mode="32")
    arena = world.kvm.arena
    frames = [arena.alloc_table() for _ in range(100)]
    for frame in frames:
        for i in range(512):
            arena.store(frame + 8 * i, 8, (1 << 64) - 1)
        arena.free_table(frame)
    world.ok("l2nop")
    mmu = world.vcpu.guest_mmu
    for table, used in ((mmu.pml4_root, 1), (mmu.pae_root, 4)):
        assert not any(world.kvm.read_table(table)[used:])


def test_passthrough_a_host_with_a_level_more_than_l1() -> None:
    """The fifth level has no table of L1 behind it: same gfn, not tracked, its first entry the real root."""
    world = nested_world(host_la57=True)
    world.ok("l2write 0x800000 1")
    mmu = world.vcpu.guest_mmu
    root = world.kvm.sptep_to_sp(mmu.root_hpa)
    assert root.role & ROLE_PASSTHROUGH
    assert (root.gfn, root.role & ROLE_LEVEL, root.has_gptes()) == (NPT >> 12, 5, False)
    child = world.kvm.sptep_to_sp(world.kvm.read_spte(root.hpa) & ~0xFFF & (1 << 51) - 1)
    assert (child.gfn, child.role & ROLE_LEVEL, child.has_gptes()) == (NPT >> 12, 4, True)
    assert not child.role & ROLE_PASSTHROUGH
    assert dict(world.kvm.memslot_of(0).tracked())[NPT >> 12] == 1
    world.do("l2exit")
    world.ok(f"write {WINDOW:#x} 0", f"write {WINDOW:#x} {NPT + 0x1000 | 0x27:#x}", "l2read 0x800000")


def test_roots_of_other_nested_cr3s_are_kept() -> None:
    others = [0x30000, 0x31000, 0x32000, 0x33000]
    entry = NPT + 0x1000 | 0x27
    world = nested_world(*(f"npt pt {root:#x} 0 {entry:#x}" for root in others))
    for root in others:
        world.ok(f"ncr3 {root:#x}")
        world.do("l2exit")
    mmu = world.vcpu.guest_mmu
    assert mmu.root_pgd == others[3]
    assert [mmu.prev_root(i)[0] for i in range(3)] == [others[2], others[1], others[0]]
    events = world.ok(f"ncr3 {others[1]:#x}")
    assert "kvm_mmu_get_page" not in names(events)
    assert world.vcpu.root_mmu.root_hpa != mmu.root_hpa


def test_another_smep_of_l1_is_another_root_another_wp_is_not() -> None:
    world = nested_world()
    world.ok("l2nop")
    mmu = world.vcpu.guest_mmu
    first = mmu.root_hpa
    for line, same in (("cr0 0x80000033", True), ("cr0 0x80010033", True), ("cr4 0x100020", False)):
        world.do("l2exit")
        world.ok(line, "l2nop")
        assert (mmu.root_hpa == first) == same, line


def test_pdptrs_are_those_in_memory_if_they_are_valid() -> None:
    world = nested_world(mode="pae")
    vcpu, kvm = world.vcpu, world.kvm
    for i, value in enumerate((0x5001, 0x6000, 0x7001, 0x8001)):
        write_guest(kvm, 0x30000 + 8 * i, 8, value)
    assert read_pdptrs(vcpu, 0x30000) == [0x5001, 0x6000, 0x7001, 0x8001]
    assert read_pdptrs(vcpu, 0x3001F) == [0x5001, 0x6000, 0x7001, 0x8001], "32 bytes"
    assert read_pdptrs(vcpu, 0xD0000000) is None
    vcpu.cr3 = 0x30000
    refresh_pdptrs(vcpu, vcpu.root_mmu)
    assert [vcpu.root_mmu.pdptr(i) for i in range(4)] == [0x5001, 0x6000, 0x7001, 0x8001]
    for bad in (W, U, A, 0x80, 0x100, 1 << 40, 1 << 52, NX):
        write_guest(kvm, 0x30008, 8, 0x6001 | bad)
        assert read_pdptrs(vcpu, 0x30000) is None
        refresh_pdptrs(vcpu, vcpu.root_mmu)
        assert vcpu.root_mmu.pdptr(1) == 0x6000
    write_guest(kvm, 0x30008, 8, 0x6000 | W | NX)
    assert read_pdptrs(vcpu, 0x30000) is not None, "not present: nothing is reserved"
    vcpu.cr3 = 0x1000


@pytest.mark.parametrize(
    ("value", "result"),
    [
        ("no", {"outcome": "vmexit", "code": "0x81", "info1": "0x0", "info2": "0x0"}),
        ("yes", {"outcome": "exit", "reason": SHUTDOWN}),
    ],
)
def test_an_exit_to_an_l1_without_valid_pdptes(value: str, result: dict[str, object]) -> None:
    """The processor marked them accessed, which KVM refuses: from 7.3 on L1 is shut down."""
    world = World.of(nested_text(mode="pae"), design={"invalid_l1_pdptes_shut_down": value})
    world.ok("l2nop")
    played = world.do("l2exit")
    assert "kvm_nested_vmenter_failed" in names(played.events)
    assert played.result == result


@pytest.mark.parametrize(("value", "l2s"), [("no", False), ("yes", True)])
def test_the_walker_after_an_exit_to_an_l1_without_valid_pdptes(value: str, l2s: bool) -> None:
    """KVM stops before it makes the walker L1's: one that L1 shares with L2 is still L2's."""
    world = World.of(nested_text(mode="pae"), design={"gva_walk_shared": value})
    mmu = world.vcpu.root_mmu
    world.ok("nop")
    l1_role = mmu.cpu_role
    world.ok("l2nop")
    world.do("l2exit")
    assert l1_role != world.vcpu.nested_mmu.cpu_role
    assert mmu.cpu_role == (world.vcpu.nested_mmu.cpu_role if l2s else l1_role)


# -- L1 writes its tables --------------------------------------------------------------------------------


@pytest.mark.parametrize("tdp_mmu", [0, 1])
def test_l1_s_tables_are_write_protected_in_both_mmus(tdp_mmu: int) -> None:
    """L1 reaches them through the TDP MMU (or direct shadow pages), L2 through an alias in its own tables."""
    pd = NPT + 0x2000
    world = nested_world(f"npt pt {PT:#x} 3 {pd | 0x67:#x}", tdp_mmu=tdp_mmu)
    world.ok(f"write {WINDOW + 0x2800:#x} 0")
    l1_spte = world.sptep(pd)
    writable = W | SPTE_MMU_WRITABLE
    assert world.kvm.read_spte(l1_spte) & writable == writable
    world.ok("l2read 0x803000")
    for spte in (world.kvm.read_spte(l1_spte), nested_spte(world, 0x803000)):
        assert spte & P
        assert not spte & writable
    emulated = world.stats["insn_emulation"]
    world.ok("l2write 0x803800 0x67")
    assert world.stats["insn_emulation"] == emulated + 1
    assert world.vcpu.guest_mode, "L2 may edit the tables it runs on, if L1 lets it"


def test_a_synced_table_is_not_for_the_fast_path() -> None:
    """The sync takes MMU-writable too: L1's next write tries the fast path in vain, then unsyncs again."""
    world = nested_world()
    world.ok("l2read 0x800000")
    world.do("l2exit")
    world.ok(pt(1, 0x801067))
    sptep = world.sptep(PT)
    assert world.kvm.read_spte(sptep) & (W | SPTE_MMU_WRITABLE) == W | SPTE_MMU_WRITABLE
    assert world.page(PT >> 12, 1).unsync
    world.ok("l2nop")
    assert not world.page(PT >> 12, 1).unsync
    assert not world.kvm.read_spte(sptep) & (W | SPTE_MMU_WRITABLE)
    world.do("l2exit")
    played = world.do(pt(1, 0x801067))
    assert [event.fixed for event in played.events if event.name == "fast_page_fault"] == [False]
    assert world.page(PT >> 12, 1).unsync


def test_zapping_a_page_for_l2_takes_what_hung_below_it() -> None:
    """Flooded, it goes with all that lose their last parent, recursively; a write alone leaves an orphan."""
    world = nested_world()
    world.ok("l2read 0x800000", f"l2read {L2_HUGE:#x}")
    world.do("l2exit")
    below = [sp for sp in world.pages() if sp.role & ROLE_GUEST_MODE and sp.gfn != NPT >> 12]
    assert {(NPT >> 12) + n for n in (1, 2, 3)} <= {sp.gfn for sp in below}
    zapped = world.stats["mmu_shadow_zapped"]
    world.ok(f"write {WINDOW + 0x1000:#x} 0")
    assert world.stats["mmu_shadow_zapped"] == zapped
    assert not world.page((NPT >> 12) + 2, 2).parent_ptes
    assert world.page((NPT >> 12) + 3, 1).parent_ptes
    world.ok(f"write {WINDOW + 0x1000:#x} {NPT + 0x2000 | 0x27:#x}", "l2read 0x800000")
    world.do("l2exit")
    for _ in range(3):
        world.ok(f"write {WINDOW + 0x1800:#x} 0")
    assert world.stats["mmu_flooded"] == 1
    assert {sp.gfn for sp in world.pages() if sp.role & ROLE_GUEST_MODE} == {NPT >> 12}
    assert world.stats["mmu_shadow_zapped"] - zapped == len(below)


def test_a_table_of_two_levels_is_zapped_once_by_a_write_flood() -> None:
    """Its older page, of level 2, goes with the newer one, of level 3, below which it hangs: nothing zaps it
    again when its turn comes.
    """
    table = NPT + 0x7000
    world = nested_world(
        f"npt pt {NPT + 0x1000:#x} 2 {table | 0x67:#x}",
        f"npt pt 0x30000 0 {table | 0x67:#x}",
        f"npt pt {table:#x} 0 {NPT + 0x2000 | 0x67:#x}",
        f"npt pt {table:#x} 1 {table | 0x67:#x}",
        f"npt pt {table:#x} 3 0xf010e067",
    )
    world.ok("l2read 0x80004000")
    world.do("l2exit")
    world.ok("ncr3 0x30000", "l2read 0x40004000")
    world.do("l2exit")
    world.ok(f"write {WINDOW + 0x1010:#x} 0")
    assert [sp.level() for sp in world.kvm.hashed_pages(table >> 12) if sp.gfn == table >> 12] == [3, 2]
    world.ok(*[f"write {WINDOW + 0x7048:#x} {value:#x}" for value in (0, 0x1000, 0)])
    assert not [sp for sp in world.pages() if sp.gfn == table >> 12]
    assert world.stats["mmu_flooded"] == 1
    world.check()


def test_a_page_with_another_parent_stays() -> None:
    entry = NPT + 0x1000 | 0x27
    world = nested_world(f"npt pt 0x30000 0 {entry:#x}")
    world.ok("l2read 0x800000")
    world.do("l2exit")
    world.ok("ncr3 0x30000", "l2read 0x800000")
    world.do("l2exit")
    world.ok(f"write {WINDOW:#x} 0")
    assert world.page((NPT >> 12) + 1, 3).parent_ptes
    world.ok("l2read 0x800000")


# -- execution, logging ----------------------------------------------------------------------------------


def test_nx_huge_pages_for_l2() -> None:
    world = nested_world("param kvm nx_huge_pages=1", f"l2code {HUGE:#x}")
    world.ok(f"l2write {L2_HUGE + 0x200000:#x} 1")
    assert nested_spte(world, L2_HUGE + 0x200000) & (NX | 0x80) == NX | 0x80
    world.ok(f"l2read {L2_HUGE:#x}", f"l2exec {L2_HUGE:#x}")
    spte = nested_spte(world, L2_HUGE)
    assert not spte & (NX | 0x80)
    assert world.stats["nx_lpage_splits"] == len(world.kvm.possible_nx_huge_pages) > 0


@pytest.mark.parametrize("tdp_mmu", [0, 1])
def test_writes_of_l2_are_logged(tdp_mmu: int) -> None:
    world = nested_world(tdp_mmu=tdp_mmu)
    world.ok(f"l2write {L2_HUGE:#x} 1", "dirtylog on 1")
    assert world.do("getdirty 1").result["dirty"] == []
    world.ok(f"l2write {L2_HUGE + 0x5000:#x} 1")
    assert world.do("getdirty 1").result["dirty"] == [f"{HUGE + 0x5000:#x}"]
    world.do("l2exit")
    world.ok(f"write {L1_HUGE + 0x7000:#x} 1")
    assert world.do("getdirty 1").result["dirty"] == [f"{HUGE + 0x7000:#x}"]


def test_an_exit_marks_the_vmcb12_dirty() -> None:
    world = nested_world()
    world.ok("dirtylog on 62", "l2nop")
    world.do("l2exit")
    assert f"{NESTED_GPA:#x}" in world.do("getdirty 62").result["dirty"]


def test_public_registers_of_user_space_while_l2_runs() -> None:
    world = nested_world()
    world.ok("l2read 0x800000", "hostsregs", "l2read 0x801000", "hostsregs cr3=0x5000 cr4=0x0")
    world.ok("l2write 0x801000 1")
    assert world.vcpu.cr3 == 0x5000
    assert vmexit(world.do("l2exit"))[0] == 0x81
    assert world.vcpu.cr3 == 0x1000
    world.ok("read 0x40000000")


def test_two_vcpus_run_l2_on_the_same_pages() -> None:
    world = nested_world()
    world.ok("l2write 0x800000 1", "@1 l2write 0x800000 2")
    one, two = world.kvm.vcpus
    assert one.guest_mmu.root_hpa == two.guest_mmu.root_hpa
    assert world.page(NPT >> 12, 4).root_count == 2
    world.do("@1 l2exit")
    world.ok("@1 " + pt(0, 0), "l2read 0x800000")
    assert vmexit(world.do("@1 l2read 0x800000"))[0] == NPF, "the VMRUN has synced the table"
    assert vmexit(world.do("l2read 0x800000"))[0] == NPF, "and so for the other"


def test_machines_differ_in_nothing_by_the_tlb() -> None:
    lines = (
        "l2read 0x800000",
        "l2exit",
        pt(0, 0x801067),
        "l2read 0x800000",
        "l2exit",
        pt(0, 0),
        "l2read 0x800000",
    )
    worlds: list[World] = [nested_world(tlb=tlb) for tlb in (False, True)]
    assert all(isinstance(cpu, GuestCpu) for cpu in worlds[0].player.cpus)
    for world in worlds:
        world.ok("hostwrite 0x801000 0x99")
    results = [[world.do(line).result for line in lines] for world in worlds]
    assert results[0] == results[1]
    assert results[0][3] == {"outcome": "ok", "value": "0x99"}
    assert results[0][6]["outcome"] == "vmexit"


def test_a_d_bits_of_l0_follow_l2() -> None:
    world = nested_world(tlb=False)
    world.ok("l2read 0x800000")
    assert nested_spte(world, DATA) & (A | W) == A | W
    world.ok("l2write 0x800000 1")
    assert nested_spte(world, DATA) & (A | D) == A | D
