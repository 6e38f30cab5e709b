"""`shadowmmu workload record` and `convert`: traces of programs in the compact form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.manual import Manual
from shadowmmu.cli.outputs import is_stdout, output, refuse_overwriting
from shadowmmu.cli.progress import progress

if TYPE_CHECKING:
    from shadowmmu.study.traces.pages import PageTrace

__all__ = ["convert", "record"]

_exact = click.option(
    "--exact",
    is_flag=True,
    help="Keep the order of all accesses; only repeats that follow each other are counted together.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.command(
    cls=Manual,
    short_help="Record the accesses of a program.",
    statuses={"0": "The trace was written, whatever the program's own exit status was."},
    examples={
        "shadowmmu workload record -o sort.parquet -- sort words.txt": "Record sort; then run it in a guest"
    },
)
@click.option(
    "-o",
    "--out",
    "out",
    metavar="FILE",
    required=True,
    type=click.Path(path_type=Path),
    help="Trace to write, Parquet.",
)
@_exact
@click.argument("command", nargs=-1, required=True, metavar="PROGRAM [ARGS]...")
def record(*, out: Path, exact: bool, command: tuple[str, ...]) -> None:
    """Run PROGRAM under valgrind and write the pages that it accesses to FILE.

    Write `--` before PROGRAM if it has options. About half a million accesses are recorded a second; what
    PROGRAM starts is not recorded. Reads, writes and fetches are three streams; of each the changes of the
    page are kept, with the number of accesses in between.
    """
    from shadowmmu.study.traces.accesses import TraceError
    from shadowmmu.study.traces.compact import as_parquet, require_polars
    from shadowmmu.study.traces.record import record as recorded

    if is_stdout(out):
        raise click.UsageError("-o: standard output is the program's; name a file")
    try:
        require_polars()
        with output(out) as file:
            recording = recorded(command, exact=exact, progress=_progress)
            file.write_bytes(as_parquet(recording.trace))
    except TraceError as error:
        raise click.ClickException(str(error)) from None
    finally:
        progress("")
    ended = f"; {command[0]} ended with status {recording.status}" if recording.status else ""
    click.echo(f"{out}: {_summary(recording.trace)}{ended}", err=True)


@click.command(
    cls=Manual,
    short_help="Write a trace in the compact form.",
    statuses={"0": "The trace was written."},
    examples={"shadowmmu workload convert sort.din.xz sort.parquet": "From a trace for a cache simulator"},
)
@click.argument("trace", metavar="IN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@_exact
@_json
def convert(*, trace: Path, out: Path, exact: bool, as_json: bool) -> None:
    """Read the trace IN of any format that `shadowmmu workload run` reads and write OUT, Parquet.

    The format is recognized by what the file begins with. OUT has a row for each change of the page: kind,
    number of the page of 4 KiB, and how many accesses it stands for.
    """
    from shadowmmu.study.traces.accesses import TraceError
    from shadowmmu.study.traces.compact import as_parquet, require_polars
    from shadowmmu.study.traces.formats import reduced

    refuse_overwriting({"OUT": out}, [trace])
    try:
        require_polars()
        name, found = reduced(trace, exact=exact, progress=_progress)
        with output(out) as file:
            file.write_bytes(as_parquet(found))
    except TraceError as error:
        raise click.ClickException(str(error)) from None
    finally:
        progress("")
    to_stdout = is_stdout(out)
    if as_json:
        click.echo(json.dumps({"format": name, **_totals(found)}), err=to_stdout)
    else:
        click.echo(f"{trace} ({name}): {_summary(found)}", err=to_stdout)


def _progress(accesses: int) -> None:
    progress(f"{accesses:,} accesses")


def _totals(trace: PageTrace) -> dict[str, int]:
    return {"accesses": trace.accesses, "changes": len(trace), "pages": len(set(trace.pages))}


def _summary(trace: PageTrace) -> str:
    totals = _totals(trace)
    return (
        f"{totals['accesses']:,} accesses, {totals['changes']:,} changes of the page, "
        f"{totals['pages']:,} pages"
    )
