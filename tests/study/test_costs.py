"""The table of costs."""

import re
from pathlib import Path

import pytest

from shadowmmu.study.costs import CostsError, default_costs, load_costs
from shadowmmu.study.counters import COUNTERS


def test_every_cost_has_a_counter_a_range_and_a_source() -> None:
    costs = default_costs()
    for name, cost in costs.of.items():
        assert name in COUNTERS
        assert 0 < cost.low < cost.cycles < cost.high
        assert len(cost.source) > 20


def test_an_estimate_is_the_sum() -> None:
    costs = default_costs()
    one = costs.estimate({"exits": 1_000_000})
    assert one.seconds == pytest.approx(costs.of["exits"].cycles * 1e6 / (costs.ghz * 1e9))
    both = costs.estimate({"exits": 1_000_000, "locked": 1_000_000, "instructions": 5})
    assert both.seconds == pytest.approx(one.seconds + costs.estimate({"locked": 1_000_000}).seconds)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ghz = 0", r"ghz = 0 must be a positive number"),
        ("[exits]\ncycles = 3", r"ghz = None must be a positive number"),
        ("ghz = 3\n[exit]\ncycles = 3", r"\[exit\] is no counter; there are: instructions, exits"),
        ("ghz = 3\n[exits]\nlow = 3", r"\[exits\] needs cycles = NUMBER"),
        ("ghz = 3\n[exits]\ncycles = -1", r"\[exits\] cycles = -1 must be a number from 0 on"),
        ("ghz = 3\n[exits]\ncycles = 'x'", r"\[exits\] cycles = 'x' must be a number from 0 on"),
        ("ghz = 3\n[exits]\ncycles = 3\nlow = 4", r"\[exits\] low, cycles and high must be in this order"),
        ("ghz = 3\n[exits]\ncycles = 3\nmax = 4", r"\[exits\] max is not known; there are cycles, low"),
        ("ghz = 3\nexits = 4", r"\[exits\] needs cycles = NUMBER"),
        ("ghz = ", r"Invalid value \(at line 1, column 7\)|Invalid value"),
    ],
)
def test_malformed_costs_are_refused_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "costs.toml"
    path.write_text(text)
    with pytest.raises(CostsError) as refused:
        load_costs(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert re.search(message, str(refused.value))
    assert "\n" not in str(refused.value)
