"""The tracepoints: when each fires, what it carries, and a line of its text."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from marked import code, definitions, fence, sentence
from shadowmmu import Vm
from shadowmmu.kvm.tracepoints.event import Event, Tracepoint
from shadowmmu.kvm.tracepoints.tracer import TRACEPOINTS
from shadowmmu.vm import GuestFault


def page() -> str:
    """Return the events in the order of the table, with a line of those that a few accesses bring about."""
    shown = {event.name: str(event) for event in (*_shadow_paging(), *_nested_paging())}
    return "\n\n".join(_event(each, shown.get(each.name, "")) for each in TRACEPOINTS.values())


def _event(tracepoint: Tracepoint[Any], shown: str) -> str:
    parts = [f"(event-{tracepoint.name})=\n## {code(tracepoint.name)}", sentence(tracepoint.meaning)]
    lines = tracepoint.lines()
    if lines:
        parts.append(definitions((code(field), sentence(text)) for field, text in lines.items()))
    if tracepoint.kernels:
        parts.append(f"Only in {', '.join(tracepoint.kernels)}.")
    parts.append(f"Class: {code(tracepoint.event.__name__)}.")
    if shown:
        parts.append(fence(shown))
    return "\n\n".join(parts)


def _shadow_paging() -> list[Event]:
    """A guest that edits its tables, faults, touches an address without memory, and logs."""
    vm = Vm("16M")
    vcpu = vm.vcpus[0]
    vm.map(0x400000, 0x800000, "16K", accessed=False, dirty=False)
    vm.map(0x500000, 0xE0000000, mmio=True)
    table = vm.gpte_address(0x400000) & ~0xFFF
    directory = vm.gpte_address(0x400000, 2) & ~0xFFF
    vm.map(0x700000, table)
    vm.map(0x40000000, directory)
    with vm.trace() as trace:
        vcpu.write(0x400000, 1)
        vcpu.read(0x500000)
        vcpu.read(0x400000)
        vcpu.read(0x500000)
        vcpu.write(0x700000, 0x805067)
        vcpu.invlpg(0x400000)
        for _ in range(3):
            vcpu.write(0x40000FF8, 0)
        with suppress(GuestFault):
            vcpu.read(0x900000)
        vcpu.cr3 = vm.cr3
    return list(trace)


def _nested_paging() -> list[Event]:
    """The same with the TDP MMU, dirty rings and an eager split of huge pages."""
    vm = Vm("16M", params={"kvm_amd.npt": 1}, dirty_ring=1024)
    vm.map(0x400000, 0x800000, "16K")
    with vm.trace() as trace:
        vm.vcpus[0].write(0x400000, 1)
        vm.slots[0].dirty_log = True
        vm.vcpus[0].write(0x400000, 2)
        vm.harvest_dirty_rings()
        vm.reset_dirty_rings()
        vm.vcpus[0].write(0x401000, 2)
    return list(trace)
