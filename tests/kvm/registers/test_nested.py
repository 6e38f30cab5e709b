"""Nested SVM: VMRUN, #VMEXIT, what goes to L1 and what L0 settles by itself."""

import pytest
from kvm.nested_world import (
    DATA,
    HUGE,
    L1_HUGE,
    L2_HUGE,
    MODES,
    NPT,
    PT,
    nested_spte,
    nested_world,
    pt,
    vmexit,
)
from kvm.world import World, names

from shadowmmu.guest.play.cpu import GuestCpu
from shadowmmu.guest.scenario.setup import NESTED_GPA
from shadowmmu.kvm.bits import (
    INVALID_PAGE,
    REQ_MMU_SYNC,
    REQ_TLB_FLUSH_CURRENT,
)
from shadowmmu.kvm.exits.svm_exits import TripleFault, shutdown_exit
from shadowmmu.kvm.registers.inject import kvm_inject_page_fault
from shadowmmu.kvm.registers.nested import nested_svm_can_vmrun, nested_svm_check_permissions
from shadowmmu.kvm.registers.regs import kvm_vcpu_reset
from shadowmmu.x86.bits import NX, A, D, P, U, W

NPF, FINAL = 0x400, 1 << 32


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
