"""Studies: each runs, and its verdict is that of its numbers."""

from dataclasses import replace

import pytest

from shadowmmu.study.catalogue import named
from shadowmmu.study.costs import default_costs
from shadowmmu.study.counters import COUNTERS
from shadowmmu.study.studies import STUDIES
from shadowmmu.study.study import Case, Results, Study, run_study, verdict_of
from shadowmmu.study.table import as_csv, as_rows, heading, meaning, shown
from shadowmmu.study.words import ratio, span

SIZES = ("pages", "forks", "jobs", "rounds")
TIMES = {"seconds", "longest_hold", "hold_p99"}


@pytest.mark.parametrize("study", list(STUDIES.values()), ids=list(STUDIES))
def test_a_study_is_well_formed(study: Study) -> None:
    assert study.question.endswith("?")
    assert len(study.alternatives) > 1
    assert len({one.label for one in study.alternatives}) == len(study.alternatives)
    assert len({one.label for one in study.cases}) == len(study.cases)
    for column in (*study.columns, study.plotted):
        assert column in COUNTERS or column in TIMES
        assert heading(column)
        assert meaning(column)
    for case in study.cases:
        named(case.workload).values(case.parameters)


def smaller(study: Study, factor: int) -> Study:
    """The study with workloads of a fraction of their size."""
    cases = []
    for case in study.cases:
        values = named(case.workload).values(case.parameters)
        sized = {
            name: value for name, value in values.items() if name in ("pages", "forks", "jobs", "rounds")
        }
        fewer = {name: max(2, value // factor) for name, value in sized.items()}
        cases.append(Case(case.label, case.workload, {**case.parameters, **fewer}))
    alternatives = tuple(
        replace(one, configuration=replace(one.configuration, memory="64M")) for one in study.alternatives
    )
    return replace(study, cases=tuple(cases), alternatives=alternatives, audited=True)


@pytest.fixture(scope="module")
def small_window() -> Results:
    return run_study(smaller(STUDIES["003-prefetch-window"], 64), default_costs(), seeds=(0, 1))


def test_the_verdict_has_the_numbers_of_the_table(small_window: Results) -> None:
    verdict = verdict_of(small_window)
    assert f"{small_window.value('backward', '16_from_fault', 'faults'):,.0f}" in verdict
    assert f"{small_window.value('backward', '16_aligned', 'faults'):,.0f}" in verdict
    assert small_window.clean


def test_rows_are_for_every_measurement(small_window: Results) -> None:
    rows = list(as_rows(small_window))
    study = small_window.study
    assert len(rows) == len(study.cases) * len(study.alternatives) * 2
    header, *lines = as_csv(rows).splitlines()
    assert header.startswith("study,case,alternative,workload,")
    assert len(lines) == len(rows)


def test_a_mean_is_over_the_seeds(small_window: Results) -> None:
    measured = small_window.of("random", "off")
    assert [one.seed for one in measured] == [0, 1]
    assert small_window.value("random", "off", "faults") == sum(one["faults"] for one in measured) / 2


@pytest.mark.parametrize("name", [name for name in STUDIES if name != "003-prefetch-window"])
def test_a_small_study_ends_with_a_verdict(name: str) -> None:
    results = run_study(smaller(STUDIES[name], 128), default_costs())
    assert verdict_of(results).endswith(".")
    assert results.clean


def test_numbers_for_people() -> None:
    assert [span(s) for s in (0.0, 5e-9, 1.23e-6, 0.0042, 2)] == ["0 ns", "5 ns", "1.23 us", "4.2 ms", "2 s"]
    assert [ratio(10, 1), ratio(3, 2), ratio(1, 0), ratio(0, 0)] == [
        "10 times", "1.5 times", "infinitely many times", "as many"
    ]  # fmt: skip
    assert shown("faults", 12345.6) == "12,346"
    assert shown("seconds", 0.01) == "10 ms"
