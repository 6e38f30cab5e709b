"""`shadowmmu why`: the reasons for entries, shadow pages, flushes and zaps."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.inputs import Changes, machine_options, refuse_ignored
from shadowmmu.cli.manual import Manual
from shadowmmu.cli.program import is_program
from shadowmmu.cli.program_options import ProgramOptions, program_options
from shadowmmu.cli.program_questions import ask_program, checked_point, output_on_stderr

if TYPE_CHECKING:
    _IntegerType = click.ParamType[int]
    from shadowmmu.guest.observe.running import Running
    from shadowmmu.show.program.reasons import Reasons as ProgramReasons
    from shadowmmu.show.reasons.change import Change
    from shadowmmu.show.reasons.history import Reasons

else:
    _IntegerType = click.ParamType

__all__ = ["why"]


class _Number(_IntegerType):
    """A number of zero or more, in any base that C has."""

    name = "number"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = int(str(value), 0)
        except ValueError:
            self.fail(f"{value!r} must be a number; write 0x400000", param, ctx)
        if not 0 <= number < 1 << 64:
            self.fail(f"{value} must be a number from 0 to 2^64 - 1", param, ctx)
        return number


@dataclass(frozen=True, slots=True)
class _Question:
    """What is asked of a history: one of gva, gfn, page, pages and flushes, or else the zaps.

    op      the op after which it is asked
    vcpu    whose walk of gva
    gva     an address to walk; l2: of the vCPU's L2
    gfn     a guest frame
    page    name of a shadow page, S7
    """

    op: int
    vcpu: int
    gva: int | None
    gfn: int | None
    page: str | None
    pages: bool
    flushes: bool
    l2: bool


@click.command(
    cls=Manual,
    short_help="Say why an entry, a frame or a shadow page is as it is.",
    statuses={"0": "The answer was printed."},
    examples={
        "shadowmmu why scenarios/mails/002-unsync.txt --gva 0x400000": "Walk the guest's tables and KVM's, "
        "with the history of each entry",
        "shadowmmu why tests/conformance/recordings/b-unsync.jsonl --sp S7": "What became of a shadow page, "
        "in a recording of real KVM",
        "shadowmmu why scenarios/mails/002-unsync.txt --flushes": "Who asked for TLB flushes",
        "shadowmmu why --at exit:300 --gva 0x400000 tests/guest/pc/guests/features.flat": "Run a program to "
        "its 300th exit, and walk an address there",
    },
)
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("arguments", metavar="[-- ARGUMENT...]", nargs=-1)
@click.option("--gva", metavar="X", type=_Number(), help="Walk this address, at --at, on --vcpu.")
@click.option("--gfn", metavar="G", type=_Number(), help="What maps or shadows this guest frame.")
@click.option("--sp", "page", metavar="S7", help="What became of this shadow page and its entries.")
@click.option("--pages", is_flag=True, help="The shadow pages that exist after --at, and why they were made.")
@click.option("--flushes", is_flag=True, help="The requests for TLB flushes, by cause.")
@click.option(
    "--needed",
    is_flag=True,
    help="With --flushes, of a scenario: play it again without each request to all vCPUs in turn, with a TLB "
    "that keeps translations; a request is needed if coherence then finds a stale one usable.",
)
@click.option("--zaps", is_flag=True, help="The shadow pages zapped, by cause.")
@click.option(
    "--at",
    metavar="OP",
    help="Only what happened up to this op; default: the last. Of a program the point to run it to, as "
    "those of run --stop-at; default: its end.",
)
@click.option("--vcpu", metavar="N", type=click.IntRange(0), default=0, help="Whose walk (default: 0).")
@click.option("--l2", is_flag=True, help="The address is one of the vCPU's L2: walk its nested tables.")
@click.option("--json", "as_json", is_flag=True, help="Print the changes as one JSON object.")
@machine_options
@program_options
def why(
    *,
    file: Path,
    arguments: tuple[str, ...],
    gva: int | None,
    gfn: int | None,
    page: str | None,
    pages: bool,
    flushes: bool,
    needed: bool,
    zaps: bool,
    at: str | None,
    vcpu: int,
    l2: bool,
    as_json: bool,
    changes: Changes,
    program: ProgramOptions,
) -> None:
    """Say why the MMU of FILE, a scenario, a recording of real KVM or a program, is as it is.

    Each change of an SPTE, a shadow page or a root, each flush request and each zap is shown with the kernel
    function that made it and with what led there, newest first. The model plays FILE for that, interpreted.
    Changes of a recording have the model's reasons where both have the same state and statistics after the
    op; where they differ that is said.

    A program runs, compiled, to --at; --gva is walked there, for who runs then. The history of the entries on
    its way is recorded from the start of the program: each change with the exit in which it was made, who
    ran, and KVM's events in that exit. What the program prints is on stderr.
    """
    if is_program(file):
        _ask(file, arguments, changes, program, at, gva, as_json=as_json)
        return
    if arguments:
        raise click.UsageError("arguments are for programs; leave them out")
    if program.given:
        raise click.UsageError(f"{', '.join(program.given)}: only programs have such a machine")
    asked = [gva is not None, gfn is not None, page is not None, pages, flushes, zaps]
    if sum(asked) != 1:
        raise click.UsageError("give one of --gva X, --gfn G, --sp S7, --pages, --flushes, --zaps")
    if needed and not flushes:
        raise click.UsageError("--needed: give it with --flushes")
    if needed and at is not None:
        raise click.UsageError("--needed judges the whole scenario; leave --at out")
    reasons = _reasons(file, changes, judged=needed)
    timeline = reasons.timeline
    last = timeline.moments[-1].op
    op = last if at is None else _op(at, last)
    past = reasons.before(op)
    if gva is not None and str(vcpu) not in timeline.at(op).state["vcpus"]:
        raise click.UsageError(f"--vcpu {vcpu}: {file} has {len(timeline.modes)} vCPUs, numbered from 0")
    if l2 and "guest_mmu" not in timeline.at(op).state["vcpus"][str(vcpu)]:
        raise click.UsageError(f"--l2: the guest of {file} runs no guests of its own; leave it out")
    if page is not None and not past.of_page(page):
        raise click.UsageError(
            f"--sp {page}: {file} has no such shadow page up to op {op}; write S1, S2, ..."
        )
    question = _Question(op, vcpu, gva, gfn, page, pages=pages, flushes=flushes, l2=l2)
    if as_json:
        click.echo(json.dumps(_data(past, _selected(past, question))))
        return
    click.echo("\n".join(_lines(past, question)))


def _ask(
    file: Path,
    arguments: tuple[str, ...],
    changes: Changes,
    program: ProgramOptions,
    at: str | None,
    gva: int | None,
    *,
    as_json: bool,
) -> None:
    """Run a program to a point and print why the entries of an address are as they are."""
    from shadowmmu.guest.observe.entry_history import EntryHistory
    from shadowmmu.show.program.reasons import reasons_at, reasons_data, reasons_lines

    names = {"gfn": "--gfn", "page": "--sp", "pages": "--pages", "flushes": "--flushes", "zaps": "--zaps"}
    refuse_ignored(
        {**names, "needed": "--needed", "vcpu": "--vcpu", "l2": "--l2"}, "of a program give --gva X"
    )
    if gva is None:
        raise click.UsageError("give --gva X: of a program the way of an address is explained")
    point = checked_point(at, "--at")

    def prepare(running: Running) -> Callable[[], ProgramReasons]:
        history = EntryHistory(running, gva)
        return lambda: reasons_at(history, point or "its end")

    with output_on_stderr():
        reasons = ask_program(file, arguments, changes, program, point, prepare, name=str(file))
    click.echo(json.dumps(reasons_data(reasons)) if as_json else "\n".join(reasons_lines(reasons)))


def _op(text: str, last: int) -> int:
    """Return the number of an op. Raises BadParameter."""
    if not text.lstrip("-").isdigit() or not -1 <= int(text) <= last:
        raise click.BadParameter(f"--at {text!r} must be the number of an op, -1 to {last}")
    return int(text)


def _reasons(file: Path, changes: Changes, *, judged: bool) -> Reasons:
    """Return the reasons of a file. Raises ClickException, OSError."""
    from shadowmmu.cli.inputs import load
    from shadowmmu.guest.scenario.setup import ScenarioError
    from shadowmmu.kvm.design.switches import DesignError
    from shadowmmu.show.history.timeline import is_recording
    from shadowmmu.show.reasons.history import reasons_of, reasons_of_recording
    from shadowmmu.show.reasons.record import NotPlayed
    from shadowmmu.trace.recording import Recording, RecordingError

    try:
        if not is_recording(file):
            (scenario,) = load([file], changes)
            return reasons_of(scenario, tlb=judged, judged=judged)
        if changes.kernel or changes.vendor or changes.params or changes.designs:
            remedy = "a recording shows what happened; give its scenario to change the machine"
            raise click.UsageError(f"{file}: {remedy}")
        if judged:
            raise click.UsageError(f"{file}: --needed plays a scenario; give the one that was recorded")
        return reasons_of_recording(Recording.read(file))
    except (ScenarioError, DesignError, RecordingError, NotPlayed) as error:
        raise click.ClickException(str(error)) from None


def _lines(reasons: Reasons, asked: _Question) -> Iterable[str]:
    from shadowmmu.show.reasons import report

    if asked.gva is not None:
        return report.walk_lines(reasons, reasons.timeline.at(asked.op), asked.vcpu, asked.gva, l2=asked.l2)
    if asked.gfn is not None:
        return report.gfn_lines(reasons, asked.gfn)
    if asked.page is not None:
        return report.page_lines(reasons, asked.page)
    if asked.pages:
        return report.page_list(reasons, reasons.timeline.at(asked.op))
    return report.flush_lines(reasons) if asked.flushes else report.zap_lines(reasons)


def _selected(reasons: Reasons, asked: _Question) -> list[Change]:
    from shadowmmu.show.history.walk import translate

    if asked.gva is not None:
        moment = reasons.timeline.at(asked.op)
        steps = translate(reasons.timeline, moment, asked.vcpu, asked.gva, l2=asked.l2).shadow.steps
        found = [change for step in steps for change in reasons.of_entry(step.table, step.index)]
        return [*reasons.of_root(asked.vcpu, l2=asked.l2), *found]
    if asked.gfn is not None:
        return reasons.of_gfn(asked.gfn)
    if asked.page is not None:
        return reasons.of_page(asked.page)
    if asked.pages:
        return [change for change in reasons.changes if change.kind in ("page", "zap")]
    return reasons.flushes() if asked.flushes else reasons.zaps()


def _data(reasons: Reasons, changes: list[Change]) -> object:
    return {
        "changes": [{**asdict(change), "mechanism": asdict(change.mechanism)} for change in changes],
        "needed": list(reasons.needed),
        "unexplained": list(reasons.unexplained),
    }
