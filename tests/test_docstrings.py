"""Docstrings of functions say what the function does: they begin with a verb."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import shadowmmu

PACKAGE = Path(shadowmmu.__file__).parent
ROOMS = (".", "check", "cli", "guest", "host", "kvm", "show", "study", "trace", "vm", "x86")
ROOT = Path(__file__).parents[1]
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


def is_workload(node: ast.FunctionDef) -> bool:
    """Whether a function is a workload: its docstring says what the guest does, for `shadowmmu workload`."""
    return any(ast.unparse(decorator).startswith("workload(") for decorator in node.decorator_list)


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
            if not isinstance(node, ast.FunctionDef) or node.name == "__init__":
                continue
            if is_property(node) or is_workload(node):
                continue
            if text := ast.get_docstring(node):
                yield f"{name}: {node.name}", text


@pytest.mark.parametrize("room", ROOMS)
def test_docstrings_of_functions_begin_with_a_verb(room: str) -> None:
    texts = list(docstrings(room))
    assert texts
    assert not [where for where, text in texts if not begins_with_a_verb(text)]


def documentation(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The strings that stand alone: docstrings, and the lines below fields."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            text = node.value.value
            if isinstance(text, str):
                yield node.lineno, text


@pytest.mark.parametrize("folder", ["src", "tests", "docs", "benchmarks"])
def test_no_docstring_is_written_as_strings_that_are_joined(folder: str) -> None:
    """A quotation mark at the end of a line and one at the start of the next are part of such a text."""
    sources = list((ROOT / folder).rglob("*.py"))
    assert sources
    assert not [
        f"{source.relative_to(ROOT)}:{line}"
        for source in sources
        for line, text in documentation(ast.parse(source.read_text()))
        if re.search(r'"\n\s*"\w', text)
    ]
