"""What KVM emulates does what the processor does: each instruction on a page table and on plain memory."""

import random

import pytest
from guest.svm.board import CODE, DATA, KERNEL_CS, KERNEL_DS, MORE_DATA, TASK, Board
from guest.svm.invariants import check

from shadowmmu.x86.bits import A, D, P, U, W

FLAGS = 0x8D5
OPERANDS = {
    "mov [{m}], {a}": ("8", "16", "32", "64"),
    "mov dword ptr [{m}], 0x12345678": ("32",),
    "mov qword ptr [{m}], -5": ("64",),
    "mov byte ptr [{m}], 0x80": ("8",),
    "xchg [{m}], {a}": ("8", "16", "32", "64"),
    "add [{m}], {a}": ("8", "16", "32", "64"),
    "adc [{m}], {a}": ("32", "64"),
    "sub [{m}], {a}": ("8", "32", "64"),
    "sbb [{m}], {a}": ("16", "64"),
    "and [{m}], {a}": ("32", "64"),
    "or [{m}], {a}": ("8", "64"),
    "xor [{m}], {a}": ("64",),
    "lock or dword ptr [{m}], -2": ("32",),
    "inc {p} [{m}]": ("8", "32", "64"),
    "dec {p} [{m}]": ("16", "64"),
    "not {p} [{m}]": ("32", "64"),
    "neg {p} [{m}]": ("8", "64"),
    "shl {p} [{m}], 3": ("32", "64"),
    "shr {p} [{m}], 1": ("8", "64"),
    "sar {p} [{m}], 5": ("16", "64"),
    "rol {p} [{m}], 3": ("8", "32", "64"),
    "ror {p} [{m}], 1": ("16", "32", "64"),
    "shld [{m}], {a}, 5": ("16", "32", "64"),
    "shrd [{m}], {a}, 1": ("32", "64"),
    "movbe [{m}], {a}": ("16", "32", "64"),
    "sidt [{m}]": ("64",),
    "pop qword ptr [{m}]": ("64",),
    "lock xadd [{m}], {a}": ("8", "32", "64"),
    "lock bts [{m}], {a}": ("32", "64"),
    "btr {p} [{m}], 5": ("32", "64"),
    "btc {p} [{m}], 31": ("32", "64"),
    "lock cmpxchg [{m}], {c}": ("8", "32", "64"),
    "lock cmpxchg8b [{m}]": ("64",),
    "setc [{m}]": ("8",),
    "setg [{m}]": ("8",),
    "stosb": ("8",),
    "stosq": ("64",),
    "rep stosd": ("32",),
    "rep movsq": ("64",),
    "movsb": ("8",),
    "movups [{m}], xmm1": ("64",),
    "movntdq [{m}], xmm1": ("64",),
    "movntpd [{m}], xmm1": ("64",),
    "movdqu [{m}], xmm1": ("64",),
    "movnti [{m}], {a}": ("32", "64"),
    "push {a}": ("64",),
}
ACCUMULATOR = {"8": "bl", "16": "bx", "32": "ebx", "64": "rbx"}
COUNTER = {"8": "cl", "16": "cx", "32": "ecx", "64": "rcx"}
SIZES = {"8": "byte ptr", "16": "word ptr", "32": "dword ptr", "64": "qword ptr"}
CASES = [(text, size) for text, sizes in OPERANDS.items() for size in sizes]


def outcome(board: Board, page: int, text: str, seed: int) -> tuple[object, ...]:
    """Registers, flags and memory after the instruction with its operand in the page."""
    rng = random.Random(seed)
    board.machine.write(page + 0x800, rng.randbytes(0x100))
    board.machine.write(DATA, rng.randbytes(0x80))
    names = ("rax", "rbx", "rcx", "rdx")
    values = {name: rng.choice((rng.getrandbits(64), rng.getrandbits(5))) for name in names}
    if text.startswith("rep"):
        values["rcx"] = 4
    if "bts" in text:
        values["rbx"] = rng.randrange(-64, 64) & (1 << 64) - 1
    if "cmpxchg" in text and seed & 1:
        old = board.read_word(page + 0x820)
        values["rax"] = (
            old & 0xFFFFFFFF if "ecx" in text else old
        )  # the emulator clears the rest, equal or not
        values["rdx"] = old >> 32
    board.start(f"{text}\n vmmcall", **values, rdi=page + 0x820, rsi=DATA, rflags=rng.choice((2, 3, 0x8D7)))
    board.machine.processor.set_xmm(1, rng.getrandbits(128))
    if text.startswith("pop"):
        board.machine.set("rsp", DATA + 0x40)
    if text.startswith("push"):
        board.machine.set("rsp", page + 0x828)
    assert board.run().reason == "hlt", board.machine.history
    registers = tuple(board.get(name) for name in names)
    pointers = tuple(board.get(name) - page for name in ("rdi", "rsp") if board.get(name) >> 12 == page >> 12)
    return (*registers, *pointers, board.get("rflags") & FLAGS, board.machine.read(page + 0x800, 0x100))


@pytest.mark.parametrize(("text", "size"), CASES)
def test_an_instruction_does_the_same_on_a_page_table(text: str, size: str) -> None:
    board = Board("4")
    text = text.format(m="rdi", a=ACCUMULATOR[size], c=COUNTER[size], p=SIZES[size])
    table = board.entry(DATA, 2) & ~0xFFF
    for gva, page in ((0x10000000, table), (0x10001000, MORE_DATA)):
        board.map(gva, page | P | W)
    board.map(table, table | P | W)
    for seed in range(4):
        emulated = board.machine.vcpu.stat.insn_emulation
        here = outcome(board, table, text, seed)
        assert board.machine.vcpu.stat.insn_emulation > emulated, "the write was not emulated"
        board.machine.write(table + 0x800, bytes(0x100))
        assert here == outcome(board, MORE_DATA, text, seed)
    check(board)


@pytest.mark.parametrize(
    "text", ["fnsave [rdi]", "fxsave [rdi]", "lock cmpxchg16b [rdi]", "movq [rdi], xmm1", "enter 16, 1"]
)
def test_what_is_not_emulated_runs_alone(text: str) -> None:
    """KVM gives up the shadow of the table; the instruction then runs as it is."""
    board = Board("4")
    table = board.entry(DATA, 2) & ~0xFFF
    board.map(table, table | P | W)
    board.map(0x10000000, DATA | P | W)
    board.start(
        f"mov rcx, [{DATA}]\n xor eax, eax\n {text}\n vmmcall",
        rbx=7,
        rdi=table + 0x800,
        rsp=table + 0x900,
        rbp=5,
    )
    board.machine.processor.set_xmm(1, 5)
    assert board.run().reason == "hlt"
    assert any(board.machine.read(table + 0x800, 0x100))
    board.machine.write(table + 0x800, bytes(0x100))
    check(board)


def test_what_is_not_emulated_is_stepped_where_it_maps_itself() -> None:
    """The table maps the page it is in: to give up its shadow would not end, so it is written to once."""
    board = Board("4")
    directory = board.entry(0x10000000, 2) & ~0xFFF
    board.map(0x10000000, directory | P | W)
    board.start(f"mov rax, [{DATA}]\n fninit\n fnstcw [rdi]\n vmmcall", rdi=0x10000E00)
    assert board.run().reason == "hlt"
    assert board.read_word(directory | 0xE00, 2) == 0x37F
    assert not board.machine.exits[0x41], "a step of its own is no exit of KVM's"
    assert not board.get("rflags") & 0x100
    check(board)


DEVICE = 0x8000000
READS = {
    "mul {p} [{m}]": ("8", "16", "32", "64"),
    "imul {p} [{m}]": ("8", "16", "32", "64"),
    "imul {a}, [{m}]": ("16", "32", "64"),
    "imul {a}, [{m}], -7": ("16", "32", "64"),
    "div {p} [{m}]": ("8", "16", "32", "64"),
    "idiv {p} [{m}]": ("8", "16", "32", "64"),
    "bsf {a}, [{m}]": ("16", "32", "64"),
    "bsr {a}, [{m}]": ("16", "32", "64"),
    "movbe {a}, [{m}]": ("16", "32", "64"),
    "cmovs {a}, [{m}]": ("16", "32", "64"),
    "test [{m}], {a}": ("8", "32", "64"),
    "bt [{m}], {a}": ("16", "32", "64"),
    "movsx ebx, byte ptr [{m}]": ("32",),
    "movsxd rbx, dword ptr [{m}]": ("64",),
    "xlatb": ("8",),
    "movaps xmm1, [{m}]": ("64",),
    "movq mm1, [{m}]; movq rbx, mm1": ("64",),
    "movq mm1, rbx; movq [{m}], mm1": ("64",),
    "mov fs, [{m}]; mov ebx, fs": ("16",),
    "mov ss, [{m}]; mov ebx, ss": ("16",),
    "lss ebx, [{m}]; mov ecx, ss": ("32",),
    "jmp fword ptr [{m}]": ("32",),
    "push qword ptr [{m}]": ("64",),
    "call qword ptr [{m}]": ("64",),
    "jmp qword ptr [{m}]": ("64",),
    "lodsd": ("32",),
    "repe cmpsb": ("8",),
    "repne scasw": ("16",),
    "outsb": ("8",),
    "insd": ("32",),
    "str [{m}]": ("16",),
    "call next; next: nop": ("64",),
    "leave": ("64",),
    "enter 16, 0": ("64",),
    "ret 8": ("64",),
    "retf 8": ("64",),
    "pushfq": ("64",),
    "pushf": ("16",),
    "popfq": ("64",),
    "popf": ("16",),
    "push fs": ("64",),
    "pop fs; mov ebx, fs": ("64",),
    "fninit; fnstcw [{m}]": ("16",),
    "fninit; fldz; fnstsw [{m}]": ("16",),
    "rcl {p} [{m}], 3": ("8", "16", "32", "64"),
    "rcr {p} [{m}], 1": ("8", "64"),
    "rcr {p} [{m}], cl": ("16", "32"),
}
ON_DEVICES = [
    (text, size)
    for table in (READS, OPERANDS)
    for text, sizes in table.items()
    for size in sizes
    if text != "sidt [{m}]"
]
STACKS = ("call next", "enter", "ret", "leave", "pop", "push ", "pushf")


class Device:
    """Memory that answers as a device."""

    def __init__(self, board: Board) -> None:
        self.data = bytearray(0x1000)
        board.machine.on_mmio(DEVICE, 0x1000, read=self.read, write=self.write)

    def read(self, gpa: int, size: int) -> int:
        return int.from_bytes(self.data[gpa - DEVICE :][:size], "little")

    def write(self, gpa: int, size: int, value: int) -> None:
        self.data[gpa - DEVICE : gpa - DEVICE + size] = value.to_bytes(size, "little")


@pytest.mark.parametrize(("text", "size"), ON_DEVICES)
def test_an_instruction_does_the_same_on_a_device(text: str, size: str) -> None:
    place = 0x10000000
    code = text.replace("; ", "\n ").format(m="rdi", a=ACCUMULATOR[size], c=COUNTER[size], p=SIZES[size])
    found = []
    for gpa in (MORE_DATA, DEVICE):
        board = Board("4")
        device = Device(board)
        board.machine.on_port(0, 0xFFFF, read=lambda port, size: 0x12345678)
        rng = random.Random(text + size)
        board.map(place, gpa | P | W | A | D)
        data = bytearray(rng.randbytes(0x1000))
        if text.startswith(("call", "jmp", "ret")):
            data[0x820:0x828] = ((KERNEL_CS << 32 if "fword" in text else 0) | 0x1100).to_bytes(8, "little")
        if text.startswith("retf"):
            data[0x820:0x828] = (KERNEL_CS << 32 | 0x1100).to_bytes(8, "little")
        if text.startswith("popf"):
            data[0x820:0x828] = (rng.getrandbits(32) & ~0x4300 | 0x200000).to_bytes(8, "little")
        if text.startswith(("mov fs", "mov ss", "lss", "pop fs")):
            data[0x820:0x826] = KERNEL_DS.to_bytes(2, "little") * 3
        values = {name: rng.getrandbits(64) for name in ("rax", "rcx")}
        values |= {"rbx": place + 0x700 if text == "xlatb" else rng.getrandbits(64), "rdx": 0}
        if text.startswith(("bt", "lock bt")):
            values["rbx"] = 5
        if text.startswith(("rep", "lock cmpx")):
            values["rcx"] = 4
        flags = rng.choice((2, 3, 0x8D7))
        board.machine.write(0x1100, b"\x0f\x01\xd9")
        board.start(f"{code}\n vmmcall", **values, rdi=place + 0x820, rsi=place + 0x820, rflags=flags)
        device.data[:] = data
        if gpa != DEVICE:
            board.machine.write(gpa, bytes(data))
        board.machine.processor.set_xmm(1, rng.getrandbits(128))
        if text.startswith(STACKS):
            board.machine.set("rsp", place + 0x820)
            board.machine.set("rbp", place + 0x820)
        divides = "div" in text
        assert board.run().reason in ("hlt", "unexpected event" if divides else "hlt"), board.events
        memory = board.machine.read(gpa, 0x1000) if gpa != DEVICE else bytes(device.data)
        names = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "rip")
        registers = [board.get(name) for name in names]
        vectors = [event.vector for event in board.events]
        found.append(
            (registers, board.get("rflags") & FLAGS, board.machine.processor.xmm(1), memory, vectors)
        )
    assert found[0] == found[1]


@pytest.mark.parametrize(
    "text",
    ["paddd xmm1, [rdi]", "lock cmpxchg16b [rdi]", "crc32 eax, dword ptr [rdi]", "movq [rdi], xmm1"],
)
def test_what_is_not_emulated_is_refused_on_a_device(text: str) -> None:
    """KVM_RUN ends with an internal error; at CPL 3 the guest gets #UD."""
    board = Board("4")
    Device(board)
    board.map(0x10000000, DEVICE | P | W | U)
    board.start(f"{text}\n vmmcall", rdi=0x10000000)
    outcome = board.run()
    assert outcome.reason == "emulation"
    assert f"at {CODE:#x} cannot be emulated" in str(outcome.detail)
    board.handlers[6] = lambda event, place: board.machine.stop("#UD")
    board.start(f"{text}\n vmmcall", user=True, rdi=0x10000000)
    assert board.run().reason == "#UD"


@pytest.mark.parametrize(
    ("text", "word", "fault"),
    [
        pytest.param("mov ss, [rdi]", 0, None, id="null"),
        pytest.param("mov ss, [rdi]", 3, (13, 0), id="null for another privilege"),
        pytest.param("mov ss, [rdi]", KERNEL_CS, (13, KERNEL_CS), id="code for a stack"),
        pytest.param("mov ds, [rdi]", 0x78, (13, 0x78), id="beyond the GDT"),
        pytest.param("jmp fword ptr [rdi]", CODE | KERNEL_DS << 32, (13, KERNEL_DS), id="to data"),
        pytest.param("jmp fword ptr [rdi]", CODE, (13, 0), id="to nothing"),
        pytest.param("movaps xmm1, [rdi + 8]", 0, (13, 0), id="not aligned"),
        pytest.param("jmp [rdi]", 1 << 50, (13, 0), id="not canonical"),
        pytest.param("div dword ptr [rdi]", 0, (0, None), id="by 0"),
    ],
)
def test_exceptions_of_instructions_on_a_device(
    text: str, word: int, fault: tuple[int, int | None] | None
) -> None:
    board = Board("4")
    device = Device(board)
    device.data[:8] = word.to_bytes(8, "little")
    board.map(0x10000000, DEVICE | P | W)
    for vector in (0, 13):
        board.handlers[vector] = lambda event, place: board.machine.stop("hlt")
    board.start(f"{text}\n vmmcall", rdi=0x10000000)
    assert board.run().reason == "hlt"
    found = [(event.vector, event.error_code, event.rip) for event in board.events]
    assert found == ([(*fault, CODE)] if fault else [])


@pytest.mark.parametrize(
    "text",
    ["fxsave [rdi]", "fxrstor [rdi]", "sgdt [rdi]", "sidt [rdi]", "lgdt [rdi]", "lidt [rdi]"],
)
def test_what_kvm_takes_for_memory_never_ends_on_a_device(text: str) -> None:
    """Its emulator does not ask user space, and begins the instruction again."""
    board = Board("4")
    Device(board)
    board.map(0x10000000, DEVICE | P | W)
    board.start(f"{text}\n vmmcall", rdi=0x10000000)
    outcome = board.run()
    assert outcome.reason == "endless faults"
    assert outcome.detail == (
        f"the instruction at {CODE:#x} never ends: KVM takes its operand at 0x10000000 for memory, "
        "and it is a device"
    )
    assert board.get("rip") == CODE


def started(text: str, gpa: int, words: tuple[int, ...] = (), bits: int = 64) -> tuple[Board, Device]:
    """A board that is to execute `text`, with the top of the stack in a page of that gpa."""
    board = Board("4" if bits == 64 else "32")
    device = Device(board)
    place = 0x10000000
    board.map(place, gpa | P | W)
    size = bits // 8
    data = b"".join(word.to_bytes(size, "little") for word in words)
    board.machine.write(0x1100, b"\x0f\x01\xd9")
    board.start(f"{text}\n vmmcall", rdi=place + 0x900, rsp=place + 0x820)
    device.data[0x820 : 0x820 + len(data)] = data
    if gpa != DEVICE:
        board.machine.write(gpa + 0x820, data)
    return board, device


REGISTERS = "mov eax, 1\n mov ecx, 2\n mov edx, 3\n mov ebx, 4\n mov ebp, 6\n mov esi, 7\n mov edi, 8\n "


@pytest.mark.parametrize(
    ("text", "bits", "words", "pushed"),
    [
        pytest.param("pusha", 32, (), 8, id="pusha"),
        pytest.param("popa", 32, tuple(range(0x11, 0x19)), 0, id="popa"),
        pytest.param(f"call {KERNEL_CS}:0x1100", 32, (), 2, id="call far"),
        pytest.param("push ds", 32, (), 1, id="push ds"),
        pytest.param("pop ds", 32, (KERNEL_DS,), 0, id="pop ds"),
        pytest.param("retf", 32, (0x1100, KERNEL_CS), 0, id="retf"),
    ],
)
def test_instructions_with_the_stack_on_a_device(
    text: str, bits: int, words: tuple[int, ...], pushed: int
) -> None:
    """They do the same as on memory, but that a device sees only the last of several words."""
    found = []
    for gpa in (MORE_DATA, DEVICE):
        board, device = started((REGISTERS if "a" in text[-1:] else "") + text, gpa, words, bits)
        assert board.run().reason == "hlt", board.events
        memory = bytes(device.data) if gpa == DEVICE else board.machine.read(gpa, 0x1000)
        names = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "rip")
        stack = memory[0x820 - 4 * pushed : 0x820]
        found.append(([board.get(name) for name in names], stack))
    (plain, on_memory), (emulated, on_device) = found
    assert plain == emulated
    if pushed:
        assert on_memory[:2] == on_device[:2]
        assert not any(on_device[4:])
        assert pushed == 1 or any(on_memory[4:])


def test_a_stack_segment_from_a_device_lets_no_interrupt_in() -> None:
    board = Board("4")
    vector = 31

    def selector(gpa: int, size: int) -> int:
        board.machine.interrupt(vector)
        return KERNEL_DS

    board.machine.on_mmio(DEVICE, 0x1000, read=selector)
    board.map(0x10000000, DEVICE | P | W)
    board.handlers[vector] = lambda event, place: None
    board.start("sti\n nop\n mov ss, [rdi]\n nop\n nop\n vmmcall", rdi=0x10000000)
    assert board.run().reason == "hlt", board.events
    assert [event.rip for event in board.events] == [CODE + 5]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("call fword ptr [rdi]", (), id="call through a system descriptor"),
        pytest.param("retf", (0x1100, KERNEL_CS | 3), id="return to CPL 3"),
    ],
)
def test_far_transfers_that_kvm_does_not_emulate(text: str, words: tuple[int, ...]) -> None:
    """KVM_RUN ends with an internal error."""
    board, device = started(text, DEVICE, (0x1100 | (KERNEL_CS | 3) << 32,))
    device.data[0x900:0x906] = (0x1100 | TASK << 32).to_bytes(6, "little")
    outcome = board.run()
    assert outcome.reason == "emulation"
    assert str(outcome.detail) == f"instruction at {CODE:#x} cannot be emulated"


def test_a_far_call_whose_push_faults_changes_nothing() -> None:
    board, device = started("call fword ptr [rdi]", DEVICE)
    device.data[0x900:0x906] = (0x1100 | KERNEL_CS << 32).to_bytes(6, "little")
    board.machine.set("rsp", 0x10000004)
    board.gate(14, ist=1)
    board.handlers[14] = lambda event, place: board.machine.stop("hlt")
    assert board.run().reason == "hlt"
    (event,) = board.events
    assert (event.vector, event.error_code, event.cr2) == (14, 2, 0xFFFFFFC)
    assert (event.rip, event.cs, event.rsp) == (CODE, KERNEL_CS, 0x10000004)
    assert not any(device.data[:4]), "the push before it is lost"


def test_a_step_comes_after_popf_if_it_was_wanted_before() -> None:
    """TF counts as it was before the instruction, on a device as on memory."""
    for gpa in (MORE_DATA, DEVICE):
        board, _ = started("popfq\n nop\n nop", gpa, (0x302,))
        board.gate(1, ist=1)
        board.handlers[1] = lambda event, place, board=board: board.machine.stop("hlt")
        assert board.run().reason == "hlt"
        assert [event.rip for event in board.events] == [CODE + 2]


@pytest.mark.parametrize("text", ["rcl", "rcr"])
def test_a_load_that_faults_keeps_the_carry(text: str) -> None:
    """The emulated processor loses it in RCL and RCR."""
    found = []
    for touch in ("nop", "mov al, [rdi]"):
        board = Board("4")
        board.map(0x10000000, MORE_DATA | P | W | A | D)
        board.start(
            f"{touch}\n mov eax, -1\n add eax, eax\n {text} qword ptr [rdi], 1\n vmmcall", rdi=0x10000000
        )
        board.write_word(MORE_DATA, 0x10)
        assert board.run().reason == "hlt"
        found.append((board.read_word(MORE_DATA), board.get("rflags") & FLAGS))
    assert found[0] == found[1]
    assert found[0][0] == (0x21 if text == "rcl" else 0x8000000000000008)
