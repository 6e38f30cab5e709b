"""The machine's own interface: registers, limits, ports, MSRs, what stops it."""

import pytest
from guest.svm.board import CODE, DATA, Board

from shadowmmu.guest.svm import EmulatorError, layout
from shadowmmu.x86.bits import CR4_PCIDE, CR4_PKE, CR4_UMIP, EFER_LMA

ROUNDS = 3_000_000


def test_registers_are_kept_across_runs() -> None:
    board = Board("4")
    board.start("vmmcall\n add rbx, r15\n hlt", rbx=1 << 40, r15=5)
    assert board.run().reason == "hlt"
    assert board.run().reason == "hlt"
    assert board.get("rbx") == (1 << 40) + 5
    assert board.get("efer") & EFER_LMA
    with pytest.raises(KeyError):
        board.get("ax")
    with pytest.raises(ValueError):
        board.machine.set("cr4", CR4_PKE)


@pytest.mark.parametrize("value", [0, 0xD7, 0x8D5 | 0x400, 0x40ED7])
def test_flags_are_as_set(value: int) -> None:
    board = Board("4")
    board.start("pushfq\n pop rbx\n hlt", rflags=value)
    assert board.run().reason == "hlt"
    assert board.get("rbx") == value | 2
    assert board.get("rflags") == value | 2


def test_lazy_flags_are_read_right() -> None:
    board = Board("4")
    board.execute("mov eax, 0x7fffffff\n add eax, 1\n cpuid\n hlt")
    assert board.get("rflags") & 0x8D5 == 0x894


def test_limits() -> None:
    board = Board("4")
    board.start("again: cpuid\n jmp again")
    assert board.machine.run(exits=100).reason == "exits"
    assert 100 <= board.machine.exits.total() <= 101
    assert board.machine.run(seconds=0.05).reason == "seconds"
    board.start("again: inc ebx\n jmp again", rbx=0)
    assert board.machine.run(seconds=0.05).reason == "seconds"
    first = board.get("rbx")
    assert first > 1000
    assert board.machine.run(instructions=1000).reason == "instructions"
    assert 400 <= board.get("rbx") - first <= 600
    assert board.get("rip") in (CODE, CODE + 2)


def test_ports() -> None:
    board = Board("4")
    written: list[tuple[int, int, int]] = []
    board.machine.on_port(
        0x60, 0x6F, read=lambda port, size: port << 4 | size, write=lambda *access: written.append(access)
    )
    board.execute(
        "in al, 0x60\n movzx ebx, al\n mov edx, 0x64\n in ax, dx\n mov ecx, eax\n"
        "mov eax, 0x12345678\n out dx, eax\n out 0x61, al\n in eax, 0x10\n hlt"
    )
    assert (board.get("rbx"), board.get("rcx") & 0xFFFF, board.get("rax")) == (0x01, 0x642, 0xFFFFFFFF)
    assert written == [(0x64, 4, 0x12345678), (0x61, 1, 0x78)]


def test_a_port_stops_the_machine() -> None:
    board = Board("4")
    board.machine.on_port(0xF4, write=lambda port, size, value: board.machine.stop("exit", value))
    board.start("mov al, 3\n out 0xf4, al\nagain: jmp again")
    outcome = board.run()
    assert (outcome.reason, outcome.detail) == ("exit", 3)


def test_cpuid_and_cr4_agree() -> None:
    board = Board("4")
    board.execute("mov eax, 7\n xor ecx, ecx\n cpuid\n hlt")
    assert board.get("rbx") & (1 << 7 | 1 << 20) == 1 << 7 | 1 << 20
    assert board.get("rcx") & 1 << 16
    assert board.get("rbx") & 1 << 10
    assert board.get("rcx") & 1 << 2
    assert not board.machine.vcpu.cr4_missing & (CR4_PCIDE | CR4_UMIP)
    assert board.machine.vcpu.cr4_missing & CR4_PKE
    board.execute("mov eax, 0x80000001\n cpuid\n hlt")
    assert not board.get("rcx") & 4
    board.execute("mov eax, 0x80000008\n cpuid\n hlt")
    assert board.get("rax") & 0xFFFF == 57 << 8 | 40


def test_bad_control_bits_are_refused() -> None:
    board = Board("4")
    taken: list[int] = []
    board.handlers[13] = lambda event, place: (
        taken.append(event.rip),
        board.write_word(place, event.rip + 3),
    )[0]
    text = "mov rax, cr4\n bts rax, 22\n mov cr4, rax\n btr rax, 22\n bts rax, 12\n mov cr4, rax\n"
    text += "mov rax, cr4\n mov rbx, cr0\n hlt"
    board.execute(text)
    assert len(taken) == 2
    assert not board.get("rax") & (1 << 17 | 1 << 12)


def test_msrs() -> None:
    board = Board("4")
    written: list[int] = []
    board.machine.on_msr(0x4B564D00, read=lambda: 0x123456789, write=written.append)
    board.handlers[13] = lambda event, place: board.write_word(place, event.rip + 2)
    text = "mov ecx, 0x4b564d00\n rdmsr\n mov ebx, eax\n mov esi, edx\n wrmsr\n mov ecx, 0x12345\n rdmsr\n"
    text += "mov ecx, 0xc0000082\n mov eax, 0x1000\n xor edx, edx\n wrmsr\n rdmsr\n hlt"
    board.execute(text)
    assert (board.get("rbx"), board.get("rsi"), written) == (0x23456789, 1, [0x123456789])
    assert [event.vector for event in board.events] == [13]
    assert board.get("rax") == 0x1000


def test_single_steps_of_the_guest_are_its_own() -> None:
    board = Board("4")
    seen: list[int] = []
    board.handlers[1] = lambda event, place: seen.append(event.rip)
    board.execute(
        "pushfq\n bts qword ptr [rsp], 8\n popfq\n nop\n cpuid\npushfq\n btr qword ptr [rsp], 8\n popfq\n hlt"
    )
    assert seen[:2] == [CODE + 9, CODE + 11]


def test_the_history_has_the_last_exits() -> None:
    board = Board("4")
    board.execute("cpuid\n hlt")
    last = board.machine.history[-1]
    assert (last.code, last.rip) == (0x78, CODE + 2)
    assert board.machine.counters()["cpuid"] == 1


def test_another_emulator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers that are not where they are looked for: the message says which version is known."""
    layout.calibrated.cache_clear()
    monkeypatch.setattr(layout, "SELECTOR", 0xBEE8 ^ 0x10)
    monkeypatch.setattr(layout._Search, "find", lambda *arguments, **options: 0)
    with pytest.raises(EmulatorError, match=r"unicorn .* is not the emulator that is known here \(2\.1\.4\)"):
        layout.calibrated()
    monkeypatch.undo()
    layout.calibrated.cache_clear()


def test_a_missing_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", refuse)
    with pytest.raises(EmulatorError, match=r"pip install 'shadowmmu\[guest\]'"):
        layout.unicorn_module()


def test_data_goes_in_and_out() -> None:
    board = Board("none")
    board.machine.write(DATA - 2, b"abcdef")
    assert board.machine.read(DATA - 1, 4) == b"bcde"
    with pytest.raises(OSError):
        board.machine.read(1 << 40, 1)


@pytest.mark.parametrize("npt", [False, True])
def test_time_slices_lose_nothing(npt: bool) -> None:
    board = Board("4", npt=npt)
    ticks: list[int] = []
    board.machine.on_idle(lambda: ticks.append(board.machine.get("rip")), every=0.0003)
    text = "again: add qword ptr [0x3008], 1\n add rbx, [0x3008]\n mov rax, 1\n xadd [0x3010], rax\n"
    text += "adc qword ptr [0x3018], 0\n push rcx\n pop [0x3020]\n dec rcx\n jnz again\n hlt"
    board.execute(text, rcx=ROUNDS)
    assert len(ticks) > 10
    assert [board.read_word(0x3008 + 8 * n) for n in range(4)] == [ROUNDS, ROUNDS, 0, 1]
    assert board.get("rbx") == ROUNDS * (ROUNDS + 1) // 2


def test_an_interrupt_comes_when_the_guest_lets_it() -> None:
    board = Board("4")
    taken: list[int] = []
    board.handlers[20] = lambda event, place: (taken.append(event.rip), None)[1]
    board.machine.on_port(0x80, write=lambda port, size, value: board.machine.interrupt(20))
    board.execute("mov rcx, 1000\n out 0x80, al\n wait: dec rcx\n jnz wait\n sti\n nop\n nop\n hlt")
    assert len(taken) == 1
    assert board.machine.get("rip") - taken[0] == 2
