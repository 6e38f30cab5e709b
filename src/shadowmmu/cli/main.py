"""The `shadowmmu` command: whatever fails comes out as one line on stderr, and as an exit status.

All else is imported by `main`, so that an interruption at that time is one line, too.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from click import UsageError

__all__ = ["BAD_INPUT", "INTERRUPTED", "main"]

BAD_INPUT = 2
"""Exit status for input that cannot be used, or a file that cannot be read or written."""
INTERRUPTED = 130
"""Exit status after Ctrl-C, as a shell gives it: 128 and the number of the signal."""
_LONGEST_LINE = 480
_PRINTING = ("echo", "_flush")
"""Functions in which an error that names no file is one of standard output."""


def main() -> NoReturn:
    """Run the command line; what the user can do something about comes out as one line on stderr."""
    try:
        _open_standard_streams()
        status = _run()
    except KeyboardInterrupt:
        status = _interrupted()
    sys.exit(status)


def _run() -> int | None:
    """Run the command: its exit status, after its output was written."""
    import click

    from shadowmmu.cli.commands import cli

    try:
        status: int | None = cli.main(prog_name="shadowmmu", standalone_mode=False)
        _flush()
    except click.UsageError as error:
        return _wrong_usage(error)
    except click.ClickException as error:
        return _complain(error.format_message())
    except click.Abort:
        return _interrupted()
    except SystemExit as ended:  # by click: shell completion is done, or nobody reads the output any more
        return 0 if ended.code == 0 else _drop_output()
    except BrokenPipeError:
        return _drop_output()
    except MemoryError as error:
        return _complain(f"out of memory: {error}" if str(error) else "out of memory")
    except OSError as error:
        _drop_output()
        return _complain(_said(error))
    return status


def _open_standard_streams() -> None:
    """Open the null device where stdin, stdout or stderr is closed, lest other files get their numbers."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _flush() -> None:
    sys.stdout.flush()


def _said(error: OSError) -> str:
    """Return what failed: the file, if it has a name, and why."""
    why = error.strerror or str(error)
    if error.errno == errno.ENOMEM:
        return f"out of memory: {why}"
    if error.filename:
        return f"{error.filename}: {why}"
    frame = error.__traceback__
    while frame is not None:
        if frame.tb_frame.f_code.co_name in _PRINTING:
            return f"standard output: cannot write: {why}"
        frame = frame.tb_next
    return why


def _wrong_usage(error: UsageError) -> int:
    import click

    if error.ctx is not None:
        click.echo(error.ctx.get_usage(), err=True)
        click.echo(f"Try '{error.ctx.command_path} --help' for help.\n", err=True)
    return _complain(error.format_message())


def _complain(text: str) -> int:
    import click

    from shadowmmu.guest.scenario.text import printable, shown

    line, *others = text.split("\n")
    click.echo("\n".join([f"shadowmmu: {shown(line, _LONGEST_LINE)}", *map(printable, others)]), err=True)
    return BAD_INPUT


def _interrupted() -> int:
    """Print one line, and ignore further interruptions of what is left to do."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stderr.write("shadowmmu: interrupted\n")
    return INTERRUPTED


def _drop_output() -> int:
    """Stop the interpreter from writing what is left in stdout's buffer when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return BAD_INPUT
