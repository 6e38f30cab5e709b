"""`shadowmmu museum`: historic defects of KVM's MMU, what they were, and what the checks make of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import get_terminal_size
from textwrap import wrap
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.inputs import refuse_ignored, seconds_option
from shadowmmu.cli.manual import Manual
from shadowmmu.cli.outputs import make_folder, output
from shadowmmu.cli.progress import progress

if TYPE_CHECKING:
    from shadowmmu.check.museum.on_kernels import OnKernel
    from shadowmmu.check.museum.results import Exhibit
    from shadowmmu.check.museum.search import Progress, Sighting

__all__ = ["museum"]

_NOT_FOUND = 1
_WIDEST = 100


@click.command(
    cls=Manual,
    short_help="Show historic defects of KVM's MMU.",
    statuses={"0": "Shown, or all found.", "1": "A search (--run) did not find a defect."},
    examples={
        "shadowmmu museum": "List the defects",
        "shadowmmu museum rmap_left": "The story of one, and what found it",
        "shadowmmu museum --kernels child_by_gfn": "On which kernels its scenario shows it",
        "shadowmmu museum --run rmap_left --seconds 60 --out found": "Search for it anew by random guests",
    },
    files={"scenarios/museum/NAME.txt": "The scenarios that searches ended with; see --out."},
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--run", "search_them", is_flag=True, help="Search for them by random guests; without NAMEs for all."
)
@click.option(
    "--kernels",
    "on_kernels",
    is_flag=True,
    help="Play their scenarios on every kernel: as it is, and with the defect brought back.",
)
@seconds_option(600.0, "How long to search for each.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    metavar="N",
    type=click.IntRange(0),
    help="Number of the first guest.",
)
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("scenarios/museum"),
    show_default=True,
    help="Where a search writes the scenarios that it ends with.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; of a search, a list.")
def museum(
    *,
    names: tuple[str, ...],
    search_them: bool,
    on_kernels: bool,
    seconds: float,
    seed: int,
    out: Path,
    as_json: bool,
) -> None:
    """List the defects that --design defect=NAME brings back; with NAMEs print the story of each.

    Each is one mechanism of KVM's MMU left out of the model, for the checks to find. With --run random guests
    search for it, and what they find is shrunk to a scenario.
    """
    from shadowmmu.check.museum.results import EXHIBITS, UnknownExhibit, exhibit_named

    try:
        chosen = [exhibit_named(name) for name in names] or list(EXHIBITS)
    except UnknownExhibit as error:
        raise click.ClickException(error.args[0]) from None
    if not search_them:
        searching = {"seconds": "--seconds", "seed": "--seed", "out": "--out"}
        refuse_ignored(searching, "only a search (--run) has this")
    if search_them and on_kernels:
        raise click.UsageError("--run searches and --kernels compares; choose one")
    if search_them:
        _search(chosen, seconds, seed, out, as_json=as_json)
    elif on_kernels:
        _compare(chosen, as_json=as_json)
    elif as_json:
        click.echo(json.dumps({exhibit.name: _described(exhibit) for exhibit in chosen}, indent=1))
    else:
        click.echo("\n".join(_told(chosen) if names else _listed(chosen)))


def _listed(chosen: Sequence[Exhibit]) -> Iterator[str]:
    widest = max(len(exhibit.name) for exhibit in chosen)
    for exhibit in chosen:
        yield f"{click.style(exhibit.name.ljust(widest), fg='cyan')}  {exhibit.title}"


def _told(chosen: Sequence[Exhibit]) -> Iterator[str]:
    width = min(get_terminal_size().columns, _WIDEST)
    for number, exhibit in enumerate(chosen):
        if number:
            yield ""
        yield f"{click.style(exhibit.name, fg='cyan')}: {exhibit.title}"
        yield ""
        yield from wrap(exhibit.story, width)
        yield ""
        for name, text in (
            ("fixed by", exhibit.fix),
            ("kernels", exhibit.kernels),
            ("switches", " ".join(f"{key}={value}" for key, value in exhibit.switches.items())),
            ("found by", _finding(exhibit)),
            ("scenario", f"shadowmmu check {exhibit.scenario}"),
            ("fixed", f"shadowmmu check {_designs(exhibit)} {exhibit.scenario}"),
        ):
            yield from wrap(text, width, initial_indent=f"{name:10}", subsequent_indent=" " * 10)


def _designs(exhibit: Exhibit) -> str:
    """Return the options that take the defect out again."""
    changed = exhibit.fixed.items() - exhibit.switches.items()
    return " ".join(f"--design {name}={value}" for name, value in sorted(changed))


def _finding(exhibit: Exhibit) -> str:
    from shadowmmu.check.museum.results import results

    result = results().get(exhibit.name)
    if result is None:
        return "no search yet"
    if not result["found"]:
        return f"nothing, in {result['ops']} ops and {result['seconds']} s"
    when = f"after {result['ops']} ops and {result['seconds']} s, of guest {result['guest']}"
    return f"{result['check']}, {result['predicate']}, {when}: {result['says']}"


def _described(exhibit: Exhibit) -> dict[str, object]:
    from shadowmmu.check.museum.results import results

    return {
        "title": exhibit.title,
        "story": exhibit.story,
        "fix": exhibit.fix,
        "kernels": exhibit.kernels,
        "switches": dict(exhibit.switches),
        "scenario": exhibit.scenario,
        "result": results().get(exhibit.name),
    }


def _compare(chosen: Sequence[Exhibit], *, as_json: bool) -> None:
    """Print what the scenarios show on every kernel."""
    from shadowmmu.check.museum.on_kernels import MEANS, on_kernels
    from shadowmmu.kvm.design.switches import PROFILES

    rows: dict[str, list[OnKernel]] = {}
    for exhibit in chosen:
        progress(f"{exhibit.name}: {len(rows)} of {len(chosen)} defects")
        try:
            lines = Path(exhibit.scenario).read_text(encoding="utf-8").splitlines()
        except OSError as error:
            progress("")
            raise click.ClickException(
                f"{exhibit.scenario}: {error.strerror}; run this in the project's folder"
            ) from None
        rows[exhibit.name] = on_kernels(exhibit, lines)
    progress("")
    if as_json:
        table = {name: {found.kernel: found.as_dict() for found in row} for name, row in rows.items()}
        click.echo(json.dumps(table, indent=1))
        return
    widest = max(len(name) for name in rows)
    heads = "  ".join(profile.kernel.ljust(8) for profile in PROFILES)
    click.echo(f"{'':{widest}}  {heads.rstrip()}")
    for name, row in rows.items():
        cells = "  ".join(found.verdict.ljust(8) for found in row)
        click.echo(f"{click.style(name.ljust(widest), fg='cyan')}  {cells.rstrip()}")
    click.echo()
    for verdict, meaning in MEANS.items():
        click.echo(f"{verdict:8}  {meaning}")


def _search(chosen: Sequence[Exhibit], seconds: float, seed: int, out: Path, *, as_json: bool) -> None:
    from shadowmmu.check.museum.search import search

    make_folder(out)
    sightings: list[Sighting] = []
    try:
        for exhibit in chosen:
            sighting = search(exhibit, seconds=seconds, seed=seed, on_progress=_progress(exhibit))
            sightings.append(sighting)
            if sighting.violation is not None:
                with output(out / f"{exhibit.name}.txt") as file:
                    file.write(sighting.scenario)
            progress("")
            if not as_json:
                click.echo(_sighted(sighting))
    finally:
        missing = [exhibit.name for exhibit in chosen[len(sightings) :]]
        if as_json:
            rows = [sighting.as_dict() for sighting in sightings]
            rows += [{"name": name, "found": None, "interrupted": True} for name in missing]
            click.echo(json.dumps(rows, indent=1))
        elif missing:
            click.echo(f"not searched to the end: {', '.join(missing)}", err=True)
    if any(sighting.violation is None for sighting in sightings):
        click.get_current_context().exit(_NOT_FOUND)


def _sighted(sighting: Sighting) -> str:
    after = f"{sighting.ops} ops, {sighting.guests} guests, {sighting.seconds:.1f} s"
    if sighting.violation is None:
        return f"{sighting.name}: {click.style('not found', fg='red')} in {after}"
    found = sighting.violation
    lines = len(sighting.scenario.splitlines())
    return f"{sighting.name}: {found.check}, {found.predicate}, after {after}; {lines} lines"


def _progress(exhibit: Exhibit) -> Progress:
    def on_progress(guests: int, ops: int, seconds: float) -> None:
        progress(f"{exhibit.name}: {guests} guests, {ops} ops, {seconds:.0f} s")

    return on_progress
