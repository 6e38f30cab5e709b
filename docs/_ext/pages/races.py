"""The races: what each case is, its protections, and the schedule without each."""

from __future__ import annotations

from marked import code, definitions, fence, prose, sentence
from shadowmmu.check.race.case import Case
from shadowmmu.check.race.catalogue import cases
from shadowmmu.check.race.diagram import diagram
from shadowmmu.check.race.explore import Plan, Result, explore

_WIDTH = 96


def page() -> str:
    """Return all cases, each run with its protections and without each."""
    return "\n\n".join(_case(case) for case in cases().values())


def _case(case: type[Case]) -> str:
    parts = [f"(race-{case.name})=\n## {case.name}: {prose(case.title)}"]
    if case.protections:
        parts.append(
            definitions(
                (
                    code(name),
                    sentence(text) + (" *KVM 6.12 does not have it.*" if name in case.missing else ""),
                )
                for name, text in case.protections.items()
            )
        )
    for taken in ((), *((name,) for name in case.protections)):
        parts += _run(explore(case, taken, Plan()))
    if case.verdict:
        parts.append(f"**Verdict.** {sentence(case.verdict)}")
    return "\n\n".join(parts)


def _run(result: Result) -> list[str]:
    """What came of one run, and the schedule if it shows something."""
    without = ", ".join(code(name) for name in result.without)
    how = (
        f"Without {without}" if without else "With all protections" if result.case.protections else "As it is"
    )
    orders = "all orders" if result.bound is None else f"orders with at most {result.bound} preemptions"
    if result.bad is not None:
        return [f"{how}: **{prose(result.bad.outcome)}**", fence(diagram(result.bad, _WIDTH))]
    said = f"{how}: no bad outcome in {orders} ({result.schedules:,} schedules, {result.states:,} states)."
    if result.case.reachable and result.witness is not None:
        return [
            f"{said} It happens: {sentence(result.witness.outcome)}",
            fence(diagram(result.witness, _WIDTH)),
        ]
    return [said]
