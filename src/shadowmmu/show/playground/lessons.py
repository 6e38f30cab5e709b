"""The lessons: a text, a scenario, a task and what is to be seen then, each a file of Markdown.

A lesson's first fenced block is its scenario. A comment below `## Try` says what the task changes::

    <!-- replace: OLD LINE => NEW LINE -->
    <!-- set: kernel=7.3.4 | vendor=intel | tlb | SWITCH=VALUE | MODULE.PARAM=VALUE -->
    <!-- ask: check -->

Further fenced blocks are lines of output, others left out: those before `## Try` of the scenario as it is,
those after it of the changed one. The tests play both.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from shadowmmu.kvm.design.switches import SWITCHES

__all__ = ["Lesson", "lessons"]

_FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!-- (\w+): (.*?) -->")
_TRY = "## Try"


@dataclass(frozen=True, slots=True)
class Lesson:
    """A lesson.

    Attributes:
        name: Its file without the suffix; the number in front is its place.
        text: All of it as Markdown.
    """

    name: str
    text: str

    @property
    def title(self) -> str:
        """The heading."""
        return self.text.partition("\n")[0].removeprefix("# ")

    @property
    def scenario(self) -> str:
        """The text of its scenario."""
        return self._blocks(self.text)[0]

    @property
    def before(self) -> Sequence[str]:
        """Output of the scenario as it is."""
        return self._blocks(self.text.partition(_TRY)[0])[1:]

    @property
    def after(self) -> Sequence[str]:
        """Output of the changed one."""
        return self._blocks(self.text.partition(_TRY)[2])

    @property
    def changed(self) -> str:
        """The scenario after the task's replacements. Raises ValueError for a line that it does not have."""
        text = self.scenario
        for kind, said in self._comments():
            if kind == "replace":
                old, _, new = said.partition(" => ")
                if text.count(f"{old}\n") != 1:
                    raise ValueError(f"{self.name}: {old!r} must be exactly one line of the scenario")
                text = text.replace(f"{old}\n", new.replace(" \\ ", "\n") + "\n")
        return text

    @property
    def settings(self) -> dict[str, Any]:
        """What the task sets in the menus."""
        found: dict[str, Any] = {"kernel": "", "vendor": "", "params": {}, "designs": {}, "tlb": False}
        designs = {switch.name for switch in SWITCHES}
        for kind, said in self._comments():
            name, _, value = said.partition("=")
            if kind != "set":
                continue
            if name == "tlb":
                found["tlb"] = True
            elif name in ("kernel", "vendor"):
                found[name] = value
            else:
                found["designs" if name in designs else "params"][name] = value
        return found

    @property
    def asks(self) -> str:
        """What the task presses: run or check."""
        return next((said for kind, said in self._comments() if kind == "ask"), "run")

    def _comments(self) -> Iterator[tuple[str, str]]:
        yield from _COMMENT.findall(self.text)

    @staticmethod
    def _blocks(text: str) -> list[str]:
        return _FENCE.findall(text)

    def html(self) -> str:
        """Return the text as HTML, without the scenario, which stands in the editor."""
        from markdown_it import MarkdownIt

        match = _FENCE.search(self.text)
        shown = self.text if match is None else self.text.replace(match[0], "", 1)
        shown = _COMMENT.sub("", shown.partition("\n")[2])
        rendered: str = MarkdownIt("commonmark", {"html": False}).render(shown)
        return re.sub(r"(</?h)2", r"\g<1>3", rendered)


def lessons() -> list[Lesson]:
    """Return all lessons in order."""
    folder = files("shadowmmu.show.playground") / "lessons"
    found = [each for each in folder.iterdir() if each.name.endswith(".md")]
    return [
        Lesson(each.name.removesuffix(".md"), each.read_text("utf-8"))
        for each in sorted(found, key=lambda each: each.name)
    ]
