"""Coherence finds what must not be, each kind of it, and lets pass what processors may do."""

import pytest
from check.machine import GPA, GPTE, GVA, OTHER, SETUP, WINDOW, Machine
from kvm.nested_world import DATA, NPT, WINDOW as L1_TABLES, nested_text

from shadowmmu.check.random.fuzz import check_lines, default_checkers
from shadowmmu.check.random.ground import Ground
from shadowmmu.check.random.ground_setup import MMUS, MODES, PROFILES
from shadowmmu.x86.bits import ADDR, NESTED_W, NESTED_X, NX, D, G, P, U, W

SWITCH = "cr3 0x1000"
TLB_BITS = P | W | U | D | NESTED_W | NESTED_X
GUESTS = [
    (mode, mmu, profile)
    for mode in MODES
    for mmu in MMUS
    for profile in PROFILES
    if (mode, mmu) != ("nopaging", "nested")
]


def frame(machine: Machine, gva: int = GVA) -> int:
    return machine.spte(gva) & ADDR


# -- what must not be ------------------------------------------------------------------------------------


def test_an_spte_to_another_frame() -> None:
    machine = Machine()
    machine.fine(f"read {GVA:#x}", f"read {OTHER:#x}")
    machine.set_spte(machine.spte() & ~ADDR | frame(machine, OTHER))
    assert "wrong-frame" in machine.predicates()


def test_an_spte_to_a_frame_outside_guest_memory() -> None:
    machine = Machine()
    machine.fine(f"read {GVA:#x}")
    machine.set_spte(machine.spte() & ~ADDR | 0x3000)
    found = machine.look()
    assert {violation.predicate for violation in found} == {"frame-outside-memory"}
    text = found[0].text()
    assert f"gva {GVA:#x}" in text
    assert f"at gpa 0x4000: {GPA | 0x67:#x}" in text
    assert "L1 [0] of page" in text


@pytest.mark.parametrize(
    ("gva", "more"),
    [(0x402000, W), (0x403000, U), (0x404000, W)],
    ids=["read-only slot", "supervisor page", "page not writable"],
)
def test_an_spte_with_more_rights(gva: int, more: int) -> None:
    machine = Machine()
    machine.fine(f"read {gva:#x}")
    machine.set_spte(machine.spte(gva) | more, gva)
    assert machine.predicates() == {"more-rights"}


def test_an_spte_that_lost_nx() -> None:
    machine = Machine(setup=[*SETUP[:-1], f"pt 0x4000 0 {GPA | 0x67 | NX:#x}", SETUP[-1]])
    machine.fine(f"read {GVA:#x}")
    machine.set_spte(machine.spte() & ~NX)
    assert machine.predicates() == {"more-rights"}


def test_an_spte_that_a_flush_should_have_removed() -> None:
    machine = Machine()
    machine.fine(f"read {GVA:#x}", f"read {OTHER:#x}")
    spte = machine.spte()
    machine.fine(f"write {GPTE:#x} 0x0", f"invlpg {GVA:#x}")
    machine.set_spte(spte)
    assert machine.predicates() == {"stale-translation"}


def test_an_spte_that_an_invalidation_should_have_removed() -> None:
    machine = Machine()
    machine.fine(f"read {GVA:#x}", f"read {OTHER:#x}")
    sptep, spte = machine.sptep(), machine.spte()
    machine.fine(f"remap {GPA:#x} 0x1000")
    machine.words[sptep >> 3] = spte
    assert machine.predicates() == {"frame-outside-memory"}


def test_a_writable_spte_of_a_clean_page() -> None:
    machine = Machine()
    machine.fine(f"read {GVA:#x}", f"write {OTHER:#x} 1")
    spte = machine.spte(OTHER)
    assert spte & W
    machine.fine("dirtylog on 2", "getdirty 2", f"read {OTHER:#x}")
    machine.set_spte(spte, OTHER)
    assert machine.predicates() == {"not-logged"}


def test_a_writable_spte_of_a_page_that_is_in_no_ring() -> None:
    setup = [SETUP[0], SETUP[1], "cap 192 4096", *SETUP[2:]]
    machine = Machine(setup=setup)
    machine.fine("dirtylog on 2", f"write {OTHER:#x} 1", "harvestring")
    spte = machine.spte(OTHER)
    assert spte & W
    machine.fine("resetrings", f"read {OTHER:#x}")
    assert not machine.spte(OTHER) & W
    machine.set_spte(spte, OTHER)
    assert machine.predicates() == {"not-logged"}


def test_accessed_bits_that_no_log_mentions() -> None:
    tables = ["slot 4 0x28000000 64K dirty", "pt 0x1000 1 0x28000027", "pt 0x28000000 0 0x28001027"]
    tables += ["pt 0x28001000 0 0x28002027", "pt 0x28002000 0 0x800007"]
    found = {}
    for defect in ("none", "table_write_unlogged"):
        machine = Machine(f"design defect={defect}", setup=[*SETUP[:-1], *tables, SETUP[-1]])
        machine.fine("getdirty 4")
        found[defect] = {violation.predicate for violation in machine.do("read 0x8000000000")}
    assert found == {"none": set(), "table_write_unlogged": {"not-logged"}}


@pytest.mark.parametrize("level", [1, 2])
def test_a_tlb_entry_that_nobody_allows(level: int) -> None:
    machine = Machine()
    machine.fine(f"read {GVA:#x}")
    machine.vcpu.cpu.tlb.insert(0x500000, 0, frame(machine) | TLB_BITS, level)
    assert machine.predicates() == {"stale-translation"}


def test_a_tlb_entry_with_more_rights() -> None:
    machine = Machine()
    machine.fine("read 0x404000")
    machine.vcpu.cpu.tlb.insert(0x404000, 0, frame(machine, 0x404000) | TLB_BITS, 1)
    assert machine.predicates() == {"more-rights"}


def test_a_tlb_entry_that_a_flush_should_have_removed() -> None:
    machine = Machine()
    machine.fine(f"write {GVA:#x} 1")
    entry = frame(machine) | TLB_BITS
    machine.fine(f"write {GPTE:#x} 0x801067", f"invlpg {GVA:#x}")
    machine.vcpu.cpu.tlb.insert(GVA, 0, entry, 1)
    assert machine.predicates() == {"wrong-frame"}


def test_a_value_that_is_not_in_memory() -> None:
    machine = Machine()
    (found,) = machine.result(f"read {GVA:#x}", value="0x77")
    assert found.predicate == "wrong-value"
    assert "memory has 0x0" in found.says


def test_an_exception_that_the_tables_do_not_ask_for() -> None:
    machine = Machine()
    claimed = {"outcome": "exception", "vector": 14, "error_code": "0x0", "cr2": f"{GVA:#x}"}
    (found,) = machine.result(f"read {GVA:#x}", **claimed)
    assert found.predicate == "refused"
    assert not machine.result(f"read {GVA:#x}", **{**claimed, "cr2": "0x700000"})
    assert not machine.result("read 0x404000", **{**claimed, "error_code": "0x7", "cr2": "0x404000"})


@pytest.mark.parametrize("npt", [0, 1])
def test_an_exception_of_an_emulator_that_lacks_the_pdptes(npt: int) -> None:
    """The access sets A in a PDPTE where the processor walks them in memory, and KVM takes it for invalid."""
    pae = [line.replace("long4", "pae") for line in SETUP if "0x10000000" not in line]
    machine = Machine(f"param kvm_amd npt={npt}", setup=pae)
    machine.fine(f"read {GVA:#x}")
    claimed = {"outcome": "exception", "vector": 14, "error_code": "0x10", "cr2": f"{GVA:#x}"}
    assert {found.predicate for found in machine.result("nop", **claimed)} == (set() if npt else {"refused"})


def test_an_access_that_never_ends() -> None:
    machine = Machine()
    machine.fine(f"read {GVA:#x}")
    machine.fine("read 0x700000")
    assert not machine.result(f"read {GVA:#x}", outcome="timeout")


L2_READ = f"l2read {DATA:#x}"
UNMAPPED, READ_ONLY, EXECUTED = 0x900000, 0x910000, 0x920000


def l1_machine(mode: str = "long4") -> Machine:
    """A hypervisor whose L2 has pages at DATA, one that is read-only, and one without execute rights."""
    maps = [f"npt map {NPT:#x} {READ_ONLY:#x} {DATA:#x} 0x65"]
    if mode == "long4":
        maps.append(f"npt map {NPT:#x} {EXECUTED:#x} {DATA:#x} {0x67 | NX:#x}")
    return Machine(setup=nested_text(*maps, mode=mode).splitlines())


@pytest.mark.parametrize("mode", ["long4", "pae", "32"])
def test_a_value_that_l2_does_not_have_in_memory(mode: str) -> None:
    machine = l1_machine(mode)
    machine.fine(L2_READ)
    (found,) = machine.result(L2_READ, value="0x77")
    assert found.predicate == "wrong-value"
    assert f"in L2 read 0x77 at {DATA:#x}; memory has 0x0" in found.says


def npf(address: int, error_code: int) -> dict[str, str]:
    return {
        "outcome": "vmexit",
        "code": "0x400",
        "info1": f"{1 << 32 | error_code:#x}",
        "info2": f"{address:#x}",
    }


@pytest.mark.parametrize("first", ["nop", L2_READ], ids=["from L1", "from L2"])
@pytest.mark.parametrize("mode", ["long4", "pae", "32"])
def test_an_npf_exit_that_l1s_tables_do_not_ask_for(mode: str, first: str) -> None:
    machine = l1_machine(mode)
    machine.fine(L2_READ, "l2exit", first)
    (found,) = machine.result(f"l2read {UNMAPPED:#x}", **npf(DATA, 0x4))
    assert found.predicate == "refused"
    assert f"got #VMEXIT(NPF, 0x4) at {DATA:#x}, which L1's nested tables allow" in found.says
    assert any("at gpa" in line for line in found.shows)


def test_npf_exits_that_l1s_tables_ask_for() -> None:
    machine = l1_machine()
    machine.fine(L2_READ, f"l2read {READ_ONLY:#x}", f"l2read {EXECUTED:#x}")
    machine.fine(f"l2read {UNMAPPED:#x}", f"l2write {READ_ONLY:#x} 1", f"l2exec {EXECUTED:#x}")
    assert not machine.result(f"l2read {UNMAPPED:#x}", **npf(READ_ONLY, 0x7))
    assert not machine.result(f"l2read {UNMAPPED:#x}", **npf(EXECUTED, 0x15))
    assert machine.result(f"l2read {UNMAPPED:#x}", **npf(READ_ONLY, 0x5))


def test_other_exits_of_l2_are_not_judged() -> None:
    assert not l1_machine().result("l2exit", code="0x81", info1="0x0", info2=f"{DATA:#x}")


# -- what may be -----------------------------------------------------------------------------------------


def test_translations_are_lazy_until_a_flush() -> None:
    machine = Machine()
    machine.fine(f"write {GVA:#x} 5", f"write {GPTE:#x} 0x801067", f"read {GVA:#x}")
    machine.vcpu.cpu.tlb.insert(GVA, 0, machine.coherence.memory.page(GPA >> 12, 0) | TLB_BITS, 1)
    assert not machine.look()
    machine.fine(f"@1 invlpg {GVA:#x}")
    assert not machine.look()
    found = machine.do(SWITCH)
    assert not found, "a real flush empties the TLB too"
    machine.vcpu.cpu.tlb.insert(GVA, 0, machine.coherence.memory.page(GPA >> 12, 0) | TLB_BITS, 1)
    assert machine.predicates() == {"wrong-frame"}


def test_a_pdpte_of_nested_tables_is_never_a_page() -> None:
    """Bit 7 of it is reserved, but KVM reads it as it is: it points to a table."""
    machine = Machine(setup=nested_text(mode="pae").splitlines())
    address = 0x40000000 + DATA
    machine.fine(f"write {L1_TABLES + 8:#x} {NPT + 0x1000 | 0x9F:#x}", f"l2read {address:#x}")
    regs, flushes = machine.coherence.guest_registers(machine.vcpu), machine.coherence.flushes[0]
    assert [gpa for gpa, _ in machine.coherence.ways(regs, flushes, address)] == [DATA]


def test_a_pending_flush_excuses_the_tlb() -> None:
    machine = Machine()
    machine.fine(f"read {GVA:#x}")
    machine.vcpu.cpu.tlb.insert(0x500000, 0, frame(machine) | TLB_BITS, 1)
    machine.vcpu.requests |= 1 << 3
    assert not machine.look()


def test_global_translations_outlive_cr3() -> None:
    npt = "param kvm_amd npt=1"
    entry = GPA | 0x167
    setup = [*SETUP[:-1], f"pt 0x4000 0 {entry:#x}", SETUP[-1]]
    machine = Machine(npt, setup=setup)
    machine.fine("cr4 0xa0", f"write {GVA:#x} 1", f"write {GPTE:#x} 0x801067", SWITCH)
    old = machine.coherence.memory.page(GPA >> 12, 0)
    machine.vcpu.cpu.tlb.insert(GVA, 0, old | TLB_BITS | G, 1)
    assert not machine.look()
    machine.fine(f"invlpg {GVA:#x}")
    machine.vcpu.cpu.tlb.insert(GVA, 0, old | TLB_BITS | G, 1)
    assert machine.predicates() == {"wrong-frame"}


def test_global_translations_outlive_the_pdpte_registers_that_they_came_through() -> None:
    other, address = 0x801000, 0x40000000
    setup = [
        "vendor intel",
        "param kvm_intel ept=1",
        "mode pae",
        "slot 0 0x0 16M",
        "alloc 0x2000",
        "tramp 0x1000",
        f"map 0x1000 {WINDOW:#x} 0x0 0x67 n=16",
        "pt 0x1000 1 0x10001",
        "pt 0x10000 0 0x11027",
        f"pt 0x11000 0 {GPA | 0x167:#x}",
        "pt 0x12000 0 0x13027",
        f"pt 0x13000 0 {other | 0x167:#x}",
        "start cr3=0x1000",
    ]
    machine = Machine(setup=setup)
    machine.fine("cr4 0xa0", f"write {address:#x} 1", f"write {WINDOW + 0x1008:#x} 0x12001", SWITCH)
    assert not machine.look()
    machine.fine(f"invlpg {address:#x}")
    old = machine.coherence.memory.page(GPA >> 12, 0)
    machine.vcpu.cpu.tlb.insert(address, 0, old | TLB_BITS | G, 1)
    assert machine.predicates() == {"wrong-frame"}


PDPTES = [
    "mode pae",
    "slot 0 0x0 16M",
    "alloc 0x2000",
    "tramp 0x1000",
    f"map 0x1000 {WINDOW:#x} 0x0 0x67 n=16",
    "pt 0x1000 1 0x10001",
    "pt 0x10000 0 0x11027",
    f"pt 0x11000 0 {GPA | 0x67:#x}",
    "pt 0x12000 0 0x13027",
    "pt 0x13000 0 0x801067",
    "start cr3=0x1000",
]
"""Two page directories, of which the guest's second PDPTE maps the first."""


@pytest.mark.parametrize("value", [0x80000033, 0x80010033])
def test_every_mov_to_cr0_that_does_not_exit_loads_the_pdpte_registers_of_the_recorded_processor(
    value: int,
) -> None:
    machine = Machine("vendor intel", "param kvm_intel ept=1", setup=PDPTES)
    machine.fine("nop", f"write {WINDOW + 0x1008:#x} 0x12001", f"cr0 {value:#x}", "read 0x40000000")
    assert not machine.look()


@pytest.mark.parametrize("pdpte", [0x12001, 0])
def test_translations_outlive_pdpte_registers_that_are_replaced_without_a_flush(pdpte: int) -> None:
    machine = Machine("vendor intel", "param kvm_intel ept=1", setup=PDPTES)
    address = 0x40000000
    machine.fine("nop", f"read {address:#x}", f"write {WINDOW + 0x1008:#x} {pdpte:#x}")
    machine.fine("cr0 0x80000033", f"read {address:#x}", f"read {address:#x}")
    old = machine.coherence.memory.page(GPA >> 12, 0)
    machine.fine(f"invlpg {address:#x}")
    machine.vcpu.cpu.tlb.insert(address, 0, old | TLB_BITS, 1)
    assert machine.predicates() == {"wrong-frame" if pdpte else "stale-translation"}


@pytest.mark.parametrize("bit", [0x40000000, 0x20000000], ids=["CD", "NW with CD"])
def test_cache_control_in_cr0_loads_the_pdpte_registers(bit: int) -> None:
    machine = Machine(setup=PDPTES)
    machine.fine(
        "nop", f"write {WINDOW + 0x1008:#x} 0x12001", f"cr0 {0xC0010033 | bit:#x}", "read 0x40000000"
    )
    assert not machine.look()


PCIDS = [
    "vendor intel",
    *SETUP[:-1],
    "tramp 0x7000",
    "pt 0x7000 0 0x2027",
    "pt 0x7000 1 0x8027",
    "pt 0x8000 0 0x9027",
]
PCIDS += ["pt 0x9000 2 0x4027", SETUP[-1], "cr4 0x20020"]
"""Another root, below which the table of GVA is also at another place."""


@pytest.mark.parametrize("pcid", [0, 1])
def test_a_flush_of_one_pcid_leaves_others_alone(pcid: int) -> None:
    machine = Machine(setup=PCIDS[:-1])
    machine.fine(PCIDS[-1], f"read {GVA:#x}", f"write {GPTE:#x} 0x801067", f"cr3 {0x7000 | pcid:#x}")
    machine.fine("cr3 0x8000000000001000" if pcid else "nop")
    old = machine.coherence.memory.page(GPA >> 12, 0) | TLB_BITS
    machine.vcpu.cpu.tlb.insert(GVA, 0, old, 1)
    assert machine.predicates() == (set() if pcid else {"wrong-frame"})
    assert machine.coherence.flushes[0].pcid == 0


@pytest.mark.parametrize(
    ("defect", "lines"),
    [
        ("pcid_roots_kept", ["cr3 0x7000", "cr3 0x8000000000001000"]),
        (
            "invlpg_current_root",
            ["cr3 0x8000000000007000", f"read {WINDOW:#x}", f"invlpg {GVA:#x}", "cr3 0x8000000000001000"],
        ),
    ],
)
def test_a_flush_is_one_of_all_roots_of_a_pcid(defect: str, lines: list[str]) -> None:
    setup = [line for line in PCIDS[:-1] if line != "pt 0x7000 0 0x2027"]
    found = {}
    for switch in ("none", defect):
        machine = Machine(f"design defect={switch}", setup=setup)
        machine.fine(PCIDS[-1], f"read {GVA:#x}", f"write {GPTE:#x} 0x801067", *lines[:-1])
        found[switch] = {violation.predicate for violation in machine.do(lines[-1])}
    assert found == {"none": set(), defect: {"wrong-frame"}}


def test_what_the_host_changed_unseen_may_stay() -> None:
    machine = Machine()
    machine.fine(f"read {GVA:#x}", f"hostwrite 0x4000 {0x801067:#x} size=8", SWITCH, f"read {GVA:#x}")
    assert frame(machine) == machine.coherence.memory.page(GPA >> 12, 0)
    assert not machine.look()


def test_a_guest_that_changes_the_next_entry_of_four_bytes_shows_nothing_of_this_one() -> None:
    setup = ["mode 32", "slot 0 0x0 16M", "slot 2 0x20000000 256K", "alloc 0x2000", "tramp 0x45000"]
    setup += ["map 0x45000 0xe0005000 0x45000 0x67", "pt 0x42000 1 0x20004047", "pt 0x43000 1 0x2000a047"]
    ops = ["pt 0x45000 0 0x42027", "start cr3=0x45000", "read 0x1000", "hostwrite 0x45000 0x43025 size=4"]
    assert check_lines([*setup, *ops, "write 0xe0005004 0x40000 size=4", "cr3 0x45000"]) is None


# -- whole guests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "mmu", "profile"), GUESTS)
def test_random_guests_survive(mode: str, mmu: str, profile: str) -> None:
    """On the unmodified model nothing is found, op by op, with the audit on."""
    ground = Ground(mode, mmu, profile, 1)
    lines = list(ground.setup)
    end = len(lines) + 25
    while len(lines) < end:
        lines += ground.lines()
    violation = check_lines(lines, make=default_checkers)
    assert violation is None, violation.text()
