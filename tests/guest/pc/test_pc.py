"""Programs on the PC: how they start, what they may touch, and how they end."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from guest.pc.programs import COMMAND_LINE, EXIT_3, HELLO, MODULE, elf64, flat, program

import shadowmmu
from shadowmmu.guest.pc.image import ImageError
from shadowmmu.guest.pc.pc import Limits

GUESTS = Path(__file__).with_name("guests")
STARTUP = GUESTS / "startup.flat"
Make = Callable[..., Any]
PAGING = ({}, {"npt": True}, {"npt": True, "tdp_mmu": False})


@pytest.mark.parametrize("options", PAGING)
def test_output_and_status(pc: Make, options: dict[str, Any]) -> None:
    computer, output = pc(program(HELLO), **options)
    ending = computer.run()
    assert (ending.reason, ending.status, ending.detail) == ("exit", 7, "0x3")
    assert b"".join(output) == b"hello\n"


def test_elf64_and_flat_images(pc: Make) -> None:
    code = bytes.fromhex("b803000000 baf4000000 ef f4")
    for data in (elf64(code), flat(code)):
        assert pc(data)[0].run().status == 7


def test_the_program_gets_its_command_line(pc: Make) -> None:
    computer, output = pc(program(COMMAND_LINE), line="name -v 3")
    assert computer.run().status == 1
    assert b"".join(output) == b"name -v 3"


def test_the_program_gets_its_modules(pc: Make) -> None:
    computer, output = pc(program(MODULE), modules=[b"A=1\nB=2\n", b"other"])
    assert computer.run().status == 5
    assert b"".join(output) == b"A=1\nB=2\n"
    with pytest.raises(ImageError, match="modules do not fit in 32 MiB"):
        pc(program(MODULE), modules=[bytes(32 << 20)])


@pytest.mark.parametrize("options", PAGING)
def test_start_up_code_of_test_programs(pc: Make, options: dict[str, Any]) -> None:
    computer, _ = pc(STARTUP.read_bytes(), **options)
    ending = computer.run(Limits(seconds=60))
    assert ending.reason == "exit"
    assert ending.status == 42 << 1 | 1, f"step {ending.status >> 1} failed"


@pytest.mark.parametrize("options", PAGING)
def test_what_test_programs_ask_a_processor_for(pc: Make, options: dict[str, Any]) -> None:
    computer, output = pc((GUESTS / "features.flat").read_bytes(), **options)
    ending = computer.run(Limits(seconds=60))
    text = b"".join(output).decode()
    assert (ending.reason, ending.status) == ("exit", 1), text
    assert re.fullmatch(r"\d{3} checks, 0 failed\n", text)


@pytest.mark.parametrize("options", PAGING)
@pytest.mark.parametrize("levels", [4, 5])
def test_matrix_of_access_rights(pc: Make, options: dict[str, Any], levels: int) -> None:
    every = 401 if shadowmmu.native else 2003
    line = f"matrix {levels} {every} {levels}"
    computer, output = pc((GUESTS / "matrix.flat").read_bytes(), line, **options)
    ending = computer.run(Limits(seconds=120))
    text = b"".join(output).decode()
    assert (ending.reason, ending.status) == ("exit", 1), text
    assert re.fullmatch(r"\d+ cases, \d+ faults, 0 wrong\n", text)


@pytest.mark.parametrize(
    ("text", "reason", "status"),
    [
        ("cli\n hlt", "halted", 0),
        ("sti\n hlt", "halted", 0),
        ("mov al, 0xfe\n out 0x64, al\n hlt", "reset", 0),
        ("mov edx, 0xcf9\n mov al, 6\n out dx, al\n hlt", "reset", 0),
        ("mov edx, 0x604\n mov eax, 0x2000\n out dx, ax\n hlt", "power off", 0),
        ("mov edx, 0xf4\n mov eax, 0x1ff\n out dx, eax\n hlt", "exit", 0xFF),
        ("ud2", "triple fault", None),
        ("lgdt [0x300000]\n mov eax, 0x18\n mov ss, eax\n hlt", "triple fault", None),
        ("mov eax, 0xe0000000\n jmp eax", "triple fault", None),
        ("self: jmp self", "endless loop", None),
        ("self: pause\n jmp self", "endless loop", None),
    ],
)
def test_endings(pc: Make, text: str, reason: str, status: int | None) -> None:
    ending = pc(program(text))[0].run(Limits(seconds=30))
    assert (ending.reason, ending.status) == (reason, status)


def test_a_loop_at_address_0_runs_on(pc: Make) -> None:
    loop = program("mov dword ptr [0], 0x90fdeb90\n xor eax, eax\n jmp eax")
    assert pc(loop)[0].run(Limits(seconds=0.6)).reason == "seconds"


def test_the_serial_port_interrupts(pc: Make) -> None:
    """Its transmitter is empty: line 4 of the PIC, vector 0x24."""
    setup = "".join(
        f"mov edx, {port:#x}\n mov al, {value:#x}\n out dx, al\n "
        for port, value in (
            *((0x20, 0x11), (0x21, 0x20), (0x21, 4), (0x21, 1), (0x21, 0xEF)),
            *((0x3FC, 0x0B), (0x3F9, 2)),
        )
    )
    text = f"""
    mov esp, 0x300000
    lgdt [table]
    ljmp 8, offset go
    go: mov eax, 16
    mov ds, eax
    mov ss, eax
    mov eax, offset handler
    mov [0x200000 + 8 * 0x24], ax
    mov dword ptr [0x200000 + 8 * 0x24 + 2], 0x8e000008
    mov dword ptr [0x200000 + 8 * 0x24 + 4], 0x00108e00
    lidt [interrupts]
    {setup}
    sti
    wait: jmp wait
    handler: mov al, 5
    mov edx, 0xf4
    out dx, eax
    hlt
    .align 8
    gdt: .quad 0, 0x00cf9b000000ffff, 0x00cf93000000ffff
    table: .word 23
    .long gdt
    interrupts: .word 0x7ff
    .long 0x200000
    """
    assert pc(program(text))[0].run(Limits(seconds=10)).status == 11


def test_bios_data_area(pc: Make) -> None:
    machine = pc(program("hlt"))[0].machine
    assert machine.read(0x40E, 2) == (0x9FC0).to_bytes(2, "little")
    assert machine.read(0x413, 2) == (639).to_bytes(2, "little")
    assert machine.read(0x400, 2) == (0x3F8).to_bytes(2, "little")


def test_the_local_apic_moves_to_where_its_msr_says(pc: Make) -> None:
    text = """
    mov ecx, 0x1b
    rdmsr
    and eax, 0xfff
    or eax, 0x42000000
    wrmsr
    mov ebx, [0x42000030]
    mov esi, [0xfee00030]
    hlt
    """
    computer, _ = pc(program(text))
    assert computer.run().reason == "halted"
    assert computer.machine.get("rbx") == 0x50014
    assert computer.machine.get("rsi") == 0xFFFFFFFF


def test_registers_before_a_triple_fault(pc: Make) -> None:
    computer, _ = pc(program("mov ebp, 0x1234\n mov ecx, 0x10\n ud2"))
    assert computer.run().reason == "triple fault"
    state = computer.machine.at_shutdown
    assert state["rbp"] == 0x1234
    assert state["cr0"] & 1
    assert computer.machine.history


def test_limits(pc: Make) -> None:
    loop = program("again: inc dword ptr [0x200000]\n cpuid\n jmp again")
    computer, _ = pc(loop)
    assert computer.run(Limits(exits=50)).reason == "exits"
    assert 50 <= computer.machine.exits.total() <= 52
    computer, _ = pc(loop)
    assert computer.run(Limits(seconds=0.2)).reason == "seconds"
    assert 0.2 <= computer.seconds < 5
    computer, _ = pc(program("again: inc ecx\n jmp again"))
    assert computer.run(Limits(instructions=1000)).reason == "instructions"
    assert 400 <= computer.machine.get("rcx") <= 600


def test_instructions_are_counted_across_slices(pc: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    from shadowmmu.guest.pc import pc as module

    monkeypatch.setattr(module, "SLICE", 0.01)
    computer, _ = pc(program("again: inc ecx\n jmp again"))
    slices: list[int] = []
    ending = computer.run(Limits(instructions=5_000_000), lambda: slices.append(computer.instructions))
    assert ending.reason == "instructions"
    assert len(slices) > 1
    assert 5_000_000 <= computer.instructions <= 5_000_100


def test_interruption(pc: Make) -> None:
    computer, _ = pc(program("again: cpuid\n jmp again"))
    assert computer.run(progress=computer.interrupt).reason == "interrupted"


def test_what_does_not_fit_in_memory(pc: Make) -> None:
    with pytest.raises(ImageError, match="--memory"):
        pc(flat(b"\xf4", bss=64 << 20))


def test_memory_beyond_the_hole(pc: Make) -> None:
    computer, _ = pc(program(EXIT_3), memory=5 << 30)
    assert computer.machine.read((4 << 30) + 0x1000, 1) == b"\0"
    assert computer.run().status == 7


def test_unknown_ports_and_addresses_read_as_ones(pc: Make) -> None:
    text = """
        mov edx, 0x1230
        in eax, dx
        not eax
        mov ebx, [0xe0001000]
        not ebx
        or eax, ebx
        mov dword ptr [0xe0001000], 1
        mov edx, 0xf4
        out dx, eax
        hlt
    """
    assert pc(program(text))[0].run().status == 1


def test_the_host_takes_a_page_away_for_a_moment(pc: Make) -> None:
    text = """
        mov dword ptr [0x200000], 5
        mov eax, 0x200000
        out 0xe4, eax
        mov eax, [0x200000]
        mov edx, 0xf4
        out dx, eax
        hlt
    """
    assert pc(program(text))[0].run().status == 11
