"""Scenarios played with a TLB whose content is audited after each op."""

from collections.abc import Iterable
from typing import Any

from kvm.invariants import expect_nothing
from kvm.world import World

from shadowmmu.check.audit.audit import Audit
from shadowmmu.guest.scenario.ops import Access, Exec
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.x86.bits import FAULT, FETCH, READ, WRITE


def check_tlb(audit: Audit, gvas: Iterable[int]) -> int:
    """Fill the TLBs with translations of the addresses; audit them and what changed; how many there are."""
    translations = 0
    for vcpu in audit.tables.kvm.vcpus:
        for gva in gvas:
            translations += sum(vcpu.cpu.access(gva, kind) != FAULT for kind in (READ, WRITE, FETCH))
    expect_nothing(audit.look())
    return translations


def play_with_tlb(text: str, **options: Any) -> World:
    """Play a scenario with a TLB; after each op, what it holds and is not about to be flushed is what the
    tables say.
    """
    ops = parse_scenario(text).ops
    gvas = sorted({op.gva & ~0xFFF for op in ops if isinstance(op, Access | Exec)})
    world = World.of(text, tlb=True, **options)
    compared = 0
    for op in ops:
        world.play(op)
        compared += check_tlb(world.audit, gvas)
    world.check()
    assert compared
    return world
