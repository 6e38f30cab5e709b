"""`shadowmmu run`: play scenarios on the model and tell what every op did."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.inputs import Changes, embedded, load, machine_options
from shadowmmu.cli.outputs import is_stdout, make_folder, output, refuse_overwriting
from shadowmmu.cli.program import (
    EMBEDDED,
    has_extra,
    is_program,
    run_program,
)
from shadowmmu.cli.program_options import ProgramOptions, program_options
from shadowmmu.cli.run_report import Report, summary

if TYPE_CHECKING:
    from shadowmmu.guest.scenario.scenario import Scenario
    from shadowmmu.trace.recorder import PlayedOp
    from shadowmmu.trace.recording import Row

__all__ = ["run"]


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
    from shadowmmu.guest.scenario.setup import ScenarioError
    from shadowmmu.kvm.design.switches import DesignError
    from shadowmmu.trace.ftrace import FtraceWriter
    from shadowmmu.trace.recorder import json_line

    quiet = is_stdout(record) or is_stdout(events)
    if quiet and as_json:
        raise click.UsageError("--json prints on standard output, too; write the other output to a file")
    try:
        loaded = load(scenarios, changes)
        targets = _targets(record, events, loaded, scenarios)
        totals: Counter[str] = Counter()
        with ExitStack() as trace:
            ftrace = FtraceWriter(trace.enter_context(output(events))) if events else None
            for scenario, target in zip(loaded, targets, strict=True):
                with ExitStack() as recording:
                    file = recording.enter_context(output(target)) if target else None
                    report = Report(scenario)
                    for played, row, stale in _play(scenario, tlb=tlb):
                        line = json_line(row)
                        if file:
                            file.write(line)
                        if ftrace and played:
                            ftrace.write(played)
                        report.count(row)
                        if not quiet:
                            click.echo(line if as_json else report.text(row, stale), nl=not as_json)
                totals += report.totals
                if not as_json and not quiet:
                    click.echo(summary(scenario.name, report.totals))
        if as_json:
            click.echo(json.dumps({"totals": totals}))
        elif len(loaded) > 1 and not quiet:
            click.echo(summary(f"all {len(loaded)} scenarios", totals))
    except (ScenarioError, DesignError) as error:
        raise click.ClickException(str(error)) from None


def _targets(
    record: Path | None, events: Path | None, scenarios: Sequence[Scenario], inputs: Sequence[Path]
) -> list[Path | None]:
    """Where the recording of each scenario is written. Raises UsageError if a file were written twice."""
    if record is None or (len(scenarios) == 1 and not record.is_dir()):
        refuse_overwriting({"--record": record, "--events": events}, inputs)
        return [record] * len(scenarios)
    names = [scenario.name for scenario in scenarios]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise click.UsageError(
            f"two scenarios are named {twice}: their recordings would overwrite each other"
        )
    make_folder(record)
    targets = [record / f"{name}.jsonl" for name in names]
    refuse_overwriting({**{f"--record of {t.stem}": t for t in targets}, "--events": events}, inputs)
    return [*targets]


def _play(scenario: Scenario, *, tlb: bool) -> Iterator[tuple[PlayedOp | None, Row, str | None]]:
    """The header, then every op with its row, and why its value is stale if it is."""
    from shadowmmu.check.coherence.stale import StaleReads
    from shadowmmu.guest.play.player import Player
    from shadowmmu.guest.scenario.setup import resolve
    from shadowmmu.kvm.tracepoints.tracer import EventLog
    from shadowmmu.trace.recorder import Recorder
    from shadowmmu.trace.snapshot import snapshot

    player = Player(resolve(scenario), EventLog(), snapshot, tlb=tlb)
    recorder = Recorder(scenario, player.areas)
    stale = StaleReads(player)
    ops = scenario.recorded_ops
    yield None, recorder.header(), None
    start = player.start()
    yield start, recorder.row(start), None
    for played in player.play(scenario.ops):
        yield played, recorder.row(played), stale.note(ops[played.op], played.result)
