"""`shadowmmu workload`: what guests do, named or recorded from programs, and what it costs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from shadowmmu.cli.inputs import Changes, machine_options, settings
from shadowmmu.cli.manual import Manual
from shadowmmu.cli.workload_traces import convert, record

if TYPE_CHECKING:
    from shadowmmu.study.configuration import Configuration
    from shadowmmu.study.measure import Measurement
    from shadowmmu.study.workload import Workload
    from shadowmmu.vm.config import Paging, Vendor

__all__ = ["workload"]

_WIDEST = 100
_PAGING = ("long4", "long5", "pae", "32")


@click.group(
    short_help="Let a guest do what programs do, and count what it costs.", invoke_without_command=True
)
@click.pass_context
def workload(context: click.Context) -> None:
    """Let a guest do what programs do, and count what that costs KVM.

    A workload is a guest kernel with processes that access memory: in a pattern (`list` names them), or as a
    program did that was recorded (`record`).
    """
    if context.invoked_subcommand is None:
        context.invoke(list_workloads, as_json=False)


@click.command(
    "list",
    cls=Manual,
    short_help="List the workloads with their parameters.",
    statuses={"0": "The workloads were listed."},
    examples={"shadowmmu workload list": "List all"},
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_workloads(*, as_json: bool) -> None:
    """List the workloads: what each does, and its parameters with their defaults."""
    from shadowmmu.study.catalogue import WORKLOADS

    if as_json:
        click.echo(json.dumps({name: _described(one) for name, one in WORKLOADS.items()}, indent=1))
        return
    for name, one in WORKLOADS.items():
        click.echo(f"{click.style(name, fg='cyan')}: {one.summary}")
        for parameter in one.parameters.values():
            click.echo(f"    {parameter.name}={parameter.default}  {parameter.meaning}")


def _described(one: Workload) -> dict[str, object]:
    parameters = {
        known.name: {"default": known.default, "meaning": known.meaning} for known in one.parameters.values()
    }
    return {"summary": one.summary, "parameters": parameters, "nested": one.nested}


@click.command(
    "run",
    cls=Manual,
    short_help="Run a workload and print its counters.",
    statuses={
        "0": "The workload ran, and the audit of the MMU found nothing afterwards.",
        "1": "The workload ran, and the audit found that the MMU's state is unsound.",
    },
    examples={
        "shadowmmu workload run random --set pages=4096": "Read random pages of a heap of 16 MiB",
        "shadowmmu workload run trace:sort --param kvm_amd.npt=1": "A recorded program, with nested paging",
        "shadowmmu workload run mmap-loop --set rounds=4 --design unsync=never": "With another design",
        "shadowmmu workload run sort.parquet --paging pae": "A trace of yours, in a guest of another mode",
    },
)
@click.argument("name", metavar="NAME|TRACE")
@click.option(
    "--set",
    "values",
    metavar="KEY=NUMBER",
    multiple=True,
    callback=settings,
    help="Set a parameter of the workload; `shadowmmu workload list` names them. Repeatable.",
)
@machine_options
@click.option(
    "--paging", type=click.Choice(_PAGING), default="long4", show_default=True, help="Of the guest."
)
@click.option("--memory", default="512M", show_default=True, metavar="SIZE", help="Of the guest.")
@click.option("--seed", default=0, metavar="N", type=click.IntRange(0), help="Where chance begins.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def run(
    *,
    name: str,
    values: dict[str, str],
    changes: Changes,
    paging: str,
    memory: str,
    seed: int,
    as_json: bool,
) -> None:
    """Run workload NAME, or the accesses of a program recorded in the file TRACE, and print what it cost.

    A trace becomes a process of the guest's kernel: pages that it writes are private memory, the others are
    of a file; all are mapped when they are first touched. A trace may be Parquet as `record` and `convert`
    write it, or text or binary of valgrind's lackey, din, pinatrace, ChampSim or `perf mem -D report`; plain,
    or compressed with gzip, xz or zstd.

    The counters are exact, and the same in each run with the same seed. The time is an estimate by the costs
    that `shadowmmu study --print-costs` prints, of the MMU's work only.
    """
    from shadowmmu.guest.workload.frames import OutOfFrames
    from shadowmmu.study.costs import default_costs
    from shadowmmu.study.measure import measure
    from shadowmmu.study.workload import WorkloadError
    from shadowmmu.vm.config import ConfigurationError

    try:
        measured = measure(
            _workload(name),
            _configuration(changes, paging, memory),
            default_costs(),
            parameters=values,
            seed=seed,
        )
    except (WorkloadError, ConfigurationError) as error:
        raise click.ClickException(str(error)) from None
    except OutOfFrames as error:
        raise click.ClickException(f"{name}: {error}; give it more with --memory, now {memory}") from None
    if as_json:
        click.echo(json.dumps(measured.as_row(), indent=1))
    else:
        _print(measured)
    if not measured.clean:
        click.get_current_context().exit(1)


def _workload(name: str) -> str:
    """Return the name that a workload has for `measure`; a file is a trace. Raises ClickException."""
    from shadowmmu.study.catalogue import WORKLOADS
    from shadowmmu.study.workloads.recorded import PREFIX

    if name in WORKLOADS or not (Path(name).exists() or os.sep in name):
        return name
    return f"{PREFIX}{name}"


def _configuration(changes: Changes, paging: str, memory: str) -> Configuration:
    from shadowmmu.kvm.design.switches import DEFAULT_KERNEL
    from shadowmmu.study.configuration import Configuration

    return Configuration(
        paging=cast("Paging", paging),
        memory=memory,
        kernel=changes.kernel or DEFAULT_KERNEL,
        vendor=cast("Vendor", changes.vendor or "amd"),
        params=changes.params,
        design=changes.designs,
    )


def _print(measured: Measurement) -> None:
    from rich.console import Console
    from rich.table import Table

    from shadowmmu.study.counters import COUNTERS
    from shadowmmu.study.words import span

    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    console = Console(no_color=not coloured, highlight=False, width=None if sys.stdout.isatty() else _WIDEST)
    parameters = " ".join(f"{name}={value}" for name, value in measured.parameters.items())
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column()
    table.add_column(overflow="fold")
    for name, meaning in COUNTERS.items():
        table.add_row(f"{measured.counters[name]:,}", name.replace("_", " "), meaning)
    estimate = measured.estimate
    console.print(f"{measured.workload} {parameters}", style="bold", markup=False)
    console.print(table)
    console.print(
        f"The MMU's work comes to {span(estimate.seconds)}, between {span(estimate.low)} and "
        f"{span(estimate.high)} by the costs.",
        markup=False,
    )
    found = "found nothing" if measured.clean else "found violations: `shadowmmu check` says which"
    console.print(f"The audit {found}.", markup=False)


for _command in (list_workloads, run, record, convert):
    workload.add_command(_command)
