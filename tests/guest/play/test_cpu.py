"""What the processor does for itself around an op: IRET, the delivery of exceptions, results."""

import pytest
from kvm.world import World

from shadowmmu.guest.play.cpu import GuestCpu
from shadowmmu.kvm.tracepoints.exits import PageFault

SMAP = 0x200020
USER_PAGE = "pt 0xf0002000 0 0xf0000067"
"""The guest's kernel page, with its descriptor tables and its stack, is a user page."""


def world(*setup: str, ac: str) -> World:
    world = World("long4", *setup, "map 0x1000 0x400000 0x800000 0x67", USER_PAGE)
    world.ok("nop", "read 0x400000", f"cr4 {SMAP:#x}")
    world.do(f"ac {ac}")
    return world


@pytest.mark.parametrize("setup", [[], ["param kvm_amd npt=1"]])
def test_without_ac_smap_forbids_iret_to_read_its_frame_from_a_user_page(setup: list[str]) -> None:
    assert world(*setup, ac="off").do("unop").result == {"outcome": "exit", "reason": 8}


def test_with_ac_iret_reads_its_frame_as_an_access_of_the_kernel_s_own() -> None:
    """The frame is read at CPL 0; what faults next are the tables of the gate, read at CPL 3."""
    played = world(ac="on")
    assert played.do("unop").result == {"outcome": "timeout"}, "KVM takes that fault for one that AC covers"


@pytest.mark.parametrize(("ac", "outcome"), [("on", "exception"), ("off", "exit")])
def test_tables_that_qemu_s_processor_reads_at_cpl_0_obey_ac(ac: str, outcome: str) -> None:
    assert world(ac=ac).do("read 0x600000").result["outcome"] == outcome


def test_by_the_manual_they_never_do() -> None:
    played = world(ac="on")
    played.vcpu.implicit_obeys_ac = False
    assert played.do("read 0x600000").result["outcome"] in ("exit", "timeout")


@pytest.mark.parametrize("mode", ["long4", "pae"])
def test_l2_is_32_bit_code_whatever_l1_is(mode: str) -> None:
    """A CMPXCHG8B that fails leaves memory's low half in EAX, in 32 bits of a register."""
    text = f"""\
param kvm_amd npt=1
mode {mode}
slot 0 0x0 16M
nested
alloc 0x20000
tramp 0x1000
ntramp 0x10000
npt map 0x10000 0x400000 0x800000 0x67
poke 0x800000 0x1122334455667788
start cr3=0x1000 ncr3=0x10000
"""
    played = World.of(text)
    assert played.do("l2cmpxchg 0x400000 1 2 size=8").result["value"] == "0x55667788"


@pytest.mark.parametrize("setup", [[], ["param kvm_amd npt=1"]])
def test_a_handler_that_cannot_be_fetched_times_out(setup: list[str]) -> None:
    """SMEP forbids the kernel to execute its page, the handler of that fault included."""
    played = World("long4", *setup, USER_PAGE, tlb=True)
    assert played.do("cr4 0x100020").result == {"outcome": "timeout"}


@pytest.mark.parametrize("mode", ["nopaging", "long4", "pae", "32"])
@pytest.mark.parametrize("code", ["poke 0x803800 0x200000", "poke 0x800ff8 0x0100000000000000", "nop"])
def test_a_run_over_zeros_is_what_its_instructions_are_one_by_one(
    mode: str, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zeros are `add %al, (%rax)`: they run on until other code, a page that is not there, or the limit."""
    low, high = "map 0x1000 0x0 0x600000 0x67", "map 0x1000 0x800000 0x800000 0x67 n=8"
    setup = [*([] if mode == "nopaging" else [low, high]), *([] if code == "nop" else [code])]

    def play() -> tuple[object, ...]:
        world = World(mode, *setup)
        rows = [world.do(line) for line in ("nop", "exec 0x800000", "nop", "read 0x800000")]
        return [row.result for row in rows], [row.events for row in rows], world.vcpu.rip, world.stats

    at_once = play()
    monkeypatch.setattr(GuestCpu, "_repeats", lambda cpu, insn: 0)
    assert play() == at_once


@pytest.mark.parametrize(("vendor", "error_code"), [("amd", 0), ("intel", 2)])
def test_a_read_modify_write_is_one_write_access_except_to_qemu_s_processor(
    vendor: str, error_code: int
) -> None:
    world = World("long4", f"vendor {vendor}", "map 0x1000 0x400000 0x800000 0x67")
    world.ok("nop")
    faults = [event for event in world.ok("xchg 0x400000 1") if isinstance(event, PageFault)]
    assert [fault.error_code for fault in faults if fault.fault_address == 0x400000] == [error_code]


@pytest.mark.parametrize(("vendor", "outcome"), [("amd", "ok"), ("intel", "exception")])
def test_mov_to_cr0_with_upper_bits_is_gp_except_to_qemu_s_processor(vendor: str, outcome: str) -> None:
    world = World("long4", f"vendor {vendor}")
    world.ok("nop")
    assert world.do("cr0 0x180010033").result["outcome"] == outcome
