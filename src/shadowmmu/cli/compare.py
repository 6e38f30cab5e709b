"""`shadowmmu compare`: replay recordings of real KVM on the model and tell where the two differ."""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

import click

from shadowmmu.cli.inputs import design_option, settings
from shadowmmu.cli.manual import Manual
from shadowmmu.cli.progress import progress
from shadowmmu.show.text.event_text import event_line
from shadowmmu.show.text.report import outcome_spans
from shadowmmu.show.text.spans import plain

if TYPE_CHECKING:
    from shadowmmu.guest.scenario.scenario import Scenario
    from shadowmmu.trace.compare import Comparison
    from shadowmmu.trace.recording import Recording, Row

__all__ = ["compare"]

_CONTEXT = 3
_UNUSABLE = 2
_LONGEST = 480
_NOTHING = "-"


_Task = tuple[Path, Path | None, Mapping[str, str], Mapping[str, str]]
"""A recording, the folder of its scenario, switches, and settings of the host."""


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What came out of one recording; plain values, for other processes and for JSON."""

    recording: str
    not_covered: str | None = None
    error: str | None = None
    """Why the file cannot be used."""
    ops: int = 0
    equal: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)
    first: Mapping[str, Any] | None = None
    """op, do, line, context (ops before), failure, parts: {part: [[what, expected, got]...]}."""


@click.command(
    cls=Manual,
    short_help="Compare recordings of real KVM with the model.",
    statuses={
        "0": "All operations are equal.",
        "1": "Something differs; the first difference is printed.",
        "2": "There was nothing to compare, or a file cannot be used; the others are compared.",
    },
    examples={
        "shadowmmu compare tests/conformance/recordings/b-unsync.jsonl": "Replay what a real kernel did",
        "shadowmmu compare tests/conformance/recordings/b-unsync.jsonl --design invlpg_zaps=yes": "What "
        "one switch would change of it (status 1)",
    },
    files={
        "../scenarios/NAME.txt": "Seen from a recording, the scenario that it was made from; see --scenarios."
    },
)
@click.argument(
    "recordings", metavar="RECORDING...", nargs=-1, required=True, type=click.Path(path_type=Path)
)
@click.option(
    "--scenarios",
    metavar="DIR",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the recorded scenarios are, as DIR/NAME.txt (default: ../scenarios, from the recording). "
    "They supply the lines `ac` and `watch`, which a recording does not contain.",
)
@design_option
@click.option(
    "--host",
    metavar="KEY=VALUE",
    multiple=True,
    callback=settings,
    help="What processor the recordings were made on, where their headers do not say so: l1tf=44 (vulnerable "
    "to L1TF, bits that its L1 cache uses), exitinfo=no (no advanced VM-exit information). Repeatable.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object: a verdict for each recording, and totals."
)
@click.option(
    "-j", "--jobs", metavar="N", type=click.IntRange(1), help="Number of processes (default: one per CPU)."
)
def compare(
    *,
    recordings: tuple[Path, ...],
    scenarios: Path | None,
    designs: dict[str, str],
    host: dict[str, str],
    as_json: bool,
    jobs: int | None,
) -> None:
    """Replay RECORDINGs (files, or folders of *.jsonl) on the model and compare op by op.

    A recording says what a kernel did: outcome of each operation, guest page-table entries, tracepoints in
    order, statistics, and the complete state of the MMU. The model plays the same as that kernel, and of the
    first operation that differs both sides are shown.

    With --design the model is another than the recorded kernel: what differs is what the switch does.
    """
    tasks = [(path, scenarios, designs, host) for path in _files(recordings)]
    verdicts = []
    for verdict in _verdicts(tasks, jobs):
        verdicts.append(verdict)
        if verdict.error is not None:
            click.echo(f"shadowmmu: {verdict.error}", err=True)
        elif not as_json:
            click.echo(_text(verdict))
    total = _total(verdicts)
    if as_json:
        click.echo(json.dumps({"recordings": [asdict(verdict) for verdict in verdicts], "total": total}))
    elif len(total["failed"]) < len(verdicts):
        click.echo(_total_text(total))
    if any(verdict.error is not None for verdict in verdicts):
        click.get_current_context().exit(_UNUSABLE)
    if not total["recordings"]:
        known = "the recordings must be of kernel 7.3, 6.12 or 6.1"
        raise click.ClickException(known)
    if total["equal"] != total["ops"]:
        click.get_current_context().exit(1)


def _files(paths: Iterable[Path]) -> list[Path]:
    found: list[Path] = []
    for path in paths:
        inside = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
        if not inside:
            raise click.ClickException(f"{path}: no recording (*.jsonl) in this folder; give another")
        found += inside
    return found


# ---------------------------------------------------------------------------------------------------- playing


def _verdicts(tasks: Sequence[_Task], jobs: int | None) -> Iterator[_Verdict]:
    """Yield the verdicts in order of the tasks."""
    jobs = min(jobs or os.cpu_count() or 1, len(tasks))
    if jobs == 1:
        yield from _with_progress(map(_judge, tasks), len(tasks))
        return
    from multiprocessing import Pool

    with _interrupts_later():
        pool = Pool(jobs, initializer=_ignore_interrupts)
    with pool:
        yield from _with_progress(pool.imap(_judge, tasks), len(tasks))


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Hold Ctrl-C back while processes begin, which would each complain of it."""
    import signal

    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _ignore_interrupts() -> None:
    """Ignore Ctrl-C, which is for the parent; it ends its workers."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _with_progress(verdicts: Iterator[_Verdict], total: int) -> Iterator[_Verdict]:
    """Yield the verdicts; while waiting for one, show a line on stderr if that is a terminal."""
    for done in range(total):
        if total > 1:
            progress(f"{done} of {total} recordings")
        try:
            verdict = next(verdicts)
        finally:
            progress("")
        yield verdict


def _judge(task: _Task) -> _Verdict:
    """Replay one recording; a file that cannot be used is a verdict, too."""
    from shadowmmu.guest.scenario.setup import ScenarioError
    from shadowmmu.guest.scenario.text import shown
    from shadowmmu.trace.recording import RecordingError

    try:
        return _replayed(*task)
    except (RecordingError, ScenarioError) as error:
        said = str(error)
    except OSError as error:
        said = f"{error.filename}: {error.strerror}"
    return _Verdict(str(task[0]), error=shown(said, _LONGEST))


def _replayed(
    path: Path, scenarios: Path | None, designs: Mapping[str, str], host: Mapping[str, str]
) -> _Verdict:
    from shadowmmu.guest.scenario.from_recording import rebuild_scenario
    from shadowmmu.guest.scenario.parser import load_scenario
    from shadowmmu.kvm.design.design import design_of
    from shadowmmu.trace.compare import compare as compare_rows
    from shadowmmu.trace.recording import Recording

    recording = Recording.read(path)
    reason = _not_covered(recording)
    if reason:
        return _Verdict(str(path), not_covered=reason)
    text = _scenario_file(path, scenarios, recording.header["scenario"])
    scenario = rebuild_scenario(recording, text=load_scenario(text) if text else None)
    scenario = scenario.with_design(designs).with_host(host)
    got, failure = _replay(scenario)
    strings = design_of(scenario.kernel).event_strings != 0
    comparison = compare_rows(recording.rows, got, strings=strings, events=recording.events)
    return _Verdict(
        str(path),
        ops=comparison.ops,
        equal=comparison.equal,
        parts=dict(comparison.parts),
        first=_first(recording, comparison, got, failure),
    )


def _not_covered(recording: Recording) -> str | None:
    from shadowmmu.kvm.design.switches import DesignError, profile_of

    try:
        profile_of(recording.header["kernel"])
    except DesignError as error:
        return str(error)
    return None


def _scenario_file(recording: Path, folder: Path | None, name: str) -> Path | None:
    """Return the scenario beside a recording: `recordings/A/NAME.jsonl` belongs to `scenarios/A/NAME.txt`.

    `name` is the scenario's, if the recording has another: `A/NAME.OTHER.jsonl`. A folder of recordings made
    on another kernel or processor has its scenarios further up: `recordings/OTHER/A/NAME.jsonl`,
    `scenarios/A/NAME.txt`.
    """
    recording = recording.absolute()
    candidates: list[Path] = []
    above: list[Path] = []
    for depth in range(min(len(recording.parents) - 1, 3)):
        scenarios = folder or recording.parents[depth + 1] / "scenarios"
        inside = recording.relative_to(recording.parents[depth])
        candidates += [scenarios / inside.with_suffix(".txt"), scenarios / inside.with_name(f"{name}.txt")]
        folders = inside.parts[:-1]
        above += [scenarios.joinpath(*folders[n:], f"{name}.txt") for n in range(1, len(folders) + 1)]
    return next((path for path in [*candidates, *above] if path.is_file()), None)


def _replay(scenario: Scenario) -> tuple[list[Row], str | None]:
    """Return the rows the model makes of a scenario, and how it failed if it did."""
    from shadowmmu.guest.play.player import Player
    from shadowmmu.guest.scenario.setup import resolve
    from shadowmmu.kvm.tracepoints.tracer import EventLog
    from shadowmmu.trace.recorder import Recorder
    from shadowmmu.trace.snapshot import snapshot

    rows: list[Row] = []
    setup = resolve(scenario)
    try:
        player = Player(setup, EventLog(), snapshot)
        recorder = Recorder(scenario, player.areas)
        rows.append(recorder.row(player.start()))
        rows.extend(recorder.row(played) for played in player.play(scenario.ops))
    except Exception as error:  # a model that fails differs like one that is wrong
        where = extract_tb(error.__traceback__)[-1]
        return rows, f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    return rows, None


# ------------------------------------------------------------------------------------------------- difference


def _first(
    recording: Recording, comparison: Comparison, got: Sequence[Row], failure: str | None
) -> dict[str, Any] | None:
    first = comparison.first
    if first is None:
        return None
    row = recording.rows[first.index]
    before = recording.rows[max(first.index - _CONTEXT, 0) : first.index]
    return {
        "op": row["op"],
        "do": row["do"],
        "line": first.index + 2,
        "context": [f"{r['op']} {r['do']}  {_plain_outcome(r)}" for r in before],
        "failure": failure if first.index >= len(got) else None,
        "parts": {part: list(_lines(part, *values)) for part, values in first.parts.items()},
    }


def _plain_outcome(row: Row) -> str:
    return plain(outcome_spans(row["result"])) if "result" in row else ""


def _lines(part: str, expected: Any, got: Any) -> Iterator[tuple[str, str, str]]:
    """Yield what differs in a part: (what, expected, got), one line each."""
    if part == "events":
        yield from _aligned([event_line(e) for e in expected or ()], [event_line(e) for e in got or ()])
    elif part == "gptes":
        yield from _aligned([" ".join(c) for c in expected or ()], [" ".join(c) for c in got or ()])
    else:
        a, b = (dict(_leaves(value, "") if part != "state" else _changes(value)) for value in (expected, got))
        differing = [path for path in dict.fromkeys([*a, *b]) if a.get(path) != b.get(path)]
        for path in differing:
            yield path, a.get(path, _NOTHING), b.get(path, _NOTHING)
        if not differing:  # the same changes in another order, or no change against no state
            yield "as recorded", json.dumps(expected), json.dumps(got)


def _changes(delta: Any) -> Iterator[tuple[str, str]]:
    """Yield a delta by path."""
    for path in (delta or {}).get("del", ()):
        yield path, "deleted"
    for path, value in (delta or {}).get("set", {}).items():
        yield from _leaves(value, path)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, held in value.items():
            yield from _leaves(held, f"{path}:{key}" if path else key)
    elif value is not None:
        yield path, value if isinstance(value, str) else json.dumps(value)


def _aligned(expected: Sequence[str], got: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Yield the stretches in which two lists differ, side by side, with their positions."""
    for kind, a, a_end, b, b_end in SequenceMatcher(None, expected, got, autojunk=False).get_opcodes():
        if kind == "equal":
            continue
        for n in range(max(a_end - a, b_end - b)):
            left = expected[a + n] if a + n < a_end else _NOTHING
            right = got[b + n] if b + n < b_end else _NOTHING
            yield f"#{a + n if a + n < a_end else b + n}", left, right


# ------------------------------------------------------------------------------------------------------- text


def _text(verdict: _Verdict) -> str:
    if verdict.not_covered:
        return f"{verdict.recording}: not covered ({verdict.not_covered})"
    whole = verdict.equal == verdict.ops
    counts = click.style(f"{verdict.equal}/{verdict.ops}", fg="green" if whole else "red")
    parts = " ".join(f"{part} {n}" for part, n in verdict.parts.items())
    lines = [f"{verdict.recording}: {counts} ops equal  ({parts})"]
    if verdict.first is not None:
        lines += _first_text(verdict.first)
    return "\n".join(lines)


def _first_text(first: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"      {before}" for before in first["context"])
    op = click.style(f"{first['op']} {first['do']}", bold=True)
    yield f"    > {op}  differs first (line {first['line']})"
    if first["failure"]:
        yield f"      {click.style('the model failed', fg='red')}: {first['failure']}"
        return
    width = (max(shutil.get_terminal_size((160, 24)).columns, 80) - 12) // 2
    for part, differing in first["parts"].items():
        yield f"      {click.style(part, fg='cyan')}"
        yield from _columns("expected", "got", width)
        for what, expected, got in differing:
            yield from _columns(f"{what} {expected}", got, width)


def _columns(left: str, right: str, width: int) -> Iterator[str]:
    cells = [
        textwrap.wrap(cell, width, subsequent_indent="  ", break_on_hyphens=False) for cell in (left, right)
    ]
    for n in range(max(map(len, cells))):
        a, b = (cell[n] if n < len(cell) else "" for cell in cells)
        yield f"        {a:<{width}} | {b}"


def _total(verdicts: Sequence[_Verdict]) -> dict[str, Any]:
    covered = [verdict for verdict in verdicts if verdict.not_covered is None and verdict.error is None]
    parts: Counter[str] = Counter()
    for verdict in covered:
        parts.update(verdict.parts)
    return {
        "ops": sum(verdict.ops for verdict in covered),
        "equal": sum(verdict.equal for verdict in covered),
        "recordings": len(covered),
        "whole": sum(verdict.ops == verdict.equal for verdict in covered),
        "parts": dict(parts),
        "failed": [v.recording for v in verdicts if v.error is not None],
        "not_covered": {v.recording: v.not_covered for v in verdicts if v.not_covered is not None},
    }


def _total_text(total: Mapping[str, Any]) -> str:
    parts = " ".join(f"{part} {n}" for part, n in total["parts"].items())
    text = (
        f"total: {total['equal']}/{total['ops']} ops equal, "
        f"{total['whole']}/{total['recordings']} recordings whole  ({parts})"
    )
    if total["not_covered"]:
        names = ", ".join(Path(name).stem for name in total["not_covered"])
        text += f"\nnot covered: {len(total['not_covered'])} ({names})"
    return text
