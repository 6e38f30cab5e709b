"""What TLB and paging-structure caches show: staleness, flushes, PCIDs; and the two modes compared."""

import hashlib
import itertools
import os
import random
import subprocess
import sys
from array import array

import pytest

import shadowmmu
from shadowmmu.x86.bits import (
    FAULT,
    FETCH,
    GP_VECTOR,
    NX,
    PFERR_P,
    PFERR_W,
    PS,
    READ,
    WRITE,
    A,
    D,
    G,
    P,
    U,
    W,
)
from shadowmmu.x86.paging import FOUR_LEVEL, paging_format
from shadowmmu.x86.processor import Processor
from shadowmmu.x86.walker import MachineCheck

GVA = 0x40_3123
RIGHTS = P | W | U


def test_a_second_access_does_not_walk(memory, cached):
    memory.map(FOUR_LEVEL, cached.root, GVA, 0x5000 | RIGHTS)
    assert [cached.access(GVA, READ) for _ in range(3)] == [0x5123] * 3
    assert cached.counters() == {"l1_hits": 2, "l2_hits": 0, "walks": 1, "loads": 4, "ad_sets": 4}


@pytest.mark.parametrize("flush", ["flush_all", "flush_current", "flush_gva"])
def test_a_translation_is_stale_until_it_is_flushed(memory, cached, flush):
    memory.map(FOUR_LEVEL, cached.root, GVA, 0x5000 | RIGHTS)
    cached.access(GVA, READ)
    memory.map(FOUR_LEVEL, cached.root, GVA, 0)
    assert cached.access(GVA, READ) == 0x5123
    getattr(cached, flush)(*([GVA] if flush == "flush_gva" else []))
    assert cached.access(GVA, READ) == FAULT


def test_without_a_tlb_nothing_is_stale(memory):
    cpu = Processor(memory.words, tlb=False)
    cpu.set_paging(levels=4)
    cpu.root = memory.frame()
    memory.map(FOUR_LEVEL, cpu.root, GVA, 0x5000 | RIGHTS)
    assert cpu.access(GVA, READ) == 0x5123
    for level in (1, 4):
        hpa = memory.entry_at(FOUR_LEVEL, cpu.root, GVA, level)
        entry = memory.words[hpa >> 3]
        memory.words[hpa >> 3] = 0
        assert cpu.access(GVA, READ) == FAULT
        memory.words[hpa >> 3] = entry
    assert cpu.counters()["l1_hits"] == 0
    assert cpu.tlb.translations() == []


def test_a_write_through_a_clean_translation_walks_to_set_d(memory, cached):
    leaf = memory.map(FOUR_LEVEL, cached.root, GVA, 0x5000 | RIGHTS)
    cached.access(GVA, READ)
    assert cached.access(GVA, WRITE) == 0x5123
    assert memory.words[leaf >> 3] & D
    assert cached.counters()["walks"] == 2
    cached.access(GVA, WRITE)
    assert cached.counters()["walks"] == 2


def test_more_rights_in_memory_are_found_without_a_flush(memory, cached):
    """A translation that does not suffice is looked up again: a fault is never a matter of the TLB alone."""
    memory.map(FOUR_LEVEL, cached.root, GVA, 0x5000 | P | U)
    cached.access(GVA, READ)
    memory.map(FOUR_LEVEL, cached.root, GVA, 0x6000 | RIGHTS)
    assert cached.access(GVA, READ) == 0x5123
    assert cached.access(GVA, WRITE) == 0x6123
    assert cached.access(GVA, READ) == 0x6123


def test_a_fault_by_cached_upper_levels_is_confirmed_in_memory(memory, cached):
    memory.map(FOUR_LEVEL, cached.root, GVA, 0x5000 | RIGHTS)
    directory = memory.entry_at(FOUR_LEVEL, cached.root, GVA, 2)
    memory.words[directory >> 3] &= ~W
    cached.access(GVA, READ)
    memory.words[directory >> 3] |= W
    assert cached.access(GVA, WRITE) == 0x5123, "the cached directory entry is read-only, memory is not"
    memory.words[directory >> 3] &= ~W
    cached.flush_all()
    assert cached.access(GVA, WRITE) == FAULT
    assert cached.fault_error_code == PFERR_P | PFERR_W


def test_a_neighbour_starts_at_the_lowest_cached_level(memory, cached):
    memory.map(FOUR_LEVEL, cached.root, GVA, 0x5000 | RIGHTS)
    memory.map(FOUR_LEVEL, cached.root, GVA + 0x1000, 0x6000 | RIGHTS)
    memory.map(FOUR_LEVEL, cached.root, GVA + 0x20_0000, 0x7000 | RIGHTS)
    memory.map(FOUR_LEVEL, cached.root, GVA + 0x4000_0000, 0x8000 | RIGHTS)
    loads = [0]
    for gva in (GVA, GVA + 0x1000, GVA + 0x20_0000, GVA + 0x4000_0000):
        cached.access(gva, READ)
        loads.append(cached.counters()["loads"])
    assert [after - before for before, after in itertools.pairwise(loads)] == [4, 1, 2, 3]


def test_a_fault_drops_the_translation_of_its_address(memory, cached):
    memory.map(FOUR_LEVEL, cached.root, GVA, 0x5000 | RIGHTS)
    cached.access(GVA, READ)
    memory.map(FOUR_LEVEL, cached.root, GVA, 0)
    assert cached.access(GVA, READ) == 0x5123
    assert cached.access(GVA, WRITE) == FAULT, "D was clear"
    assert cached.access(GVA, READ) == FAULT


def test_nx_of_a_cached_upper_level_counts(memory, cached):
    memory.map(FOUR_LEVEL, cached.root, GVA, 0x5000 | RIGHTS)
    memory.map(FOUR_LEVEL, cached.root, GVA + 0x1000, 0x6000 | RIGHTS)
    memory.words[memory.entry_at(FOUR_LEVEL, cached.root, GVA, 2) >> 3] |= NX
    assert cached.access(GVA, READ) == 0x5123
    assert cached.access(GVA + 0x1000, FETCH) == FAULT
    assert cached.access(GVA + 0x1000, FETCH) == FAULT


@pytest.mark.parametrize("flush", ["flush_all", "flush_current", "flush_gva"])
@pytest.mark.parametrize("level", [2, 3, 4, 5])
@pytest.mark.parametrize("levels", [2, 3, 4, 5])
def test_a_replaced_table_is_seen_after_any_flush(memory, levels, level, flush):
    """The address that is flushed with INVLPG is another one: it drops the upper levels of all addresses."""
    if level > levels:
        return
    form = paging_format(levels)
    cpu = Processor(memory.words)
    cpu.set_paging(levels=levels)
    cpu.root = memory.frame()
    neighbour = GVA + (1 << form.level_shift(level - 1))
    memory.map(form, cpu.root, GVA, 0x5000 | RIGHTS)
    memory.map(form, cpu.root, neighbour, 0x6000 | RIGHTS)
    cpu.access(GVA, READ)
    memory.set(form, memory.entry_at(form, cpu.root, GVA, level), 0)
    memory.map(form, cpu.root, neighbour, 0x7000 | RIGHTS)
    assert cpu.access(neighbour, READ) == 0x6123
    cpu.tlb.flush_all()
    assert cpu.access(neighbour, READ) == 0x6123, "found through the cached upper level"
    cpu.tlb.flush_all()
    getattr(cpu, flush)(*([0] if flush == "flush_gva" else []))
    assert cpu.access(neighbour, READ) == 0x7123


@pytest.mark.parametrize("level", [2, 3, 4, 5])
def test_stale_upper_levels_that_would_fault_are_dropped(memory, level):
    form = paging_format(5)
    cpu = Processor(memory.words)
    cpu.set_paging(levels=5)
    cpu.root = memory.frame()
    neighbour = GVA + (1 << form.level_shift(level - 1))
    memory.map(form, cpu.root, GVA, 0x5000 | RIGHTS)
    cpu.access(GVA, READ)
    memory.set(form, memory.entry_at(form, cpu.root, GVA, level), 0)
    memory.map(form, cpu.root, neighbour, 0x6000 | RIGHTS)
    assert cpu.access(neighbour, READ) == 0x6123, "the cached entry leads to the old table"


def test_invlpg_leaves_the_translations_of_other_pages(memory, cached):
    memory.map(FOUR_LEVEL, cached.root, GVA, 0x5000 | RIGHTS)
    cached.access(GVA, READ)
    memory.map(FOUR_LEVEL, cached.root, GVA, 0)
    cached.flush_gva(GVA + 0x1000)
    assert cached.access(GVA, READ) == 0x5123


def test_pcids_keep_translations_apart(memory, cached):
    roots = [cached.root, memory.frame()]
    for root, frame in zip(roots, (0x5000, 0x6000), strict=True):
        memory.map(FOUR_LEVEL, root, GVA, frame | RIGHTS)
    for _ in range(2):
        for pcid, hpa in enumerate((0x5123, 0x6123)):
            cached.root, cached.pcid = roots[pcid], pcid
            assert cached.access(GVA, READ) == hpa
    assert cached.counters()["walks"] == 2
    cached.flush_current()
    assert [pcid for _, pcid, _, _ in cached.tlb.translations()] == [0, 0]


def test_a_global_page_survives_a_flush_of_its_pcid_but_not_of_its_address(memory, cached):
    memory.map(FOUR_LEVEL, cached.root, GVA, 0x5000 | RIGHTS | G)
    cached.access(GVA, READ)
    memory.map(FOUR_LEVEL, cached.root, GVA, 0)
    cached.flush_current()
    cached.pcid = 7
    assert cached.access(GVA, READ) == 0x5123
    cached.flush_gva(GVA)
    assert cached.access(GVA, READ) == FAULT


def test_g_means_nothing_without_pge(memory, cached):
    cached.set_paging(levels=4, cr4_pge=False)
    memory.map(FOUR_LEVEL, cached.root, GVA, 0x5000 | RIGHTS | G)
    cached.access(GVA, READ)
    memory.map(FOUR_LEVEL, cached.root, GVA, 0)
    cached.flush_current()
    assert cached.access(GVA, READ) == FAULT


def test_rights_of_a_cached_translation_follow_the_registers(memory, cached):
    memory.map(FOUR_LEVEL, cached.root, GVA, 0x5000 | P | U | D | A)
    cached.access(GVA, READ)
    for wp, smep, smap in ((True, False, False), (False, True, True)):
        cached.set_paging(levels=4, cr0_wp=wp, cr4_smep=smep, cr4_smap=smap)
        assert cached.access(GVA, WRITE) == (FAULT if wp or smap else 0x5123)
        assert cached.access(GVA, FETCH) == (FAULT if smep else 0x5123)
        cached.eflags_ac = True
        assert cached.access(GVA, READ) == 0x5123
        assert cached.implicit_access(GVA, READ) == (FAULT if smap else 0x5123)
        cached.eflags_ac = False


@pytest.mark.parametrize(
    ("levels", "gva"), [(2, 1 << 32), (3, 1 << 32), (4, 1 << 47), (5, 1 << 56), (0, 1 << 32)]
)
def test_an_address_that_is_not_canonical_is_a_general_protection_fault(cpu, levels, gva):
    cpu.set_paging(levels=levels)
    assert cpu.access(gva, WRITE) == FAULT
    assert (cpu.fault_vector, cpu.fault_gva, cpu.fault_error_code) == (GP_VECTOR, gva, 0)
    assert cpu.counters()["walks"] == 0


def test_the_highest_page_can_be_mapped(memory, cpu):
    memory.map(FOUR_LEVEL, cpu.root, 0xFFFF_FFFF_FFFF_F000, 0x5000 | RIGHTS)
    assert [cpu.access(0xFFFF_FFFF_FFFF_FFFF, WRITE) for _ in range(2)] == [0x5FFF] * 2


def test_a_machine_check_is_raised_again_on_a_hit(memory, cached):
    memory.map(FOUR_LEVEL, cached.root, GVA, len(memory.words) << 3 | RIGHTS)
    for _ in range(2):
        with pytest.raises(MachineCheck):
            cached.access(GVA, READ)
    with pytest.raises(MachineCheck):
        cached.run(memoryview(array("Q", [GVA])), memoryview(array("B", [READ])), 0)


def test_run_stops_at_a_fault_and_goes_on_from_there(memory, cpu):
    gvas = memoryview(array("Q", [GVA, GVA + 0x1000, GVA, GVA]))
    kinds = memoryview(array("B", [READ, WRITE, FETCH | 4, READ]))
    memory.map(FOUR_LEVEL, cpu.root, GVA, 0x5000 | P | W)
    assert cpu.run(gvas, kinds, 0) == 1
    assert cpu.fault_gva == GVA + 0x1000
    memory.map(FOUR_LEVEL, cpu.root, GVA + 0x1000, 0x6000 | RIGHTS)
    assert cpu.run(gvas, kinds, 1) == 2
    assert cpu.fault_error_code & PFERR_P
    assert cpu.run(gvas, kinds, 3) == 4
    assert cpu.run(gvas, kinds, 4) == 4


def test_run_obeys_eflags_ac(memory, cpu):
    cpu.set_paging(levels=4, cr4_smap=True)
    memory.map(FOUR_LEVEL, cpu.root, GVA, 0x5000 | RIGHTS)
    gvas, kinds = memoryview(array("Q", [GVA])), memoryview(array("B", [READ]))
    assert cpu.run(gvas, kinds, 0) == 0
    cpu.eflags_ac = True
    assert cpu.run(gvas, kinds, 0) == 1


@pytest.mark.parametrize("levels", [2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(3))
def test_caches_do_not_change_answers_when_every_change_is_flushed(memory, levels, seed):
    rng = random.Random(f"{levels} {seed}")
    form = paging_format(levels)
    root = memory.frame()
    cpus = [Processor(memory.words, tlb=tlb) for tlb in (True, False)]
    for cpu in cpus:
        cpu.set_paging(levels=levels)
        cpu.root = root
    pages = [rng.getrandbits(form.virtual_bits - 1) & ~0xFFF for _ in range(6)]
    pages += [page ^ 1 << rng.choice([12, 21]) for page in pages for _ in range(4)]
    for _ in range(600):
        gva = rng.choice(pages)
        if rng.random() < 0.2:
            entry = rng.randrange(1024) << 12 | rng.choice([RIGHTS, RIGHTS, P | U, P | W, 0])
            was_large = memory.get(form, memory.entry_at(form, root, gva, 2)) & PS
            if was_large or rng.random() < 0.1:
                memory.map(form, root, gva, 0 if was_large else PS | RIGHTS, 2)
                for cpu in cpus:
                    cpu.flush_all()
            else:
                memory.map(form, root, gva, entry)
                for cpu in cpus:
                    cpu.flush_gva(gva)
        kind, user = rng.choice([READ, WRITE, FETCH]), rng.random() < 0.5
        answers = []
        for cpu in cpus:
            cpu.user = user
            hpa = cpu.access(gva | 0x123, kind)
            answers.append((hpa, cpu.fault_error_code if hpa == FAULT else 0))
        assert answers[0] == answers[1]
    assert cpus[0].counters()["walks"] < cpus[1].counters()["walks"]


def digest() -> str:
    """A summary of a long mixed run in all modes: answers, faults, counters, TLB contents and memory."""
    summary = hashlib.sha256()
    for levels in (2, 3, 4, 5):
        rng = random.Random(levels)
        words = memoryview(array("Q", bytes(1 << 19)))
        for i in range(1 << 9, len(words)):
            entry = rng.randrange(1, 128) << 12 | rng.choice([RIGHTS] * 9 + [RIGHTS | G, P | U, P | W, 0])
            high = (
                rng.randrange(1, 128) << 12 | RIGHTS
                if levels == 2
                else rng.choice([0] * 30 + [1 << 31, 1 << 19])
            )
            words[i] = entry | high << 32
        if levels == 3:
            words[512:516] = memoryview(array("Q", [0x2001, 0x3001, 0x4001, 0x5001]))
        cpu = Processor(words)
        cpu.root = 0x1000
        starts = [rng.getrandbits(31 if levels < 4 else 47) & ~0xFFF for _ in range(20)]
        for step in range(20):
            cpu.set_paging(
                levels=levels,
                cr0_wp=step & 1 == 0,
                cr4_smep=step & 2 == 2,
                cr4_smap=step & 4 == 4,
                maxphyaddr=40,
            )
            cpu.pcid = step % 3
            cpu.eflags_ac = step % 5 == 0
            (cpu.flush_current, cpu.flush_all, lambda: None, lambda: None)[step % 4]()
            cpu.flush_gva(starts[step])
            gvas = memoryview(array("Q", [rng.choice(starts) + rng.randrange(1 << 14) for _ in range(200)]))
            kinds = memoryview(array("B", [rng.choice([0, 1, 2, 4, 5, 6]) for _ in gvas]))
            at = 0
            while at < len(gvas):
                try:
                    at = cpu.run(gvas, kinds, at)
                    fault = f"{cpu.fault_vector} {cpu.fault_gva} {cpu.fault_error_code}"
                except MachineCheck as error:
                    fault = str(error)
                summary.update(f"{at} {fault};".encode())
                at += 1
        summary.update(repr((cpu.counters(), cpu.tlb.translations())).encode())
        summary.update(bytes(words))
    return summary.hexdigest()


@pytest.mark.skipif(not shadowmmu.native, reason="needs the compiled modules to compare with")
def test_compiled_and_interpreted_runs_are_identical():
    code = f"import runpy; print(runpy.run_path({__file__!r})['digest']())"
    interpreted = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"SHADOWMMU_INTERPRETED": "1", "SHADOWMMU_REQUIRE_NATIVE": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert interpreted.stdout.strip() == digest()
