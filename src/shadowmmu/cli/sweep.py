"""`shadowmmu sweep`: workloads on machines with designs, over seeds, as a file says."""

from __future__ import annotations

import json
import os
import sys
import time
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.manual import Manual
from shadowmmu.cli.outputs import is_stdout, output, refuse_overwriting
from shadowmmu.cli.progress import progress
from shadowmmu.cli.study_options import costs_of, costs_option, csv_option, file_option

if TYPE_CHECKING:
    from shadowmmu.study.costs import Costs
    from shadowmmu.study.measure import Measurement
    from shadowmmu.study.sweep.summary import Row
    from shadowmmu.study.sweep.sweep import Sweep

__all__ = ["sweep"]

_WIDEST = 160


@click.command(
    cls=Manual,
    short_help="Measure designs, workloads, kernels and seeds in all combinations.",
    statuses={"0": "All runs of the file are done."},
    examples={
        "shadowmmu sweep docs/examples/windows.toml": "Run what is missing, and show the table",
        "shadowmmu sweep docs/examples/windows.toml --jobs 1 --runs all.jsonl --csv x.csv": "With a CSV",
        "shadowmmu sweep docs/examples/windows.toml --scheduler tcp://10.0.0.1:8786": "On a Dask cluster",
    },
    files={
        "FILE.toml": (
            "[[workloads]] with name and parameters, [machine] (kernel, vendor, paging, memory, vcpus, ...), "
            "[params] of KVM's modules, [[designs]] of switches, seeds, columns. Each value may be a list."
        ),
        "FILE.runs.jsonl": (
            "The results, a line for each run, appended when it is done: after an interruption the same "
            "command does what is missing. --runs names another."
        ),
    },
)
@click.argument("file", metavar="FILE.toml", type=click.Path(path_type=Path))
@click.option(
    "--jobs", metavar="N", type=click.IntRange(1), help="Processes at once (default: as many as processors)."
)
@click.option("--scheduler", metavar="ADDRESS", help="Run on a Dask cluster, tcp://HOST:PORT.")
@click.option(
    "--runs",
    "store_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Where results are kept (default: FILE.runs.jsonl beside FILE.toml).",
)
@costs_option()
@csv_option()
@file_option("parquet", "The same in Parquet (needs polars).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: the table, and all runs.")
def sweep(
    *,
    file: Path,
    jobs: int | None,
    scheduler: str | None,
    store_file: Path | None,
    costs_file: Path | None,
    csv_file: Path | None,
    parquet_file: Path | None,
    as_json: bool,
) -> None:
    """Measure all combinations that FILE.toml lists, and show one table: means over the seeds, with their
    95 % confidence intervals.

    A sweep may be stopped or killed at any time: what was done is kept, and the same command does the rest.
    A run is done once for the same workload, machine, costs and version of the model. A value that is a list
    stands for each of its members.
    """
    if jobs is not None and scheduler is not None:
        raise click.UsageError(
            "--jobs is for processes of this machine, --scheduler for those of a cluster: give one"
        )
    if parquet_file is not None and not _has_polars():
        raise click.ClickException('--parquet needs polars: pip install "shadowmmu[frame]"')
    if is_stdout(parquet_file):
        raise click.UsageError("--parquet: Parquet is not text; name a file")
    store_file = store_file or file.with_suffix(".runs.jsonl")
    outputs = {"--csv": csv_file, "--parquet": parquet_file, "--runs": store_file}
    refuse_overwriting(outputs, [file, *([costs_file] if costs_file else [])])
    costs = costs_of(costs_file)
    wanted = _read(file, costs)
    results = _performed(wanted, costs, store_file, jobs, scheduler)
    _write(results, csv_file, parquet_file)
    _show(wanted, results, as_json=as_json)


def _has_polars() -> bool:
    try:
        import polars  # noqa: F401
    except ImportError:
        return False
    return True


def _read(file: Path, costs: Costs) -> Sweep:
    from shadowmmu.study.sweep.file import SweepError, read_sweep

    try:
        return read_sweep(file, costs)
    except SweepError as error:
        raise click.ClickException(str(error)) from None


def _performed(
    wanted: Sweep, costs: Costs, store_file: Path, jobs: int | None, scheduler: str | None
) -> list[Measurement]:
    from shadowmmu.study.sweep.cluster import ClusterError, results_from
    from shadowmmu.study.sweep.processes import processors, results_of
    from shadowmmu.study.sweep.run import RunError
    from shadowmmu.study.sweep.store import Store, StoreError
    from shadowmmu.study.sweep.sweep import Perform, run_sweep

    perform: Perform = partial(results_of, costs=costs, jobs=jobs or processors())
    if scheduler is not None:
        perform = partial(results_from, scheduler, costs=costs)
    try:
        with Store(store_file) as store:
            return run_sweep(wanted, costs, store, perform, progress=_Progress())
    except (RunError, ClusterError, StoreError) as error:
        text = str(error)
        raise click.ClickException(
            text if isinstance(error, StoreError) else f"{wanted.path}: {text}"
        ) from None
    finally:
        progress("")


class _Progress:
    """Says how many runs are done, and how long the others may take."""

    def __init__(self) -> None:
        self._start: tuple[float, int] | None = None

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        began, first = self._start = self._start or (now, done)
        left = f", {(now - began) / (done - first) * (total - done):,.0f} s left" if done > first else ""
        progress(f"{done:,} of {total:,} runs ({done / total:.0%}){left}")


def _write(results: list[Measurement], csv_file: Path | None, parquet_file: Path | None) -> None:
    rows = [one.as_row() for one in results]
    if csv_file is not None:
        from shadowmmu.study.table import as_csv

        with output(csv_file) as file:
            file.write(as_csv(rows))
    if parquet_file is not None:
        from shadowmmu.trace.frames import polars_frame

        data = BytesIO()
        polars_frame(rows, "--parquet").write_parquet(data)
        with output(parquet_file) as file:
            file.write_bytes(data.getvalue())


def _show(wanted: Sweep, results: list[Measurement], *, as_json: bool) -> None:
    from shadowmmu.study.sweep.summary import summary, summary_data

    rows = summary(results)
    if as_json:
        data = {"table": list(summary_data(rows)), "runs": [one.as_row() for one in results]}
        click.echo(json.dumps(data))
        return
    _print(rows, wanted.columns)
    for row in rows:
        if not row.clean:
            click.echo(f"The audit found violations: {_text(row)}; `shadowmmu check` says which.")


def _text(row: Row) -> str:
    return " ".join(f"{name}={value}" for name, value in row.labels.items())


def _print(rows: list[Row], columns: tuple[str, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    from shadowmmu.study.sweep.summary import shown_labels
    from shadowmmu.study.table import heading, with_interval

    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    console = Console(no_color=not coloured, highlight=False, width=None if sys.stdout.isatty() else _WIDEST)
    table = Table(box=None, pad_edge=False)
    labels = shown_labels(rows)
    for label in labels[0]:
        table.add_column(label)
    table.add_column("n", justify="right")
    for counter in columns:
        table.add_column(heading(counter), justify="right")
    for row, words in zip(rows, labels, strict=True):
        values = [with_interval(one, row.mean(one), row.half_width(one)) for one in columns]
        table.add_row(*words.values(), str(len(row.measured)), *values)
    console.print(table)
    if any(len(row.measured) > 1 for row in rows):
        console.print("\N{PLUS-MINUS SIGN}: 95 % confidence interval of the mean over n seeds (Student's t)")
