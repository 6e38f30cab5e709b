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
    """Return the end of an error message about a word: what was probably meant, or else what there is."""
    near = get_close_matches(word, known, 1) if len(word) <= _LONGEST_WORD else []
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(known)}"


@dataclass(frozen=True, slots=True)
class Switch:
    """A named choice.

    Attributes:
        name: Name of the switch, the attribute of Design, and the KEY of --design.
        values: Each value's name, and what a `Design` holds for it.
        default: Name of the value of 6.12.111.
        origin: Which kernels have which value, and where that is described.
        effect: What the switch changes.
        kernels: Series of each kernel that has another value than the default (`6.1`), and that value's name.
        mail: The mail that argues about the switch, or "".
        unsafe: Names of the values that let a guest see wrong translations, there for the checks to find.
        numbers: Numbers that are values too, besides the named ones.
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

    @property
    def safe(self) -> str:
        """Return the name of a value that is not unsafe: the default, if it is safe."""
        return next(name for name in (self.default, *self.values) if name not in self.unsafe)

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
    """Return the names of a switch's values; a range stands for its numbers."""
    numbers = [f"{switch.numbers[0]}-{switch.numbers[-1]}"] if switch.numbers else []
    return [*switch.values, *numbers]
