"""The file of a sweep: TOML in which each value may be a list, and each list is an axis."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path
from typing import Any

from ...host.backing import Backing
from ...vm.config import ConfigurationError
from ..catalogue import named
from ..configuration import Configuration, build
from ..costs import Costs
from ..counters import COUNTERS
from ..table import TIMES
from ..workload import WorkloadError
from .run import Run, trace_of
from .sweep import Sweep

__all__ = ["SweepError", "read_sweep"]

MOST_RUNS = 1_000_000
_TABLES = ("seeds", "columns", "machine", "params", "designs", "workloads")
_KINDS: Mapping[str, type] = {
    "paging": str,
    "memory": str,
    "vcpus": int,
    "backing": str,
    "kernel": str,
    "vendor": str,
    "nested": bool,
    "direct_map": str,
    "contended": bool,
}
"""What `[machine]` may have, and of which type."""
_COLUMNS = ("exits", "faults", "sptes_made", "shadow_pages_made", "seconds")
"""Shown unless the file says otherwise."""


class SweepError(Exception):
    """A file of a sweep that cannot be used; the text names the file, the table and what helps."""


def read_sweep(path: Path, costs: Costs) -> Sweep:
    """Return the sweep in a file; all its machines and workloads can be. Raises SweepError, OSError."""
    try:
        tables = tomllib.loads(path.read_bytes().decode())
    except UnicodeDecodeError:
        raise SweepError(f"{path}: not a text file; it must be TOML, see `shadowmmu sweep --help`") from None
    except tomllib.TOMLDecodeError as error:
        raise SweepError(f"{path}: {error}") from None
    return _Reader(path, costs).sweep(tables)


class _Reader:
    """Reads the tables of a file."""

    def __init__(self, path: Path, costs: Costs) -> None:
        self._path = path
        self._costs = costs

    def sweep(self, tables: Mapping[str, Any]) -> Sweep:
        """Return the sweep."""
        for name in tables:
            if name not in _TABLES:
                raise self._wrong(name, f"is not known; there are: {', '.join(_TABLES)}")
        workloads = self._tables("workloads", tables.get("workloads"))
        designs = self._tables("designs", tables.get("designs", [{}]))
        seeds = self._seeds(tables.get("seeds", 1))
        columns = self._columns(tables.get("columns", list(_COLUMNS)))
        machine, params = self._table("machine", tables), self._table("params", tables)
        self._check_kinds(machine)
        axes = [machine, params]
        total = (
            prod(map(_points, axes)) * sum(map(_points, designs)) * sum(map(_points, workloads)) * len(seeds)
        )
        if total > MOST_RUNS:
            raise self._wrong("", f"{total:,} runs are more than {MOST_RUNS:,}; shorten a list")
        configurations = self._configurations(machine, params, designs)
        runs = [
            Run(name, values, configuration, seed)
            for name, values in self._workloads(workloads, configurations)
            for configuration in configurations
            for seed in seeds
        ]
        return Sweep(self._path, tuple(_each_once(runs)), columns)

    def _wrong(self, table: str, text: str) -> SweepError:
        return SweepError(f"{self._path}: {table}{' ' if table else ''}{text}")

    def _table(self, name: str, tables: Mapping[str, Any]) -> Mapping[str, Any]:
        table = tables.get(name, {})
        if not isinstance(table, dict):
            raise self._wrong(name, f"must be a table, [{name}]")
        return self._checked(f"[{name}]", table)

    def _tables(self, name: str, found: object) -> list[Mapping[str, Any]]:
        """Return a list of tables; one table stands for a list of one."""
        found = [found] if isinstance(found, dict) else found
        if not isinstance(found, list) or not found or not all(isinstance(one, dict) for one in found):
            raise self._wrong(name, f"must be tables, [[{name}]]; there must be one at least")
        return [self._checked(f"[[{name}]]", one) for one in found]

    def _checked(self, table: str, values: Mapping[str, Any]) -> Mapping[str, Any]:
        for key, value in values.items():
            axis = value if isinstance(value, list) else [value]
            if not axis or not all(isinstance(one, (str, int, bool)) for one in axis):
                raise self._wrong(table, f"{key} = {value!r} must be a word or a number, or a list of them")
        return values

    def _seeds(self, found: object) -> list[int]:
        if isinstance(found, int) and not isinstance(found, bool) and 0 < found <= MOST_RUNS:
            return list(range(found))
        if isinstance(found, list) and found and all(type(one) is int and one >= 0 for one in found):
            return list(dict.fromkeys(found))
        raise self._wrong("seeds", f"= {found!r} must be how many, such as 5, or a list of numbers from 0 on")

    def _columns(self, found: object) -> tuple[str, ...]:
        known = [*COUNTERS, *TIMES]
        if not isinstance(found, list) or not found:
            raise self._wrong("columns", f"= {found!r} must be a list of counters")
        for one in found:
            if one not in known:
                raise self._wrong("columns", f"{one!r} is no counter; there are: {', '.join(known)}")
        return tuple(found)

    def _check_kinds(self, machine: Mapping[str, Any]) -> None:
        for key, value in machine.items():
            if key not in _KINDS:
                raise self._wrong("[machine]", f"{key} is not known; there are: {', '.join(_KINDS)}")
            for one in value if isinstance(value, list) else [value]:
                if type(one) is not _KINDS[key]:
                    raise self._wrong("[machine]", f"{key} = {one!r} must be of type {_KINDS[key].__name__}")
                if key == "backing" and str(one).upper() not in Backing.__members__:
                    known = ", ".join(name.lower() for name in Backing.__members__)
                    raise self._wrong("[machine]", f"backing = {one!r} must be one of {known}")

    def _configurations(
        self, machine: Mapping[str, Any], params: Mapping[str, Any], designs: list[Mapping[str, Any]]
    ) -> list[Configuration]:
        """Return all machines, each tried; what they have of parameters and designs comes later."""
        machines = [_machine(values) for values in _product(machine)]
        self._try("[machine]", machines)
        parametrized = [one.with_params(values) for one in machines for values in _product(params)]
        if params:
            self._try("[params]", parametrized)
        switched = [
            replace(one, design={key: str(value) for key, value in values.items()})
            for one in parametrized
            for design in designs
            for values in _product(design)
        ]
        if any(designs):
            self._try("[[designs]]", switched)
        return switched

    def _try(self, table: str, configurations: list[Configuration]) -> None:
        for one in configurations:
            try:
                build(one, self._costs, 0)
            except (ConfigurationError, MemoryError) as error:
                raise self._wrong(table, str(error)) from None

    def _workloads(
        self, tables: list[Mapping[str, Any]], configurations: list[Configuration]
    ) -> Iterator[tuple[str, dict[str, int]]]:
        """Yield workloads with all their parameters."""
        for table in tables:
            names = table.get("name")
            if names is None:
                raise self._wrong("[[workloads]]", "needs name = NAME; `shadowmmu workload list` has them")
            for values in _product(table):
                name = values.pop("name")
                try:
                    chosen = named(str(name))
                    parameters = chosen.values(values)
                except WorkloadError as error:
                    raise self._wrong("[[workloads]]", str(error)) from None
                if chosen.nested and not all(one.nested for one in configurations):
                    raise self._wrong(
                        "[[workloads]]",
                        f"{name} needs a guest that is a hypervisor: nested = true in [machine]",
                    )
                trace = trace_of(str(name))
                if trace is not None and not trace.is_file():
                    raise self._wrong("[[workloads]]", f"{name}: there is no file {trace}")
                yield str(name), parameters


def _machine(values: dict[str, Any]) -> Configuration:
    if "backing" in values:
        values["backing"] = Backing[values["backing"].upper()]
    return Configuration(**values)


def _points(table: Mapping[str, Any]) -> int:
    return prod(len(value) for value in table.values() if isinstance(value, list))


def _product(table: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a table for each combination of values, the last key's changing fastest."""
    axes = [value if isinstance(value, list) else [value] for value in table.values()]
    for values in product(*axes):
        yield dict(zip(table, values, strict=True))


def _each_once(runs: list[Run]) -> Iterator[Run]:
    """Yield runs without those that were there before."""
    seen: set[str] = set()
    for run in runs:
        text = str(run)
        if text not in seen:
            seen.add(text)
            yield run
