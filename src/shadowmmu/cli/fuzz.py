"""`shadowmmu fuzz`: random guests under all checks for as long as one likes."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shadowmmu.cli.inputs import design_option, kernel_option, refuse_ignored, seconds_option, vendor_option
from shadowmmu.cli.manual import Manual
from shadowmmu.cli.outputs import make_folder, output
from shadowmmu.cli.progress import progress

if TYPE_CHECKING:
    from shadowmmu.check.random.fuzz import Found, Report

__all__ = ["fuzz"]

_MODES = ("long4", "long5", "pae", "32", "nopaging")
_MMUS = ("shadow", "tdp", "direct", "nested")
_PROFILES = ("ordinary", "hostile")
_FOUND = 1
"""Exit status if something failed."""
_LARGEST_SEED = (1 << 32) - 1


@click.command(
    cls=Manual,
    short_help="Check random and hostile guests.",
    statuses={"0": "Nothing was found.", "1": "Something failed; a scenario of it was written."},
    examples={
        "shadowmmu fuzz --seconds 600": "Every paging mode and every kind of MMU for ten minutes",
        "shadowmmu fuzz --seconds 1 --seed 7 --mode pae --mmu shadow": "One kind of guest, from a seed",
    },
    files={"NAME.txt": "The scenario of a failure, in the current folder or --out, shrunk to few lines."},
)
@seconds_option(60.0, "How long to run.")
@click.option(
    "--seed",
    metavar="N",
    type=click.IntRange(0, _LARGEST_SEED),
    help="Number of the first guest (default: a random one).",
)
@click.option(
    "--mode",
    "modes",
    multiple=True,
    type=click.Choice(_MODES),
    help="Only guests of this paging mode. Repeatable.",
)
@click.option(
    "--mmu", "mmus", multiple=True, type=click.Choice(_MMUS), help="Only this kind of MMU. Repeatable."
)
@click.option(
    "--profile",
    "profiles",
    multiple=True,
    type=click.Choice(_PROFILES),
    help="Only this kind of guest. Repeatable.",
)
@click.option(
    "--ops",
    default=20000,
    show_default=True,
    metavar="N",
    type=click.IntRange(1, 1 << 20),
    help="Operations of each guest.",
)
@kernel_option
@vendor_option("Whose processor (default: either). There are no nested guests on intel.")
@design_option
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where to write scenarios of failures (default: the current folder).",
)
@click.option(
    "--failures",
    default=1,
    show_default=True,
    metavar="N",
    type=click.IntRange(1),
    help="Stop after so many failures.",
)
@click.option("--unchecked", is_flag=True, help="Leave the checks out, to see how fast the MMU is.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object at the end.")
def fuzz(
    *,
    seconds: float,
    seed: int | None,
    modes: tuple[str, ...],
    mmus: tuple[str, ...],
    profiles: tuple[str, ...],
    ops: int,
    kernel: str | None,
    vendor: str | None,
    designs: dict[str, str],
    out: Path,
    failures: int,
    unchecked: bool,
    as_json: bool,
) -> None:
    """Let random guests run in every paging mode on every kind of MMU, with the checks of `check` on.

    A guest maps, edits and flushes its page tables, ordinary ones as an operating system does, hostile ones
    as nobody should; the host takes memory away, logs dirty pages and moves slots meanwhile. What fails is
    shrunk to a scenario that `shadowmmu check` shows.
    """
    from shadowmmu.check.random.fuzz import Report, fuzz as run, grounds
    from shadowmmu.check.random.ground_setup import GroundError

    if unchecked:
        refuse_ignored({"out": "--out", "failures": "--failures"}, "nothing is found with --unchecked")
    kinds = modes or _MODES, mmus or _MMUS, profiles or _PROFILES
    report = Report(secrets.randbits(32) if seed is None else seed)
    try:
        guests = grounds(report.seed, *kinds, designs, vendor=vendor)
    except GroundError as error:
        raise click.UsageError(str(error)) from None
    make_folder(out)
    interrupted = False
    try:
        run(
            seconds,
            guests,
            report,
            ops=ops,
            kernel=kernel,
            checked=not unchecked,
            on_progress=_progress,
            stop_after=failures,
        )
    except KeyboardInterrupt:
        interrupted = True
    progress("")
    paths = [_write(out, found) for found in report.found]
    if as_json:
        left = max(seconds - report.seconds, 0.0) if interrupted else 0.0
        click.echo(json.dumps(_as_dict(report, paths, interrupted=interrupted, left=left)))
    else:
        _tell(report, paths, interrupted=interrupted)
    if interrupted:
        raise click.Abort
    if report.found:
        click.get_current_context().exit(_FOUND)


def _rate(report: Report) -> float:
    return report.ops / report.seconds if report.seconds else 0.0


def _progress(report: Report) -> None:
    text = f"{report.seconds:6.0f} s  {report.episodes} guests  {report.ops} ops  {_rate(report):.0f}/s"
    progress(f"{text}  {len(report.found)} failures")


def _write(folder: Path, found: Found) -> Path:
    """Write the scenario of a failure to a file, with what was found in its comments."""
    path = folder / f"{found.name}.txt"
    comment = [f"# {line}" for line in found.violation.text().splitlines()]
    if not found.replays:
        comment.append("# played as a scenario it does not show; `shadowmmu fuzz` with the same seed does")
    with output(path) as file:
        file.write("\n".join(comment) + "\n" + found.scenario)
    return path


def _as_dict(report: Report, paths: list[Path], *, interrupted: bool, left: float) -> dict[str, Any]:
    return {
        "seed": report.seed,
        "ops": report.ops,
        "guests": report.episodes,
        "seconds": round(report.seconds, 3),
        "ops_per_second": round(_rate(report)),
        "ops_per_mmu": report.per_kind,
        "interrupted": interrupted,
        "seconds_left": round(left, 3),
        "found": [
            {
                "mode": found.mode,
                "mmu": found.mmu,
                "profile": found.profile,
                "seed": found.seed,
                "ops": found.ops,
                "replays": found.replays,
                "known": None if found.known is None else "=".join(found.known[:2]),
                "scenario": str(path),
                "violation": found.violation.as_dict(),
            }
            for found, path in zip(report.found, paths, strict=True)
        ],
    }


def _tell(report: Report, paths: list[Path], *, interrupted: bool) -> None:
    from shadowmmu.check.known import explanation

    ended = "interrupted after" if interrupted else "in"
    click.echo(
        f"seed {report.seed}: {report.episodes} guests, {report.ops} ops {ended} {report.seconds:.1f} s, "
        f"{_rate(report):.0f}/s"
    )
    for mmu, ops in report.per_kind.items():
        click.echo(f"  {mmu:8} {ops} ops")
    for found, path in zip(report.found, paths, strict=True):
        click.echo(f"\nafter {found.ops} ops of a {found.profile} {found.mode} guest, {found.mmu} MMU:")
        click.echo(found.violation.text())
        click.echo(f"  scenario: {path}")
        if found.known is not None:
            click.echo(f"  {explanation(*found.known)}")
