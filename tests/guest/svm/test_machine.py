"""The machine's own interface: registers, limits, ports, MSRs, what stops it."""

import pytest
from guest.svm.board import CODE, DATA, Board, Event

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


def access_msr(board: Board, index: int, value: int | None = None) -> int | None:
    """RDMSR, or WRMSR and then RDMSR; None: #GP."""
    faults: list[int] = []

    def skip(event: Event, place: int) -> None:
        faults.append(event.rip)
        board.write_word(place, event.rip + 2)

    board.handlers[13] = skip
    write = "" if value is None else "wrmsr\n "
    low, high = ((value or 0) & 0xFFFFFFFF, (value or 0) >> 32)
    board.execute(f"{write}rdmsr\n hlt", rcx=index, rax=low, rdx=high)
    return None if faults else board.get("rdx") << 32 | board.get("rax")


@pytest.mark.parametrize("index", [*range(0xC0010000, 0xC0010008), 0xC1, 0x186, 0xC001001F, 0xC001102A])
def test_msrs_of_a_missing_pmu_read_0_and_ignore_writes(index: int) -> None:
    board = Board("4")
    assert access_msr(board, index) == 0
    assert access_msr(board, index, 0x430076) == 0


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (0x179, 0),
        (0x17A, 0),
        (0x8B, 0x01000065),
        (0xCE, 1 << 31),
        (0xFE, 0x508),
        (0x198, 4 << 40 | 1000),
        (0x1A0, 0x1801),
        (0x277, 0x0007040600070406),
        (0xC0010010, 0),
        (0xC0010015, 0),
        (0xC0010114, 0),
        (0xC0010117, 0),
    ],
)
def test_msrs_that_kvm_answers(index: int, value: int) -> None:
    assert access_msr(Board("4"), index) == value


@pytest.mark.parametrize(
    "index",
    [
        pytest.param(0x3A, id="feature control of Intel"),
        pytest.param(0x48, id="SPEC_CTRL"),
        pytest.param(0x49, id="PRED_CMD"),
        pytest.param(0x10A, id="ARCH_CAPABILITIES"),
        pytest.param(0x17B, id="MCG_CTL"),
        pytest.param(0x345, id="PERF_CAPABILITIES"),
        pytest.param(0x400, id="the first bank of machine checks"),
        pytest.param(0xDA0, id="XSS"),
        pytest.param(0x4B564D00, id="kvmclock"),
        pytest.param(0xC0000104, id="TSC_RATIO"),
        pytest.param(0xC0010200, id="extended performance counters"),
    ],
)
def test_msrs_of_features_that_cpuid_does_not_show_fault(index: int) -> None:
    board = Board("4")
    assert access_msr(board, index) is None
    assert access_msr(board, index, 0) is None


@pytest.mark.parametrize(
    ("index", "value", "kept"),
    [
        (0xC0010015, 0x148, 0),
        (0xC0010015, 1 << 24, 1 << 24),
        (0xC0010015, 1 << 0, None),
        (0xC0011029, 2, 2),
        (0xC0011029, 4, None),
        (0xC0010058, 1, None),
        (0xC0010010, 0, None),
        (0xC0000103, 0x1_2345_6789, 0x23456789),
        (0x179, 0, None),
        (0x17A, 5, 5),
        (0x1A0, 0x1881, 0x1801),
        (0x1A0, 1, None),
        (0x1D9, 1, 1),
        (0x1D9, 0x40, None),
        (0x140, 1, 1),
        (0x140, 2, None),
        (0xCE, 0, None),
        (0xC0000080, 0x1D01, None),
        (0xC0010117, 0x1000, 0x1000),
        (0x175, 0xAAAA800000001234, 0xFFFF800000001234),
        (0x176, 0xAAAA000000001234, 0x1234),
        (0xC0000082, 0xAAAA800000001234, None),
        (0xC0010117, 1, None),
    ],
)
def test_msrs_keep_what_kvm_keeps(index: int, value: int, kept: int | None) -> None:
    assert access_msr(Board("4"), index, value) == kept


def test_rdtscp_gives_tsc_aux() -> None:
    board = Board("4")
    assert access_msr(board, 0xC0000103, 0x123) == 0x123
    board.execute("rdtscp\n hlt", rcx=0)
    assert board.get("rcx") == 0x123


def test_rdpmc_faults_without_a_pmu() -> None:
    board = Board("4")
    board.handlers[13] = lambda event, place: board.write_word(place, event.rip + 2)
    board.execute("xor ecx, ecx\n rdpmc\n hlt")
    assert [(event.vector, event.error_code) for event in board.events] == [(13, 0)]


def test_cpuid_faults_at_cpl_3_if_the_guest_wants_it() -> None:
    board = Board("4")
    assert access_msr(board, 0x140, 1) == 1
    board.handlers[13] = lambda event, place: board.write_word(place, event.rip + 2)
    board.execute("xor eax, eax\n cpuid\n hlt")
    assert not board.events
    board.start("xor eax, eax\n cpuid\n vmmcall", user=True)
    assert board.run().reason == "hlt"
    assert [event.vector for event in board.events] == [13]


def test_leaves_of_cpuid_that_there_are_not_are_0() -> None:
    board = Board("4")
    for leaf in (0x20, 0x40000001, 0x8000001F, 0x80000021, 0xC0000000):
        board.execute("cpuid\n hlt", rax=leaf, rbx=1, rcx=1, rdx=1)
        assert [board.get(name) for name in ("rax", "rbx", "rcx", "rdx")] == [0, 0, 0, 0]
    board.execute("cpuid\n hlt", rax=0x40000000)
    words = (board.get(name).to_bytes(4, "little") for name in ("rbx", "rcx", "rdx"))
    assert b"".join(words) == b"KVMKVMKVM\0\0\0"


@pytest.mark.parametrize("mode", ["32", "4"])
@pytest.mark.parametrize("instruction", ["vmcall", "vmmcall"])
def test_hypercalls_without_paravirtual_features(mode: str, instruction: str) -> None:
    board = Board(mode)
    calls = board.machine.system_calls
    calls.vmmcall = None
    sent: list[int] = []
    calls.send_ipi = sent.append
    ones = (1 << board.bits) - 1
    for number, command, first, result in (
        (1, 0, 0, 0),
        (99, 0, 0, -1000),
        (10, 0x41, 0, 1),
        (10, 0x41, 5, 0),
        (10, 0x841, 0, -22),
    ):
        board.execute(f"{instruction}\n hlt", rax=number, rbx=1, rcx=0, rdx=first, rsi=command)
        assert board.get("rax") == result & ones
    assert sent == [0x41]


def test_hypercalls_are_the_kernels() -> None:
    board = Board("4")
    board.machine.system_calls.vmmcall = None
    board.handlers[6] = board.handlers[13] = lambda event, place: None
    board.start("mov eax, 1\n vmmcall\n self: jmp self", user=True)
    assert board.machine.run(seconds=0.2).reason == "seconds"
    assert board.get("rax") == (1 << 64) - 1
