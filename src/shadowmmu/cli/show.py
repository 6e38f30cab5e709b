"""`shadowmmu show`: a history to look at, as a page or in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.inputs import Changes, load, machine_options, refuse_ignored
from shadowmmu.cli.manual import Manual
from shadowmmu.cli.outputs import is_stdout, output, refuse_overwriting
from shadowmmu.cli.program import is_program
from shadowmmu.cli.program_options import ProgramOptions, program_options
from shadowmmu.cli.program_questions import ask_program, checked_point, output_on_stderr
from shadowmmu.cli.show_lanes import has_lanes, lanes_of

if TYPE_CHECKING:
    from shadowmmu.guest.observe.running import Running
    from shadowmmu.show.history.timeline import Timeline

__all__ = ["history_of", "show"]

_MACHINE = {"kernel": "--kernel", "vendor": "--vendor", "params": "--param", "designs": "--design"}


@click.command(
    cls=Manual,
    short_help="Make a page of page tables, op by op, from a scenario or a recording.",
    statuses={"0": "The page was written, or the terminal's view left."},
    examples={
        "shadowmmu show tests/conformance/recordings/b-unsync.jsonl -o unsync.html": "What real KVM did when "
        "a guest wrote to its page tables",
        "shadowmmu show scenarios/mails/002-write-flooding.txt --design write_flooding=off": "A scenario "
        "under another design",
        "shadowmmu show museum:cr3_unsynced": "A historic defect, with a lane for each vCPU",
        "shadowmmu show race:R37b": "A race, with a lane for each CPU and a run without each protection",
        "shadowmmu show --at exit:100 -o program.html tests/guest/pc/guests/features.flat": "The tables of a "
        "program at a point of its run",
        "shadowmmu show --tui tests/conformance/recordings/b-unsync.jsonl": "The same in the terminal",
    },
)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("arguments", metavar="[-- ARGUMENT...]", nargs=-1)
@click.option(
    "--at",
    metavar="POINT",
    help="Of a program the point to run it to, as those of run --stop-at; default: its end.",
)
@click.option(
    "-o",
    "--output",
    "target",
    metavar="PAGE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where the page is written; default: the name of FILE with .html, in this folder.",
)
@click.option("--tui", is_flag=True, help="Show it in the terminal instead (pip install 'shadowmmu[tui]').")
@click.option(
    "--no-reasons",
    "plain",
    is_flag=True,
    help="Leave out why things changed: for it the model plays FILE interpreted, about 5 ms an op.",
)
@machine_options
@program_options
def show(
    *,
    file: Path,
    arguments: tuple[str, ...],
    at: str | None,
    target: Path | None,
    tui: bool,
    plain: bool,
    changes: Changes,
    program: ProgramOptions,
) -> None:
    """Write one HTML file in which a browser steps through FILE, a scenario or a recording of real KVM.

    museum:DEFECT, race:CASE and a schedule that `race --save` kept become a page with a lane for each CPU.

    It shows the guest's tables and KVM's side by side, what each op changed and why, and the walk of an
    address through both. It needs no network and opens from the disk. --tui shows the same in the terminal.

    FILE may be a program: it runs to --at, and the page shows the tables there; what it prints is on stderr.
    """
    from shadowmmu.show.browser.assemble import page
    from shadowmmu.show.lanes.assemble import lanes_page

    def refuse_program_options() -> None:
        refuse_ignored({"at": "--at", "arguments": "arguments"}, "only a program is run to a point")
        if program.given:
            raise click.UsageError(f"{', '.join(program.given)}: only programs have such a machine")

    def history() -> Timeline:
        if is_program(file):
            return _at_point(file, arguments, changes, program, at)
        refuse_program_options()
        return history_of(file, changes)

    if tui:
        if target is not None:
            raise click.UsageError("--tui writes no file; leave -o out")
        if plain:
            raise click.UsageError("--tui shows no reasons; leave --no-reasons out")
        if has_lanes(file):
            raise click.UsageError(
                f"--tui shows histories; {file} becomes a page with lanes: leave --tui out"
            )
        _show_in_terminal(history)
        return

    target = target or Path(f"{file.stem.replace(':', '-')}.html")
    refuse_overwriting({"--output": target}, [file])
    lanes = lanes_of(file)
    if lanes is not None:
        refuse_ignored(
            {**_MACHINE, "plain": "--no-reasons", "at": "--at"}, f"{file} has a machine of its own"
        )
        text = lanes_page(lanes)
    elif plain or is_program(file):
        text = page(history())
    else:
        refuse_program_options()
        text = _page_with_reasons(file, changes)
    with output(target) as written:
        written.write(text)
    if not is_stdout(target):
        click.echo(f"{target}: {len(text) / 1e6:.1f} MB; open it in a browser")


def _page_with_reasons(file: Path, changes: Changes) -> str:
    """Return the page of a file with why everything changed. Raises ClickException, OSError."""
    from shadowmmu.show.browser.assemble import page
    from shadowmmu.show.history.timeline import is_recording
    from shadowmmu.show.reasons.history import reasons_of, reasons_of_recording
    from shadowmmu.show.reasons.record import NotPlayed
    from shadowmmu.trace.recording import Recording

    with _one_line():
        if not is_recording(file):
            (scenario,) = load([file], changes)
            reasons = reasons_of(scenario)
            return page(reasons.timeline, reasons.changes)
        timeline = history_of(file, changes)
        try:
            return page(timeline, reasons_of_recording(Recording.read(file)).changes)
        except NotPlayed as error:
            click.echo(f"shadowmmu: {file}: no reasons, the model cannot play it: {error}", err=True)
            return page(timeline)


@contextmanager
def _one_line() -> Iterator[None]:
    """Turn what is wrong with an input into one line."""
    from shadowmmu.guest.scenario.setup import ScenarioError
    from shadowmmu.kvm.design.switches import DesignError
    from shadowmmu.show.reasons.record import NotPlayed
    from shadowmmu.trace.recording import RecordingError

    try:
        yield
    except (ScenarioError, DesignError, RecordingError, NotPlayed) as error:
        raise click.ClickException(str(error)) from None


def _at_point(
    file: Path, arguments: tuple[str, ...], changes: Changes, program: ProgramOptions, at: str | None
) -> Timeline:
    """Run a program to a point; its machine there as a history of one moment."""
    from shadowmmu.kvm.design.switches import DEFAULT_KERNEL
    from shadowmmu.show.program.moment import timeline_at
    from shadowmmu.show.program.stopped import stop_data, where_text

    point = checked_point(at, "--at")

    def prepare(running: Running) -> Callable[[], Timeline]:
        def now() -> Timeline:
            text = f"{point or 'its end'}: {where_text(stop_data(point, running))}"
            return timeline_at(running, file.name, changes.kernel or DEFAULT_KERNEL, changes.designs, text)

        return now

    with output_on_stderr():
        return ask_program(file, arguments, changes, program, point, prepare, name=str(file))


def _show_in_terminal(history: Callable[[], Timeline]) -> None:
    """Run the application. Raises ClickException where it is not installed or there is no terminal."""
    try:
        from shadowmmu.show.tui.app import HistoryApp
    except ModuleNotFoundError as error:
        raise click.ClickException(f"--tui needs {error.name}: pip install 'shadowmmu[tui]'") from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.ClickException("--tui needs a terminal; without it a page is written")
    HistoryApp(history()).run()


def history_of(file: Path, changes: Changes, *, tlb: bool = False) -> Timeline:
    """Return the history of a scenario or a recording. Raises ClickException, OSError."""
    from shadowmmu.show.history.timeline import is_recording, recorded_timeline, timeline_of
    from shadowmmu.trace.recording import Recording

    with _one_line():
        if not is_recording(file):
            (scenario,) = load([file], changes)
            return timeline_of(scenario, tlb=tlb)
        if changes.kernel or changes.vendor or changes.params or changes.designs:
            why = "a recording shows what happened; give its scenario to change the machine"
            raise click.UsageError(f"{file}: {why}")
        return recorded_timeline(Recording.read(file))
