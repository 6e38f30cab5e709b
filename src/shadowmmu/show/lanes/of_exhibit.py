"""Lanes of an exhibit: a lane for each vCPU and one for user space, with the defect and without it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from shadowmmu.check.audit.audit import Level
from shadowmmu.check.checker import Violation, play_checked
from shadowmmu.check.checks import checks_of
from shadowmmu.check.museum.exhibits import Exhibit
from shadowmmu.guest.play.player import OpResult, Player
from shadowmmu.guest.scenario import ops as kinds
from shadowmmu.guest.scenario.scenario import Scenario
from shadowmmu.guest.scenario.setup import resolve
from shadowmmu.kvm.tracepoints.tracer import EventLog
from shadowmmu.show.text.changes import change_lines
from shadowmmu.show.text.event_text import event_lines
from shadowmmu.show.text.outcome import outcome_details
from shadowmmu.trace.recorder import Recorder
from shadowmmu.trace.snapshot import snapshot

from .lanes import Lanes, Run, Step

__all__ = ["lanes_of_exhibit"]


def lanes_of_exhibit(exhibit: Exhibit, scenario: Scenario) -> Lanes:
    """Play an exhibit's scenario under all checks, with the defect and without. Raises ScenarioError."""
    broken = scenario.with_design(dict(exhibit.switches))
    about = [
        ("story", exhibit.story),
        ("fixed by", exhibit.fix),
        ("kernels", exhibit.kernels),
        ("switches", " ".join(f"{name}={value}" for name, value in exhibit.switches.items())),
    ]
    runs = [
        _run("with the defect", broken),
        _run("without it", scenario.with_design(dict(exhibit.fixed))),
    ]
    return Lanes(exhibit.name, exhibit.title, about, runs)


def _run(name: str, scenario: Scenario) -> Run:
    vcpus = [f"vCPU {vcpu.id}" for vcpu in scenario.vcpus]
    steps = _steps(scenario, len(vcpus))
    wrong = [step for step in steps if step.wrong]
    verdict = f"{wrong[0].wrong[0]}" if wrong else "nothing found"
    return Run(name, verdict, not wrong, [*vcpus, "user space"], steps)


def _steps(scenario: Scenario, user_space: int) -> list[Step]:
    player = Player(resolve(scenario), EventLog(), snapshot, tlb=True)
    recorder = Recorder(scenario, player.areas)
    recorder.row(player.start())
    checks = checks_of(player, Level.OP)
    waiting: list[kinds.Meanwhile] = []
    found: list[Violation] = []
    steps: list[Step] = []
    for op, played, violations in play_checked(player, scenario.ops, checks):
        if isinstance(op, kinds.Meanwhile):
            waiting.append(op)
        if played is None and not violations:
            continue
        found += violations
        others = [] if played is None else list(_in_the_middle(waiting, played, user_space))
        waiting = []
        step = _step(op, played, violations, recorder, user_space)
        if others:
            steps += [Step(step.lane, f"{step.text} (begins)"), *others]
            step = replace(step, text=f"{step.text} (ends)")
        steps.append(step)
    known = {(violation.predicate, violation.says) for violation in found}
    late = [violation for check in checks for violation in check.finish()]
    late = [violation for violation in late if (violation.predicate, violation.says) not in known]
    if steps and late:
        steps[-1] = replace(steps[-1], wrong=[*steps[-1].wrong, *_wrong(late)])
    return steps


def _lane(op: kinds.Op, user_space: int) -> int:
    return op.vcpu if isinstance(op, kinds.GUEST_OPS) else user_space


def _step(
    op: kinds.Op,
    played: OpResult | None,
    violations: Sequence[Violation],
    recorder: Recorder,
    user_space: int,
) -> Step:
    details: list[str] = []
    if played is not None:
        known = set(recorder.state.get("sps", ()))
        row = recorder.row(played)
        details.append(_outcome(row["result"]))
        details += event_lines(row["events"])
        details += change_lines(row["gptes"], row.get("delta", {"set": {}}), known)
    return Step(_lane(op, user_space), " ".join(op.text.split()), details, _wrong(violations))


def _in_the_middle(waiting: Sequence[kinds.Meanwhile], played: OpResult, user_space: int) -> Iterator[Step]:
    """Yield the ops that were done while the op had dropped mmu_lock, in their order."""
    by_text = {op.op.text: op.op for op in waiting}
    for done in played.result.get("meanwhile", ()):
        other = by_text[done["do"]]
        where = f"while `{' '.join(played.text.split())}` had dropped mmu_lock"
        yield Step(_lane(other, user_space), " ".join(other.text.split()), [_outcome(done), where])


def _outcome(result: dict[str, Any]) -> str:
    return " ".join([result["outcome"], *outcome_details(result)])


def _wrong(violations: Sequence[Violation]) -> list[str]:
    return [line for violation in violations for line in violation.text().splitlines()]
