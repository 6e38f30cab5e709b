"""The report of machine code that ran: how it ended, exits, statistics, the guest's registers on failure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from shadowmmu.guest.linux.guest import LinuxGuest
    from shadowmmu.guest.observe.counts import Counts
    from shadowmmu.guest.observe.running import Running
    from shadowmmu.guest.pc.pc import Ending, Pc
    from shadowmmu.guest.svm.machine import SvmMachine

__all__ = ["Asked", "ended", "failure", "finish", "progress_text", "report"]

_REGISTERS = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
    ("rip", "rflags", "cr0", "cr2"),
    ("cr3", "cr4", "efer", "cpl"),
)
_LAST_EXITS = 8
_WHY = {
    "triple fault": "triple fault: it could not take an exception, and not the double fault either",
    "endless faults": "endless faults",
    "endless loop": "it loops for ever, with interrupts disabled",
    "emulation": "an instruction cannot be emulated",
    "host": "KVM_RUN failed",
    "processor": "the emulated processor failed",
    "exits": "stopped: it made as many exits as --limit says",
    "instructions": "stopped: it executed as many instructions as --limit says",
    "seconds": "stopped: it ran as long as --limit says",
}


def _rate(count: float, seconds: float) -> str:
    return f"{count / seconds:,.0f}/s" if seconds > 0.0005 else ""


def progress_text(pc: Pc | LinuxGuest) -> str:
    """Return one line about a run that continues."""
    exits, machine = pc.machine.exits.total(), pc.machine
    parts = [f"{pc.seconds:.1f} s", f"{exits:,} exits", _rate(exits, pc.seconds)]
    parts += [f"{machine.vcpu.stat.pf_taken:,} faults", f"{machine.kvm.n_used_mmu_pages:,} shadow pages"]
    if pc.instructions:
        parts.append(f"{pc.instructions:,} instructions ({pc.instructions / pc.seconds / 1e6:.0f} MIPS)")
    return "  ".join(parts)


def report(pc: Pc | LinuxGuest, ending: Ending) -> dict[str, Any]:
    """Return the report of a run, as plain data."""
    machine = pc.machine
    statistics = {**machine.kvm.vm_stats(), **machine.vcpu.stat.as_dict()}
    return {
        "ending": ending.reason,
        "status": ending.status,
        "detail": ending.detail,
        "seconds": round(pc.seconds, 3),
        "exits": machine.counters(),
        "instructions": pc.instructions or None,
        "shadow_pages": machine.kvm.n_used_mmu_pages,
        "tdp_pages": machine.kvm.tdp_mmu_pages,
        "statistics": statistics,
    }


def _report_text(pc: Pc | LinuxGuest, ending: Ending) -> str:
    machine, seconds = pc.machine, pc.seconds
    counters = machine.counters()
    exits = counters.pop("exits")
    virtual = " of virtual time" if machine.clock.virtual else ""
    line = f"{seconds:.2f} s{virtual}, {exits:,} exits"
    if (rate := _rate(exits, seconds)) and not virtual:
        line += f" ({rate})"
    if pc.instructions:
        line += f", {pc.instructions:,} instructions ({pc.instructions / seconds / 1e6:.0f} MIPS)"
    lines = [line]
    lines += _columns("exits", {k: n for k, n in counters.items() if not k.startswith("vector ")})
    lines += _columns("delivered", {k: n for k, n in counters.items() if k.startswith("vector ")})
    statistics = {**machine.vcpu.stat.as_dict(), **machine.kvm.vm_stats()}
    lines += _columns("statistics", {name: n for name, n in statistics.items() if n})
    pages = {"used": machine.kvm.n_used_mmu_pages, "of the TDP MMU": machine.kvm.tdp_mmu_pages}
    lines += _columns("pages", {name: n for name, n in pages.items() if n})
    return "\n".join(lines)


def _columns(title: str, values: Mapping[str, int]) -> Iterator[str]:
    """Yield a paragraph of `name number` pairs, most first."""
    from shutil import get_terminal_size
    from textwrap import wrap

    if values:
        text = ", ".join(f"{name}\xa0{n:,}" for name, n in sorted(values.items(), key=lambda i: -i[1]))
        width = min(get_terminal_size().columns, 110)
        for row in wrap(text, width, initial_indent=f"  {title}: ", subsequent_indent="    "):
            yield row.replace("\xa0", " ")


def _state(machine: SvmMachine) -> str:
    """Return the guest's registers and last exits."""
    from shadowmmu.x86.svm import exit_reason

    registers = machine.at_shutdown or machine.registers()
    lines = ["  " + "  ".join(f"{name:>6} {registers[name]:016x}" for name in names) for names in _REGISTERS]
    if machine.history:
        lines.append("  last exits:")
    for record in list(machine.history)[-_LAST_EXITS:]:
        lines.append(
            f"    {exit_reason(record.code):<14} rip {record.rip:#x} info1 {record.info1:#x} "
            f"info2 {record.info2:#x}"
        )
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a report says besides: the processes that ran; if `counts` are there, the first `top` by cause."""

    running: Running
    counts: Counts | None = None
    top: int = 0


def finish(path: Path, ending: Ending, pc: Pc | LinuxGuest, asked: Asked, *, as_json: bool) -> int:
    """Tell how it ended; the status for the caller. Raises Abort if the user interrupted it."""
    from shadowmmu.show.program.top import process_lines, top_data, top_lines

    if as_json:
        said = report(pc, ending)
        said["processes"] = [{**who._asdict(), "loads": loads} for who, loads in asked.running.processes]
        if asked.counts is not None:
            said["top"] = top_data(asked.counts, asked.top)
        click.echo(json.dumps(said), err=True)
    else:
        lines = [_report_text(pc, ending), *process_lines(asked.running)]
        if asked.counts is not None:
            lines += ["", *top_lines(asked.counts, asked.top)]
        click.echo("\n".join(lines), err=True)
    if ending.reason == "interrupted":
        raise click.Abort
    if ending.status is None:
        raise failure(path, ending, pc)
    if ending.reason not in ("exit", "power off") and not as_json:
        click.echo(f"shadowmmu: {path}: {ending.reason} {ending.detail}".rstrip(), err=True)
    return ending.status


def ended(ending: Ending) -> str:
    """Return how a run ended, in a word or two."""
    return ending.reason if ending.status is None else f"{ending.reason}, status {ending.status}"


def failure(path: Path, ending: Ending, pc: Pc | LinuxGuest) -> click.ClickException:
    """Return the error for a program that did not end by itself."""
    why = _WHY.get(ending.reason, ending.reason)
    text = f"{path}: {why}{f': {ending.detail}' if ending.detail else ''}"
    return click.ClickException(f"{text}\n{_state(pc.machine)}")
