"""Walks of the processor without a TLB, rule by rule, then against a second walker on random tables."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest

from shadowmmu.x86.bits import (
    ACC_U,
    ACC_W,
    ACC_X,
    ADDR,
    FAULT,
    FETCH,
    NX,
    PF_VECTOR,
    PFERR_F,
    PFERR_P,
    PFERR_RSVD,
    PFERR_U,
    PFERR_W,
    PS,
    READ,
    WRITE,
    A,
    D,
    P,
    U,
    W,
)
from shadowmmu.x86.implementation import MANUAL, TCG, Implementation
from shadowmmu.x86.paging import paging_format, permission_bitmask, pse36_gfn_delta, reserved_bits
from shadowmmu.x86.processor import Processor
from shadowmmu.x86.walker import MachineCheck

GVA = 0x40_3123


@pytest.fixture
def walks(memory):
    def make(levels, **registers):
        cpu = Processor(memory.words, tlb=False)
        cpu.set_paging(levels=levels, **registers)
        cpu.root = memory.frame()
        return cpu, paging_format(levels)

    return make


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_a_page_is_found_and_marked_accessed(memory, walks, levels):
    cpu, form = walks(levels)
    leaf = memory.map(form, cpu.root, GVA, 0x5000 | P | W | U)
    assert cpu.access(GVA, READ) == 0x5123
    assert memory.get(form, leaf) == 0x5000 | P | W | U | A
    for level in range(2, levels + 1):
        entry = memory.get(form, memory.entry_at(form, cpu.root, GVA, level))
        assert bool(entry & A) == (levels != 3 or level != 3), "a PDPTE of PAE paging has no A"
        assert not entry & D
    assert cpu.counters()["loads"] == levels


def test_d_is_set_by_a_write_at_the_leaf_only(memory, walks):
    cpu, form = walks(4)
    leaf = memory.map(form, cpu.root, GVA, 0x5000 | P | W | U)
    assert cpu.access(GVA, WRITE) == 0x5123
    assert memory.get(form, leaf) == 0x5000 | P | W | U | A | D
    assert cpu.counters()["ad_sets"] == 4
    assert cpu.access(GVA, WRITE) == 0x5123
    assert cpu.counters()["ad_sets"] == 4


@pytest.mark.parametrize(
    ("levels", "level", "entry", "gva", "hpa"),
    [
        (2, 2, 0x40_0000, 0x7F_F123, 0x7F_F123),
        (3, 2, 0x20_0000, 0x7F_F123, 0x3F_F123),
        (4, 2, 0x20_0000, 0x7F_F123, 0x3F_F123),
        (4, 3, 0, 0x4000_0000 + 0x12_3456, 0x12_3456),
        (5, 3, 0, 0x4000_0000 + 0x12_3456, 0x12_3456),
    ],
)
def test_a_large_page(memory, levels, level, entry, gva, hpa):
    for tlb in (False, True):
        cpu = Processor(memory.words, tlb=tlb)
        cpu.set_paging(levels=levels)
        cpu.root = memory.frame()
        memory.map(paging_format(levels), cpu.root, gva, entry | P | W | U | PS, level)
        if hpa >= len(memory.words) << 3:
            with pytest.raises(MachineCheck):
                cpu.access(gva, READ)
        else:
            assert [cpu.access(gva, READ) for _ in range(2)] == [hpa, hpa]


def test_a_4_mib_page_has_physical_bits_35_to_32(memory, walks):
    cpu, form = walks(2)
    memory.map(form, cpu.root, GVA, 0x40_0000 | 1 << 13 | P | PS, 2)
    with pytest.raises(MachineCheck, match="0x100403123"):
        cpu.access(GVA, READ)


def test_without_pse_bit_7_of_a_2_level_directory_means_nothing(memory, walks):
    cpu, form = walks(2, cr4_pse=False)
    memory.map(form, cpu.root, GVA, 0x5000 | P)
    directory = memory.entry_at(form, cpu.root, GVA, 2)
    memory.set(form, directory, memory.get(form, directory) | PS)
    assert cpu.access(GVA, READ) == 0x5123


def test_a_pae_root_is_32_bytes_anywhere_in_a_frame(memory, walks):
    cpu, form = walks(3)
    cpu.root += 0x7E0
    memory.map(form, cpu.root, 0xC000_0000 | GVA, 0x5000 | P)
    assert cpu.access(0xC000_0000 | GVA, READ) == 0x5123


def test_a_pdpte_has_no_rights_but_reserved_bits(memory, walks):
    cpu, form = walks(3)
    memory.map(form, cpu.root, GVA, 0x5000 | P | W | U)
    assert cpu.access(GVA, WRITE) == 0x5123
    hpa = memory.entry_at(form, cpu.root, GVA, 3)
    for bit in (W, U, A, PS, 1 << 8, NX):
        memory.set(form, hpa, memory.get(form, hpa) | bit)
        assert cpu.access(GVA, READ) == FAULT
        assert cpu.fault_error_code == PFERR_P | PFERR_RSVD
        memory.set(form, hpa, memory.get(form, hpa) & ~bit)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_present_is_checked_before_reserved_bits_at_each_level(memory, walks, level):
    cpu, form = walks(4, maxphyaddr=40)
    cpu.user = True
    memory.map(form, cpu.root, GVA, 0x5000 | P)
    hpa = memory.entry_at(form, cpu.root, GVA, level)
    entry = memory.get(form, hpa) | 1 << 45
    memory.set(form, hpa, entry & ~P)
    assert cpu.access(GVA, WRITE) == FAULT
    assert (cpu.fault_vector, cpu.fault_gva, cpu.fault_error_code) == (PF_VECTOR, GVA, PFERR_W | PFERR_U)
    memory.set(form, hpa, entry)
    assert cpu.access(GVA, WRITE) == FAULT
    assert cpu.fault_error_code == PFERR_P | PFERR_W | PFERR_U | PFERR_RSVD
    assert memory.get(form, hpa) == entry, "an entry that fails is not marked accessed"
    for above in range(level + 1, 5):
        assert memory.get(form, memory.entry_at(form, cpu.root, GVA, above)) & A


def test_a_leaf_without_the_rights_is_not_marked(memory, walks):
    cpu, form = walks(4)
    leaf = memory.map(form, cpu.root, GVA, 0x5000 | P | U)
    assert cpu.access(GVA, WRITE) == FAULT
    assert cpu.fault_error_code == PFERR_P | PFERR_W
    assert memory.get(form, leaf) == 0x5000 | P | U


@pytest.mark.parametrize("level", [1, 2, 3, 4])
@pytest.mark.parametrize(("bit", "kind", "user", "code"), [
    (W, WRITE, False, PFERR_W),
    (U, READ, True, PFERR_U),
    (NX, FETCH, False, PFERR_F),
])  # fmt: skip
def test_a_right_must_be_given_at_every_level(memory, walks, level, bit, kind, user, code):
    cpu, form = walks(4)
    cpu.user = user
    memory.map(form, cpu.root, GVA, 0x5000 | P | W | U)
    assert cpu.access(GVA, kind) == 0x5123
    hpa = memory.entry_at(form, cpu.root, GVA, level)
    memory.set(form, hpa, memory.get(form, hpa) ^ bit)
    assert cpu.access(GVA, kind) == FAULT
    assert cpu.fault_error_code == PFERR_P | code


@pytest.mark.parametrize(
    ("levels", "nx", "smep", "code"),
    [
        (4, True, False, PFERR_F),
        (4, False, True, PFERR_F),
        (4, False, False, 0),
        (2, True, False, 0),
        (2, True, True, PFERR_F),
    ],
)
def test_fetch_is_reported_if_nx_or_smep_is_on(walks, levels, nx, smep, code):
    cpu, _ = walks(levels, efer_nx=nx, cr4_smep=smep)
    assert cpu.access(GVA, FETCH) == FAULT
    assert cpu.fault_error_code == code


@pytest.mark.parametrize("mode", range(16))
@pytest.mark.parametrize("registers", range(16))
def test_rights_are_those_of_the_permission_table(memory, walks, registers, mode):
    """All combinations of CR0.WP, EFER.NX, SMEP, SMAP with kind, user, EFLAGS.AC and the page's rights."""
    wp, nx, smep, smap = (bool(registers >> bit & 1) for bit in range(4))
    kind, user, ac = mode & 3, mode >> 2 & 1, mode >> 3
    if kind == 3:
        return
    table = permission_bitmask(wp=wp, nx=nx, smep=smep, smap=smap)
    index = (kind == WRITE) | user << 1 | ac << 2 | (kind == FETCH) << 3
    cpu, form = walks(4, cr0_wp=wp, efer_nx=nx, cr4_smep=smep, cr4_smap=smap)
    cpu.user, cpu.eflags_ac = bool(user), bool(ac)
    for acc in range(8):
        if not acc & ACC_X and not nx:
            continue
        rights = (W if acc & ACC_W else 0) | (U if acc & ACC_U else 0) | (0 if acc & ACC_X else NX)
        memory.map(form, cpu.root, GVA, 0x5000 | P | rights)
        faults = table[index] >> acc & 1
        assert cpu.access(GVA, kind) == (FAULT if faults else 0x5123)
        if not user and not ac:
            cpu.user, cpu.eflags_ac = True, True
            assert cpu.implicit_access(GVA, kind) == (FAULT if faults else 0x5123)
            cpu.user, cpu.eflags_ac = False, False


def test_without_paging_an_address_is_physical(memory):
    cpu = Processor(memory.words)
    cpu.user = True
    assert [cpu.access(GVA & 0xF_FFFF, kind) for kind in (READ, WRITE, FETCH)] == [GVA & 0xF_FFFF] * 3
    with pytest.raises(MachineCheck):
        cpu.access(0xFFFF_F000, READ)


@pytest.mark.parametrize("level", [1, 2, 3, 4])
def test_an_entry_beyond_memory_is_a_machine_check_and_beyond_maxphyaddr_a_fault(memory, walks, level):
    cpu, form = walks(4, maxphyaddr=40)
    hpa = memory.map(form, cpu.root, GVA, 0x5000 | P | W | U)
    if level > 1:
        hpa = memory.entry_at(form, cpu.root, GVA, level)
    memory.set(form, hpa, 1 << 39 | P | W | U)
    with pytest.raises(MachineCheck, match="no memory at physical address 0x8"):
        cpu.access(GVA, READ)
    memory.set(form, hpa, 1 << 40 | P | W | U)
    assert cpu.access(GVA, READ) == FAULT
    assert cpu.fault_error_code & PFERR_RSVD


def test_a_root_beyond_memory_is_a_machine_check(memory, walks):
    cpu, _ = walks(4)
    cpu.root = len(memory.words) << 3
    with pytest.raises(MachineCheck):
        cpu.access(GVA, READ)
    assert issubclass(MachineCheck, IndexError)


def second_walker(memory, form, root, gva, mode, registers):
    """The same rules, written from the manual's sequence; an hpa, or -1 - error code for a page fault."""
    kind, user, ac = mode & 3, mode >> 2 & 1, mode >> 3
    code = (PFERR_W if kind == WRITE else 0) | (PFERR_U if user else 0)
    nx = registers["efer_nx"] and form.levels != 2
    if kind == FETCH and (nx or registers["cr4_smep"]):
        code |= PFERR_F
    reserved = reserved_bits(
        form.levels, registers["maxphyaddr"], nx=registers["efer_nx"], pse=True, gbpages=True, amd=True
    )
    acc, table = 7, root
    for level in range(form.levels, 0, -1):
        hpa = table + form.index(gva, level) * form.entry_bytes
        if hpa >> 3 >= len(memory.words):
            raise MachineCheck
        entry = memory.get(form, hpa)
        if not entry & P:
            return -1 - code
        pdpte = form.levels == level == 3
        if entry & reserved[0 if pdpte or not entry & PS else 1][level - 1]:
            return -1 - (code | PFERR_P | PFERR_RSVD)
        table = entry & ADDR
        if pdpte:
            continue
        acc &= (ACC_W if entry & W else 0) | (ACC_U if entry & U else 0) | (0 if entry & NX else ACC_X)
        if level == 1 or entry & PS:
            break
        memory.set(form, hpa, entry | A)
    faulting = permission_bitmask(
        wp=registers["cr0_wp"], nx=nx, smep=registers["cr4_smep"], smap=registers["cr4_smap"]
    )
    if faulting[(kind == WRITE) | user << 1 | ac << 2 | (kind == FETCH) << 3] >> acc & 1:
        return -1 - (code | PFERR_P)
    memory.set(form, hpa, entry | A | (D if kind == WRITE else 0))
    size = 1 << form.level_shift(level)
    page = (entry & ADDR & -size) + (pse36_gfn_delta(entry) << 12 if form.levels == level == 2 else 0)
    if page + gva % size >= len(memory.words) << 3:
        raise MachineCheck
    return page + gva % size


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(8))
def test_random_tables_give_what_a_second_walker_gives(memory, levels, seed):
    rng = random.Random(f"{levels} {seed}")
    form = paging_format(levels)
    registers = {name: rng.random() < 0.5 for name in ("cr0_wp", "efer_nx", "cr4_smep", "cr4_smap")}
    registers["maxphyaddr"] = 36
    frames = 8
    width = 8 * form.entry_bytes
    for frame in range(1, frames):
        for i in range(4096 // form.entry_bytes):
            address = rng.randrange(1, frames) << 12 if rng.random() < 0.99 else rng.getrandbits(40) & ADDR
            entry = address | P | rng.choice([W | U, W | U, rng.getrandbits(7) & ~0x18])
            if rng.random() < 0.05:
                entry |= PS
            for bit, chance in ((NX, 0.1), (1 << rng.randrange(width), 0.05)):
                entry ^= bit if rng.random() < chance else 0
            memory.set(form, (frame << 12) + i * form.entry_bytes, entry & (1 << width) - 1)
    cpu = Processor(memory.words, tlb=False)
    cpu.set_paging(levels=levels, **registers)
    cpu.root = 0x1000
    if levels == 3:
        for i in range(4):
            memory.words[(0x1000 >> 3) + i] = 0x2000 + 0x1000 * i | P
    before = bytes(memory.words)
    for _ in range(300):
        gva = rng.getrandbits(form.virtual_bits - 1)
        mode = rng.choice([READ, WRITE, FETCH]) | rng.randrange(4) << 2
        outcomes = []
        memory.words[:] = memoryview(before).cast("Q")
        try:
            outcomes.append(second_walker(memory, form, cpu.root, gva, mode, registers))
        except MachineCheck:
            outcomes.append(None)
        expected = bytes(memory.words[: frames << 9])
        memory.words[:] = memoryview(before).cast("Q")
        cpu.user, cpu.eflags_ac = bool(mode & 4), bool(mode & 8)
        try:
            hpa = cpu.access(gva, mode & 3)
            outcomes.append(-1 - cpu.fault_error_code if hpa == FAULT else hpa)
        except MachineCheck:
            outcomes.append(None)
        assert outcomes[0] == outcomes[1], (hex(gva), mode)
        assert bytes(memory.words[: frames << 9]) == expected


@pytest.mark.parametrize(("implementation", "reserved"), [(MANUAL, True), (TCG, False)])
def test_bit_8_of_upper_entries(implementation: Implementation, reserved: bool) -> None:
    """AMD's manual reserves it at levels 4 and 5; QEMU's processor ignores it."""
    words = memoryview(bytearray(1 << 16)).cast("B").cast("Q")
    words[0x1000 >> 3], words[0x2000 >> 3], words[0x3000 >> 3] = 0x2107, 0x3007, 0x87
    cpu = Processor(words, tlb=False, implementation=implementation)
    cpu.set_paging(levels=4, cr0_wp=True, efer_nx=True, cr4_smep=False, cr4_smap=False, maxphyaddr=40)
    cpu.root = 0x1000
    assert (cpu.access(0x5000, READ) == FAULT) == reserved


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("levels", [2, 3, 4, 5])
@pytest.mark.parametrize("caches", [True, False])
def test_when_accessed_is_set_on_the_way_is_the_processor_s(at_end: bool, levels: int, caches: bool) -> None:
    """Of a walk that ends in a page fault it is set as the walk goes, or not at all; afterwards always.

    What has it clear is not cached either.
    """
    words = memoryview(bytearray(1 << 16)).cast("B").cast("Q")
    tables = [0x1000 * (1 + n) for n in range(levels)]
    for table, target in pairwise(tables):
        words[table >> 3] = target | (P if levels == 3 and table == 0x1000 else P | W | U)
    words[tables[-1] >> 3] = 0x8000 | P
    cpu = Processor(words, tlb=caches, implementation=replace(MANUAL, accessed_at_end=at_end))
    cpu.set_paging(levels=levels, cr0_wp=True, efer_nx=True, cr4_smep=False, cr4_smap=False, maxphyaddr=40)
    cpu.root = 0x1000
    marked = [table for table in tables[:-1] if levels != 3 or table != 0x1000]
    for _ in range(2):
        assert cpu.access(0, WRITE) == FAULT
    assert [bool(words[table >> 3] & A) for table in marked] == [not at_end] * len(marked)
    assert cpu.access(0, READ) == 0x8000
    assert all(words[table >> 3] & A for table in [*marked, tables[-1]])
    assert levels != 3 or not words[0x1000 >> 3] & A, "a PDPTE has no such bit"


@pytest.mark.parametrize("at_end", [True, False])
def test_accessed_is_set_in_both_entries_of_a_word_that_a_walk_uses(at_end: bool) -> None:
    words = memoryview(bytearray(1 << 16)).cast("B").cast("Q")
    words[0x1000 >> 3] = (0x8000 | P | W) << 32 | 0x1000 | P | W
    cpu = Processor(words, implementation=replace(MANUAL, accessed_at_end=at_end))
    cpu.set_paging(levels=2, cr0_wp=True, efer_nx=False, cr4_smep=False, cr4_smap=False, maxphyaddr=40)
    cpu.root = 0x1000
    assert cpu.access(0x1000, WRITE) == 0x8000
    assert words[0x1000 >> 3] == (0x8000 | P | W | A | D) << 32 | 0x1000 | P | W | A
