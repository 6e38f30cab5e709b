"""The text of an event as the kernel's ftrace prints it, from a template, and back.

A template has fields in braces, `gfn {gfn:x} level {level}`. After the colon stands how the field is printed:
nothing for decimal, one of Python's hexadecimal formats, the words for 0, 1, ... with `|` between them, or
one of STYLES.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from string import Formatter
from typing import Any, NamedTuple

from ...x86.exceptions import EXCEPTIONS
from ...x86.svm import exit_reason
from .reasons import pferr_flags, pferr_of, svm_exit_code

PAGE_OFFSET = 0xFFFF888000000000
"""Where the kernel maps physical memory without KASLR: pointers in event texts are physical + this."""


class Style(NamedTuple):
    """How a value is printed, what that looks like as a regular expression, and how it is read."""

    show: Callable[[Any], str]
    pattern: str
    read: Callable[[str], Any]


def _pointer(physical: int) -> str:
    return f"{PAGE_OFFSET + physical if physical else 0:016x}"


def _pointed_to(text: str) -> int:
    address = int(text, 16)
    return address - PAGE_OFFSET if address else 0


def _vector(vector: int) -> str:
    return EXCEPTIONS.get(vector, f"{vector:#x}")


def _vector_of(text: str) -> int:
    named = (vector for vector, name in EXCEPTIONS.items() if name == text)
    return next(named) if text.startswith("#") else int(text, 16)


def _svm_exit_code(text: str) -> int:
    code = svm_exit_code(text)
    if code is None:
        raise ValueError(f"SVM has no exit {text!r}")
    return code


STYLES = {
    "s": Style(str, ".*?", str),
    "pferr": Style(pferr_flags, r"[\w|]*", pferr_of),
    "pointer": Style(_pointer, "[0-9a-f]+", _pointed_to),
    "vector": Style(_vector, "|".join((*EXCEPTIONS.values(), "0x[0-9a-f]+")), _vector_of),
    "svm_exit": Style(exit_reason, ".*?", _svm_exit_code),
    "bytes": Style(lambda value: value.hex(" "), "[0-9a-f ]*", bytes.fromhex),
}
"""`s` text; `pferr` names of a page fault's error bits; `pointer` %p of a pointer into the direct map;
`vector` an exception; `svm_exit` an exit code; `bytes` bytes in hexadecimal."""


def _style(spec: str) -> Style:
    if spec == "d":
        return Style(str, r"-?\d+", int)
    if spec in STYLES:
        return STYLES[spec]
    if "|" in spec:
        words = spec.split("|")
        pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
        return Style(lambda value: words[value], pattern, words.index)
    return Style(lambda value: format(value, spec), "(?:0x)?[0-9a-f]+", lambda text: int(text, 16))


class Template:
    """A template, ready to print and to read.

    Attributes:
        show: Returns the text of an event, whose attributes the fields are.
        _parts: Literal, name and format of each field, in order.
        _pattern: The regular expression that reads a text; None before the first.
    """

    def __init__(self, template: str) -> None:
        self._parts = list(_parts(template))
        self._pattern: re.Pattern[str] | None = None
        self.show = self._compiled()

    def _compiled(self) -> Callable[[Any], str]:
        """Return `show`: an f-string, which is three times as fast as to put the parts together."""
        text = ""
        styles: dict[str, Callable[[Any], str]] = {}
        for number, (literal, name, spec) in enumerate(self._parts):
            text += literal.replace("{", "{{").replace("}", "}}")
            if spec is None:
                continue
            if spec in STYLES or "|" in spec:
                styles[f"show{number}"] = _style(spec).show
                text += f"{{show{number}(event.{name})}}"
            else:
                text += f"{{event.{name}:{spec}}}"
        show: Callable[[Any], str] = eval(f"lambda event: f{text!r}", styles)
        return show

    def read(self, text: str) -> Mapping[str, Any] | None:
        """Return the fields in a text; None if it is not of this form. Spaces at its end may be missing."""
        if self._pattern is None:
            groups = (f"({_style(spec).pattern})" if spec is not None else "" for _, _, spec in self._parts)
            literals = (re.escape(literal) for literal, _, _ in self._parts)
            self._pattern = re.compile("".join(map("".join, zip(literals, groups, strict=True))))
        match = self._pattern.fullmatch(text) or self._pattern.fullmatch(f"{text} ")
        if match is None:
            return None
        fields = ((name, _style(spec)) for _, name, spec in self._parts if spec is not None)
        return {name: style.read(found) for (name, style), found in zip(fields, match.groups(), strict=True)}


def _parts(template: str) -> Iterator[tuple[str, str, str | None]]:
    """Yield literal, name and format of each field; None where only the literal is left."""
    for literal, name, spec, _ in Formatter().parse(template):
        yield literal, name or "", None if name is None else spec or "d"
