"""What `study` and `sweep` have in common: files that they write, and the costs that they use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from shadowmmu.study.costs import Costs

__all__ = ["costs_of", "costs_option", "csv_option", "file_option"]

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def file_option(name: str, help: str) -> Callable[[Decorated], Decorated]:
    """Return an option `--name FILE`, whose value is the argument name_file."""
    return click.option(
        f"--{name}", f"{name}_file", metavar="FILE", type=click.Path(path_type=Path), help=help
    )


def costs_option() -> Callable[[Decorated], Decorated]:
    """Return the option --costs."""
    return file_option("costs", "Costs to use.")


def csv_option() -> Callable[[Decorated], Decorated]:
    """Return the option --csv."""
    return file_option("csv", "Write all counters, a row for each measurement.")


def costs_of(path: Path | None) -> Costs:
    """Return the costs in a file, else the default. Raises ClickException, OSError."""
    from shadowmmu.study.costs import CostsError, default_costs, load_costs

    try:
        return default_costs() if path is None else load_costs(path)
    except CostsError as error:
        raise click.ClickException(str(error)) from None
