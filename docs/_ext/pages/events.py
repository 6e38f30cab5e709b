"""The tracepoints: when each fires, what it carries, and a line of its text."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass

from marked import code, fence, sentence
from shadowmmu import Vm
from shadowmmu.kvm.state.tracepoints import Tracer
from shadowmmu.trace import events
from shadowmmu.trace.events import Event
from shadowmmu.vm import GuestFault


def page() -> str:
    """Return the events in the order of the table, with a line of those that a few accesses bring about."""
    lines = {event.name: str(event) for event in (*_shadow_paging(), *_nested_paging())}
    return "\n\n".join(_event(event, lines.get(event.name, "")) for event in _events())


def _events() -> Iterator[type[Event]]:
    for kind in vars(events).values():
        if inspect.isclass(kind) and issubclass(kind, Event) and isinstance(vars(kind).get("name"), str):
            yield kind


def _event(kind: type[Event], line: str) -> str:
    fires = inspect.getdoc(getattr(Tracer, kind.name, None)) or ""
    carried = ", ".join(code(field.name) for field in fields(kind)) if is_dataclass(kind) else ""
    parts = [f"(event-{kind.name})=\n## {code(kind.name)}"]
    if fires:
        parts.append(sentence(fires))
    parts.append(f"Fields: {carried or 'none'}. Class: {code(kind.__name__)}.")
    if line:
        parts.append(fence(line))
    return "\n\n".join(parts)


def _shadow_paging() -> list[Event]:
    """A guest that edits its tables, faults, touches an address without memory, and logs."""
    vm = Vm("16M")
    vcpu = vm.vcpus[0]
    vm.map(0x400000, 0x800000, pages=4, accessed=False, dirty=False)
    vm.map(0x500000, 0xF0000000)
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
    vm = Vm("16M", nested_paging=True, dirty_ring=1024)
    vm.map(0x400000, 0x800000, pages=4)
    with vm.trace() as trace:
        vm.vcpus[0].write(0x400000, 1)
        vm.log_dirty()
        vm.vcpus[0].write(0x400000, 2)
        vm.harvest_dirty_rings()
        vm.reset_dirty_rings()
        vm.vcpus[0].write(0x401000, 2)
    return list(trace)
