"""`shadowmmu run`: play scenarios on the model and tell what every op did."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.inputs import Changes, embedded, given, load, machine_options
from shadowmmu.cli.manual import Manual
from shadowmmu.cli.outputs import is_stdout, make_folder, output, refuse_overwriting
from shadowmmu.cli.program import (
    EMBEDDED,
    has_extra,
    is_program,
    run_program,
)
from shadowmmu.cli.program_options import ProgramOptions, program_options
from shadowmmu.cli.program_questions import ask_program, checked_point
from shadowmmu.cli.styles import styled
from shadowmmu.cli.traces import Traces, scenario_timelines
from shadowmmu.show.history.played import played_rows
from shadowmmu.show.text.report import EVERYTHING, Report, summary_lines

if TYPE_CHECKING:
    from shadowmmu.guest.observe.point import Point
    from shadowmmu.guest.scenario.scenario import Scenario
    from shadowmmu.trace.recording import Row

__all__ = ["run"]


@dataclass(frozen=True, slots=True)
class _Shown:
    """What of a scenario is shown."""

    only: frozenset[str]
    """What of an op besides its result: events, changes."""
    first: int | None
    last: int | None
    quiet: bool

    def has(self, row: Row) -> bool:
        """Return whether a row is shown; the head of a scenario is, unless only totals are."""
        if self.quiet:
            return False
        number = row.get("op", -1)
        if number < 0:
            return True
        return (self.first is None or number >= self.first) and (self.last is None or number <= self.last)


def _show_language(context: click.Context, option: click.Parameter, wanted: bool) -> None:  # noqa: FBT001
    """Print the reference of the scenario language and end."""
    if not wanted:
        return
    from shutil import get_terminal_size

    from shadowmmu.guest.scenario.language import language_text

    click.echo(language_text(min(get_terminal_size().columns, 100)))
    context.exit()


@click.command(
    cls=Manual,
    short_help="Play scenarios, or run a program, on the model.",
    statuses={
        "0": "All was played. A program: it ended with status 0.",
        "other": "A program's own: what it wrote to the debug-exit port, doubled, plus one; or the status of "
        "a Linux program, or 128 and the number of the signal that killed it.",
        "2": "Input that cannot be used, or a program that cannot be run or does not end within --limit.",
    },
    examples={
        "shadowmmu run scenarios/mails/002-unsync.txt": "Play a scenario and read op by op what KVM did",
        "shadowmmu run scenarios/mails/002-unsync.txt --design unsync=never": "The same with one "
        "switch set otherwise",
        "shadowmmu run --record a.jsonl --events a.trace scenarios/mails/002-unsync.txt": "Keep a recording, "
        "and the tracepoints as trace-cmd would show them",
        "shadowmmu run --perfetto a.json scenarios/mails/001-split-flush.txt": "Keep a timeline, "
        "which ui.perfetto.dev and chrome://tracing show",
        "shadowmmu run --npt ./busybox -- sh -c 'ls | sort'": "Run a static Linux program with nested paging",
    },
)
@click.argument("inputs", metavar="[SCENARIO]... | PROGRAM [-- ARGUMENT...]", nargs=-1)
@click.option(
    "--record",
    metavar="PATH",
    type=click.Path(path_type=Path),
    help="Write a recording (JSON lines); for several scenarios PATH is a folder.",
)
@click.option(
    "--events",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the tracepoints as the kernel's ftrace prints them.",
)
@click.option(
    "--perfetto",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a timeline for ui.perfetto.dev or chrome://tracing: vCPUs, KVM's workers, mmu_lock, "
    "counters, flush requests. Its clock is simulated.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Scenarios: print the recording's lines, then the totals. Programs: the report is an object.",
)
@click.option(
    "--help-language",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_show_language,
    help="Show the words of the scenario language and exit.",
)
@click.option(
    "--only",
    metavar="WHAT",
    multiple=True,
    type=click.Choice(["events", "changes", "results"]),
    help="Scenarios: of each op show only its events, its changes or neither (results). Repeatable.",
)
@click.option(
    "--from", "first", metavar="OP", type=click.IntRange(0), help="Scenarios: show ops from this one on."
)
@click.option(
    "--to", "last", metavar="OP", type=click.IntRange(0), help="Scenarios: show ops up to this one."
)
@click.option(
    "--stop-at",
    "stop_at",
    metavar="POINT",
    help="Programs: stop at an instruction (0x401000, main, main+0x10), exit:N, syscall:mmap, "
    "event:kvm_mmu_zap_all_fast or the first fault of gva:0x400000; NAME#N is the Nth time. Registers, last "
    "exits and counters are printed.",
)
@click.option(
    "--top",
    metavar="N",
    type=click.IntRange(1, 1000),
    help="Programs: count exits, page faults, syncs and zaps by cause and process, and report N of each.",
)
@click.option("--quiet", is_flag=True, help="Scenarios: show the totals only.")
@machine_options
@program_options
@click.option(
    "--tlb",
    is_flag=True,
    help="Scenarios: keep TLB entries from op to op. Recordings of real KVM are made without.",
)
def run(
    *,
    inputs: tuple[str, ...],
    record: Path | None,
    events: Path | None,
    perfetto: Path | None,
    as_json: bool,
    changes: Changes,
    program: ProgramOptions,
    tlb: bool,
    only: tuple[str, ...],
    first: int | None,
    last: int | None,
    stop_at: str | None,
    top: int | None,
    quiet: bool,
) -> None:
    """Play SCENARIOs op by op, or run PROGRAM, x86 machine code, on a PC whose MMU is the model.

    A scenario is a text file: a virtual machine, then one operation a line (--help-language). For each
    operation its result, the tracepoints and the changes of the shadow page tables are printed, at the end
    the statistics.

    PROGRAM is a multiboot image for a bare machine, or a statically linked 64-bit Linux program. The latter
    runs on a small kernel on that machine; it reads the host's files and changes only what is beneath the
    current directory or --root. Its output is its own; the report follows on stderr.

    Without any input the tour that comes with this is run: a guest kernel that tries each mechanism in every
    paging mode. Where the packages for programs are missing (pip install 'shadowmmu[guest]'), three
    scenarios are played instead.
    """
    shown = _Shown(frozenset(only) or EVERYTHING, first, last, quiet)
    selected = given({"only": "--only", "first": "--from", "last": "--to", "quiet": "--quiet"})
    if selected and as_json:
        raise click.UsageError(f"{', '.join(selected)}: --json prints everything; leave one of them out")
    if first is not None and last is not None and first > last:
        raise click.UsageError(f"--from {first} --to {last}: no op is in between; give the smaller one first")
    traces = Traces(events, perfetto)
    if inputs and is_program(Path(inputs[0])):
        if selected:
            raise click.UsageError(f"{', '.join(selected)}: only scenarios are shown op by op")
        if record or tlb:
            raise click.UsageError("--record and --tlb are for scenarios; --events works for programs, too")
        point = checked_point(stop_at, "--stop-at")
        if point is not None:
            if any(traces.by_option.values()) or top:
                raise click.UsageError(
                    "--stop-at reports one moment; leave --events, --perfetto and --top out"
                )
            _stop(Path(inputs[0]), inputs[1:], changes, program, point, as_json=as_json)
            return
        _run(Path(inputs[0]), inputs[1:], changes, program, traces, name=inputs[0], top=top, as_json=as_json)
    elif stop_at or top:
        raise click.UsageError("--stop-at and --top are for programs; give one")
    elif not inputs and has_extra() and not (record or tlb or selected):
        with embedded(EMBEDDED) as path:
            _run(path, (), changes, program, traces, as_json=as_json)
    elif program.given:
        raise click.UsageError(f"{', '.join(program.given)}: only programs have such a machine")
    else:
        _play_all([Path(name) for name in inputs], record, traces, changes, shown, as_json=as_json, tlb=tlb)


def _run(
    path: Path,
    arguments: Sequence[str],
    changes: Changes,
    program: ProgramOptions,
    traces: Traces,
    *,
    name: str | None = None,
    top: int | None = None,
    as_json: bool,
) -> None:
    status = run_program(
        path, arguments, changes, program, name=name, traces=traces, top=top, as_json=as_json
    )
    click.get_current_context().exit(status)


def _stop(
    path: Path,
    arguments: Sequence[str],
    changes: Changes,
    program: ProgramOptions,
    point: Point,
    *,
    as_json: bool,
) -> None:
    """Run a program to a point and print the screen there, as the report on stderr."""
    from shadowmmu.show.program.stopped import stop_data, stop_lines

    data = ask_program(
        path,
        arguments,
        changes,
        program,
        point,
        lambda running: lambda: stop_data(point, running),
        name=str(path),
    )
    click.echo(json.dumps(data) if as_json else "\n".join(stop_lines(data)), err=True)


def _play_all(
    scenarios: Sequence[Path],
    record: Path | None,
    traces: Traces,
    changes: Changes,
    shown: _Shown,
    *,
    as_json: bool,
    tlb: bool,
) -> None:
    from shadowmmu.guest.scenario.setup import ScenarioError
    from shadowmmu.kvm.design.switches import DesignError
    from shadowmmu.trace.ftrace import FtraceWriter
    from shadowmmu.trace.recorder import json_line

    quiet = is_stdout(record) or any(map(is_stdout, traces.by_option.values()))
    if quiet and as_json:
        raise click.UsageError("--json prints on standard output, too; write the other output to a file")
    try:
        loaded = load(scenarios, changes)
        targets = _targets(record, traces, loaded, scenarios)
        totals: Counter[str] = Counter()
        with ExitStack() as trace:
            ftrace = FtraceWriter(trace.enter_context(output(traces.events))) if traces.events else None
            timelines = trace.enter_context(scenario_timelines(traces.perfetto)) if traces.perfetto else None
            play = timelines.play if timelines else None
            for scenario, target in zip(loaded, targets, strict=True):
                with ExitStack() as recording:
                    file = recording.enter_context(output(target)) if target else None
                    report = Report(scenario)
                    for played, row, stale in played_rows(scenario, tlb=tlb, play=play):
                        line = json_line(row)
                        if file:
                            file.write(line)
                        if ftrace and played:
                            ftrace.write(played)
                        report.count(row)
                        if not quiet and (as_json or shown.has(row)):
                            text = line if as_json else styled(report.lines(row, stale, shown.only))
                            click.echo(text, nl=not as_json)
                totals += report.totals
                if not as_json and not quiet:
                    click.echo(styled(summary_lines(scenario.name, report.totals)))
        if as_json:
            click.echo(json.dumps({"totals": totals}))
        elif len(loaded) > 1 and not quiet:
            click.echo(styled(summary_lines(f"all {len(loaded)} scenarios", totals)))
    except (ScenarioError, DesignError) as error:
        raise click.ClickException(str(error)) from None


def _targets(
    record: Path | None, traces: Traces, scenarios: Sequence[Scenario], inputs: Sequence[Path]
) -> list[Path | None]:
    """Return where the recording of each scenario is written. Raises UsageError if a file
    were written twice.
    """
    if record is None or (len(scenarios) == 1 and not record.is_dir()):
        refuse_overwriting({"--record": record, **traces.by_option}, inputs)
        return [record] * len(scenarios)
    names = [scenario.name for scenario in scenarios]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise click.UsageError(
            f"two scenarios are named {twice}: their recordings would overwrite each other"
        )
    make_folder(record)
    targets = [record / f"{name}.jsonl" for name in names]
    refuse_overwriting({**{f"--record of {t.stem}": t for t in targets}, **traces.by_option}, inputs)
    return [*targets]
