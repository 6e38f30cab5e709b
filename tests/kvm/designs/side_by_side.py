"""Whether a guest can tell two designs apart: the same scenario played on both."""

from collections.abc import Mapping
from typing import Any

from kvm.random_scenarios import DATA, HUGE, LAZY, LOGGED, READ_ONLY
from kvm.world import World

from shadowmmu.guest.scenario.ops import Op
from shadowmmu.guest.scenario.scenario import Scenario
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


def assert_alike(
    text: str,
    one: Mapping[str, str],
    two: Mapping[str, str],
    *,
    kernel: str = DEFAULT_KERNEL,
    checked: bool = True,
) -> tuple[World, World]:
    """Play a scenario on two designs; guests see the same. `checked`: with the invariants on the second."""
    first = Guest(text, one, kernel=kernel, checked=False)
    second = Guest(text, two, kernel=kernel, checked=checked)
    for n, op in enumerate(Scenario.parse(text).ops):
        seen, other = first.play(op), second.play(op)
        assert seen == other, f"op {n}, {op.text}"
    assert first.memory() == second.memory()
    return first.world, second.world
