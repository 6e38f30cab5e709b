"""Docstrings of the core say what a function does: they begin with a verb."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import shadowmmu

PACKAGE = Path(shadowmmu.__file__).parent
ROOMS = ("x86", "host", "kvm")
DESCRIBE_EVENTS = {"kvm/state/tracepoints.py"}
"""Files whose docstrings say what has happened: those of tracepoints."""
NO_VERBS = {
    *(
        "a",
        "an",
        "the",
        "all",
        "any",
        "both",
        "each",
        "every",
        "it",
        "its",
        "no",
        "one",
        "this",
        "these",
        "two",
    ),
    *("as", "for", "from", "how", "if", "in", "of", "on", "what", "when", "where", "whether", "which", "who"),
    *("address", "bit", "bits", "mask", "name", "names", "number", "numbers", "size"),
}


def docstrings() -> Iterator[tuple[str, str]]:
    for room in ROOMS:
        for source in sorted((PACKAGE / room).rglob("*.py")):
            name = source.relative_to(PACKAGE).as_posix()
            if name in DESCRIBE_EVENTS:
                continue
            for node in ast.walk(ast.parse(source.read_text())):
                if (
                    isinstance(node, ast.FunctionDef)
                    and node.name != "__init__"
                    and (text := ast.get_docstring(node))
                ):
                    yield f"{name}: {node.name}", text


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_of_functions_begin_with_a_verb(room: str) -> None:
    texts = [(where, text) for where, text in docstrings() if where.startswith(f"{room}/")]
    assert texts
    assert not [where for where, text in texts if text.split()[0].strip(",:;.").lower() in NO_VERBS]
