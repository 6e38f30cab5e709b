"""Fuzzing: random guests under all checks, and what fails made small.

One episode is one random guest (ground) with some ten thousand ops: a storm of accesses and, now and then,
lines of a scenario. All tables and TLBs are checked at intervals and at the end. What fails is played again
as a scenario with a check after every op, cut off at the first thing wrong, and shrunk: ops first, then the
machine, then operands.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from ...guest.play.player import Player
from ...guest.scenario.parser import begin_scenario, parse_scenario
from ...guest.scenario.scenario import Scenario
from ...guest.scenario.setup import ScenarioError, resolve
from ...kvm.state.oops import KernelOops
from ..audit.audit import Audit, Level
from ..checker import CORRUPT, Checker, Violation, play_checked
from ..checks import checks_of
from ..coherence import Coherence
from ..known import unsafe_values
from .ground import Ground
from .ground_setup import MMUS, MODES, PROFILES, GroundError
from .shrink import lines_up_to, shrink, simpler_lines
from .storm import ACCESS, CR3, INVLPG, LINES, VMEXIT, VMRUN, Storm, StormOp

__all__ = ["Failure", "Found", "Report", "check_lines", "episode", "fuzz"]

SWEEP = 2000
"""Ops between two looks at everything."""
SLOW_SHARE = 0.5
"""How often the storm's pauses bring lines of what happens seldom."""
GVAS, EDITS = 384, 768
BATCH = 500
SHRINK_SECONDS = 60.0

MakeCheckers = Callable[[Player], list[Checker]]


@dataclass(frozen=True, slots=True)
class Failure:
    """An episode that ended badly, before anybody tried to make it small."""

    ground: Ground
    lines: list[str]
    ops: int
    violation: Violation


@dataclass(frozen=True, slots=True)
class Found:
    """A failure as it is reported: the scenario that shows it.

    replays   whether playing the scenario shows it; else only the same seed does
    known     (switch, value, safe value): the kernel's unsafe value without which the scenario holds
    """

    mode: str
    mmu: str
    profile: str
    seed: int
    ops: int
    scenario: str
    violation: Violation
    replays: bool
    known: tuple[str, str, str] | None = None

    @property
    def name(self) -> str:
        """A file name without suffix."""
        return f"{self.violation.predicate}-{self.mode}-{self.mmu}-{self.profile}-{self.seed}"


@dataclass(slots=True)
class Report:
    """What a run of the fuzzer came to."""

    seed: int
    ops: int = 0
    episodes: int = 0
    seconds: float = 0.0
    per_kind: dict[str, int] = field(default_factory=dict)
    found: list[Found] = field(default_factory=list)


def default_checkers(player: Player) -> list[Checker]:
    """Return all checkers, which check after every op."""
    return checks_of(player, Level.OP)


def player_of(lines: Sequence[str], *, kernel: str | None = None) -> tuple[Player, Scenario]:
    """Return a machine with a TLB for the lines of a scenario, which are parsed. Raises ScenarioError."""
    scenario = parse_scenario("\n".join(lines) + "\n")
    if kernel is not None:
        scenario = scenario.with_kernel(kernel)
    player = Player(resolve(scenario), None, lambda machine: {}, tlb=True)
    player.dump = False
    return player, scenario


def check_lines(
    lines: Sequence[str], *, kernel: str | None = None, make: MakeCheckers = default_checkers
) -> Violation | None:
    """Return the first thing wrong in a scenario with all checks after every op; None if nothing is.

    For a text that is not a scenario nothing is wrong.
    """
    try:
        player, scenario = player_of(lines, kernel=kernel)
        checkers = make(player)
        for _, _, found in play_checked(player, scenario.ops, checkers):
            if found:
                return found[0]
        return next((violation for checker in checkers for violation in checker.finish()), None)
    except (ScenarioError, KeyError, MemoryError):
        return None


# -- one episode ---------------------------------------------------------------------------------------------


class _Episode:
    """One guest, from its first op to its last or to the first thing wrong."""

    def __init__(self, ground: Ground, ops: int, *, kernel: str | None, checked: bool) -> None:
        self.ground = ground
        self.limit = ops
        self.player, self.scenario = player_of(ground.setup, kernel=kernel)
        self.player.watched.clear()
        self.lines: list[list[str]] = []
        needed = [line for line in ground.setup if line.split()[0] not in ("map", "pt", "npt")]
        _, self._op = begin_scenario("\n".join(needed) + "\n")
        self.coherence = Coherence(self.player, every=1 << 60) if checked else None
        self.audit = Audit(self.player) if checked else None
        vcpus = [cpu.vcpu for cpu in self.player.cpus]
        vmcbs = [vmcb.gpa for vmcb in self.player.vmcbs]
        self.storm = Storm(vcpus, self.coherence, vmcbs)
        self.storm.load(
            ground.seed + 1,
            [ground.address() for _ in range(GVAS)],
            [] if ground.mode == "nopaging" else [edit for _ in range(EDITS) for edit in ground.edit()],
            [] if ground.levels == 0 else ground.tables[ground.levels],
            ops,
        )
        self.rng = random.Random(ground.seed)
        self.ops = 0
        self.next_sweep = SWEEP

    def run(self) -> Violation | None:
        """Play the episode. Return what is wrong, or None."""
        user = 0 if self.ground.nested else 1
        size = 8 if self.ground.mode in ("long4", "long5") and not self.ground.nested else 4
        self._play_lines(self.ground.first_lines())
        try:
            while self.ops < self.limit and self.storm.played < self.limit:
                done = self.storm.run(min(BATCH, self.limit - self.ops), user, size)
                self.ops += done
                if self.storm.failure is not None:
                    return self._storm_failure()
                found = self._seldom() if done < BATCH else []
                if not found and self.coherence is not None and self.ops >= self.next_sweep:
                    found = self._sweep()
                if found:
                    return found[0]
            last = self._sweep() if self.coherence is not None else []
            if self.audit is not None:
                last += self.audit.sweep()
            return last[0] if last else None
        except CORRUPT as error:
            says = f"the MMU stumbles over its own structures: {type(error).__name__}: {error}"
            return Violation("audit", "no-bug", says, self.ops, "")

    def _sweep(self) -> list[Violation]:
        assert self.coherence is not None
        self.next_sweep = self.ops + SWEEP
        self.coherence.clock = self.storm.clock
        found = self.coherence.check_machine(None)
        self.coherence.forget()
        return found if self.audit is None else found + self.audit.look()

    def _storm_failure(self) -> Violation:
        assert self.storm.failure is not None
        predicate, says, number, gva = self.storm.failure
        what = f"vCPU {number}, gva {gva:#x}: {says}"
        shows = () if self.coherence is None else self.coherence.explain(self.storm.vcpus[number], gva)
        return Violation("coherence", predicate, what, self.ops, "", shows=shows)

    def _seldom(self) -> list[Violation]:
        """Play something that happens seldom; the storm has paused."""
        return self._play_lines(self.ground.slow()) if self.rng.random() < SLOW_SHARE else []

    def _play_lines(self, lines: list[str]) -> list[Violation]:
        found: list[Violation] = []
        if self.coherence is not None:
            self.coherence.clock = self.storm.clock
            self.coherence.catch_up()
        if self.audit is not None:
            found += self.audit.look()
        if lines:
            self.storm.note_lines(len(self.lines))
            self.lines.append(lines)
        for line in lines:
            op = self._op(line)
            checkers = [checker for checker in (self.coherence, self.audit) if checker is not None]
            for checker in checkers:
                checker.before_op(op)
            played = next(self.player.play([op]), None)
            if self.player.oops is not None:
                raise KernelOops(self.player.oops)
            for checker in checkers:
                found += checker.after_op(op, played)
            self.ops += 1
        self.storm.refresh()
        return found

    def history(self) -> list[str]:
        """Return all that happened, as lines."""
        return [line for op in self.storm.history() for line in self._lines_of(op)]

    def _lines_of(self, op: StormOp) -> list[str]:
        kind, vcpu, gva, mode, value = op
        at = "@1 " if vcpu else ""
        if kind == LINES:
            return self.lines[value]
        if kind in (VMRUN, VMEXIT):
            return [f"{at}l2nop" if kind == VMRUN else f"{at}l2exit"]
        if kind == INVLPG:
            return [f"{at}invlpg {gva:#x}"]
        if kind == CR3:
            return [f"{at}cr3 {gva:#x}"]
        size = mode >> 8
        who = "l2" if mode & 8 else "u" if mode & 4 else ""
        if kind == ACCESS and mode & 2:
            return [f"{at}{who}exec {gva & ~0xFFF:#x}"]
        if kind == ACCESS:
            return [f"{at}{who}read {gva:#x} size={size}"]
        return [f"{at}{who}write {gva:#x} {value & (1 << 8 * size) - 1:#x} size={size}"]


def episode(
    ground: Ground, ops: int, *, kernel: str | None = None, checked: bool = True
) -> tuple[int, Failure | None]:
    """Play one guest for up to `ops` ops. Return how many were played, and what went wrong."""
    played = _Episode(ground, ops, kernel=kernel, checked=checked)
    violation = played.run()
    if violation is None:
        return played.ops, None
    return played.ops, Failure(ground, played.history(), played.ops, violation)


# -- shrinking -----------------------------------------------------------------------------------------------


def explain(
    failure: Failure, *, kernel: str | None, make: MakeCheckers, seconds: float = SHRINK_SECONDS
) -> Found:
    """Return the smallest scenario that time allows which still shows something wrong of the same kind."""
    ground = failure.ground
    setup = ground.setup
    deadline = time.monotonic() + seconds
    violation = check_lines([*setup, *failure.lines], kernel=kernel, make=make)
    replays = violation is not None
    lines = failure.lines
    if violation is not None:
        predicate = violation.predicate

        def fails(setup: Sequence[str], ops: Sequence[str]) -> bool:
            found = check_lines([*setup, *ops], kernel=kernel, make=make)
            return found is not None and found.predicate == predicate

        lines = lines_up_to(lines, violation.op)
        lines = shrink(lines, lambda ops: fails(setup, ops), deadline)
        setup = shrink(setup, lambda kept: fails(kept, lines), deadline)
        lines = simpler_lines(lines, lambda ops: fails(setup, ops), deadline)
        violation = check_lines([*setup, *lines], kernel=kernel, make=make) or violation
    text = "\n".join([*setup, *lines]) + "\n"
    known = _known([*setup, *lines], kernel=kernel, make=make) if replays else None
    return Found(
        ground.mode,
        ground.mmu,
        ground.profile,
        ground.seed,
        failure.ops,
        text,
        violation or failure.violation,
        replays,
        known,
    )


def _known(lines: Sequence[str], *, kernel: str | None, make: MakeCheckers) -> tuple[str, str, str] | None:
    """Return the unsafe value that a kernel is known to have which makes a scenario fail."""
    scenario = parse_scenario("\n".join(lines) + "\n")
    for switch, value, safe in unsafe_values(kernel or scenario.kernel, scenario.design):
        if check_lines([f"design {switch}={safe}", *lines], kernel=kernel, make=make) is None:
            return switch, value, safe
    return None


# -- long runs -------------------------------------------------------------------------------------------


def grounds(
    seed: int,
    modes: Sequence[str] = MODES,
    mmus: Sequence[str] = MMUS,
    profiles: Sequence[str] = PROFILES,
    design: Mapping[str, str] | None = None,
    *,
    vendor: str | None = None,
) -> Iterator[Ground]:
    """Return guests without end: every mode, MMU and profile in turn, each time with another seed.

    Raises GroundError if no guest is of these kinds.
    """
    kinds = [
        (mode, mmu, profile)
        for mode in modes
        for mmu in mmus
        for profile in profiles
        if mmu != "nested" or (mode != "nopaging" and vendor != "intel")
    ]
    if not kinds:
        raise GroundError("only a guest with paging, on AMD, can be a hypervisor: choose another mode or MMU")

    def endless() -> Iterator[Ground]:
        for number in count(seed):
            for mode, mmu, profile in kinds:
                yield Ground(mode, mmu, profile, number, design=dict(design or {}), vendor=vendor)

    return endless()


def fuzz(
    seconds: float,
    guests: Iterator[Ground],
    report: Report,
    *,
    ops: int,
    kernel: str | None = None,
    make: MakeCheckers = default_checkers,
    checked: bool = True,
    on_progress: Callable[[Report], None] = lambda report: None,
    stop_after: int = 1,
) -> None:
    """Play guests until the time is over or `stop_after` failures were found; `report` is kept up to date."""
    start = time.monotonic()
    for ground in guests:
        played, failure = episode(ground, ops, kernel=kernel, checked=checked)
        report.ops += played
        report.episodes += 1
        report.per_kind[ground.mmu] = report.per_kind.get(ground.mmu, 0) + played
        report.seconds = time.monotonic() - start
        if failure is not None:
            report.found.append(explain(failure, kernel=kernel, make=make))
        on_progress(report)
        if len(report.found) >= stop_after or report.seconds >= seconds:
            return
