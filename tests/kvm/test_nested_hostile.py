"""Hypervisors that do their worst: nested tables of any bytes, anywhere, do no harm.

The invariants are checked after every operation; I14 says that only frames of the guest's slots are mapped.
"""

import random

import pytest
from hypothesis import given, settings, strategies as st
from kvm.nested_world import DATA, HUGE, L2_HUGE, NPT, WINDOW, nested_world
from kvm.test_hostile import ENDLESS, no_hang
from kvm.tlb_audit import check_tlb
from kvm.world import World

import shadowmmu
from shadowmmu.x86.bits import PS

__all__ = ["no_hang"]

MODES = {"long4": 4, "long5": 5, "pae": 3, "32": 2}
OUTCOMES = ENDLESS | {"vmexit"}
"""Endless: a nested root that only half of KVM believes to have memory (2-level tables above 4 GiB)."""

ANYWHERE = {
    "itself": lambda table: table | 0x67,
    "the root": lambda table: NPT | 0x67,
    "itself, large": lambda table: table | PS | 0x67,
    "L1's own tables": lambda table: 0x1067,
    "L1's code": lambda table: 0xF0000067,
    "its VMCB12": lambda table: 0xF0100067,
    "L2's code": lambda table: 0xF010D067,
    "a hole": lambda table: 0xD0000067,
    "the local APIC": lambda table: 0xFEE00067,
    "behind memory": lambda table: 0x1000067,
    "memory in large pages": lambda table: HUGE | 0x67,
    "large, over memory's end": lambda table: 0xC00000 | PS | 0x67,
    "large, in a hole": lambda table: 0xC0000000 | PS | 0x67,
    "the last frame below MAXPHYADDR": lambda table: (1 << 40) - 0x1000 | 0x67,
    "the first frame above": lambda table: 1 << 40 | 0x67,
    "everything set": lambda table: (1 << 64) - 1,
}


def table_of(mode: str, level: int) -> int:
    """The table of a level on the way to DATA: the root, then as `npt map` takes them."""
    levels = MODES[mode]
    if level == levels:
        return NPT
    return NPT + 0x1000 * (levels - level)


def index(mode: str, address: int, level: int) -> int:
    bits = 10 if mode == "32" else 9
    return address >> 12 + bits * (level - 1) & (1 << bits) - 1


def attack(world: World, addresses: list[int]) -> None:
    """Every kind of access of L2, then L1's own."""
    for address in addresses:
        for line in (
            f"l2read {address:#x}",
            f"l2write {address:#x} 0x67",
            f"l2xchg {address + 8:#x} 0x27",
            f"l2add {address:#x} 0",
            f"l2write {(address & ~0xFFF) + 0xFFE:#x} 0xabcdef",
            f"l2stos {address & ~0xFFF:#x} 0x67 n=3",
            f"l2cmpxchg {address:#x} 0x1067 0x67",
        ):
            assert world.do(line).result["outcome"] in OUTCOMES, line
    check_tlb(world.audit, addresses)
    world.check()
    world.do("l2exit")
    for line in ("nop", f"read {WINDOW:#x}", f"write {WINDOW + 0x2000:#x} 0x67"):
        assert world.do(line).result["outcome"] in OUTCOMES, line


@pytest.mark.parametrize("target", ANYWHERE)
@pytest.mark.parametrize("mode", MODES)
def test_an_entry_of_any_level_that_points_anywhere(mode: str, target: str) -> None:
    for level in range(1, MODES[mode] + 1)[:: 1 if shadowmmu.native else 2]:
        table = table_of(mode, level)
        value = ANYWHERE[target](table) & (0xFFFFFFFF if mode == "32" else -1)
        line = f"npt pt {table:#x} {index(mode, DATA, level)} {value % (1 << 64):#x}"
        world = nested_world(line, mode=mode, tdp_mmu=level % 2, tlb=True)
        attack(world, [DATA, L2_HUGE])


NCR3S = [0, 0x1000, NPT + 0x3000, 0xFFF000, 0x1000000, HUGE, 0xD0000000, 0xFEE00000, 0xF0000000, 0xF0100000]


@pytest.mark.parametrize(
    "ncr3", [*NCR3S, 0x10001F000, (1 << 40) - 0x1000, 1 << 40, (1 << 64) - 1, NPT | 0xFFF]
)
@pytest.mark.parametrize("mode", MODES)
def test_a_nested_root_anywhere(mode: str, ncr3: int) -> None:
    world = nested_world(mode=mode)
    world.ok("l2read 0x800000", f"vmcb ncr3={ncr3:#x}")
    world.do("l2exit")
    for line in ("l2read 0x800000", "l2write 0x800000 1", "l2exit", f"vmcb ncr3={NPT:#x}"):
        assert world.do(line).result["outcome"] in OUTCOMES
    if mode == "32" and ncr3 >> 32:
        return  # endless: the root has no memory, but its low half has the tables that KVM walks
    for _ in range(3):
        world.do("l2exit")
    if mode != "pae":  # whose L1 may be gone: KVM refuses the PDPTEs that the processor marks accessed
        world.ok("nop", "l2read 0x800000")


@pytest.mark.parametrize("options", ["ro", "dirty", "lazy", "thp", "memfd", "huge2m", "lazy dirty"])
@pytest.mark.parametrize("mode", MODES)
def test_nested_tables_in_any_kind_of_memory(mode: str, options: str) -> None:
    setup = (
        f"slot 3 0x22000000 2M {options}",
        "alloc 0x22001000",
        "ntramp 0x22000000",
        f"npt map 0x22000000 {DATA:#x} {DATA:#x} 0x7 n=4",
        "map 0x1000 0x48000000 0x22000000 0x67 n=8",
    )
    world = nested_world(*setup, mode=mode)
    world.do("ncr3 0x22000000")
    attack(world, [DATA, DATA + 0x1000])
    for line in (
        "write 0x48001000 0",
        "mprotect 0x22000000 0x8000 none",
        "l2read 0x800000",
        "mprotect 0x22000000 0x8000 ro",
        "l2write 0x800000 1",
        "mprotect 0x22000000 0x8000 rw",
        "madvise_dontneed 0x22000000 0x200000"
        if "huge2m" in options
        else "madvise_dontneed 0x22000000 0x8000",
        "l2read 0x801000",
        "l2exit",
        "delslot 3",
        "l2read 0x801000",
        "l2exit",
        "slot 3 0x22000000 2M",
        "l2read 0x801000",
    ):
        assert world.do(line).result["outcome"] in OUTCOMES, line
    attack(world, [DATA])


@pytest.mark.parametrize("mode", MODES)
def test_tables_that_map_themselves_for_l2(mode: str) -> None:
    """L2 edits the tables it runs on, at every level at once."""
    levels = MODES[mode]
    lines = []
    for level in range(1, levels + 1):
        if mode != "pae" or level < 3:
            lines.append(f"npt pt {table_of(mode, level)} 2 {table_of(mode, level) | 0x67:#x}")
    world = nested_world(*lines, mode=mode, tlb=True)
    bits = 10 if mode == "32" else 9
    addresses = [DATA + 0x2000, DATA >> 12 + bits << 12 + bits | 2 << 12]
    addresses += [sum(2 << 12 + bits * (level - 1) for level in range(1, depth + 1)) for depth in (1, 2, 3)]
    addresses = [address & 0xFFFFF000 for address in addresses]
    attack(world, addresses)
    attack(world, addresses)


@pytest.mark.parametrize("seed", range(12 if shadowmmu.native else 3))
@pytest.mark.parametrize("mode", MODES)
def test_random_bytes_for_tables(mode: str, seed: int) -> None:
    """Tables full of random bits, and of bits that are likely to lead further; L2's code stays reachable."""
    rng = random.Random(f"nested {mode} {seed}")
    size = 4 if mode == "32" else 8
    frames = [0x100000 + 0x1000 * n for n in range(6)]
    world = nested_world(mode=mode, tdp_mmu=seed % 2, backing=rng.choice(("huge2m", "thp", "")))
    for frame in frames:
        for number in range(4096 // size):
            word = rng.getrandbits(8 * size)
            if rng.random() < 0.7:
                low = rng.getrandbits(12) & ~0x180 | rng.choice((5, 0x25, 0x27, 0x67, 0xE7))
                word = rng.choice([*frames, DATA, HUGE, 0xD0000000, NPT, 0x1000]) | low
            world.machine.host_write(frame + number * size, size, word)
        world.audit.unseen()
    code = 0xF010D000
    keep = {2: 0xF010F027, 3: 0xF010E001, 4: frames[1] | 0x27, 5: frames[1] | 0x27}[MODES[mode]]
    for level, table, entry in (
        (MODES[mode], frames[0], keep),
        (4, frames[1], frames[2] | 0x27),
        (3, frames[2], 0xF010E027),
    ):
        if level == MODES[mode] or (level == 4 and mode == "long5"):
            world.machine.host_write(table + size * index(mode, code, level), size, entry)
    if mode == "pae":
        for n in range(3):
            world.machine.host_write(frames[0] + 8 * n, 8, rng.choice(frames[1:]) | 1)
    upper = {"long4": frames[1], "long5": frames[2]}.get(mode)
    if upper:
        world.machine.host_write(upper + 8 * 3, 8, 0xF010E027)
    world.do(f"ncr3 {frames[0]:#x}")
    before = world.stats["nested_run"]
    for _ in range(60):
        address = rng.getrandbits(31) & ~3
        if rng.random() < 0.5:
            address &= 0x8080_8FFF
        kind = rng.choice(("read", "write", "xchg", "add", "stos", "exit"))
        line = "l2exit" if kind == "exit" else f"l2{kind} {address:#x}" + ("" if kind == "read" else " 0x67")
        assert world.do(line).result["outcome"] in OUTCOMES, line
    assert world.stats["nested_run"] > before


@settings(max_examples=30)
@given(
    mode=st.sampled_from(list(MODES)),
    level=st.integers(1, 5),
    value=st.integers(0, (1 << 64) - 1),
    flags=st.sampled_from([0, 5, 0x27, 0x67, 0xE7, 0x1E7]),
    address=st.sampled_from([DATA, DATA + 0x1000, L2_HUGE]),
)
def test_any_entry(mode: str, level: int, value: int, flags: int, address: int) -> None:
    level = min(level, MODES[mode])
    value = (value | flags) & ((1 << 32) - 1 if mode == "32" else (1 << 64) - 1)
    table = table_of(mode, level)
    world = nested_world(f"npt pt {table:#x} {index(mode, DATA, level)} {value:#x}", mode=mode)
    for line in (f"l2read {address:#x}", f"l2write {address:#x} 1", "l2exit", f"l2xchg {address:#x} 1"):
        assert world.do(line).result["outcome"] in OUTCOMES


@pytest.mark.parametrize("seed", range(8 if shadowmmu.native else 3))
@pytest.mark.parametrize("mode", MODES)
def test_a_vmcb12_of_any_bytes(mode: str, seed: int) -> None:
    """What is not modelled is ignored; what is, is checked."""
    rng = random.Random(f"vmcb {mode} {seed}")
    world = nested_world(mode=mode)
    offsets = (0x00, 0x0C, 0x10, 0x58, 0x5C, 0x60, 0x90, 0xA8, 0xB0, 0x4D0, 0x548, 0x550, 0x558, 0x570)
    for _ in range(20):
        for offset in rng.sample(offsets, 3):
            size = 8 if offset >= 0x60 else 4
            value = (
                rng.getrandbits(8 * size) if rng.random() < 0.5 else rng.choice((0, 1, 3, NPT, 0x1000, 0x11))
            )
            world.quick(f"hostwrite {0xF0100000 + offset:#x} {value:#x} size={size}")
        for line in ("l2read 0x800000", f"l2write {L2_HUGE:#x} 1", "l2exit", "nop"):
            assert world.do(line).result["outcome"] in OUTCOMES


@pytest.mark.parametrize("mode", MODES)
def test_the_memory_of_everything_goes(mode: str) -> None:
    world = nested_world(mode=mode, tlb=True)
    world.ok("l2write 0x800000 1")
    for line in (
        "madvise_dontneed 0xf0100000 0x20000",
        "l2read 0x800000",
        "l2exit",
        "l2read 0x800000",
        "vmcb asid=1",
        "remap 0xf0100000 0x20000",
        "l2nop",
        "mprotect 0xf0100000 0x20000 none",
        "l2nop",
        "l2exit",
        "delslot 0",
        "l2read 0x800000",
        "l2exit",
        "nop",
        "@1 l2nop",
    ):
        assert world.do(line).result["outcome"] in OUTCOMES, line
