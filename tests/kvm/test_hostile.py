"""Guests that do their worst: no page table, however wrong, crashes or hangs the MMU or reaches other memory.

The invariants are checked after every operation; I14 says that only frames of the guest's slots are mapped.
"""

import faulthandler
import random
import signal
from collections.abc import Iterator
from types import FrameType

import pytest
from hypothesis import given, settings, strategies as st
from kvm.tlb_audit import check_tlb
from kvm.world import World

import shadowmmu
from shadowmmu.guest.play import cpu
from shadowmmu.x86.bits import NX, PS

ROOT, PAGE = 0x1000, 0x1000
LEVELS = {"long4": 4, "long5": 5, "pae": 3, "32": 2}
BITS = {"long4": 9, "long5": 9, "pae": 9, "32": 10}
SECONDS = 60
OUTCOMES = {"ok", "exception", "exit", "error"}
ENDLESS = OUTCOMES | {"timeout"}
"""Also: the guest keeps itself busy, say with a stack that is a page table. KVM comes back each time."""

MAPPED = 0x400000
"""The address whose tables are tampered with."""
DATA = 0x800000


@pytest.fixture(autouse=True)
def no_hang(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A test that does not end is a failure, not a wait."""
    monkeypatch.setattr(cpu, "ENDLESS", 100)

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"the guest keeps KVM busy for more than {SECONDS} seconds")

    former = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    faulthandler.dump_traceback_later(2 * SECONDS, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()
    signal.alarm(0)
    signal.signal(signal.SIGALRM, former)


def index(mode: str, gva: int, level: int) -> int:
    return gva >> (12 + BITS[mode] * (level - 1)) & (1 << BITS[mode]) - 1


def tables(mode: str) -> dict[int, int]:
    """Tables on the way to MAPPED, by level: the root, then as `map` allocates them."""
    levels = LEVELS[mode]
    return {level: ROOT + PAGE * (levels - level) for level in range(levels, 0, -1)}


def maximum(mode: str) -> int:
    return (1 << 32) - 1 if mode == "32" else (1 << 64) - 1


def settle(world: World) -> None:
    """Let an exception that awaits injection again be delivered, now that it can be."""
    for _ in range(3):
        if world.do("nop").result["outcome"] == "ok":
            return
    raise AssertionError("the guest does not come to rest")


TARGETS = {
    "itself": lambda table: table | 0x67,
    "the root": lambda table: ROOT | 0x67,
    "the guest's code": lambda table: 0xF0000067,
    "zero": lambda table: 0x67,
    "a hole": lambda table: 0xD0000067,
    "the local APIC": lambda table: 0xFEE00067,
    "behind memory": lambda table: 0x01000067,
    "the last frame below MAXPHYADDR": lambda table: (1 << 40) - PAGE | 0x67,
    "the first frame above MAXPHYADDR": lambda table: 1 << 40 | 0x67,
    "the last frame of all": lambda table: (1 << 52) - PAGE | 0x67,
    "itself as a huge page": lambda table: table | PS | 0x67,
    "a huge page over memory's end": lambda table: 0xC00000 | PS | 0x67,
    "a huge page in a hole": lambda table: 0xC0000000 | PS | 0x67,
    "a huge page of the highest frames": lambda table: (1 << 40) - (1 << 30) | PS | 0x67,
    "everything set": lambda table: (1 << 64) - 1,
    "everything but NX": lambda table: NX - 1,
    "only reserved bits": lambda table: 0x7FF0_0000_0000_0001 | NX,
}


def attack(world: World, gvas: list[int], outcomes: set[str] = OUTCOMES) -> None:
    """Every kind of access to every address, from both levels of privilege, and all that flushes."""
    for gva in gvas:
        for line in (
            f"read {gva:#x}",
            f"uread {gva:#x} size=1",
            f"write {gva:#x} 0x67",
            f"uwrite {gva + 8:#x} 0xffffffff size=4",
            f"exec {gva & ~0xFFF:#x}",
            f"xchg {gva + 16:#x} 0x27",
            f"write {(gva & ~0xFFF) + 0xFFE:#x} 0xabcdef size=4",
            f"add {gva:#x} 0x1000",
            f"invlpg {gva:#x}",
        ):
            assert world.do(line).result["outcome"] in outcomes, line
    world.do(f"cr3 {ROOT:#x}")
    for gva in gvas:
        world.do(f"cmpxchg {gva:#x} 0x1067 0x67")
        world.do(f"stos {gva & ~0xFFF:#x} 0x67 n=3")
        world.do(f"read {gva:#x}")
    check_tlb(world.audit, gvas)
    world.check()


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    ("mode", "level"), [(mode, level) for mode in LEVELS for level in range(1, LEVELS[mode] + 1)]
)
def test_an_entry_of_any_level_that_points_anywhere(mode: str, level: int, target: str) -> None:
    table = tables(mode)[level]
    value = TARGETS[target](table) & maximum(mode)
    if mode == "pae" and level == 3:
        value = value & ~0x1E6 | 1
    at = table + index(mode, MAPPED, level) * (4 if mode == "32" else 8)
    setup = (f"map {ROOT:#x} {MAPPED:#x} {DATA:#x} 0x67", f"map {ROOT:#x} 0x10000000 {table:#x} 0x67")
    world = World(mode, *setup, f"pt {table:#x} {index(mode, MAPPED, level)} {value:#x}", tlb=True)
    outcomes = ENDLESS if target == "the guest's code" else OUTCOMES
    attack(world, [MAPPED, MAPPED + 0x1000], outcomes)
    world.do(f"write {0x10000000 + (at & 0xFFF):#x} {value & 0xFFFFFFFF:#x} size=4")
    attack(world, [MAPPED], outcomes)


@pytest.mark.parametrize("mode", LEVELS)
def test_a_table_that_maps_itself_at_every_level(mode: str) -> None:
    """The recursive mapping: every table of the guest is data to the guest as well."""
    levels, slot = LEVELS[mode], 300 if BITS[mode] == 9 else 700
    if mode == "pae":  # the third level has four entries: the window is in the fourth directory
        setup = [f"pt 0x3000 {slot} 0x3067", f"pt {ROOT:#x} 1 0x3001"]
        window = 1 << 30 | slot << 21
    else:
        setup = [f"pt {ROOT:#x} {slot} {ROOT | 0x67:#x}"]
        window = slot << (12 + BITS[mode] * (levels - 1))
    if mode in ("long4", "long5") and slot >> (BITS[mode] - 1):
        window |= (1 << 64) - (1 << (12 + 9 * levels))
    world = World(mode, f"map {ROOT:#x} {MAPPED:#x} {DATA:#x} 0x67 n=4", *setup)
    size = 4 if mode == "32" else 8
    deeper = [window]
    for level in range(levels - 1, 0, -1):
        deeper.append(deeper[-1] | slot << (12 + BITS[mode] * (level - 1)))
    for gva in deeper:
        for number in (index(mode, MAPPED, 1), slot, slot + 1):
            at = gva + number * size & (1 << 64) - 1
            for line in (f"read {at:#x}", f"add {at:#x} 0", f"write {at:#x} 0x67", f"write {at:#x} 0"):
                world.do(line)
        attack(world, [gva])
    world.do(f"read {MAPPED:#x}")


@pytest.mark.parametrize(
    "cr3", [0x0, 0xFFF000, 0x1000000, 0xD0000000, 0xFEE00000, 0xFFFFF000, (1 << 40) - PAGE]
)
@pytest.mark.parametrize("mode", LEVELS)
def test_a_root_anywhere(mode: str, cr3: int) -> None:
    world = World(mode, f"map {ROOT:#x} {MAPPED:#x} {DATA:#x} 0x67")
    world.do(f"read {MAPPED:#x}")
    if mode in ("pae", "32"):
        cr3 &= 0xFFFFFFFF
    outcomes = ENDLESS if mode == "pae" else OUTCOMES  # old PDPTEs and no root: KVM reloads the root for ever
    for line in (
        f"cr3 {cr3:#x}",
        f"read {MAPPED:#x}",
        f"write {MAPPED:#x} 1",
        "nop",
        f"hostsregs cr3={cr3:#x}",
        "nop",
    ):
        assert world.do(line).result["outcome"] in outcomes
    world.do(f"hostsregs cr3={ROOT:#x}")
    settle(world)
    assert world.do(f"read {MAPPED:#x}").result["outcome"] == "ok"


@pytest.mark.parametrize("gva", [0xD0000000, 0xFEE00000, 0xFFFFF000, 0x1000000, 0xFFFFFC])
def test_a_guest_without_paging_at_the_edge_of_memory(gva: int) -> None:
    world = World("nopaging", tlb=True)
    for line in ("read", "write", "xchg", "exec", "uread", "uwrite", "add"):
        assert (
            world.do(f"{line} {gva:#x}" + ("" if "read" in line or line == "exec" else " 1")).result[
                "outcome"
            ]
            in OUTCOMES
        )
    world.do(f"stos {gva & ~0xFFF:#x} 0 n=2048")
    check_tlb(world.audit, [gva])
    world.check()


# -- tables that go away ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", LEVELS)
def test_the_slot_of_the_tables_goes_and_comes_back(mode: str) -> None:
    setup = ("slot 1 0x2000000 1M", "alloc 0x2000000", f"map {ROOT:#x} {MAPPED:#x} {DATA:#x} 0x67")
    world = World(mode, *setup)
    assert world.do(f"write {MAPPED:#x} 7").result["outcome"] == "ok"
    world.do("delslot 1")
    for line in (
        f"read {MAPPED:#x}",
        f"write {MAPPED:#x} 1",
        f"invlpg {MAPPED:#x}",
        f"cr3 {ROOT:#x}",
        f"exec {MAPPED:#x}",
    ):
        assert world.do(line).result["outcome"] in OUTCOMES
    world.do("slot 1 0x2000000 1M keep")
    world.do(f"hostsregs cr3={ROOT + PAGE * 8:#x}")
    world.do(f"hostsregs cr3={ROOT:#x}")
    settle(world)
    assert world.do(f"read {MAPPED:#x}").result["value"] == "0x7"


@pytest.mark.parametrize("mode", LEVELS)
def test_the_root_s_slot_goes_and_comes_back(mode: str) -> None:
    setup = (
        "slot 1 0x2000000 1M",
        "alloc 0x2001000",
        "tramp 0x2000000",
        f"map 0x2000000 {MAPPED:#x} {DATA:#x} 0x67",
    )
    world = World(mode, *setup, start="start cr3=0x2000000")
    assert world.do(f"write {MAPPED:#x} 7").result["outcome"] == "ok"
    world.do("delslot 1")
    for line in (f"read {MAPPED:#x}", "nop", f"write {MAPPED:#x} 1", "nop"):
        assert world.do(line).result["outcome"] in (ENDLESS if mode == "pae" else OUTCOMES)
    world.do("slot 1 0x2000000 1M keep")
    world.do("hostsregs cr3=0x2000000")
    settle(world)
    assert world.do(f"read {MAPPED:#x}").result["value"] == "0x7"


def test_a_directory_that_had_no_memory_when_the_roots_were_made() -> None:
    """KVM makes PAE roots from the directories it can see; a slot that comes later does not add one.

    The guest's walk then finds what the root has no table for: KVM_RUN fails (fetch: level != goal_level).
    """
    world = World("pae", f"pt {ROOT:#x} 1 0x2000001", f"map {ROOT:#x} {MAPPED:#x} {DATA:#x} 0x67")
    world.do(f"read {MAPPED:#x}")
    world.do("slot 1 0x2000000 1M")
    world.do(f"hostwrite 0x2000010 {0x2001000 | 0x67:#x} size=8")
    world.do(f"hostwrite 0x2001000 {DATA | 0x67:#x} size=8")
    assert world.do("read 0x40400000").result == {"outcome": "error", "errno": "EFAULT"}
    world.do(f"cr3 {ROOT:#x}")
    assert world.do("write 0x40400000 9").result["outcome"] in OUTCOMES


@pytest.mark.parametrize("options", ["ro", "lazy", "ro lazy", "memfd", "thp"])
@pytest.mark.parametrize("mode", LEVELS)
def test_tables_in_any_kind_of_memory(mode: str, options: str) -> None:
    setup = (
        f"slot 1 0x2000000 4M {options}",
        "alloc 0x2000000",
        f"map {ROOT:#x} {MAPPED:#x} {DATA:#x} 0x7 n=4",
    )
    world = World(mode, *setup, f"map {ROOT:#x} 0x10000000 0x2000000 0x67 n=4")
    attack(world, [MAPPED, 0x10000000, 0x10001000])
    world.do("mprotect 0x2000000 0x4000 none")
    attack(world, [MAPPED, 0x10000000])
    world.do("madvise_dontneed 0x2000000 0x4000")
    attack(world, [MAPPED, 0x10001000])


@pytest.mark.parametrize("mode", LEVELS)
def test_the_guest_s_own_code_and_stack_as_tables_and_holes(mode: str) -> None:
    """Exceptions that cannot be delivered end in a triple fault, not in a loop."""
    tramp = {"long4": -1 << 31, "long5": -1 << 31, "pae": 0xC0000000, "32": 0xFFC00000}[mode] % (1 << 64)
    for value in (0, 0xD0000067, 0xF0002067, 0x67, 0xFFFFFFFF):
        world = World(
            mode,
            f"map {ROOT:#x} {MAPPED:#x} 0xf0002000 0x67",
            f"map {ROOT:#x} 0x10000000 0xf0000000 0x67 n=6",
        )
        world.do(f"read {MAPPED:#x}")
        world.do("write 0x10000100 0xffffffff size=4")
        world.do(f"write {MAPPED:#x} {value:#x} size=4")
        for line in (
            "nop",
            "read 0x0",
            f"read {tramp:#x}",
            "unop",
            f"write {tramp:#x} 0",
            f"invlpg {tramp:#x}",
            "nop",
        ):
            assert world.do(line).result["outcome"] in OUTCOMES


# -- garbage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8 if shadowmmu.native else 3))
@pytest.mark.parametrize("mode", LEVELS)
def test_random_words_for_tables(mode: str, seed: int) -> None:
    """Tables full of random bits, and of bits that are likely to lead further."""
    rng = random.Random(f"{mode} {seed}")
    size, count = (4, 1024) if mode == "32" else (8, 512)
    frames = [0x100000 + PAGE * n for n in range(6)]
    world = World(mode, f"map {ROOT:#x} 0x10000000 0x100000 0x67 n=6", "slot 1 0x10000000 2M huge2m")
    world.do("nop")
    for frame in frames:
        for number in range(count):
            word = rng.getrandbits(8 * size)
            if rng.random() < 0.6:
                low = rng.getrandbits(12) & ~0x180 | rng.choice((1, 0x21, 0x27, 0x67, 0xE7))
                word = rng.choice([*frames, DATA, 0x10000000, 0xD0000000]) | low
            world.machine.host_write(frame + number * size, size, word)
        world.audit.unseen()
    for number in range(4) if mode == "pae" else ():
        world.machine.host_write(frames[0] + 8 * number, 8, rng.choice(frames) | 1)
    tramp = {"long4": 511, "long5": 511, "pae": 3, "32": 1023}[mode]
    entry = world.machine.host_read(ROOT + tramp * size, size)
    world.machine.host_write(frames[0] + tramp * size, size, entry)
    world.audit.unseen()
    world.do(f"cr3 {frames[0]:#x}")
    width = {"long4": 48, "long5": 57, "pae": 32, "32": 32}[mode]
    for _ in range(60):
        gva = rng.getrandbits(width - 1) & ~7
        if rng.random() < 0.5:
            gva &= 0x8080_8080_8080_8FFF
        kind = rng.choice(("read", "write", "uread", "uwrite", "xchg", "exec", "invlpg"))
        value = f" {rng.getrandbits(30):#x}" if kind in ("write", "uwrite", "xchg") else ""
        assert world.do(f"{kind} {gva:#x}{value}").result["outcome"] in OUTCOMES


@settings(max_examples=30)
@given(
    mode=st.sampled_from(list(LEVELS)),
    level=st.integers(1, 4),
    value=st.integers(0, (1 << 64) - 1),
    flags=st.sampled_from([0, 1, 0x27, 0x67, 0xE7, 0x1E7]),
    line=st.sampled_from(["read {:#x}", "write {:#x} 0x67", "uwrite {:#x} 0", "exec {:#x}", "xchg {:#x} 1"]),
)
def test_any_entry(mode: str, level: int, value: int, flags: int, line: str) -> None:
    level = min(level, LEVELS[mode])
    table = tables(mode)[level]
    value = (value | flags) & maximum(mode)
    if mode == "pae" and level == 3:
        value = value & 0xFF_FFFF_F000 | 1
    setup = (
        f"map {ROOT:#x} {MAPPED:#x} {DATA:#x} 0x67",
        f"pt {table:#x} {index(mode, MAPPED, level)} {value:#x}",
    )
    world = World(mode, *setup)
    for text in (line, "invlpg {:#x}", line):
        assert world.do(text.format(MAPPED)).result["outcome"] in OUTCOMES
