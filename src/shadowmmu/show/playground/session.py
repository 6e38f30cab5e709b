"""What the page asks the model, which runs beside it in the browser: questions and answers are JSON.

A question is an object with `ask`, one of parse, run, check; `text`, a scenario; and the menus' `kernel`,
`vendor`, `params`, `designs`, `tlb`. The answer has `error`, an object with `line` (or null) and `text`, or
else what was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.guest.scenario.scenario import Scenario
from shadowmmu.guest.scenario.setup import ScenarioError
from shadowmmu.kvm.design.switches import DesignError
from shadowmmu.show.browser.assemble import page
from shadowmmu.show.history.played import played_rows
from shadowmmu.show.history.timeline import timeline_of_rows
from shadowmmu.show.text.report import Report, summary_lines
from shadowmmu.show.text.spans import Line, Span

__all__ = ["NAME", "answer"]

NAME = "scenario"
"""What the editor's text is called in output and in errors."""

Answer = dict[str, Any]


def answer(question: str) -> str:
    """Return the answer to a question."""
    asked = json.loads(question)
    try:
        scenario = _changed(parse_scenario(asked["text"], path=NAME), asked)
        return json.dumps(_ANSWERS[asked["ask"]](scenario, asked))
    except (ScenarioError, DesignError, MemoryError) as error:
        line = error.line if isinstance(error, ScenarioError) else None
        return json.dumps({"error": {"line": line, "text": _said(str(error), line)}})


def _said(text: str, line: int | None) -> str:
    """Return a message without the place, which the page shows by itself."""
    return text.removeprefix(f"{NAME}:{line}: ").removeprefix(f"{NAME}: ") or "out of memory"


def _changed(scenario: Scenario, asked: Mapping[str, Any]) -> Scenario:
    """Return the scenario on the machine that the menus say. Raises ScenarioError, DesignError."""
    if asked["kernel"]:
        scenario = scenario.with_kernel(asked["kernel"])
    if asked["vendor"]:
        scenario = scenario.with_vendor(asked["vendor"])
    return scenario.with_params(asked["params"]).with_design(asked["designs"])


def _parse(scenario: Scenario, asked: Mapping[str, Any]) -> Answer:
    return {"ops": len(scenario.recorded_ops)}


def _run(scenario: Scenario, asked: Mapping[str, Any]) -> Answer:
    report = Report(scenario)
    rows = []
    shown: list[tuple[int | None, Line]] = []
    for _, row, stale in played_rows(scenario, tlb=asked["tlb"]):
        report.count(row)
        shown += ((row.get("op"), line) for line in report.lines(row, stale))
        rows.append((row, stale))
    shown += ((None, line) for line in summary_lines(scenario.name, report.totals))
    return {
        "lines": [{"op": op, "spans": _spans(line)} for op, line in shown],
        "page": page(timeline_of_rows(scenario, rows)),
    }


def _check(scenario: Scenario, asked: Mapping[str, Any]) -> Answer:
    from shadowmmu.check.scenario import check_scenario, known_value

    outcome = check_scenario(scenario)
    if outcome.violations:
        outcome.known = known_value(scenario)
    verdict = Span(outcome.verdict, "bad" if outcome.violations else "good")
    lines: list[Line] = [(Span(outcome.head), verdict), *((Span(line),) for line in outcome.lines())]
    return {
        "found": len(outcome.violations),
        "lines": [{"op": None, "spans": _spans(line)} for line in lines],
    }


def _spans(line: Line) -> Sequence[tuple[str, str]]:
    return [(span.text, span.role) for span in line]


_ANSWERS = {"parse": _parse, "run": _run, "check": _check}
