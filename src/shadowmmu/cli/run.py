"""`shadowmmu run`: play scenarios on the model and tell what every op did."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shadowmmu.cli.inputs import Changes, embedded, load, machine_options
from shadowmmu.cli.program import (
    EMBEDDED,
    ProgramOptions,
    has_extra,
    is_program,
    program_options,
    run_program,
)

if TYPE_CHECKING:
    from shadowmmu.guest.scenario import Scenario
    from shadowmmu.trace.names import State
    from shadowmmu.trace.recording import PlayedOp, Row

__all__ = ["event_line", "outcome_line", "run"]

_SAID_BY_EXIT = ("kvm_page_fault", "kvm_nested_vmexit", "kvm_nested_intercepts")
_SAID_BY_FAULT = ("EXCEPTION_NMI", "EPT_VIOLATION")
"""Exits of an Intel processor whose address is only in the page fault's event that follows."""
_SUMMARY = (
    ("page faults", "pf_taken"),
    ("  fixed", "pf_fixed"),
    ("  emulated", "pf_emulate"),
    ("  spurious", "pf_spurious"),
    ("  fast", "pf_fast"),
    ("  given to the guest", "pf_guest"),
    ("MMIO SPTEs made", "pf_mmio_spte_created"),
    ("instructions emulated", "insn_emulation"),
    ("INVLPG", "invlpg"),
    ("TLB flushes requested", "remote_tlb_flush_requests"),
    ("TLB flushes served", "tlb_flush"),
    ("shadow pages made", "made"),
    ("shadow pages found", "found"),
    ("shadow pages zapped", "mmu_shadow_zapped"),
    ("  for flooding", "mmu_flooded"),
    ("  to make room", "mmu_recycled"),
    ("  all at once", "kvm_mmu_zap_all_fast"),
    ("pages made unsync", "kvm_mmu_unsync_page"),
    ("pages synced", "kvm_mmu_sync_page"),
    ("guest table writes seen", "mmu_pte_write"),
    ("upper SPTEs dropped by them", "mmu_pde_zapped"),
    ("leaf SPTEs mapped by them", "mmu_pte_updated"),
    ("leaf SPTEs installed", "kvm_mmu_set_spte"),
    ("gptes read for prefetching", "prefetch_gptes"),
    ("host lookups for prefetching", "prefetch_lookups"),
    ("host mapping changes", "kvm_unmap_hva_range"),
)


@click.command(short_help="Play scenarios, or run a program, on the model.")
@click.argument("inputs", metavar="[SCENARIO]... | PROGRAM [-- ARGUMENT...]", nargs=-1)
@click.option(
    "--record",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Write a recording; for several scenarios PATH is a folder.",
)
@click.option(
    "--events",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the events as the kernel's ftrace text.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the recording's lines, then the totals.")
@machine_options
@program_options
@click.option("--tlb", is_flag=True, help="Keep TLB entries between ops (recordings are made without).")
def run(
    *,
    inputs: tuple[str, ...],
    record: Path | None,
    events: Path | None,
    as_json: bool,
    changes: Changes,
    program: ProgramOptions,
    tlb: bool,
) -> None:
    """Play SCENARIOs op by op, or run PROGRAM, machine code for x86, on a PC whose MMU is the model.

    Without either, run the program that comes with this one, or, without what programs need
    (pip install 'shadowmmu[guest]'), play three scenarios.

    PROGRAM is a multiboot image for a bare machine, or a statically linked 64-bit program for Linux
    (shadowmmu run ./busybox -- sh -c 'ls | sort'), which runs on a small kernel on that machine: it reads the
    host's files and writes only beneath the current directory or --root.

    A program's output is its own; the report, with --json an object, is on stderr. The exit status is what
    the program gives its debug-exit port (twice that and one), a Linux program's its own, 128 and the signal
    that killed it; 2 if it cannot be run or does not end.
    """
    if inputs and is_program(Path(inputs[0])):
        if record or tlb:
            raise click.UsageError("--record and --tlb are for scenarios; --events works for programs, too")
        _run(Path(inputs[0]), inputs[1:], changes, program, events, name=inputs[0], as_json=as_json)
    elif not inputs and has_extra() and not (record or tlb):
        with embedded(EMBEDDED) as path:
            _run(path, (), changes, program, events, as_json=as_json)
    elif program.given:
        raise click.UsageError(f"{', '.join(program.given)}: only programs have such a machine")
    else:
        _play_all([Path(name) for name in inputs], record, events, changes, as_json=as_json, tlb=tlb)


def _run(
    path: Path,
    arguments: Sequence[str],
    changes: Changes,
    program: ProgramOptions,
    events: Path | None,
    *,
    name: str | None = None,
    as_json: bool,
) -> None:
    status = run_program(path, arguments, changes, program, name=name, events=events, as_json=as_json)
    click.get_current_context().exit(status)


def _play_all(
    scenarios: Sequence[Path],
    record: Path | None,
    events: Path | None,
    changes: Changes,
    *,
    as_json: bool,
    tlb: bool,
) -> None:
    from shadowmmu.guest.setup import ScenarioError
    from shadowmmu.kvm.switches import DesignError
    from shadowmmu.trace.ftrace import FtraceWriter
    from shadowmmu.trace.recording import atomic_writer, json_line

    try:
        loaded = load(scenarios, changes)
        targets = _targets(record, loaded)
        totals: Counter[str] = Counter()
        with ExitStack() as trace:
            ftrace = FtraceWriter(trace.enter_context(atomic_writer(events))) if events else None
            for scenario, target in zip(loaded, targets, strict=True):
                with ExitStack() as recording:
                    file = recording.enter_context(atomic_writer(target)) if target else None
                    report = _Report(scenario)
                    for played, row in _play(scenario, tlb=tlb):
                        line = json_line(row)
                        if file:
                            file.write(line)
                        if ftrace and played:
                            ftrace.write(played)
                        report.count(row)
                        click.echo(line if as_json else report.text(row), nl=not as_json)
                totals += report.totals
                if not as_json:
                    click.echo(_summary(scenario.name, report.totals))
        if as_json:
            click.echo(json.dumps({"totals": totals}))
        elif len(loaded) > 1:
            click.echo(_summary(f"all {len(loaded)} scenarios", totals))
    except (ScenarioError, DesignError) as error:
        raise click.ClickException(str(error)) from None


def _targets(record: Path | None, scenarios: Sequence[Scenario]) -> list[Path | None]:
    """Where the recording of each scenario goes."""
    if record is None:
        return [None] * len(scenarios)
    if len(scenarios) == 1 and not record.is_dir():
        return [record]
    names = [scenario.name for scenario in scenarios]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise click.UsageError(
            f"two scenarios are named {twice}: their recordings would overwrite each other"
        )
    record.mkdir(parents=True, exist_ok=True)
    return [record / f"{name}.jsonl" for name in names]


def _play(scenario: Scenario, *, tlb: bool) -> Iterator[tuple[PlayedOp | None, Row]]:
    """The header, then every op and its row."""
    from shadowmmu.guest.player import Player
    from shadowmmu.guest.setup import resolve
    from shadowmmu.trace.events import EventLog
    from shadowmmu.trace.recording import Recorder
    from shadowmmu.trace.snapshot import snapshot

    player = Player(resolve(scenario), EventLog(), snapshot, tlb=tlb)
    recorder = Recorder(scenario, player.areas)
    yield None, recorder.header()
    start = player.start()
    yield start, recorder.row(start)
    for played in player.play(scenario.ops):
        yield played, recorder.row(played)


class _Report:
    """Text and sums of one scenario, row by row."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._state: State = {}
        self._known: set[str] = set()
        self.totals: Counter[str] = Counter()

    def count(self, row: Row) -> None:
        """Add a row to the totals: `ops`, `outcome X`, statistics, events, and the pages left by level."""
        from shadowmmu.trace.recording import apply_delta

        if "op" not in row:
            return
        self._known = set(self._state.get("sps", ()))
        apply_delta(self._state, row.get("delta", {"set": {}}))
        if "result" not in row:
            return
        for level in range(1, 6):
            left = sum(sp["level"] == level for sp in self._state["sps"].values())
            self.totals[f"level {level}"] = left
        self.totals["ops"] += 1
        self.totals[f"outcome {row['result']['outcome']}"] += 1
        for counters in row["stats"].values():
            self.totals.update(counters)
        for event in row["events"]:
            self.totals[event["e"]] += 1
            if "created" in event:
                self.totals["made" if event["created"] else "found"] += 1

    def text(self, row: Row) -> str:
        """What a reader should see of a row, after it was counted."""
        if "op" not in row:
            scenario = self._scenario
            return click.style(
                f"{scenario.name}: {scenario.title} ({_modes_line(scenario.modes)})", bold=True
            )
        if "result" not in row:
            kvm = self._state["kvm"]
            count = len(self._state["vcpus"])
            vcpus = "1 vCPU" if count == 1 else f"{count} vCPUs"
            return f"      started: {vcpus}, at most {kvm['max']} shadow pages"
        head = f"{row['op']:5} {click.style(row['do'].strip(), bold=True)}"
        lines = [f"{head}  {outcome_line(row['result'])}"]
        lines += (f"        {line}" for line in _event_lines(row["events"]))
        lines += (f"      {click.style(line, fg='cyan')}" for line in self._changes(row))
        return "\n".join(lines)

    def _changes(self, row: Row) -> Iterator[str]:
        for gpa, old, new in row["gptes"]:
            yield f"guest entry at {gpa}: {old} -> {new}"
        for path in row.get("delta", {}).get("del", ()):
            if path.startswith("sps:") and path.count(":") == 1:
                yield f"{path[4:]} gone"
        entries: dict[str, list[str]] = {}
        for path, value in row.get("delta", {}).get("set", {}).items():
            parts = path.split(":")
            if parts[0] == "sps" and len(parts) == 2:
                role = "direct" if value.get("direct") else f"of guest table {value['gfn']}"
                if "off_list" in value:
                    role = "special"
                yield f"{parts[1]} new: level {value['level']}, {role}, gfn {value['gfn']}, {value['access']}"
            elif parts[0] == "sps" and parts[2] == "unsync":
                yield f"{parts[1]} {'unsync' if value else 'in sync'}"
            elif parts[0] == "sps" and parts[2] == "sptes" and parts[1] in self._known:
                entries.setdefault(parts[1], []).append(
                    f"[{parts[3]}]={value}" if len(parts) == 4 else str(value)
                )
            elif parts[0] == "vcpus" and parts[2:] == ["root"]:
                yield f"vCPU {parts[1]} root {value}"
        for name, values in entries.items():
            yield f"{name} {' '.join(values)}"


def _modes_line(modes: Sequence[str]) -> str:
    """The paging mode, or modes in the order of the vCPUs if they differ."""
    return f"mode {modes[0]}" if len(set(modes)) == 1 else f"modes {', '.join(modes)}"


def outcome_line(result: Mapping[str, Any]) -> str:
    """An op's result in a few words, coloured by its kind."""
    outcome = result["outcome"]
    parts = [str(value) for key, value in result.items() if key == "value"]
    if outcome == "exception":
        parts = [f"#{result['vector']}", *(f"{k} {result[k]}" for k in ("error_code", "cr2") if k in result)]
    elif outcome == "vmexit":
        parts = [f"to L1: {_vmexit(result)}"]
    elif outcome != "ok":
        parts = [str(result[key]) for key in ("errno", "reason", "port") if key in result]
    if "dirty" in result:
        parts.append(f"dirty {' '.join(result['dirty']) or 'nothing'}")
    if "gpa" in result:
        parts.append(f"gpa {result['gpa']}" if result.get("valid") else "no translation")
    for access in result.get("mmio", ()):
        parts.append(f"MMIO {'write' if access['write'] else 'read'} {access['gpa']} {access['data']}")
    colour = {"ok": "green", "exception": "yellow", "vmexit": "yellow"}.get(outcome, "red")
    return " ".join([click.style(outcome, fg=colour), *parts])


def _vmexit(result: Mapping[str, Any]) -> str:
    """Why L2's run ended, as its VMCB tells L1."""
    from shadowmmu.trace.events import SVM_EXIT_NPF, exit_reason

    code, info1 = int(result["code"], 16), int(result["info1"], 16)
    if code != SVM_EXIT_NPF:
        return exit_reason(code)
    return f"nested page fault at {result['info2']}, error code {info1:#x}"


def event_line(event: Mapping[str, Any]) -> str:
    """An event as recorded, on one line."""
    fields = (f"{key}={value}" for key, value in event.items() if key not in ("e", "t"))
    return " ".join([event["e"], *fields, *([event["t"]] if "t" in event else [])])


def _event_lines(events: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Events in short, each guest walk on one line; walks that fetch the trampoline's code are left out."""
    walk: list[str] = []
    reason = ""
    for event in events:
        if walk and event["e"] != "kvm_mmu_paging_element":
            yield " ".join(walk)
            walk = []
        if event.get("tramp"):
            continue
        if event["e"] == "kvm_mmu_pagetable_walk":
            walk = [f"walk {event['addr']} pferr {event['pferr']}:"]
        elif event["e"] == "kvm_mmu_paging_element":
            walk.append(event["pte"])
        elif event["e"] == "kvm_exit" and event["reason"] in _SAID_BY_FAULT:
            reason = event["reason"]
        elif event["e"] == "kvm_page_fault" and reason:
            yield _vmx_fault(event["t"], reason)
            reason = ""
        elif event["e"] not in _SAID_BY_EXIT:
            yield _short(event)
    if walk:
        yield " ".join(walk)


def _short(event: Mapping[str, Any]) -> str:
    from shadowmmu.trace.events import pferr_flags

    name = event["e"].removeprefix("kvm_").removeprefix("mmu_")
    if name == "exit":
        if event["reason"] == "PF excp":
            return f"page fault at {event['info2']} ({pferr_flags(int(event['info1'], 16)) or 'read'})"
        if event["reason"] == "npf":
            return _nested_page_fault(event["info2"], int(event["info1"], 16))
        return f"exit {event['reason']}"
    if name == "nested_vmenter":
        return f"L2 starts on {event['t'].split()[-2].rstrip(':')} {int(event['t'].split()[-1], 16):#x}"
    if name == "nested_vmexit_inject":
        return "the exit goes to L1"
    if name == "tdp_mmu_spte_changed":
        count = f" ({event['n']} in a row)" if "n" in event else ""
        return f"TDP gfn {event['gfn']} level {event['level']}: {event['old']} -> {event['new']}{count}"
    if name == "split_huge_page":
        failed = {0: "", -11: ": again, the caches are filled", -28: ": no shadow page may be made"}
        why = failed.get(event["errno"], f": errno {event['errno']}")
        return f"split gfn {event['gfn']} level {event['level']} {event['spte']}{why}"
    if name == "spte_requested":
        return f"wants {event['pfn']} at gfn {event['gfn']} level {event['level']}"
    if name == "set_spte":
        return f"{event['at']} = {event['spte']} ({event['perm']}) level {event['level']}, gfn {event['gfn']}"
    if "sync" in event:
        words = [name, f"gfn {event['gfn']} level {event['level']} {event['access']}"]
        words += [f"quadrant {event['q']}"] if "q" in event else []
        words += [flag for flag in ("direct", "invalid") if flag in event]
        words += ["unsync"] if event["sync"] == "unsync" else []
        words += ["new" if event["created"] else "found"] if "created" in event else []
        return " ".join(words)
    return event_line({**event, "e": name})


def _vmx_fault(text: str, reason: str) -> str:
    """A page fault on an Intel processor, by the text of its event: its error code, or exit qualification."""
    from shadowmmu.trace.events import ept_violation_text, pferr_flags

    words = text.split()
    address, code = int(words[words.index("address") + 1], 16), int(words[-1], 16)
    if reason == "EPT_VIOLATION":
        return f"EPT violation at {address:#x} ({ept_violation_text(code)})"
    return f"page fault at {address:#x} ({pferr_flags(code) or 'read'})"


def _nested_page_fault(gpa: str, error_code: int) -> str:
    from shadowmmu.trace.events import pferr_flags
    from shadowmmu.x86.bits import PFERR_GUEST_PAGE

    low = error_code & 0xFFFFFFFF
    what = "a table of the guest, " if error_code & PFERR_GUEST_PAGE else ""
    return f"nested page fault at {gpa} ({what}{pferr_flags(low)})"


def _summary(name: str, totals: Mapping[str, int]) -> str:
    outcomes = ", ".join(f"{n} {key[8:]}" for key, n in sorted(totals.items()) if key.startswith("outcome "))
    lines = [click.style(f"{name}: {totals.get('ops', 0)} ops ({outcomes})", bold=True)]
    lines += (f"  {label:<30}{totals[key]:>8}" for label, key in _SUMMARY if totals.get(key))
    left = [f"{totals[key]} of {key}" for key in (f"level {n}" for n in range(5, 0, -1)) if totals.get(key)]
    lines.append(
        f"  {'shadow pages left':<30}{sum(totals.get(f'level {n}', 0) for n in range(6)):>8}"
        f"  ({', '.join(left) or 'none'})"
    )
    return "\n".join([*lines, ""])
