"""An Intel processor's exits, and what is different in how KVM handles them."""

from dataclasses import replace

import pytest
from kvm.ept_world import PAGE, ept_world, exits
from kvm.tdp_world import PHYSICAL
from kvm.world import World, names

from shadowmmu.guest.play.machine import Machine
from shadowmmu.guest.play.player import Player
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.guest.scenario.setup import ScenarioError, resolve
from shadowmmu.kvm.bits import ROLE_CR0_WP
from shadowmmu.kvm.design.design import design_of
from shadowmmu.kvm.exits.page_fault_exit import ept_violation_error_code
from shadowmmu.kvm.exits.run import TripleFault
from shadowmmu.kvm.exits.vmx_exits import shutdown_exit
from shadowmmu.kvm.tracepoints.exits import Exit, PageFault
from shadowmmu.kvm.tracepoints.reasons import ept_violation_text
from shadowmmu.kvm.tracepoints.tracer import EventLog
from shadowmmu.vm import GuestFault, Vm
from shadowmmu.x86.implementation import INTEL
from shadowmmu.x86.vmx import vmx_exit_reason

GVA = PHYSICAL + PAGE
HOLE = PHYSICAL + 0xD0000000
WP, TS, PGE, SMEP = 1 << 16, 1 << 3, 1 << 7, 1 << 20
FINAL, OF_A_TABLE = 1 << 32, 1 << 33


@pytest.mark.parametrize(
    ("qualification", "error_code", "text"),
    [
        (0x181, FINAL | 4, "r where - is granted"),
        (0x182, FINAL | 2, "w where - is granted"),
        (0x184, FINAL | 0x10, "x where - is granted"),
        (0x1AA, FINAL | 3, "w where rx is granted"),
        (0x1A1, FINAL | 5, "r where x is granted"),
        (0x083, OF_A_TABLE | 6, "a table of the guest, rw where - is granted"),
        (0x0AB, OF_A_TABLE | 7, "a table of the guest, rw where rx is granted"),
        (0x001, 4, "a table of the guest, r where - is granted"),
    ],
)
def test_the_error_code_of_an_exit_qualification(qualification: int, error_code: int, text: str) -> None:
    assert ept_violation_error_code(Machine().kvm, qualification) == error_code
    assert ept_violation_text(qualification) == text


@pytest.mark.parametrize(
    ("qualification", "error_code"),
    [
        (0x181, FINAL),
        (0x781, FINAL | 4),
        (0x782, FINAL | 6),
        (0x584, FINAL | 0x10),
        (0x784, FINAL | 0x14),
        (0x7AA, FINAL | 7),
        (0x083, OF_A_TABLE | 2),
    ],
)
def test_since_7_3_u_is_a_user_address_and_no_read(qualification: int, error_code: int) -> None:
    kvm = Machine(design=design_of("7.3.4")).kvm
    assert ept_violation_error_code(kvm, qualification) == error_code


def test_a_violation_is_traced_with_its_qualification() -> None:
    world = ept_world()
    events = world.ok(f"write {GVA:#x} 1")
    reasons = [(event.reason_name, event.info1, event.info2) for event in events if isinstance(event, Exit)]
    assert reasons[-2] == ("EPT_VIOLATION", 0x782, 0)
    fault = [event for event in events if isinstance(event, PageFault)][-1]
    assert (fault.fault_address, fault.error_code) == (PAGE, 0x782)


def test_mmio_is_a_misconfiguration_from_the_second_access_on() -> None:
    world = ept_world()
    assert exits(world.ok(f"read {HOLE:#x}"))[-1] == "EPT_VIOLATION"
    for line in (f"read {HOLE:#x}", f"write {HOLE:#x} 1"):
        events = world.ok(line)
        assert exits(events) == ["EPT_MISCONFIG"]
        assert "kvm_page_fault" not in names(events)
    assert exits(world.ok(f"read {HOLE + 0x1000:#x}", f"read {HOLE:#x}")) == ["EPT_MISCONFIG"]
    (fault,) = (
        event for event in world.do(f"read {HOLE + 0x1000:#x}").events if event.name.startswith("handle")
    )
    assert "access 0" in str(fault), "the SPTE keeps no rights"


def test_a_stale_misconfiguration_is_a_fault_of_no_kind() -> None:
    """Memory appears where none was: the exit says neither what was tried nor that anything is present."""
    world = ept_world()
    world.ok(f"read {HOLE:#x}", "slot 1 0xd0000000 64K")
    events = world.ok(f"write {HOLE:#x} 5")
    assert exits(events) == ["EPT_MISCONFIG"]
    assert "valid 0" in str(next(event for event in events if event.name == "check_mmio_spte"))
    assert "fast_page_fault" not in names(events)
    assert world.spte(0xD0000000) & 7 == 7
    assert world.machine.host_read(0xD0000000, 8) == 5


# -- instructions ------------------------------------------------------------------------------------------


def cr0(world: World) -> int:
    return world.vcpu.cr0


def test_some_bits_of_cr0_and_cr4_are_the_guests_own() -> None:
    world = ept_world()
    for line in (
        f"cr0 {cr0(world) ^ TS:#x}",
        f"cr0 {cr0(world) ^ TS ^ WP:#x}",
        f"cr4 {world.vcpu.cr4 ^ PGE:#x}",
        "cr3 0x1000",
        f"invlpg {GVA:#x}",
    ):
        assert exits(world.ok(line)) == [], line
    assert exits(world.ok(f"cr4 {world.vcpu.cr4 ^ SMEP:#x}")) == ["CR_ACCESS"]
    assert world.vcpu.cr4 & SMEP
    assert world.vcpu.cr4 & PGE
    assert exits(world.do("cr0 0x8001003b").events) == []


def test_wp_works_at_once() -> None:
    """The processor's and KVM's own walks: of a read-only page, and of MMIO behind one."""
    world = ept_world(
        "map 0x1000 0x400000 0x800000 0x65", "map 0x1000 0x500000 0xd0000000 0x65", "slot 1 0x20000000 64K"
    )
    wp = cr0(world)
    world.ok("read 0x500000")
    for line in ("write 0x400000 1", "write 0x500000 1"):
        assert world.do(line).result["outcome"] == "exception"
    world.ok(f"cr0 {wp & ~WP:#x}", "write 0x400000 1", "write 0x500000 1", f"cr0 {wp:#x}")
    for line in ("write 0x400000 1", "write 0x500000 1"):
        assert world.do(line).result["outcome"] == "exception"


def test_a_refused_value_is_gp_without_the_emulator() -> None:
    world = ept_world()
    before = world.stats
    played = world.do("cr4 0x0")
    assert played.result["outcome"] == "exception"
    assert played.result["vector"] == 13
    assert exits(played.events) == ["CR_ACCESS"]
    assert world.stats["insn_emulation"] == before["insn_emulation"]
    assert "kvm_cr" in names(played.events)


def test_pge_checks_the_pdptes_of_a_pae_guest() -> None:
    vm = Vm("16M", "pae", vendor="intel", params={"kvm_intel.ept": 1})
    vm.map(0x400000, 0x100000)
    vcpu = vm.vcpus[0]
    with vm.trace() as events:
        vcpu.cr4 ^= PGE
        vm.machine.host_write(vm.cr3 + 8, 8, 0x1E7)
        with pytest.raises(GuestFault) as fault:
            vcpu.cr4 ^= PGE
        assert fault.value.vector == 13
        (walk,) = (event for event in events if isinstance(event, Exit))
        assert (walk.reason_name, walk.info1) == ("EPT_VIOLATION", 1), "the processor reads their table"


def test_registers_that_are_amds() -> None:
    """SVM's registers do not exist: #GP; EFER has no SVME."""
    for vendor, outcome in (("amd", "ok"), ("intel", "exception")):
        world = World("long4", f"vendor {vendor}")
        played = world.do("wrmsr 0xc0010117 0x0")
        assert played.result["outcome"] == outcome
        assert world.do("efer 0x1d00").result["outcome"] == outcome
    assert exits(world.do("wrmsr 0x174 0x10").events) == []


@pytest.mark.parametrize("nested_paging", [False, True])
def test_bit_8_of_upper_tables_is_reserved_on_amd_only(nested_paging: bool) -> None:
    """For KVM's walk and for the processor's."""
    for vendor in ("amd", "intel"):
        parameter = "kvm_amd.npt" if vendor == "amd" else "kvm_intel.ept"
        vm = Vm("16M", vendor=vendor, params={parameter: nested_paging})
        vm.map(0x400000, 0x100000)
        at = vm.gpte_address(0x400000, 4)
        vm.machine.host_write(at, 8, vm.machine.host_read(at, 8) | 0x100)
        if vendor == "intel":
            assert vm.vcpus[0].read(0x400000) == 0
            continue
        with pytest.raises(GuestFault) as fault:
            vm.vcpus[0].read(0x400000)
        assert fault.value.error_code == 9


def test_a_triple_fault_leaves_the_vcpu_as_it_is() -> None:
    world = ept_world()
    registers = world.vcpu.cr0, world.vcpu.cr3, world.vcpu.cr4
    world.player.log.take()
    with pytest.raises(TripleFault):
        shutdown_exit(world.vcpu)
    assert (world.vcpu.cr0, world.vcpu.cr3, world.vcpu.cr4) == registers
    (event,) = world.player.log.take()
    assert "reason TRIPLE_FAULT " in str(event)


# -- shadow paging ------------------------------------------------------------------------------------------


def test_shadow_paging_on_an_intel_processor() -> None:
    """The same shadow, by other exits: an intercepted #PF has CR2 as qualification, its error code apart."""
    world = World("long4", "vendor intel", "map 0x1000 0x400000 0x800000 0x67")
    events = world.ok("write 0x400000 1")
    event = next(event for event in events if isinstance(event, Exit) and event.info1 == 0x400000)
    assert (event.reason_name, event.intr_info, event.error_code) == ("EXCEPTION_NMI", 0x80000B0E, 2)
    assert world.spte(0x400000) & 0xFFF == 0xE67
    assert exits(world.ok("invlpg 0x400000")) == ["INVLPG"]
    assert exits(world.ok("cr3 0x1000")) == ["CR_ACCESS"]
    for line in (f"cr0 {cr0(world) ^ WP:#x}", f"cr4 {world.vcpu.cr4 ^ PGE:#x}"):
        assert exits(world.ok(line))[0] == "CR_ACCESS"
    assert world.stats["invlpg"] == 1


# -- names and parameters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "text"),
    [
        (0, "EXCEPTION_NMI"),
        (48, "EPT_VIOLATION"),
        (49, "EPT_MISCONFIG"),
        (62, "PML_FULL"),
        (0x80000021, "INVALID_STATE FAILED_VMENTRY"),
        (99, "0x63"),
        (0x10000030, "EPT_VIOLATION 0x10000000"),
        (0x90000030, "EPT_VIOLATION FAILED_VMENTRY|0x10000000"),
    ],
)
def test_reasons_as_the_kernel_prints_them(reason: int, text: str) -> None:
    assert vmx_exit_reason(reason) == text


TEXT = "mode long4\nslot 0 0x0 16M\nalloc 0x2000\ntramp 0x1000\nstart cr3=0x1000\nnop\n"


def test_the_vendor_is_a_parameter() -> None:
    amd = parse_scenario(TEXT)
    assert (amd.params["kvm_amd.npt"], "kvm_intel.ept" in amd.params) == ("N", False)
    npt = parse_scenario("param kvm_amd npt=1\n" + TEXT)
    ept = npt.with_vendor("intel")
    assert ept.params == parse_scenario("vendor intel\nparam kvm_intel ept=1\n" + TEXT).params
    assert ept.params == {
        "kvm_intel.ept": "Y",
        "kvm_intel.eptad": "Y",
        "kvm_intel.pml": "Y",
        **{name: value for name, value in npt.params.items() if name != "kvm_amd.npt"},
    }
    assert ept.with_vendor("amd").params == npt.params
    assert ept.with_vendor("intel").params == ept.params


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("vendor via\n", "via"),
        ("vendor\n", "vendor"),
        ("param kvm_intel ept=1\n", "no parameter `kvm_intel ept`"),
        ("vendor intel\nparam kvm_amd npt=1\n", "no parameter `kvm_amd npt`"),
        ("vendor intel\nparam kvm_intel ept=1\nnested\n", "modelled on AMD only"),
    ],
)
def test_what_does_not_go_together(text: str, complaint: str) -> None:
    head, _, tail = TEXT.partition("start")
    text, nested, _ = text.partition("nested\n")
    with pytest.raises(ScenarioError, match=complaint):
        parse_scenario(text + head + nested + "start" + tail)


def test_a_hypervisor_as_guest_is_amds() -> None:
    text = "param kvm_amd npt=1\n" + TEXT.replace("start", "nested\nntramp 0x9000\nstart").replace(
        "cr3=0x1000", "cr3=0x1000 ncr3=0x9000"
    )
    scenario = parse_scenario(text)
    with pytest.raises(ScenarioError, match="AMD only"):
        scenario.with_vendor("intel")


def test_the_python_api() -> None:
    for options in ({}, {"kvm_intel.eptad": 0}, {"kvm_intel.pml": 0}, {"kvm.tdp_mmu": 0}):
        vm = Vm("16M", vendor="intel", params={"kvm_intel.ept": 1, **options})
        vm.map(0x400000, 0x100000)
        vm.vcpus[0].write(0x400000, 42)
        assert vm.vcpus[0].read(0x400000) == 42
    with pytest.raises(ValueError, match="must be one of 'amd', 'intel'"):
        Vm("16M", vendor="via")


@pytest.mark.parametrize(("vendor", "flushes"), [("intel", 2), ("amd", 1)])
def test_the_first_entry_flushes_once_more_because_the_vcpu_was_loaded_onto_a_cpu(
    vendor: str, flushes: int
) -> None:
    world = World("long4", f"vendor {vendor}")
    assert world.do("nop").stats["vcpu0"]["tlb_flush"] == flushes
    assert "tlb_flush" not in world.do("nop").stats.get("vcpu0", {})


def test_an_exit_in_the_delivery_of_an_exception_names_it_as_idt_vectoring_information() -> None:
    world = World("long4", "vendor intel")
    world.ok("nop")
    exits_to_kvm = [event for event in world.do("cr3 0x20000").events if isinstance(event, Exit)]
    infos = [event.info2 for event in exits_to_kvm if event.reason_name == "EXCEPTION_NMI"]
    assert infos[0] == 0, "the fetch after it: the new tables are empty"
    assert infos[1] == 0x80000B0E, "the IDT entry for its #PF"


@pytest.mark.parametrize(
    ("flags", "qualification"), [(0x67, 0x781), (0x65, 0x381), (0x63, 0x581), (0x61, 0x181)]
)
def test_a_violation_says_what_the_guest_s_tables_allow(flags: int, qualification: int) -> None:
    world = World(
        "long4", "vendor intel", "param kvm_intel ept=1", f"map 0x1000 0x400000 0x800000 {flags:#x}"
    )
    world.ok("nop")
    faults = [event for event in world.ok("read 0x400000") if isinstance(event, PageFault)]
    assert [fault.error_code for fault in faults if fault.fault_address == 0x800000] == [qualification]


def test_a_processor_without_advanced_information_does_not() -> None:
    text = "vendor intel\nparam kvm_intel ept=1\nmode long4\nslot 0 0x0 16M\nalloc 0x2000\ntramp 0x1000\n"
    text += "map 0x1000 0x400000 0x800000 0x67\nstart cr3=0x1000\nread 0x400000\n"
    scenario = parse_scenario(text)
    processor = replace(INTEL, ept_advanced_info=False)
    player = Player(resolve(scenario), EventLog(), lambda machine: {}, implementation=processor)
    (played,) = player.play(scenario.ops)
    faults = [event for event in played.events if isinstance(event, PageFault)]
    assert [fault.error_code for fault in faults if fault.fault_address == 0x800000] == [0x181]


def test_the_role_learns_of_cr0_wp_when_kvm_walks_the_guest_s_tables() -> None:
    """The guest owns the bit: no exit, and no change until __kvm_mmu_refresh_passthrough_bits."""
    world = World("long4", "vendor intel", "param kvm_intel ept=1", "map 0x1000 0x400000 0x800000 0x67")
    world.ok("nop")
    role = world.vcpu.root_mmu.cpu_role
    assert not exits(world.ok("cr0 0x80000033"))
    assert world.vcpu.root_mmu.cpu_role == role
    world.do("translate 0x400000")
    assert world.vcpu.root_mmu.cpu_role == role & ~ROLE_CR0_WP


def pae_world() -> World:
    """A PAE guest with EPT that sees its PDPTEs, at 0x1000, at 0x500000; PDPTE 1 maps 0x40000000."""
    mapped = ("map 0x1000 0x500000 0x1000 0x67", "map 0x1000 0x40000000 0x900000 0x67")
    world = World("pae", "vendor intel", "param kvm_intel ept=1", *mapped)
    world.ok("nop", "read 0x40000000", "read 0x500008 8")
    return world


def test_pdptes_come_from_registers_until_cr3_or_cr4_pge_is_written() -> None:
    world = pae_world()
    pdpte = int(world.do("hostread 0x1008").result["value"], 16) & 0xFFFFFFFF
    world.ok("write 0x500008 0", "read 0x40000000", "cr3 0x1000")
    assert world.do("read 0x40000000").result["vector"] == 14
    world.ok(f"write 0x500008 {pdpte:#x}")
    assert world.do("read 0x40000000").result["vector"] == 14
    world.ok("cr4 0xa0", "read 0x40000000")


def test_a_reserved_bit_in_a_pdpte_is_gp_when_it_is_loaded() -> None:
    world = pae_world()
    world.ok("write 0x500008 0x4021")
    assert world.do("cr3 0x1000").result["vector"] == 13
    world.ok("read 0x40000000")


@pytest.mark.parametrize(("loads", "vector"), [(True, 14), (False, None)])
def test_whether_mov_to_cr0_loads_the_pdptes_is_the_processor_s(loads: bool, vector: int | None) -> None:
    """By the manual only one that changes CD, NW or PG does; the processor of the recordings always."""
    text = (
        "vendor intel\nparam kvm_intel ept=1\nmode pae\nslot 0 0x0 16M\nalloc 0x2000\ntramp 0x1000\n"
        "map 0x1000 0x500000 0x1000 0x67\nmap 0x1000 0x40000000 0x900000 0x67\nstart cr3=0x1000\n"
    )
    world = World.of(text, implementation=replace(INTEL, mov_cr0_loads_pdptes=loads))
    world.ok("nop", "read 0x40000000", "write 0x500008 0", "cr0 0x80000033")
    assert world.do("read 0x40000000").result.get("vector") == vector
