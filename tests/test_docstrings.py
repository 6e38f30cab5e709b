"""Docstrings of functions say what the function does: they begin with a verb."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import shadowmmu

PACKAGE = Path(shadowmmu.__file__).parent
ROOMS = (".", "check", "cli", "guest", "host", "kvm", "show", "trace", "vm", "x86")
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
    *("another", "everything", "nothing", "only", "raises", "somebody", "something", "there", "those"),
    *("as", "for", "from", "how", "if", "in", "of", "on", "sometimes", "what", "when", "where", "whether"),
    *("which", "who", "why"),
    *(
        "address",
        "bit",
        "bits",
        "bytes",
        "entry",
        "level",
        "lines",
        "mask",
        "name",
        "names",
        "numbers",
        "size",
    ),
    *("user", "writes"),
}


def is_property(node: ast.FunctionDef) -> bool:
    """Whether a function is read as an attribute, which a noun may describe."""
    return any(ast.unparse(decorator) == "property" for decorator in node.decorator_list)


def begins_with_a_verb(text: str) -> bool:
    """Whether the first word can be a verb: a name in capitals, of an instruction or an ioctl, is none."""
    word = text.split()[0].strip(",:;.")
    return (
        word.isidentifier() and not word.isupper() and word.lower() not in NO_VERBS or word == "Write-protect"
    )


def docstrings(room: str) -> Iterator[tuple[str, str]]:
    folder = PACKAGE / room
    for source in sorted(folder.glob("*.py") if room == "." else folder.rglob("*.py")):
        name = source.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(source.read_text())):
            if not isinstance(node, ast.FunctionDef) or node.name == "__init__" or is_property(node):
                continue
            if text := ast.get_docstring(node):
                yield f"{name}: {node.name}", text


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_of_functions_begin_with_a_verb(room: str) -> None:
    texts = list(docstrings(room))
    assert texts
    assert not [where for where, text in texts if not begins_with_a_verb(text)]
