"""The screen at a point of a program's run: where it is, its registers, its last exits, its counters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shadowmmu.guest.observe.running import Running
from shadowmmu.x86.svm import exit_reason

__all__ = ["stop_data", "stop_lines"]

_LAST_EXITS = 6
_ROWS = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
    ("rip", "rflags", "cr0", "cr2"),
    ("cr3", "cr4", "efer", "cpl"),
)


def stop_data(point: object, running: Running) -> dict[str, Any]:
    """Return where a program is, as plain data; the machine is at the point."""
    machine, who = running.machine, running.who
    registers = machine.registers()
    statistics = {**machine.vcpu.stat.as_dict(), **machine.kvm.vm_stats()}
    return {
        "point": str(point),
        "exit": machine.exits.total(),
        "rip": registers["rip"],
        "at": running.symbol(registers["rip"]),
        "process": who.name,
        "pid": who.pid,
        "cr3": who.cr3,
        "call": running.call,
        "registers": registers,
        "last_exits": [
            {
                "reason": exit_reason(record.code),
                "rip": record.rip,
                "at": running.symbol(record.rip),
                "info1": record.info1,
                "info2": record.info2,
            }
            for record in machine.history[-_LAST_EXITS:]
        ],
        "exits": machine.counters(),
        "statistics": {name: number for name, number in statistics.items() if number},
        "shadow_pages": machine.kvm.n_used_mmu_pages,
        "tdp_pages": machine.kvm.tdp_mmu_pages,
    }


def stop_lines(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the screen for people."""
    yield f"stopped at {data['point']}, after {data['exit']:,} exits"
    yield f"  {where_text(data)}"
    registers = data["registers"]
    for names in _ROWS:
        yield "  " + "  ".join(f"{name:>6} {registers[name]:016x}" for name in names)
    if data["last_exits"]:
        yield "  last exits, newest last:"
    for record in data["last_exits"]:
        info = f"info1 {record['info1']:#x} info2 {record['info2']:#x}"
        yield f"    {record['reason']:<14} rip {record['at']} {info}"
    yield from _counted("exits", {name: n for name, n in data["exits"].items() if name != "exits"})
    yield from _counted("statistics", data["statistics"])


def where_text(data: Mapping[str, Any]) -> str:
    """Return where a program is, on one line."""
    process = f"{data['process']} (process {data['pid']})" if data["pid"] else "the program"
    call = f", in {data['call']}" if data["call"] else ""
    return f"{process}, CR3 {data['cr3']:#x}, at {data['at']} (rip {data['rip']:#x}){call}"


def _counted(title: str, values: Mapping[str, int]) -> Iterator[str]:
    from textwrap import wrap

    if values:
        text = ", ".join(f"{name}\xa0{n:,}" for name, n in sorted(values.items(), key=lambda item: -item[1]))
        for row in wrap(text, 96, initial_indent=f"  {title}: ", subsequent_indent="    "):
            yield row.replace("\xa0", " ")
