"""Questions about a program: it is run to a point, and asked there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from shadowmmu.cli.inputs import Changes
from shadowmmu.cli.program import run_asked
from shadowmmu.cli.program_options import ProgramOptions

if TYPE_CHECKING:
    from shadowmmu.guest.observe.point import Point
    from shadowmmu.guest.observe.running import Running

__all__ = ["ask_program", "checked_point", "output_on_stderr"]

Answer = TypeVar("Answer")


def checked_point(text: str | None, option: str) -> Point | None:
    """Return the point that an option names. Raises BadParameter."""
    from shadowmmu.guest.observe.point import PointError, parse_point

    if text is None:
        return None
    try:
        return parse_point(text)
    except PointError as error:
        raise click.BadParameter(f"{option} {error}") from None


def ask_program(
    path: Path,
    arguments: Sequence[str],
    changes: Changes,
    options: ProgramOptions,
    point: Point | None,
    prepare: Callable[[Running], Callable[[], Answer]],
    *,
    name: str | None = None,
) -> Answer:
    """Run a program to a point and return what it is asked there; without a point at its end.

    `prepare` is called before the program starts and returns what is called at the point. Raises
    ClickException for a program that cannot be run, and where it never comes to the point; Abort if the user
    interrupted it.
    """
    from shadowmmu.guest.observe.point import PointError, arm

    answers: list[Answer] = []

    def asked(running: Running) -> None:
        ask = prepare(running)
        if point is None:
            at_end.append(ask)
            return
        try:
            arm(point, running, lambda: answers.append(ask()))
        except PointError as error:
            raise click.ClickException(f"{path}: {error}") from None

    at_end: list[Callable[[], Answer]] = []
    ending = run_asked(path, arguments, changes, options, asked, name=name)
    if ending.reason == "interrupted":
        raise click.Abort
    if at_end:
        answers.append(at_end[0]())
    if not answers:
        how = ending.reason if ending.status is None else f"it ended with status {ending.status}"
        raise click.ClickException(f"{path}: {point} was not reached: {how}")
    return answers[0]


@contextmanager
def output_on_stderr() -> Iterator[None]:
    """Let what the program prints be on stderr: the answer is on stdout."""
    import sys

    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
