"""The `shadowmmu` command."""

from __future__ import annotations

import errno
import os
import sys
from typing import NoReturn

import click

from shadowmmu import __version__
from shadowmmu.cli.check import check
from shadowmmu.cli.compare import compare
from shadowmmu.cli.designs import designs
from shadowmmu.cli.fuzz import fuzz
from shadowmmu.cli.museum import museum
from shadowmmu.cli.race import race
from shadowmmu.cli.run import run

__all__ = ["cli", "main"]

BAD_INPUT = 2
"""Exit status for input that cannot be used, an interruption, or a file that cannot be written."""


@click.group()
@click.version_option(__version__)
def cli() -> None:
    """An executable model of KVM's x86 shadow MMU."""
    if "NO_COLOR" in os.environ:
        click.get_current_context().color = False


cli.add_command(run)
cli.add_command(check)
cli.add_command(compare)
cli.add_command(designs)
cli.add_command(race)
cli.add_command(fuzz)
cli.add_command(museum)


def main() -> NoReturn:
    """Run the command line; whatever the user can mend comes out as one line on stderr."""
    _open_standard_streams()
    try:
        status = cli.main(prog_name="shadowmmu", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        status = BAD_INPUT
    except click.ClickException as error:
        status = _complain(error.format_message())
    except click.Abort:
        status = _complain("interrupted")
    except (BrokenPipeError, SystemExit):  # click exits by itself when nobody reads the output any more
        status = _drop_output()
    except MemoryError as error:
        status = _complain(f"out of memory: {error}" if str(error) else "out of memory")
    except OSError as error:
        _drop_output()
        place = "out of memory" if error.errno == errno.ENOMEM else error.filename or "cannot write"
        status = _complain(f"{place}: {error.strerror or error}")
    sys.exit(status)


def _open_standard_streams() -> None:
    """Open the null device where stdin, stdout or stderr is closed, lest other files get their numbers."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _complain(text: str) -> int:
    click.echo(f"shadowmmu: {text}", err=True)
    return BAD_INPUT


def _drop_output() -> int:
    """Stop the interpreter from writing what is left in stdout's buffer when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BAD_INPUT
