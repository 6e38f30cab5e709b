"""The scenario language: its rules, and all its words."""

from __future__ import annotations

from marked import code, fence, prose, sentence
from shadowmmu.guest.scenario.language import GROUPS, RULES, WORDS, Word


def page() -> str:
    """Return the reference."""
    rules = "\n".join(f"- {prose(rule)}" for rule in RULES)
    groups = "\n\n".join(f"## {title}\n\n{_words(words)}" for title, words in GROUPS.items())
    return f"{rules}\n\n{_index()}\n\n{groups}"


def _index() -> str:
    return "All words: " + ", ".join(f"[{code(name)}](#word-{name})" for name in sorted(WORDS)) + "."


def _words(words: tuple[Word, ...]) -> str:
    return "\n\n".join(_word(word) for word in words)


def _word(word: Word) -> str:
    places = [text for text, may in (("before", word.setup), ("after", word.op)) if may]
    forms = [f"also {code(form + word.name)}" for form in word.forms]
    where = "; ".join([f"{' and '.join(places)} `start`", *forms])
    return "\n\n".join(
        [
            f"(word-{word.name})=\n### {code(word.name)}",
            fence(word.usage),
            f"{sentence(word.means)} *({where[0].upper()}{where[1:]}.)*",
            f"Example: {code(word.example)}",
        ]
    )
