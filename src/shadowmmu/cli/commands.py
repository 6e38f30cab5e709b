"""The commands of `shadowmmu`."""

from __future__ import annotations

import os

import click

from shadowmmu import __version__
from shadowmmu.cli.check import check
from shadowmmu.cli.compare import compare
from shadowmmu.cli.decode import decode
from shadowmmu.cli.designs import designs
from shadowmmu.cli.diff import diff
from shadowmmu.cli.fuzz import fuzz
from shadowmmu.cli.kernels import kernels
from shadowmmu.cli.museum import museum
from shadowmmu.cli.playground import playground
from shadowmmu.cli.race import race
from shadowmmu.cli.run import run
from shadowmmu.cli.show import show
from shadowmmu.cli.study import study
from shadowmmu.cli.sweep import sweep
from shadowmmu.cli.why import why
from shadowmmu.cli.workload import workload

__all__ = ["cli"]


@click.group()
@click.version_option(__version__)
def cli() -> None:
    """Run and question an executable model of KVM's x86 shadow MMU.

    What it shows is what Linux 7.3.4, 6.12.111 and 6.1.176 do: recordings of real kernels are replayed on it
    and compared operation by operation. `shadowmmu COMMAND --help` is the manual page of a command.
    """
    if "NO_COLOR" in os.environ:
        click.get_current_context().color = False


cli.add_command(run)
cli.add_command(check)
cli.add_command(compare)
cli.add_command(show)
cli.add_command(playground)
cli.add_command(diff)
cli.add_command(why)
cli.add_command(designs)
cli.add_command(kernels)
cli.add_command(decode)
cli.add_command(study)
cli.add_command(sweep)
cli.add_command(workload)
cli.add_command(race)
cli.add_command(fuzz)
cli.add_command(museum)
