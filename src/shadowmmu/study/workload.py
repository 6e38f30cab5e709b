"""What a workload is: a name, parameters with defaults, and what a guest does."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..x86.sizes import size_of
from .configuration import Guest

__all__ = ["WORKLOADS", "Parameter", "Workload", "WorkloadError", "workload"]

Body = Callable[..., Iterator[None]]


class WorkloadError(Exception):
    """There is no such workload or parameter, or a value that it cannot have; the text says what can be."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A number that a workload depends on.

    Attributes:
        name: Its name.
        default: Its value if none is given.
        meaning: What it is, with its unit.
    """

    name: str
    default: int
    meaning: str


@dataclass(frozen=True, slots=True)
class Workload:
    """What guests do.

    Attributes:
        name: Its name on the command line.
        summary: One line.
        parameters: What it depends on, by name.
        body: Yields once, between what only prepares and what is measured.
        nested: It needs a guest that is a hypervisor.
    """

    name: str
    summary: str
    parameters: Mapping[str, Parameter]
    body: Body
    nested: bool

    def values(self, given: Mapping[str, int | str]) -> dict[str, int]:
        """Return all parameters with these values, else the defaults. Raises WorkloadError."""
        for name in given:
            if name not in self.parameters:
                known = ", ".join(self.parameters) or "none"
                raise WorkloadError(f"workload {self.name} has no parameter {name!r}; there are: {known}")
        return {
            name: _number(name, given.get(name, known.default)) for name, known in self.parameters.items()
        }

    def prepare(self, guest: Guest, values: Mapping[str, int]) -> Callable[[], None]:
        """Do what is not measured; return what is."""
        steps = self.body(guest, **values)
        next(steps)

        def rest() -> None:
            for _ in steps:
                raise AssertionError(f"workload {self.name} yields more than once")

        return rest


def _number(name: str, value: int | str) -> int:
    number = size_of(value) if isinstance(value, str) else value
    if number is None or number < 0:
        raise WorkloadError(f"{name}={value} must be a number, such as 100, or a size, such as 4K")
    return number


WORKLOADS: dict[str, Workload] = {}
"""All workloads, by name."""


def workload(name: str, *, nested: bool = False, **meanings: str) -> Callable[[Body], Body]:
    """Register a generator function as a workload; `meanings` says what each of its parameters is.

    The summary is the first line of its docstring, the defaults are those of the function.
    """

    def register(body: Body) -> Body:
        signature = list(inspect.signature(body).parameters.values())[1:]
        parameters = {one.name: Parameter(one.name, one.default, meanings[one.name]) for one in signature}
        summary = (body.__doc__ or "").partition("\n")[0].strip()
        WORKLOADS[name] = Workload(name, summary, parameters, body, nested)
        return body

    return register
