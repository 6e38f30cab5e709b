"""`shadowmmu run PROGRAM`: machine code on the model, from the file to the report."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from shadowmmu.cli.inputs import Changes

if TYPE_CHECKING:
    from shadowmmu.guest.linux.guest import LinuxGuest
    from shadowmmu.guest.pc.pc import Ending, Limits, Pc
    from shadowmmu.guest.svm.machine import SvmMachine
    from shadowmmu.kvm.vm import Parameters

__all__ = [
    "EMBEDDED",
    "ProgramOptions",
    "check_program",
    "has_extra",
    "is_program",
    "program_options",
    "run_program",
]

EMBEDDED = "tour.elf"
HEAD = 8192
LEAST_MEMORY, MOST_MEMORY = 1 << 20, 64 << 30
DEFAULT_SECONDS = 3600
LINUX_MEMORY = 512 << 20
_SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MULTIPLES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "exits": "exits", "instructions": "instructions"}
_PARAMETERS = {
    "kvm_amd.npt": "tdp_enabled",
    "kvm.tdp_mmu": "tdp_mmu",
    "kvm.eager_page_split": "eager_page_split",
    "kvm.nx_huge_pages": "nx_huge_pages",
    "kvm.flush_on_reuse": "flush_on_reuse",
}
_REGISTERS = (
    ("rax", "rbx", "rcx", "rdx"),
    ("rsi", "rdi", "rbp", "rsp"),
    ("r8", "r9", "r10", "r11"),
    ("r12", "r13", "r14", "r15"),
    ("rip", "rflags", "cr0", "cr2"),
    ("cr3", "cr4", "efer", "cpl"),
)
_LAST_EXITS = 8
_WHY = {
    "triple fault": "triple fault: it could not take an exception, and not the double fault either",
    "endless faults": "endless faults",
    "endless loop": "it loops for ever, with interrupts disabled",
    "emulation": "an instruction cannot be emulated",
    "host": "KVM_RUN failed",
    "processor": "the emulated processor failed",
    "exits": "stopped: it made as many exits as --limit says",
    "instructions": "stopped: it executed as many instructions as --limit says",
    "seconds": "stopped: it ran as long as --limit says",
}


@dataclass(frozen=True, slots=True)
class ProgramOptions:
    """What the command line says about the machine for a program."""

    memory: int = 128 << 20
    npt: bool | None = None
    la57: bool = True
    limits: Mapping[str, float] = field(default_factory=dict)
    root: Path | None = None
    initrd: Path | None = None
    given: tuple[str, ...] = ()
    """The options that were given: they are of no use for scenarios."""


def _memory(context: click.Context, option: click.Parameter, text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    size = int(match[1]) * _SUFFIXES[match[2].upper()] if match else 0
    if not match or size % 4096:
        raise click.BadParameter(f"{text!r} is no size; write 128M or 2G")
    if not LEAST_MEMORY <= size <= MOST_MEMORY:
        raise click.BadParameter(f"{text} is not between 1M and 64G")
    return size


def _limits(context: click.Context, option: click.Parameter, texts: Sequence[str]) -> dict[str, float]:
    limits: dict[str, float] = {}
    for text in texts:
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKMG]?)(s|m|h|exits|instructions)", text.strip())
        if match is None:
            raise click.BadParameter(f"{text!r} is no limit; write 60s, 10m, 1Mexits or 500Minstructions")
        amount = float(match[1]) * _MULTIPLES[match[2].lower()]
        unit = _UNITS[match[3]]
        amount *= {"minutes": 60, "hours": 3600}.get(unit, 1)
        if unit in ("minutes", "hours"):
            unit = "seconds"
        if amount <= 0 or (unit != "seconds" and amount < 1):
            raise click.BadParameter(f"{text!r} lets nothing run")
        limits[unit] = amount
    return limits


_OPTIONS = (
    click.option(
        "--npt/--no-npt",
        default=None,
        help="Of a program's machine: nested paging; without it KVM shadows the program's tables.",
    ),
    click.option(
        "--memory",
        default="128M",
        show_default=True,
        metavar="SIZE",
        callback=_memory,
        help="Of a program's machine.",
    ),
    click.option(
        "--cpu",
        type=click.Choice(["la57", "amd"]),
        default="la57",
        show_default=True,
        help="Of a program's machine: an AMD EPYC, with five-level paging or without.",
    ),
    click.option(
        "--root",
        metavar="DIRECTORY",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        help="Of a Linux program: it may change files only beneath this directory, which is no symbolic link "
        "(default: the current one).",
    ),
    click.option(
        "--initrd",
        metavar="FILE",
        type=click.Path(path_type=Path, exists=True, dir_okay=False),
        help="Of a multiboot program: a file that it gets as its module.",
    ),
    click.option(
        "--limit",
        "limits",
        metavar="N",
        multiple=True,
        callback=_limits,
        help="Stop a program after 60s, 10m, 1Mexits or 500Minstructions (default: 1h). Repeatable.",
    ),
)


def program_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options for programs; it gets them as `program`."""

    @wraps(command)
    def with_program(
        *,
        npt: bool | None,
        memory: int,
        cpu: str,
        root: Path | None,
        initrd: Path | None,
        limits: dict[str, float],
        **rest: object,
    ) -> None:
        source = click.get_current_context().get_parameter_source
        given = tuple(
            f"--{name.replace('limits', 'limit')}"
            for name in ("npt", "memory", "cpu", "root", "initrd", "limits")
            if source(name) is not click.core.ParameterSource.DEFAULT
        )
        options = ProgramOptions(memory, npt, cpu == "la57", limits, root, initrd, given)
        command(program=options, **rest)

    for option in reversed(_OPTIONS):
        with_program = option(with_program)
    return with_program


# -- what a file is ----------------------------------------------------------------------------------------


def is_program(path: Path) -> bool:
    """Whether a file is machine code, not the text of a scenario. Raises OSError, ClickException."""
    from shadowmmu.guest.pc.image import Kind, kind_of

    if path.is_dir():
        return False
    with path.open("rb") as file:
        head = file.read(HEAD)
    if kind_of(head) is not Kind.UNKNOWN:
        return True
    if b"\0" in head:
        raise click.ClickException(
            f"{path}: neither a scenario (text) nor a program for x86 (ELF, or with a multiboot header)"
        )
    return False


def has_extra() -> bool:
    """Whether the packages are there that machine code needs."""
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
    events: Path | None = None,
    as_json: bool = False,
) -> int:
    """Run a program to its end and report on stderr; its exit status. `name` is what it is told it is called.

    Raises ClickException for a program that cannot be run, Abort if the user interrupted it.
    """
    with _told(path):
        pc, screen = _start(path, path.read_bytes(), arguments, changes, options, name)
        ending = _run_to_end(pc, screen, options, events)
    return finish(path, ending, pc, as_json=as_json)


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
        pc, screen = _start(path, path.read_bytes(), arguments, changes, options)
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
        click.echo(f"{path.name}: {exits} exits, {checks.checks} checks, {verdict} ({_ended(ending)})")
        for violation in found:
            click.echo("\n".join(f"  {line}" for line in violation.text().splitlines()))
    if ending.reason == "interrupted":
        raise click.Abort
    if not found and ending.status is None:
        raise _failure(path, ending, pc)
    return 1 if found else 0


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """What is wrong with a program or the machine becomes one line."""
    from shadowmmu.guest.pc.image import ImageError
    from shadowmmu.guest.svm import EmulatorError
    from shadowmmu.kvm.switches import DesignError

    try:
        yield
    except ImageError as error:
        raise click.ClickException(f"{path}: {error}") from None
    except (DesignError, EmulatorError) as error:
        raise click.ClickException(str(error)) from None


def _start(
    path: Path,
    data: bytes,
    arguments: Sequence[str],
    changes: Changes,
    options: ProgramOptions,
    name: str | None = None,
) -> tuple[Pc | LinuxGuest, Screen]:
    """A machine with the program loaded. Raises ImageError, EmulatorError, DesignError, ClickException."""
    from shadowmmu.guest.pc.image import Kind, kind_of, read_image
    from shadowmmu.guest.pc.pc import Pc

    if kind_of(data[:HEAD]) is Kind.LINUX:
        return _start_linux(path, [name or str(path), *arguments], changes, options), Screen(own=False)
    image = read_image(data)
    machine = new_machine(changes, options)
    screen = Screen()
    pc = Pc(machine, options.memory, screen.write)
    modules = [] if options.initrd is None else [options.initrd.read_bytes()]
    pc.load(image, command_line(path, arguments), modules)
    return pc, screen


def _start_linux(
    path: Path, arguments: Sequence[str], changes: Changes, options: ProgramOptions
) -> LinuxGuest:
    """A machine with our kernel and a program. Raises EmulatorError, DesignError, ClickException."""
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
    pc: Pc | LinuxGuest, screen: Screen, options: ProgramOptions, events: Path | None = None
) -> Ending:
    with ExitStack() as stack:
        if events is not None:
            stack.enter_context(_traced(pc.machine, events))
        stack.enter_context(_interruptible(pc.interrupt))
        ending = pc.run(_limits_of(options), lambda: screen.progress(_progress(pc)))
    screen.finish()
    return ending


def command_line(path: Path, arguments: Sequence[str]) -> str:
    """What a program is told: its name, without spaces, and its arguments."""
    return " ".join(["_".join(path.name.split()), *arguments])


def new_machine(
    changes: Changes, options: ProgramOptions, slots: Sequence[tuple[int, int]] | None = None
) -> SvmMachine:
    """The machine for a program, a PC's if its memory is not given.

    Raises ClickException, DesignError, EmulatorError.
    """
    from shadowmmu.guest.pc.pc import memory_slots
    from shadowmmu.guest.svm.machine import SvmMachine
    from shadowmmu.host.mapping import Kind
    from shadowmmu.kvm.switches import DEFAULT_KERNEL

    if changes.vendor == "intel":
        raise click.ClickException("programs run on an AMD processor; leave --vendor out")
    return SvmMachine(
        memory_slots(options.memory) if slots is None else slots,
        kernel=changes.kernel or DEFAULT_KERNEL,
        design=changes.designs,
        la57=options.la57,
        backing=Kind.THP,
        parameters=_parameters(changes.params, options.npt),
    )


def _parameters(params: Mapping[str, str], npt: bool | None) -> Parameters:  # noqa: FBT001
    """KVM's parameters. Raises ClickException for one that there is not."""
    from shadowmmu.guest.scenario import param_value
    from shadowmmu.kvm.vm import Parameters

    parameters = Parameters()
    parameters.tdp_enabled = bool(npt)
    parameters.tdp_mmu = True
    for name, text in params.items():
        value = param_value(name, text)
        if name not in _PARAMETERS:
            raise click.ClickException(f"there is no parameter {name!r}; there are {', '.join(_PARAMETERS)}")
        if value not in ("Y", "N"):
            raise click.ClickException(f"{text!r} is no value of {name}; use Y or N")
        setattr(parameters, _PARAMETERS[name], value == "Y")
    if npt is not None and npt != parameters.tdp_enabled:
        raise click.UsageError("--npt and --param kvm_amd.npt contradict each other")
    parameters.tdp_mmu = parameters.tdp_mmu and parameters.tdp_enabled
    return parameters


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
    """Ctrl-C calls `stop`; the second one is what it always is."""

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


@contextmanager
def _traced(machine: SvmMachine, path: Path) -> Iterator[None]:
    """Write KVM's events while the program runs."""
    from shadowmmu.trace.ftrace import FtraceWriter
    from shadowmmu.trace.recording import atomic_writer

    with atomic_writer(path) as file:
        machine.kvm.tracer = FtraceWriter(file).log()
        machine.kvm.tracing = True
        try:
            yield
        finally:
            machine.kvm.tracing = False


class Screen:
    """The program's output on stdout, and one line of progress on stderr if somebody looks.

    With own=False the program writes there itself.
    """

    def __init__(self, *, own: bool = True) -> None:
        self._shown = False
        self._at_start = own
        self._shared = sys.stderr.isatty()

    def write(self, data: bytes) -> None:
        self._clear()
        sys.stdout.buffer.write(data)
        if data.endswith(b"\n"):
            sys.stdout.buffer.flush()
        self._at_start = data.endswith(b"\n")

    def progress(self, text: str) -> None:
        sys.stdout.buffer.flush()
        if self._shared and (self._at_start or not sys.stdout.isatty()):
            click.echo(f"\r\x1b[K{text}", nl=False, err=True)
            self._shown = True

    def finish(self) -> None:
        self._clear()
        sys.stdout.buffer.flush()

    def _clear(self) -> None:
        if self._shown:
            click.echo("\r\x1b[K", nl=False, err=True)
            self._shown = False


# -- the report --------------------------------------------------------------------------------------------


def _rate(count: float, seconds: float) -> str:
    return f"{count / seconds:,.0f}/s" if seconds > 0.0005 else ""


def _progress(pc: Pc | LinuxGuest) -> str:
    exits, machine = pc.machine.exits.total(), pc.machine
    parts = [f"{pc.seconds:.1f} s", f"{exits:,} exits", _rate(exits, pc.seconds)]
    parts += [f"{machine.vcpu.stat.pf_taken:,} faults", f"{machine.kvm.n_used_mmu_pages:,} shadow pages"]
    if pc.instructions:
        parts.append(f"{pc.instructions:,} instructions ({pc.instructions / pc.seconds / 1e6:.0f} MIPS)")
    return "  ".join(parts)


def report(pc: Pc | LinuxGuest, ending: Ending) -> dict[str, Any]:
    """What there is to say about a run, as plain data."""
    machine = pc.machine
    statistics = {**machine.kvm.stat.as_dict(), **machine.vcpu.stat.as_dict()}
    return {
        "ending": ending.reason,
        "status": ending.status,
        "detail": ending.detail,
        "seconds": round(pc.seconds, 3),
        "exits": machine.counters(),
        "instructions": pc.instructions or None,
        "shadow_pages": machine.kvm.n_used_mmu_pages,
        "tdp_pages": machine.kvm.tdp_mmu_pages,
        "statistics": statistics,
    }


def _report_text(pc: Pc | LinuxGuest, ending: Ending) -> str:
    machine, seconds = pc.machine, pc.seconds
    counters = machine.counters()
    exits = counters.pop("exits")
    line = f"{seconds:.2f} s, {exits:,} exits"
    if rate := _rate(exits, seconds):
        line += f" ({rate})"
    if pc.instructions:
        line += f", {pc.instructions:,} instructions ({pc.instructions / seconds / 1e6:.0f} MIPS)"
    lines = [line]
    lines += _columns("exits", {k: n for k, n in counters.items() if not k.startswith("vector ")})
    lines += _columns("delivered", {k: n for k, n in counters.items() if k.startswith("vector ")})
    statistics = {**machine.vcpu.stat.as_dict(), **machine.kvm.stat.as_dict()}
    lines += _columns("statistics", {name: n for name, n in statistics.items() if n})
    pages = {"used": machine.kvm.n_used_mmu_pages, "of the TDP MMU": machine.kvm.tdp_mmu_pages}
    lines += _columns("pages", {name: n for name, n in pages.items() if n})
    return "\n".join(lines)


def _columns(title: str, values: Mapping[str, int]) -> Iterator[str]:
    """A paragraph of `name number` pairs, most first."""
    from shutil import get_terminal_size
    from textwrap import wrap

    if values:
        text = ", ".join(f"{name}\xa0{n:,}" for name, n in sorted(values.items(), key=lambda i: -i[1]))
        width = min(get_terminal_size().columns, 110)
        for row in wrap(text, width, initial_indent=f"  {title}: ", subsequent_indent="    "):
            yield row.replace("\xa0", " ")


def _state(machine: SvmMachine) -> str:
    """The guest's registers and last exits."""
    from shadowmmu.guest.svm.processor import exit_name

    registers = machine.at_shutdown or machine.registers()
    lines = ["  " + "  ".join(f"{name:>6} {registers[name]:016x}" for name in names) for names in _REGISTERS]
    if machine.history:
        lines.append("  last exits:")
    for record in list(machine.history)[-_LAST_EXITS:]:
        lines.append(
            f"    {exit_name(record.code):<14} rip {record.rip:#x} info1 {record.info1:#x} "
            f"info2 {record.info2:#x}"
        )
    return "\n".join(lines)


def finish(path: Path, ending: Ending, pc: Pc | LinuxGuest, *, as_json: bool) -> int:
    """Tell how it ended; the status for the caller. Raises Abort if the user interrupted it."""
    if as_json:
        click.echo(json.dumps(report(pc, ending)), err=True)
    else:
        click.echo(_report_text(pc, ending), err=True)
    if ending.reason == "interrupted":
        raise click.Abort
    if ending.status is None:
        raise _failure(path, ending, pc)
    if ending.reason not in ("exit", "power off") and not as_json:
        click.echo(f"shadowmmu: {path}: {ending.reason} {ending.detail}".rstrip(), err=True)
    return ending.status


def _ended(ending: Ending) -> str:
    return ending.reason if ending.status is None else f"{ending.reason}, status {ending.status}"


def _failure(path: Path, ending: Ending, pc: Pc | LinuxGuest) -> click.ClickException:
    """A program that did not end by itself."""
    why = _WHY.get(ending.reason, ending.reason)
    text = f"{path}: {why}{f': {ending.detail}' if ending.detail else ''}"
    return click.ClickException(f"{text}\n{_state(pc.machine)}")
