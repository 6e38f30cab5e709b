"""`shadowmmu study`: alternatives of the MMU's design measured side by side, with a verdict."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.manual import Manual
from shadowmmu.cli.outputs import output, refuse_overwriting
from shadowmmu.cli.progress import progress
from shadowmmu.cli.published import PUBLISHED, QUESTION, print_published
from shadowmmu.cli.study_options import costs_of, costs_option, csv_option, file_option

if TYPE_CHECKING:
    from shadowmmu.study.costs import Costs
    from shadowmmu.study.study import Results, Study

__all__ = ["study"]

_WIDEST = 100
_PICTURES = (".png", ".svg", ".pdf")
_NEEDS = 'a picture needs matplotlib: pip install "shadowmmu[study]"'


@click.command(
    cls=Manual,
    short_help="Measure alternatives of the MMU's design side by side.",
    statuses={"0": "Measured, or listed."},
    examples={
        "shadowmmu study": "List the studies",
        "shadowmmu study 003-prefetch-window": "Measure one: its tables and its verdict",
        "shadowmmu study 002-zap-all --plot zap.png --html zap.html": "With a picture and as a page",
    },
    files={"costs.toml": "What things cost; print the default with --print-costs, give yours with --costs."},
)
@click.argument("name", required=False)
@click.option(
    "--jobs", metavar="N", type=click.IntRange(1), default=1, show_default=True, help="Processes at once."
)
@costs_option()
@click.option(
    "--seed",
    "seeds",
    metavar="N",
    multiple=True,
    type=click.IntRange(0),
    help="Where chance begins. Repeatable: means are shown, with their 95 % confidence intervals.",
)
@file_option("plot", "Draw FILE.png, .svg or .pdf.")
@file_option("html", "Write a page that needs no network.")
@csv_option()
@click.option("--print-costs", is_flag=True, help="Print the default costs and their sources.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def study(
    *,
    name: str | None,
    jobs: int,
    costs_file: Path | None,
    seeds: tuple[int, ...],
    plot_file: Path | None,
    html_file: Path | None,
    csv_file: Path | None,
    print_costs: bool,
    as_json: bool,
) -> None:
    """Measure the alternatives of study NAME on the same guests; without NAME list the studies.

    A study asks what a design choice costs: exits, faults, flushes, shadow pages, and the time that they come
    to by a table of costs. It ends with a verdict that its numbers support. The counters are exact and the
    same in each run; the times are estimates. `published` holds figures from mails, commits and a paper
    against the model's.
    """
    from shadowmmu.study.studies import STUDIES

    if print_costs:
        from importlib import resources

        click.echo(resources.files("shadowmmu.study").joinpath("costs.toml").read_text(), nl=False)
        return
    if name is None:
        _list(as_json=as_json)
        return
    if name == PUBLISHED:
        if seeds or plot_file or html_file or csv_file:
            raise click.UsageError(f"{PUBLISHED} takes no option but --costs and --json")
        print_published(costs_of(costs_file), as_json=as_json)
        return
    if name not in STUDIES:
        raise click.ClickException(f"no study {name!r}; there are: {', '.join(STUDIES)}, {PUBLISHED}")
    if plot_file is not None and plot_file.suffix not in _PICTURES:
        raise click.UsageError(f"--plot {plot_file}: name a file that ends with {', '.join(_PICTURES)}")
    if (plot_file or html_file) and not _can_draw():
        raise click.ClickException(_NEEDS)
    outputs = {"--plot": plot_file, "--html": html_file, "--csv": csv_file}
    refuse_overwriting(outputs, [costs_file] if costs_file else [])
    costs = costs_of(costs_file)
    results = _measured(STUDIES[name], costs, tuple(dict.fromkeys(seeds)) or (0,), jobs)
    _write(results, costs, plot_file, html_file, csv_file)
    if as_json:
        from shadowmmu.study.stored import as_data

        click.echo(json.dumps(as_data(results)))
    else:
        _print(results)


def _list(*, as_json: bool) -> None:
    from shadowmmu.study.studies import STUDIES

    if as_json:
        click.echo(
            json.dumps({one.name: {"question": one.question, "about": one.about} for one in STUDIES.values()})
        )
        return
    widest = max(map(len, STUDIES))
    for one in STUDIES.values():
        click.echo(f"{one.name:<{widest}}  {one.question}")
    click.echo(f"{PUBLISHED:<{widest}}  {QUESTION}")


def _can_draw() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


def _measured(chosen: Study, costs: Costs, seeds: tuple[int, ...], jobs: int) -> Results:
    from shadowmmu.study.study import run_study
    from shadowmmu.study.sweep.run import RunError

    try:
        return run_study(
            chosen,
            costs,
            seeds=seeds,
            jobs=jobs,
            progress=lambda done, of: progress(f"{done} of {of} measurements"),
        )
    except RunError as error:
        raise click.ClickException(f"study {chosen.name}: {error}") from None
    finally:
        progress("")


def _write(
    results: Results, costs: Costs, plot_file: Path | None, html_file: Path | None, csv_file: Path | None
) -> None:
    if plot_file is not None:
        from shadowmmu.study.plot import draw

        draw(results).savefig(plot_file, dpi=150)
    if html_file is not None:
        from shadowmmu.study.page import page

        with output(html_file) as file:
            file.write(page(results, costs))
    if csv_file is not None:
        from shadowmmu.study.table import as_csv, as_rows

        with output(csv_file) as file:
            file.write(as_csv(as_rows(results)))


def _print(results: Results) -> None:
    from rich.console import Console
    from rich.table import Table

    from shadowmmu.study.study import verdict_of
    from shadowmmu.study.table import heading

    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    console = Console(no_color=not coloured, highlight=False, width=None if sys.stdout.isatty() else _WIDEST)
    chosen = results.study
    width = min(console.width, _WIDEST)
    console.print(chosen.question, style="bold")
    console.print(fill(chosen.about, width), markup=False)
    for case in chosen.cases:
        table = Table(title=case.label, title_justify="left", box=None, pad_edge=False, title_style="bold")
        table.add_column("")
        for counter in chosen.columns:
            table.add_column(heading(counter), justify="right")
        for one in chosen.alternatives:
            values = [results.shown(case.label, one.label, c) for c in chosen.columns]
            table.add_row(f"{one.label} (unsafe)" if one.unsafe else one.label, *values)
        console.print()
        console.print(table)
    console.print()
    console.print(fill(verdict_of(results), width), markup=False)
