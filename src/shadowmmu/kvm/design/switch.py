"""What a switch is: a named choice between ways in which kernels or designs behave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches


class DesignError(ValueError):
    """No such switch, value or kernel; the text names those there are."""


NO_YES = {"no": False, "yes": True}
"""The values of most switches."""

_LONGEST_WORD = 40
"""Longer words are no switch and no value."""


def nearest(word: str, known: list[str]) -> str:
    """Return the end of a complaint about a word: what was meant, or else what there is."""
    near = get_close_matches(word, known, 1) if len(word) <= _LONGEST_WORD else []
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


@dataclass(frozen=True, slots=True)
class Switch:
    """A named choice. `values` maps each value's name to what a `Design` holds; `default` is a name of them.

    `kernels` maps the series of each kernel that has another value than the default (`6.1`) to that value.
    Some take any number in `numbers` besides, which the design then holds. `origin` says which kernels have
    which value and where that is described; `effect` what it changes. `mail` names the mail that argues about
    it; `unsafe` are the values that let a guest see wrong translations, there for the checks to find.
    """

    name: str
    values: Mapping[str, int]
    default: str
    origin: str
    effect: str
    kernels: Mapping[str, str] = field(default_factory=dict)
    mail: str = ""
    unsafe: tuple[str, ...] = ()
    numbers: range = range(0)

    def number_of(self, value: str) -> int:
        """Return what a `Design` holds for the value of that name. Raises DesignError."""
        if value in self.values:
            return self.values[value]
        if value.isdecimal() and len(value) <= _LONGEST_WORD and int(value) in self.numbers:
            return int(value)
        raise DesignError(f"switch {self.name} has no value {value!r}{nearest(value, values_named(self))}")

    def name_of(self, number: int) -> str:
        """Return the name of the value that a `Design` holds as `number`."""
        return next((word for word, held in self.values.items() if held == number), str(number))


def values_named(switch: Switch) -> list[str]:
    """The names of a switch's values; a range stands for its numbers."""
    numbers = [f"{switch.numbers[0]}-{switch.numbers[-1]}"] if switch.numbers else []
    return [*switch.values, *numbers]
