"""A line of the scenario language, taken apart into words and numbers.

Numbers are written as in C (`0x1f`, `017`, `31`), positional ones may end in K, M or G. Everything that is
not understood raises `ScenarioError` with file, line, what is wrong and how to fix it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from ...x86.bits import MASK64
from ...x86.sizes import UNITS
from .language import WORDS
from .setup import (
    PAGE,
    ScenarioError,
)
from .text import first_invisible

__all__ = ["GPA_LIMIT", "U32", "Line", "split_words", "suggestion"]

U32 = (1 << 32) - 1
GPA_LIMIT = 1 << 52

_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)([KMG]?)", re.ASCII)
_LONGEST_WORD = 40
"""Longer words resemble no other."""
_LONGEST_NUMBER = 80
"""Digits beyond these make no difference: the number is out of range."""


@dataclass(slots=True)
class Line:
    """The words of one line; every failure names file and line."""

    path: str
    number: int
    text: str
    word: str = ""
    args: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)

    def fail(self, what: str, fix: str) -> NoReturn:
        raise ScenarioError.at(self.path, self.number, what, fix)

    def usage(self) -> str:
        return f"write `{WORDS[self.word].usage}`"

    def split(
        self, rest: Sequence[str], *, least: int, most: int | None = None, keys: Iterable[str] = (),
        flags: Iterable[str] = (),
    ) -> None:  # fmt: skip
        """Sort the words after the first into positional arguments, `key=value` pairs and bare options."""
        known_keys, known_flags = set(keys), set(flags)
        self.args, self.keys, self.flags = [], {}, []
        for token in rest:
            key, equals, value = token.partition("=")
            if equals:
                if key not in known_keys:
                    self.fail(f"`{self.word}` has no option `{key}=`", self.usage())
                if key in self.keys:
                    self.fail(f"`{key}=` is given twice", "keep one of them")
                self.keys[key] = value
            elif token in known_flags:
                if token in self.flags:
                    self.fail(f"`{token}` is given twice", "keep one of them")
                self.flags.append(token)
            elif self.keys or self.flags or len(self.args) == (least if most is None else most):
                self.fail(f"`{token}` is not understood after `{self.word}`", self.usage())
            else:
                self.args.append(token)
        if len(self.args) < least:
            self.fail(f"`{self.word}` lacks an argument", self.usage())

    def parse_number(self, text: str, what: str, top: int, least: int = 0, *, suffix: bool = True) -> int:
        match = _NUMBER.fullmatch(text)
        if match is None or (match[2] and not suffix):
            how = "write it as 0x1f, 31 or 64K" if suffix else "write it as 0x1f or 31, without K, M or G"
            self.fail(f"{what} `{text}` is not a number", how)
        digits = match[1]
        octal = digits[0] == "0" and digits.isdigit()
        value = int(digits[:_LONGEST_NUMBER], 8 if octal else 0) * UNITS[match[2]]
        if not least <= value <= top:
            self.fail(f"{what} {text} is out of range", f"use {_show(least)} to {_show(top)}")
        return value

    def num(self, index: int, what: str, top: int = MASK64, least: int = 0) -> int:
        return self.parse_number(self.args[index], what, top, least)

    def key(self, name: str, default: int, top: int = MASK64, least: int = 0) -> int:
        given = self.keys.get(name)
        return default if given is None else self.parse_number(given, f"{name}=", top, least, suffix=False)

    def choice(self, index: int, words: Sequence[str]) -> str:
        if self.args[index] not in words:
            self.fail(f"`{self.args[index]}` is not one of {', '.join(words)}", self.usage())
        return self.args[index]

    def page_number(self, index: int, what: str, top: int = GPA_LIMIT - 1, least: int = 0) -> int:
        if self.num(index, what) % PAGE:
            self.fail(f"{what} {self.args[index]} is not a multiple of 4K", "round it to whole pages")
        return self.num(index, what, top, least)


def _show(value: int) -> str:
    return str(value) if value < 1000 else f"{value:#x}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return how to fix an unknown word."""
    close = difflib.get_close_matches(word, known, 1) if len(word) <= _LONGEST_WORD else []
    return f"did you mean `{close[0]}`?" if close else "see `shadowmmu run --help-language`"


def split_words(path: str, number: int, raw: str) -> tuple[Line, list[str]]:
    """Return the line as the recorder shows it, and its words.

    Raises ScenarioError for quotes, backslashes and control characters.
    """
    text = raw.partition("#")[0].rstrip()
    if '"' in text or "\\" in text:
        raise ScenarioError.at(path, number, "a quote or backslash", "remove it, no op has one")
    if invisible := first_invisible(text):
        raise ScenarioError.at(path, number, f"an invisible character ({invisible})", "remove it")
    return Line(path, number, text), text.split()
