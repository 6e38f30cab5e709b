"""Scenarios whose guest is a hypervisor: the words of the language, L2's code, the VMCB12."""

import pytest
from kvm.world import World

from shadowmmu.guest.play.stubs import L2Stubs
from shadowmmu.guest.scenario import ops
from shadowmmu.guest.scenario.op_parser import OpParser
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.guest.scenario.scenario import Scenario
from shadowmmu.guest.scenario.setup import (
    L2_CODE,
    L2_CODE_END,
    MODES,
    NESTED_GPA,
    NESTED_SIZE,
    NESTED_SLOT,
    L2Code,
    Pt,
    ScenarioError,
    SlotSetup,
    Vmcb,
    resolve,
)
from shadowmmu.x86.insn import Insn, Op

HEAD = "param kvm_amd npt=1\nmode {mode}\nvcpus 2\nnested\nslot 0 0x0 16M\nalloc 0x2000\n"
START = "start cr3=0x1000 ncr3=0x8000"


def parse(*lines: str, mode: str = "long4", setup: tuple[str, ...] = (), start: str = START) -> Scenario:
    """A scenario whose line 7 is the first of `setup`; without any, line 8 is the first of `lines`."""
    return parse_scenario(HEAD.format(mode=mode) + "\n".join([*setup, start, *lines]), path="x.txt")


def entries(*setup: str, mode: str = "long4") -> list[tuple[int, int]]:
    actions = resolve(parse(setup=setup, mode=mode)).actions
    return [(action.gpa, action.value) for action in actions if isinstance(action, Pt)]


# -- setup -----------------------------------------------------------------------------------------------


def test_nested_brings_slot_svm_and_a_vmcb_for_each_vcpu() -> None:
    setup = resolve(parse(start="start cr3=0x1000 ncr3=0x8000 ncr3@1=0x9000"))
    assert setup.nested
    assert setup.actions[0] == SlotSetup(NESTED_SLOT, NESTED_GPA, NESTED_SIZE, options="nested")
    assert [vcpu.efer & 0x1000 for vcpu in setup.vcpus] == [0x1000, 0x1000]
    kinds = [type(action).__name__ for action in setup.actions[-4:]]
    assert kinds == ["Vcpu", "Vmcb", "Vcpu", "Vmcb"]
    assert [action for action in setup.actions if isinstance(action, Vmcb)] == [
        Vmcb(0, NESTED_GPA, 0x8000, 1),
        Vmcb(1, NESTED_GPA + 0x1000, 0x9000, 2),
    ]
    assert not resolve(parse_scenario("mode long4\nslot 0 0x0 1M\nstart")).nested


def test_npt_map_and_pt_are_map_and_pt() -> None:
    for line in ("map 0x8000 0x400000 0x800000 0x67 n=2 level=2", "pt 0x8000 5 0x9067"):
        assert entries(f"npt {line}") == entries(line)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("long5", [(0x8000, 0x2027), (0x2000, 0x3027), (0x3018, 0xF010E027)]),
        ("long4", [(0x8000, 0x2027), (0x2018, 0xF010E027)]),
        ("pae", [(0x8018, 0xF010E001)]),
        ("32", [(0x8000 + 4 * 0x3C0, 0xF010F027)]),
    ],
)
def test_ntramp_maps_l2_s_code(mode: str, expected: list[tuple[int, int]]) -> None:
    """The last tables are in slot 62; those above level 3 come from `alloc`, unless they are there."""
    rest = [(0xF010EC00, 0xF010F027)] if mode != "32" else []
    size = MODES[mode].entry_size
    leaf = (0xF010F000 + (L2_CODE >> 12 & (511 if size == 8 else 1023)) * size, L2_CODE | 0x67)
    assert entries("ntramp 0x8000", mode=mode) == [*expected, *rest, leaf]
    if mode == "long4":
        assert entries("npt pt 0x8000 0 0x9027", "ntramp 0x8000")[1] == (0x9018, 0xF010E027)


def test_l2code() -> None:
    scenario = parse(setup=("l2code 0x800800",))
    assert L2Code(0x800800) in resolve(scenario).actions
    world = World.of(HEAD.format(mode="long4") + "l2code 0x800800\ntramp 0x1000\n" + START + "\n")
    assert world.machine.host_read(0x800800, 3) == int.from_bytes(L2_CODE_END, "little")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mode long4\nnested\n", "2: a guest that is a hypervisor needs nested paging; put `param kvm_amd"),
        ("param kvm_amd npt=1\nmode long4\nnested\nparam kvm_amd npt=0\nstart", "3: a guest that is a"),
        ("param kvm_amd npt=1\nnested\nmode long4", "2: `nested` comes before `mode`"),
        ("param kvm_amd npt=1\nmode nopaging\nnested", "3: a guest without paging cannot be a hypervisor"),
        ("param kvm_amd npt=1\nmode long4\nnested\nnested", "4: slot 62 exists already; leave 62 free"),
        ("param kvm_amd npt=1\nmode long4\nslot 62 0x0 1M\nnested", "4: slot 62 exists already"),
        ("param kvm_amd npt=1\nmode long4\nslot 1 0xf0000000 2M", "3: slot 1 overlaps the guest code"),
        ("param kvm_amd npt=1\nmode long4\nslot 1 0xf0110000 64K\nnested", "4: slot 1 overlaps the hyperv"),
        ("param kvm_amd npt=1\nmode long4\nnested\nslot 1 0xf0110000 64K", "4: slot 1 overlaps slot 62"),
        ("mode long4\nslot 0 0x0 1M\nntramp 0x0", "3: `ntramp` needs a guest that is a hypervisor; put `nes"),
        ("mode long4\nslot 0 0x0 1M\nnpt pt 0x0 0 0", "3: `npt` needs a guest that is a hypervisor"),
        ("mode long4\nslot 0 0x0 1M\nl2code 0x0", "3: `l2code` needs a guest that is a hypervisor"),
        ("mode long4\nslot 0 0x0 1M\nstart ncr3=0x0", "3: `start` has no option `ncr3=`"),
    ],
)
def test_refused_scenarios(text: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse_scenario(text, path="x.txt")
    assert str(caught.value).startswith(f"x.txt:{message}")
    assert "; " in str(caught.value)


def test_the_parameter_may_come_later() -> None:
    text = "mode long4\nnested\nslot 0 0x0 1M\nstart\nparam kvm_amd npt=1"
    assert resolve(parse_scenario(text)).nested


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("npt", "`npt` is followed by map or pt; write `npt map ...`"),
        ("npt tramp 0x8000", "`npt` is followed by map or pt"),
        ("npt map 0x8000 0x0 0x0", "`map` lacks an argument"),
        ("npt map 0x50000000 0x0 0x0 0x67", "no slot has guest address 0x50000000"),
        ("npt pt 0x8000 512 0", "index 512 is out of range"),
        ("ntramp", "`ntramp` lacks an argument; write `ntramp[@N] NCR3`"),
        ("ntramp 0x50000000", "no slot has guest address 0x50000000"),
        ("l2code 0xfffffe", "0xfffffe + 0x3 is beyond the slot"),
        ("slot 62 0x50000000 4K", "slot 62 holds what the guest has as a hypervisor; use 0 to 61"),
        ("start ncr3@2=0x8000", "`start` has no option `ncr3@2=`"),
        ("l2read 0x0", "`l2read` is an operation; put it after `start`"),
        ("vmcb asid=1", "`vmcb` is an operation"),
    ],
)
def test_refused_setup(line: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(setup=(line,))
    assert str(caught.value).startswith(f"x.txt:7: {message}")


def test_ntramp_without_a_page_for_its_tables() -> None:
    text = "param kvm_amd npt=1\nmode long4\nnested\nslot 0 0x0 1M\nntramp 0x8000\nstart"
    with pytest.raises(ScenarioError, match=r"x.txt:5: `map` needs a page for a page table; put `alloc GPA`"):
        resolve(parse_scenario(text, path="x.txt"))


# -- operations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kind", "fields"),
    [
        ("l2read 0x400000", ops.Access, {"kind": "read", "gva": 0x400000, "size": 4, "l2": True}),
        ("@1 l2write 0x10 0x12345 size=2", ops.Access, {"vcpu": 1, "value": 0x2345, "l2": True}),
        ("l2xchg 0x10 1", ops.Access, {"kind": "xchg", "size": 4}),
        ("l2add 0xffffffff 1", ops.Access, {"kind": "add", "gva": 0xFFFFFFFF}),
        ("l2cmpxchg 0x10 1 2 size=8", ops.Access, {"expected": 2, "size": 8}),
        ("l2stos 0x10 7 n=3", ops.Access, {"kind": "stos", "count": 3}),
        ("l2nop", ops.Nop, {"l2": True, "user": False}),
        ("l2exec 0x800800", ops.Exec, {"l2": True, "gva": 0x800800}),
        ("l2exit", ops.L2Exit, {}),
        ("ncr3 0x9000", ops.SetNestedCr3, {"value": 0x9000}),
        ("vmcb ncr3=0x9000 tlb=3", ops.ChangeVmcb, {"ncr3": 0x9000, "asid": None, "tlb": 3}),
        ("vmcb asid=0", ops.ChangeVmcb, {"ncr3": None, "asid": 0, "tlb": None}),
        ("vmcb", ops.ChangeVmcb, {"ncr3": None, "asid": None, "tlb": None}),
        ("l1invlpga 0x7fff00000000 1", ops.Invlpga, {"address": 0x7FFF00000000, "asid": 1}),
        ("l1invlpga 0x1000", ops.Invlpga, {"address": 0x1000, "asid": 0}),
        ("read 0x400000", ops.Access, {"l2": False, "size": 8}),
    ],
)
def test_op(line: str, kind: type[ops.Op], fields: dict[str, object]) -> None:
    (op,) = parse(line).ops
    assert type(op) is kind
    assert {name: getattr(op, name) for name in fields} == fields
    assert op.text == line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("l2read 0x0 size=8", "`read` has no 8-byte form in L2; use size=1|2|4"),
        ("l2read 0x100000000", "address 0x100000000 is out of range; use 0 to 0xffffffff"),
        ("l2write", "`write` lacks an argument"),
        ("l2exec", "`exec` lacks an argument"),
        ("ul2read 0x0", "unknown word `ul2read`; did you mean `l2read`?"),
        ("l2uread 0x0", "unknown word `l2uread`"),
        ("l2invlpg 0x0", "unknown word `l2invlpg`"),
        ("l2exit 1", "`1` is not understood after `l2exit`; write `l2exit`"),
        ("ncr3", "`ncr3` lacks an argument; write `ncr3 VALUE`"),
        ("vmcb 1", "`1` is not understood after `vmcb`"),
        ("vmcb rip=1", "`vmcb` has no option `rip=`; write `vmcb [ncr3=V] [asid=N] [tlb=N]`"),
        ("vmcb tlb=256", "tlb= 256 is out of range"),
        ("vmcb asid=0x100000000", "asid= 0x100000000 is out of range"),
        ("l1invlpga", "`l1invlpga` lacks an argument"),
        ("l1invlpga 0x0 0x100000000", "ASID 0x100000000 is out of range"),
        ("@2 l2nop", "there is no vCPU 2"),
        ("delslot 62", "slot 62 holds what the guest has as a hypervisor"),
        ("movslot 62 0x0", "slot 62 holds what the guest has as a hypervisor"),
        ("ntramp 0x8000", "`ntramp` is not an operation; put it before `start`"),
        ("npt pt 0x8000 0 0", "`npt` is not an operation"),
    ],
)
def test_refused_ops(line: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        parse(line)
    assert str(caught.value).startswith(f"x.txt:8: {message}")
    assert "; " in str(caught.value)


@pytest.mark.parametrize("word", ["l2read 0x0", "l2nop", "l2exit", "ncr3 0x0", "vmcb", "l1invlpga 0x0"])
def test_ops_of_a_hypervisor_need_one(word: str) -> None:
    with pytest.raises(
        ScenarioError, match="needs a guest that is a hypervisor; put `nested` before `start`"
    ):
        parse_scenario(f"mode long4\nslot 0 0x0 1M\nstart\n{word}")
    assert not OpParser().knows(word.split()[0])


# -- L2's code, and the VMCB12 ---------------------------------------------------------------------------


def test_l2_s_routines_lie_one_behind_the_other_in_one_page() -> None:
    image = L2Stubs(L2_CODE).image
    end = 0
    for offset, code in image.items():
        assert offset == end
        assert code.endswith(L2_CODE_END)
        end = offset + len(code)
    assert end <= 0x1000


def test_l2_s_steps_are_what_is_in_the_page() -> None:
    stubs = L2Stubs(L2_CODE)
    page = bytearray(0x1000)
    for offset, code in stubs.image.items():
        page[offset : offset + len(code)] = code
    operands = Insn(Op.NOP, address=0x1234, size=4, value=5)
    for name, size in [("read", 1), ("write", 2), ("cmpxchg", 8), ("stos", 4), ("nop", 0), ("exit", 0)]:
        steps = stubs.routine(name, size, operands)
        for step in steps:
            at = step.rip - L2_CODE
            assert page[at : at + len(step.insn.code)] == step.insn.code
            assert not step.user
        assert steps[-1].insn.op is Op.OUT
    assert [step.insn.op for step in stubs.routine("exit", 0, operands)] == [Op.VMMCALL, Op.OUT]
    (jump,) = stubs.jump(0x800800)
    assert (jump.rip, jump.jump) == (0x800800, True)
    with pytest.raises(KeyError):
        stubs.routine("invlpg", 0, operands)


def l1(*lines: str, mode: str = "long4") -> World:
    text = HEAD.format(mode=mode) + "tramp 0x1000\nntramp 0x8000\n" + "\n".join(lines)
    return World.of(f"{text}\nnpt map 0x8000 0x800000 0x800000 0x67 n=2\n{START}\n")


def test_the_vmcb12() -> None:
    """Offsets of the manual's appendix B."""
    world = l1()
    read = world.machine.host_read
    vmcb = NESTED_GPA + 0x1000
    assert read(vmcb + 0x0C, 4) == 1 << 31, "SHUTDOWN is intercepted"
    assert read(vmcb + 0x10, 4) == 3, "VMRUN and VMMCALL are"
    assert read(vmcb + 0x58, 4) == 2
    assert (read(vmcb + 0x90, 8), read(vmcb + 0xB0, 8)) == (1, 0x8000)
    assert (read(vmcb + 0x4D0, 8), read(vmcb + 0x558, 8)) == (0x1000, 0x11)
    world.ok("nop", "@1 nop", "@1 vmcb ncr3=0x9000 asid=7 tlb=3")
    assert (read(vmcb + 0xB0, 8), read(vmcb + 0x58, 4), read(vmcb + 0x5C, 1)) == (0x9000, 7, 3)
    assert read(NESTED_GPA + 0xB0, 8) == 0x8000, "that of vCPU 0 is another"
    world.ok("l2nop")
    assert read(NESTED_GPA + 0x578, 8) >> 12 == L2_CODE >> 12
    assert world.do("l2exit").result == {"outcome": "vmexit", "code": "0x81", "info1": "0x0", "info2": "0x0"}


@pytest.mark.parametrize(
    "line", ["nop", "read 0x0", "cr3 0x1000", "invlpg 0x0", "ncr3 0x8000", "l1invlpga 0x0"]
)
def test_an_op_of_l1_while_l2_runs(line: str) -> None:
    world = l1()
    world.ok("nop", "l2nop")
    before = world.stats
    with pytest.raises(ScenarioError) as caught:
        world.do(line)
    assert str(caught.value) == f"<text>:12: vCPU 0 is in L2; put `l2exit` before `{line}`"
    assert world.stats == before
    assert world.do("@1 nop").result["outcome"] == "ok"
    assert world.do("l2exit").result["code"] == "0x81"
    world.ok("nop")


def test_a_vmcb12_that_user_space_cannot_reach_is_an_error_of_the_op() -> None:
    world = l1()
    world.ok("nop", "mprotect 0xf0100000 0x1000 none")
    for line in ("l2nop", "l2exit", "ncr3 0x8000", "vmcb asid=1"):
        assert world.do(line).result == {"outcome": "error", "errno": "EFAULT"}
    world.ok("@1 nop", "@1 l2nop", "mprotect 0xf0100000 0x1000 rw", "l2nop")
    world.ok("mprotect 0xf0100000 0x1000 none")
    assert world.do("l2exit").result == {"outcome": "error", "errno": "EFAULT"}
