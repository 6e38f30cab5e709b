"""Whether a guest can tell two designs apart: the same scenario played on both."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from kvm.random_scenarios import DATA, HUGE, LAZY, LOGGED, READ_ONLY
from kvm.world import World

from shadowmmu.guest.scenario.ops import Op
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.kvm.bits import REQ_TLB_FLUSH_GUEST
from shadowmmu.kvm.design.switches import DEFAULT_KERNEL

PAGING = {
    "npt=0": (),
    "npt=1 tdp_mmu=0": ("param kvm_amd npt=1", "param kvm tdp_mmu=0"),
    "npt=1 tdp_mmu=1": ("param kvm_amd npt=1", "param kvm tdp_mmu=1"),
}
"""Parameters of the three ways to map guest memory."""


class Guest:
    """Plays a scenario's operations on one design and says what its guest saw of each.

    After every operation every vCPU flushes: what a guest sees between a change of its tables and its flush
    is for the MMU to choose. So is how many pages beyond those written a dirty log names.
    """

    def __init__(self, text: str, design: Mapping[str, str], *, kernel: str, checked: bool) -> None:
        self.world = World.of(text, design=design, kernel=kernel)
        self.checked = checked

    def play(self, op: Op) -> Any:
        """The result of an operation and the guest's page tables after it; `checked`: with the invariants."""
        if self.checked:
            played = self.world.play(op)
        else:
            (played,) = self.world.player.play([op])
        for vcpu in self.world.kvm.vcpus:
            vcpu.make_request(REQ_TLB_FLUSH_GUEST)
        return {name: value for name, value in played.result.items() if name != "dirty"}, played.gptes

    def memory(self) -> list[bytes | None]:
        """The guest's data pages."""
        return [self.world.machine.peek(gpa) for gpa in (*DATA, *LOGGED, *READ_ONLY, *HUGE, *LAZY)]


@lru_cache(maxsize=128)
def seen_by_default(text: str, kernel: str) -> tuple[list[Any], list[bytes | None]]:
    """What the guest sees of each operation under the default design, and its memory in the end.

    Many designs are compared with the same of them, one after the other.
    """
    guest = Guest(text, {}, kernel=kernel, checked=False)
    return [guest.play(op) for op in parse_scenario(text).ops], guest.memory()


def assert_as_by_default(text: str, design: Mapping[str, str], *, kernel: str = DEFAULT_KERNEL) -> World:
    """Play a scenario, with the invariants; its guest sees what it sees under the default design."""
    expected, memory = seen_by_default(text, kernel)
    guest = Guest(text, design, kernel=kernel, checked=True)
    for n, (op, seen) in enumerate(zip(parse_scenario(text).ops, expected, strict=True)):
        assert guest.play(op) == seen, f"op {n}, {op.text}"
    assert guest.memory() == memory
    return guest.world


def assert_alike(
    text: str, one: Mapping[str, str], two: Mapping[str, str], *, kernel: str = DEFAULT_KERNEL
) -> tuple[World, World]:
    """Play a scenario on two designs; guests see the same. With the invariants on the second."""
    first = Guest(text, one, kernel=kernel, checked=False)
    second = Guest(text, two, kernel=kernel, checked=True)
    for n, op in enumerate(parse_scenario(text).ops):
        seen, other = first.play(op), second.play(op)
        assert seen == other, f"op {n}, {op.text}"
    assert first.memory() == second.memory()
    return first.world, second.world
