"""Recording a program with valgrind's lackey, whose output is reduced as it comes."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .accesses import TraceError
from .lackey import LACKEY
from .pages import PageTrace, Reduction
from .source import Source

__all__ = ["Recording", "record"]

_PATIENCE = 0.5
"""Seconds that a program has to end by itself."""


@dataclass(frozen=True, slots=True)
class Recording:
    """What a program did.

    Attributes:
        trace: Its accesses, reduced.
        status: Its exit status; negative for a signal.
    """

    trace: PageTrace
    status: int


def record(
    command: Sequence[str], *, exact: bool = False, progress: Callable[[int], None] = lambda accesses: None
) -> Recording:
    """Run a program under valgrind and return its accesses. `progress` gets the accesses so far.

    The program has the standard streams of this process. However this ends, it has ended, too. Only the
    program itself is recorded, none that it starts.

    Raises TraceError if valgrind or the program cannot be started.
    """
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise TraceError("valgrind is not installed; it records traces (package valgrind)")
    if shutil.which(command[0]) is None:
        raise TraceError(f"{command[0]}: there is no such program")
    readable, writable = os.pipe()
    with os.fdopen(readable, "rb") as pipe:
        try:
            program = subprocess.Popen(
                [
                    valgrind,
                    "--tool=lackey",
                    "--basic-counts=no",
                    "--trace-mem=yes",
                    f"--log-fd={writable}",
                    "--",
                    *command,
                ],
                pass_fds=(writable,),
            )
        finally:
            os.close(writable)
        try:
            reduction = Reduction(exact=exact)
            for block in LACKEY.blocks(Source("valgrind", pipe)):
                reduction.add(block)
                progress(reduction.accesses)
            status = program.wait()
        finally:
            _end(program)
    if not reduction.accesses:
        raise TraceError(f"{command[0]}: valgrind recorded nothing (exit status {status})")
    return Recording(reduction.trace, status)


def _end(program: subprocess.Popen[bytes]) -> None:
    """End a program if it runs."""
    if program.poll() is not None:
        return
    program.terminate()
    try:
        program.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
        program.kill()
        program.wait()
