"""`shadowmmu run PROGRAM`: machine code on the model, from the file to the report."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from shadowmmu.cli.inputs import Changes, refuse_ignored
from shadowmmu.cli.outputs import refuse_overwriting
from shadowmmu.cli.program_options import ProgramOptions
from shadowmmu.cli.program_report import Asked, ended, failure, finish, progress_text
from shadowmmu.cli.progress import progress
from shadowmmu.cli.traces import NO_TRACES, Traces, traced_program

if TYPE_CHECKING:
    from shadowmmu.guest.linux.guest import LinuxGuest
    from shadowmmu.guest.observe.running import Running
    from shadowmmu.guest.pc.pc import Ending, Limits, Pc
    from shadowmmu.guest.svm.machine import SvmMachine
    from shadowmmu.kvm.state.vm import Parameters

__all__ = [
    "EMBEDDED",
    "check_program",
    "has_extra",
    "is_program",
    "run_asked",
    "run_program",
]

EMBEDDED = "tour.elf"
HEAD = 8192
DEFAULT_SECONDS = 3600
LINUX_MEMORY = 512 << 20
_NPT = "kvm_amd.npt"
_PARAMETERS = (
    _NPT,
    "kvm.tdp_mmu",
    "kvm.eager_page_split",
    "kvm.nx_huge_pages",
    "kvm.flush_on_reuse",
    "kvm.mmio_caching",
)


def is_program(path: Path) -> bool:
    """Return whether a file is machine code, not the text of a scenario. Raises OSError, ClickException."""
    from shadowmmu.guest.pc.image import Kind, kind_of
    from shadowmmu.guest.scenario.text import read_head

    if path.exists() and not path.is_file():  # of a pipe nothing may be taken: it cannot be read again
        return False
    head = read_head(path, HEAD)
    if kind_of(head) is not Kind.UNKNOWN:
        return True
    if b"\0" in head:
        raise click.ClickException(
            f"{path}: neither a scenario (text) nor a program for x86 (ELF, or with a multiboot header)"
        )
    return False


def has_extra() -> bool:
    """Return whether the packages are there that machine code needs."""
    from importlib.util import find_spec

    return all(find_spec(name) is not None for name in ("unicorn", "iced_x86"))


# -- running -----------------------------------------------------------------------------------------------


def run_program(
    path: Path,
    arguments: Sequence[str],
    changes: Changes,
    options: ProgramOptions,
    *,
    name: str | None = None,
    traces: Traces = NO_TRACES,
    top: int | None = None,
    as_json: bool = False,
) -> int:
    """Run a program to its end and report on stderr; its exit status. `name` is its argv[0].

    `top`: count exits and page faults by cause, and report so many of each.

    Raises ClickException for a program that cannot be run, Abort if the user interrupted it.
    """
    from shadowmmu.guest.observe.counts import Counts
    from shadowmmu.guest.observe.running import Running
    from shadowmmu.guest.scenario.text import read_file

    refuse_overwriting(traces.by_option, [path] if options.initrd is None else [path, options.initrd])
    with _told(path):
        pc, screen = _start(path, arguments, changes, options, name)
        running = Running(pc, read_file(path))
        counts = None if top is None else Counts(running)
        ending = _run_to_end(pc, screen, options, traces)
    return finish(path, ending, pc, Asked(running, counts, top or 0), as_json=as_json)


def run_asked(
    path: Path,
    arguments: Sequence[str],
    changes: Changes,
    options: ProgramOptions,
    prepare: Callable[[Running], None],
    *,
    name: str | None = None,
) -> Ending:
    """Run a program that `prepare` has got before it starts; how it ended. Raises ClickException."""
    from shadowmmu.guest.observe.running import Running
    from shadowmmu.guest.scenario.text import read_file

    with _told(path):
        pc, screen = _start(path, arguments, changes, options, name)
        prepare(Running(pc, read_file(path)))
        return _run_to_end(pc, screen, options, NO_TRACES)


def check_program(
    path: Path,
    arguments: Sequence[str],
    changes: Changes,
    options: ProgramOptions,
    *,
    every: int,
    as_json: bool = False,
) -> int:
    """Run a program with all checks on; 1 if something did not hold, else 0.

    Raises ClickException for a program that cannot be run or does not end, Abort if the user interrupted it.
    """
    from shadowmmu.check.program import ProgramChecks

    with _told(path):
        pc, screen = _start(path, arguments, changes, options)
        checks = ProgramChecks(pc.machine, every=every)
        ending = _run_to_end(pc, screen, options)
    if ending.reason != "violations":
        checks.finish()
    found = checks.violations
    if as_json:
        outcome = {
            "program": path.name,
            "exits": pc.machine.exits.total(),
            "checks": checks.checks,
            "violations": [violation.as_dict() for violation in found],
            "ending": ending.reason,
            "status": ending.status,
        }
        click.echo(json.dumps(outcome))
    else:
        verdict = click.style(f"{len(found)} found", fg="red") if found else "nothing found"
        exits = pc.machine.exits.total()
        click.echo(f"{path.name}: {exits} exits, {checks.checks} checks, {verdict} ({ended(ending)})")
        for violation in found:
            click.echo("\n".join(f"  {line}" for line in violation.text().splitlines()))
    if ending.reason == "interrupted":
        raise click.Abort
    if not found and ending.status is None:
        raise failure(path, ending, pc)
    return 1 if found else 0


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what is wrong with a program or the machine into one line."""
    from shadowmmu.guest.pc.image import ImageError
    from shadowmmu.guest.svm import EmulatorError
    from shadowmmu.kvm.design.switches import DesignError

    try:
        yield
    except ImageError as error:
        raise click.ClickException(f"{path}: {error}") from None
    except (DesignError, EmulatorError) as error:
        raise click.ClickException(str(error)) from None


def _start(
    path: Path,
    arguments: Sequence[str],
    changes: Changes,
    options: ProgramOptions,
    name: str | None = None,
) -> tuple[Pc | LinuxGuest, Screen]:
    """Return a machine with the program loaded. Raises ImageError, EmulatorError,
    DesignError, ClickException.
    """
    from shadowmmu.guest.pc.image import Kind, kind_of, read_image
    from shadowmmu.guest.pc.pc import Pc
    from shadowmmu.guest.scenario.text import read_file

    data = read_file(path)
    if kind_of(data[:HEAD]) is Kind.LINUX:
        refuse_ignored({"initrd": "--initrd"}, "a Linux program has no modules")
        return _start_linux(path, [name or str(path), *arguments], changes, options), Screen(own=False)
    refuse_ignored({"root": "--root"}, "only a Linux program reads and writes files")
    image = read_image(data)
    machine = new_machine(changes, options)
    screen = Screen()
    pc = Pc(machine, options.memory, screen.write)
    modules = [] if options.initrd is None else [read_file(options.initrd)]
    pc.load(image, command_line(path, arguments), modules)
    return pc, screen


def _start_linux(
    path: Path, arguments: Sequence[str], changes: Changes, options: ProgramOptions
) -> LinuxGuest:
    """Return a machine with our kernel and a program. Raises EmulatorError, DesignError, ClickException."""
    from shadowmmu.guest.linux.elf import NotExecutable
    from shadowmmu.guest.linux.frames import OutOfMemory
    from shadowmmu.guest.linux.guest import LinuxGuest

    memory = options.memory if "--memory" in options.given else LINUX_MEMORY
    machine = new_machine(changes, options, [(0, memory)])
    try:
        guest = LinuxGuest(
            machine, root=options.root, warn=lambda text: click.echo(f"shadowmmu: {text}", err=True)
        )
        guest.load(path, arguments)
    except (NotExecutable, ValueError) as error:
        raise click.ClickException(f"{path}: {error}") from None
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None
    except OutOfMemory:
        raise click.ClickException(f"{path}: it does not fit in {memory >> 20} MiB; use --memory") from None
    return guest


def _run_to_end(
    pc: Pc | LinuxGuest, screen: Screen, options: ProgramOptions, traces: Traces = NO_TRACES
) -> Ending:
    with ExitStack() as stack:
        stack.enter_context(traced_program(pc.machine.kvm, traces))
        stack.enter_context(_interruptible(pc.interrupt))
        ending = pc.run(_limits_of(options), lambda: screen.progress(progress_text(pc)))
    screen.finish()
    return ending


def command_line(path: Path, arguments: Sequence[str]) -> str:
    """Return the program's argv: its name, without spaces, and its arguments."""
    return " ".join(["_".join(path.name.split()), *arguments])


def new_machine(
    changes: Changes, options: ProgramOptions, slots: Sequence[tuple[int, int]] | None = None
) -> SvmMachine:
    """Return the machine for a program, a PC's if its memory is not given.

    Raises ClickException, DesignError, EmulatorError.
    """
    from shadowmmu.guest.pc.pc import memory_slots
    from shadowmmu.guest.svm.clock import HOST_CLOCK, VirtualClock
    from shadowmmu.guest.svm.machine import SvmMachine
    from shadowmmu.host.backing import Backing
    from shadowmmu.kvm.design.switches import DEFAULT_KERNEL

    if changes.vendor == "intel":
        raise click.ClickException("programs run on an AMD processor; leave --vendor out")
    return SvmMachine(
        memory_slots(options.memory) if slots is None else slots,
        kernel=DEFAULT_KERNEL if changes.kernel is None else changes.kernel,
        design=changes.designs,
        la57=options.la57,
        backing=Backing.THP,
        parameters=_parameters(changes.params, options.npt),
        clock=VirtualClock() if options.deterministic else HOST_CLOCK,
    )


def _parameters(params: Mapping[str, str], npt: bool | None) -> Parameters:  # noqa: FBT001
    """Return KVM's parameters. Raises ClickException for an unknown one."""
    from shadowmmu.guest.scenario.module_params import param_value, parameters_of

    chosen = {_NPT: "Y" if npt else "N"}
    for name, text in params.items():
        value = param_value(name, text)
        if name not in _PARAMETERS:
            raise click.ClickException(
                f"unknown parameter {name!r}; it must be one of {', '.join(_PARAMETERS)}"
            )
        if value not in ("Y", "N"):
            raise click.ClickException(f"{text!r} is not a value of {name}; use Y or N")
        chosen[name] = value
    if npt is not None and npt != (chosen[_NPT] == "Y"):
        raise click.UsageError("--npt and --param kvm_amd.npt contradict each other")
    return parameters_of(chosen)


def _limits_of(options: ProgramOptions) -> Limits:
    from shadowmmu.guest.pc.pc import Limits

    limits = options.limits
    return Limits(
        int(limits["exits"]) if "exits" in limits else None,
        int(limits["instructions"]) if "instructions" in limits else None,
        limits.get("seconds", DEFAULT_SECONDS),
    )


@contextmanager
def _interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Call `stop` at the first Ctrl-C; the second one interrupts as usual."""

    def interrupted(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        stop()

    try:
        before = signal.signal(signal.SIGINT, interrupted)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Screen:
    """The program's output on stdout, and one line of progress on stderr if somebody looks.

    With own=False the program writes there itself.
    """

    def __init__(self, *, own: bool = True) -> None:
        self._shown = False
        self._at_start = own

    def write(self, data: bytes) -> None:
        self._clear()
        sys.stdout.buffer.write(data)
        if data.endswith(b"\n"):
            sys.stdout.buffer.flush()
        self._at_start = data.endswith(b"\n")

    def progress(self, text: str) -> None:
        sys.stdout.buffer.flush()
        if self._at_start or not sys.stdout.isatty():
            progress(text)
            self._shown = True

    def finish(self) -> None:
        self._clear()
        sys.stdout.buffer.flush()

    def _clear(self) -> None:
        if self._shown:
            progress("")
            self._shown = False
