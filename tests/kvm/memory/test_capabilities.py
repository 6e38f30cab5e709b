"""KVM_ENABLE_CAP: what KVM accepts, what touches the MMU (recorded with 6.12.111 and 6.1.176)."""

import pytest
from kvm.world import World

from shadowmmu.guest.play.machine import Machine
from shadowmmu.guest.play.player import Player
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.guest.scenario.setup import ScenarioError, resolve
from shadowmmu.kvm.memory.capabilities import kvm_vm_ioctl_enable_cap
from shadowmmu.kvm.memory.memory_region import RegionError
from shadowmmu.trace.snapshot import snapshot
from shadowmmu.x86.bits import NX, PS

GVA, BIG = 0x40000000, 0x20000000


@pytest.fixture(scope="module")
def world() -> World:
    world = World("long4")
    world.ok("nop")
    return world


@pytest.mark.parametrize(
    ("cap", "argument", "errno"),
    [
        (116, 0, None), (116, 0xFFFFFFFF, None), (213, 0x100, None), (213, 0x5FF, None),
        (213, 0x200, "EINVAL"),
        (129, 3, None), (129, 4, "EINVAL"), (143, 8, None), (143, 16, "EINVAL"), (159, 9, None),
        (164, 9, None), (182, 5, None), (188, 0, None), (188, 7, None), (188, 8, "EINVAL"), (193, 2, None),
        (193, 3, "EINVAL"), (201, 0x1000, None), (201, 1, "EINVAL"), (204, 1, None), (204, 2, "EINVAL"),
        (218, 9, None), (168, 3, None), (168, 2, "EINVAL"), (121, 24, "EEXIST"), (128, 8, "EINVAL"),
        (121, 4097, "EINVAL"), (128, 0, "EINVAL"), (128, 16384, None), (128, 16385, "EINVAL"),
        (237, 0, "EINVAL"), (237, 1, "ENXIO"), (237, 0x10000, "ENXIO"), (237, 1 << 32, "EINVAL"),
        (192, 4096, "EINVAL"), (223, 4096, "EINVAL"), (225, 1, "EINVAL"), (220, 0, "EINVAL"),
        (212, 0, "EINVAL"),
        (197, 0, "EBADF"), (206, 1, "EBADF"), (0, 0, "EINVAL"), (244, 0, "EINVAL"), (99999, 0, "EINVAL"),
    ],
)  # fmt: skip
def test_what_kvm_answers_when_there_are_vcpus(
    world: World, cap: int, argument: int, errno: str | None
) -> None:
    expected = {"outcome": "ok"} if errno is None else {"outcome": "error", "errno": errno}
    assert world.do(f"cap {cap} {argument:#x}").result == expected


@pytest.mark.parametrize(
    ("kernel", "refused"),
    [
        ("6.1.176", {128: 16384, 129: 8, 237: 1}),
        ("6.12.111", {128: 4096, 129: 8, 237: 1}),
        ("7.3.4", {128: 4096, 143: 1, 237: 1}),
    ],
)
def test_kernels_differ_in_what_they_accept_with_a_vcpu(kernel: str, refused: dict[int, int]) -> None:
    world = World("long4", kernel=kernel)
    arguments = ((128, 4096), (128, 16384), (129, 8), (143, 1), (237, 1))
    answers = {(cap, argument): world.do(f"cap {cap} {argument}").result for cap, argument in arguments}
    found = {cap: argument for (cap, argument), result in answers.items() if result["outcome"] != "ok"}
    assert found == refused
    assert answers[237, 1]["errno"] == ("EINVAL" if kernel == "6.1.176" else "ENXIO")


def test_vcpu_numbers_are_limited_once() -> None:
    world = World("long4", "cap 128 3")
    for argument, answer in ((3, "ok"), (2, "error"), (16384, "error"), (0, "error")):
        assert world.do(f"cap 128 {argument}").result["outcome"] == answer


def test_more_vcpus_than_the_limit_are_an_error_of_the_scenario() -> None:
    lines = ("mode long4", "vcpus 3", "cap 128 2", "slot 0 0x0 2M", "tramp 0x1000", "start cr3=0x1000", "nop")
    with pytest.raises(ScenarioError, match="KVM refuses vCPU 2: EINVAL, capability 128 allows 2; change"):
        Player(resolve(parse_scenario("\n".join(lines))), None, snapshot)


@pytest.mark.parametrize(("kernel", "known"), [("6.12.111", 0x5FF), ("6.1.176", 0x7F)])
def test_kernels_differ_in_the_quirks_they_know(kernel: str, known: int) -> None:
    world = World("long4", kernel=kernel)
    for bit in range(12):
        accepted = world.do(f"cap 213 {1 << bit:#x}").result["outcome"] == "ok"
        assert accepted == bool(known >> bit & 1)
    world.ok("cap 116 0xfff")
    assert world.kvm.parameters.disabled_quirks == known


def test_a_quirk_that_is_off_stays_off() -> None:
    world = World("long4", "cap 213 128")
    world.ok("cap 116 0", "cap 213 1")
    assert world.kvm.parameters.disabled_quirks == 0x81


@pytest.mark.parametrize("line", ["cap 99 0", "cap 213 0x200", "cap 220 1", "cap 121 24", "cap 192 100"])
def test_what_kvm_refuses_in_a_setup_is_an_error_of_the_scenario(line: str) -> None:
    cap = line.split()[1]
    with pytest.raises(ScenarioError, match=rf"<text>:3: KVM refuses capability {cap}: EINVAL, .*; change"):
        World.of(f"mode long4\nslot 0 0x0 16M\n{line}\nstart cr3=0x1000\n")


def test_so_is_a_slot_that_kvm_refuses() -> None:
    text = "param kvm_amd npt=1\nmode long4\nslot 0 0x0 16M\nslot 1 1024G 1M\nstart cr3=0x1000\n"
    with pytest.raises(ScenarioError, match=r"<text>:4: KVM refuses slot 1: EINVAL, slot 1 ends beyond"):
        World.of(text)
    assert resolve(parse_scenario(text)), "it is KVM that refuses"


# -- KVM_CAP_VM_DISABLE_NX_HUGE_PAGES --------------------------------------------------------------------


@pytest.mark.parametrize("npt", [0, 1])
@pytest.mark.parametrize("disabled", [False, True])
def test_a_vm_can_do_without_the_nx_mitigation(npt: int, disabled: bool) -> None:
    world = World(
        "long4", "param kvm nx_huge_pages=force", f"param kvm_amd npt={npt}", f"slot 1 {BIG:#x} 4M huge2m",
        *(["cap 220 0"] if disabled else []),
        f"map 0x1000 {GVA:#x} {BIG:#x} 0x67 level=2", f"code {BIG:#x}",
    )  # fmt: skip
    world.ok(f"read {GVA:#x}")
    spte = world.spte(BIG if npt else GVA)
    assert spte & PS
    assert bool(spte & NX) != disabled
    world.ok(f"exec {GVA:#x}")
    assert world.kvm.stat.nx_lpage_splits == (0 if disabled else 1)
    world.check()


def test_it_is_chosen_before_the_first_vcpu() -> None:
    machine = Machine()
    kvm_vm_ioctl_enable_cap(machine.kvm, 220, 0)
    assert machine.kvm.parameters.disable_nx_huge_pages
    machine.add_vcpu(46)
    with pytest.raises(RegionError):
        kvm_vm_ioctl_enable_cap(machine.kvm, 220, 0)


# -- KVM_CAP_EXIT_ON_EMULATION_FAILURE -------------------------------------------------------------------


def test_failed_emulation_ends_kvm_run_at_cpl_3_only_if_it_was_asked_to() -> None:
    """Code of the guest in memory that is not there: nothing to decode."""
    world = World("long4", f"map 0x1000 {GVA:#x} 0xd0000000 0x67")
    assert world.do(f"uexec {GVA:#x}").result["vector"] == 6
    world.ok("cap 204 1")
    assert world.do(f"uexec {GVA:#x}").result == {"outcome": "exit", "reason": 17, "suberror": 1}
