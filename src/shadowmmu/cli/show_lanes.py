"""What `shadowmmu show` shows in lanes: `race:CASE`, a schedule that `race --save` kept, `museum:DEFECT`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.race import interpreted_with_greenlet

if TYPE_CHECKING:
    from shadowmmu.show.lanes.lanes import Lanes

__all__ = ["has_lanes", "lanes_of"]

_RACE, _MUSEUM = "race:", "museum:"


def has_lanes(file: Path) -> bool:
    """Return whether what is named is shown in lanes. Raises OSError."""
    return _named(file, _RACE) or _named(file, _MUSEUM) or _is_schedule(file)


def _named(file: Path, kind: str) -> bool:
    """Return whether something of that kind is named, and not a file that happens to be called so."""
    return str(file).startswith(kind) and not file.exists()


def lanes_of(file: Path) -> Lanes | None:
    """Return the lanes of what is named; None if it is a scenario or a recording.

    Raises ClickException. Races may begin the process anew, interpreted.
    """
    name = str(file)
    if _named(file, _RACE):
        return _race(name.removeprefix(_RACE))
    if _named(file, _MUSEUM):
        return _exhibit(name.removeprefix(_MUSEUM))
    return _schedule(file) if _is_schedule(file) else None


def _race(name: str) -> Lanes:
    interpreted_with_greenlet()
    from shadowmmu.check.race.case import CaseError
    from shadowmmu.check.race.catalogue import find
    from shadowmmu.show.lanes.of_race import lanes_of_case

    try:
        found = find([name])
    except CaseError as error:
        raise click.ClickException(str(error)) from None
    if len(found) != 1:
        several = ", ".join(f"{_RACE}{case.name}" for case in found)
        raise click.UsageError(f"{_RACE}{name}: several cases have this number; name one: {several}")
    return lanes_of_case(found[0])


def _is_schedule(file: Path) -> bool:
    from shadowmmu.guest.scenario.text import read_head

    mark = b"# shadowmmu race: a schedule"
    return file.is_file() and read_head(file, len(mark)) == mark


def _schedule(file: Path) -> Lanes:
    interpreted_with_greenlet()
    from shadowmmu.check.race.case import CaseError
    from shadowmmu.check.race.explore import read_schedule
    from shadowmmu.show.lanes.of_race import lanes_of_schedule

    try:
        return lanes_of_schedule(read_schedule(file))
    except CaseError as error:
        raise click.ClickException(str(error)) from None


def _exhibit(name: str) -> Lanes:
    from shadowmmu.check.museum.results import UnknownExhibit, exhibit_named
    from shadowmmu.guest.scenario.parser import load_scenario
    from shadowmmu.guest.scenario.setup import ScenarioError
    from shadowmmu.show.lanes.of_exhibit import lanes_of_exhibit

    try:
        exhibit = exhibit_named(name)
        return lanes_of_exhibit(exhibit, load_scenario(_in_repository(exhibit.scenario)))
    except UnknownExhibit as error:
        raise click.ClickException(error.args[0]) from None
    except ScenarioError as error:
        raise click.ClickException(str(error)) from None


def _in_repository(path: str) -> Path:
    """Return a file of the repository, from the current directory or the checkout that runs.

    Raises ClickException if neither has it.
    """
    import shadowmmu

    for root in (Path(), Path(shadowmmu.__file__).parents[2]):
        if (root / path).is_file():
            return root / path
    raise click.ClickException(f"{path} is not here: it is in the repository; run this in a clone of it")
