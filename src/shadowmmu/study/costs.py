"""What things cost: an editable profile, and the time that counters come to."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from .counters import COUNTERS

__all__ = ["Cost", "Costs", "CostsError", "Estimate", "default_costs", "load_costs"]


class CostsError(Exception):
    """A profile of costs that cannot be used: `str` names file, table and remedy."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one event of a counter costs.

    Attributes:
        cycles: Cycles.
        low: Least that is plausible.
        high: Most that is plausible.
        source: Where the figure comes from.
    """

    cycles: float
    low: float
    high: float
    source: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """A time in seconds with the range in which it lies if every cost is at its low or high end."""

    seconds: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Costs:
    """A profile.

    Attributes:
        ghz: Cycles in a nanosecond.
        of: Cost of one event, by the counter's name.
    """

    ghz: float
    of: Mapping[str, Cost]

    def estimate(self, counters: Mapping[str, float]) -> Estimate:
        """Return the time that counters come to; those without a cost are free."""
        scale = 1e-9 / self.ghz
        ends = [
            sum(counters.get(name, 0) * getattr(cost, end) for name, cost in self.of.items()) * scale
            for end in ("cycles", "low", "high")
        ]
        return Estimate(*ends)


def default_costs() -> Costs:
    """Return the profile that comes with the package."""
    text = resources.files(__package__).joinpath("costs.toml").read_text()
    return _parsed(text, "costs.toml")


def load_costs(path: Path) -> Costs:
    """Return the profile in a file. Raises CostsError, OSError."""
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        raise CostsError(
            f"{path}: not a text file; it must be TOML, as `shadowmmu study --costs-default` prints"
        ) from None
    return _parsed(text, str(path))


def _parsed(text: str, path: str) -> Costs:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise CostsError(f"{path}: {error}") from None
    ghz = tables.pop("ghz", None)
    if not isinstance(ghz, (int, float)) or isinstance(ghz, bool) or not ghz > 0:
        raise CostsError(f"{path}: ghz = {ghz!r} must be a positive number")
    return Costs(float(ghz), {name: _cost(path, name, table) for name, table in tables.items()})


def _cost(path: str, name: str, table: object) -> Cost:
    if not isinstance(table, dict) or "cycles" not in table:
        raise CostsError(f"{path}: [{name}] needs cycles = NUMBER")
    if name not in COUNTERS:
        raise CostsError(f"{path}: [{name}] is no counter; there are: {', '.join(COUNTERS)}")
    numbers = {}
    for key in ("cycles", "low", "high"):
        number = table.get(key, table["cycles"])
        if not isinstance(number, (int, float)) or isinstance(number, bool) or number < 0:
            raise CostsError(f"{path}: [{name}] {key} = {number!r} must be a number from 0 on")
        numbers[key] = float(number)
    if not numbers["low"] <= numbers["cycles"] <= numbers["high"]:
        raise CostsError(f"{path}: [{name}] low, cycles and high must be in this order")
    unknown = set(table) - {"cycles", "low", "high", "source"}
    if unknown:
        raise CostsError(f"{path}: [{name}] {min(unknown)} is not known; there are cycles, low, high, source")
    return Cost(numbers["cycles"], numbers["low"], numbers["high"], str(table.get("source", "")))
