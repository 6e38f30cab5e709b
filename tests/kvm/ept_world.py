"""A World on an Intel processor with EPT; the guest reaches guest-physical address gpa at PHYSICAL + gpa."""

from kvm.tdp_world import PHYSICAL
from kvm.world import World

from shadowmmu.kvm.memory.notifier import MmuNotifier
from shadowmmu.kvm.tracepoints.event import Event
from shadowmmu.kvm.tracepoints.exits import Exit

PAGE = 0x800000
"""A guest-physical address; the guest has it at PHYSICAL + PAGE."""


def ept_world(*setup: str, eptad: int = 1, pml: int = 1, tdp_mmu: int = 1, kernel: str = "6.12.111") -> World:
    """16 MiB of small pages at 0, and what `setup` adds; the first instruction has run."""
    parameters = (f"param kvm_intel ept=1 eptad={eptad} pml={pml}", f"param kvm tdp_mmu={tdp_mmu}")
    world = World(
        "long4",
        "vendor intel",
        *parameters,
        *setup,
        f"map 0x1000 {PHYSICAL:#x} 0x0 0x67 level=3 n=4",
        kernel=kernel,
    )
    world.ok("nop")
    return world


def age(world: World, gpa: int = PAGE) -> bool:
    """The host's question whether the page was accessed, which it forgets."""
    hva = world.machine.hva(gpa)
    return MmuNotifier(world.kvm).clear_flush_young(hva, hva + 0x1000)


def exits(events: list[Event]) -> list[str]:
    """The exits' reasons, without that by which the guest's code ends an operation."""
    reasons = [event.reason_name for event in events if isinstance(event, Exit)]
    return [reason for reason in reasons if reason != "IO_INSTRUCTION"]
