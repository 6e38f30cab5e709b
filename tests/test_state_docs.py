"""State explains itself: every attribute of a class is in the `Attributes:` section of its docstring.

The section is Google's, which griffe, Sphinx's napoleon and `help()` can show.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import shadowmmu

PACKAGE = Path(shadowmmu.__file__).parent
ROOMS = ("x86", "host", "kvm")
_ENTRY = re.compile(r"    (\w+): (.+)")


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for room in ROOMS:
        for source in sorted((PACKAGE / room).rglob("*.py")):
            for node in ast.parse(source.read_text()).body:
                if isinstance(node, ast.ClassDef):
                    yield source, node


def names_of(target: ast.expr) -> Iterator[str]:
    """The attributes of self that an assignment to `target` sets."""
    match target:
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                yield from names_of(part)
        case ast.Attribute(value=ast.Name(id="self"), attr=name):
            yield name


def is_dataclass(node: ast.ClassDef) -> bool:
    return any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list)


def is_property(node: ast.ClassDef, name: str) -> bool:
    return any(isinstance(part, ast.FunctionDef) and part.name == name for part in node.body)


def attributes(node: ast.ClassDef) -> set[str]:
    """All attributes that the methods of a class assign, and the fields of a dataclass."""
    found: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Assign):
            found |= {name for target in part.targets for name in names_of(target)}
        elif isinstance(part, ast.AnnAssign | ast.AugAssign):
            found |= set(names_of(part.target))
    if is_dataclass(node):
        found |= {ast.unparse(part.target) for part in node.body if isinstance(part, ast.AnnAssign)}
    return {name for name in found if not is_property(node, name)}


def documented(docstring: str) -> dict[str, str]:
    """The entries of the `Attributes:` section, with the lines that continue them."""
    entries: dict[str, str] = {}
    _, _, section = docstring.partition("Attributes:\n")
    name = ""
    for line in section.splitlines():
        if line and not line.startswith("    "):
            break
        if match := _ENTRY.fullmatch(line):
            name = match[1]
            assert name not in entries, f"{name} is documented twice"
            entries[name] = match[2]
        elif line.strip():
            entries[name] += " " + line.strip()
    return entries


def inherited(node: ast.ClassDef, everything: dict[str, ast.ClassDef]) -> set[str]:
    """The attributes that the bases of a class document."""
    bases = [
        everything[base.id] for base in node.bases if isinstance(base, ast.Name) and base.id in everything
    ]
    own = [set(documented(ast.get_docstring(base) or "")) | inherited(base, everything) for base in bases]
    return set().union(*own)


ALL = {node.name: (source, node) for source, node in classes()}
BY_SWITCH = {"Design"}
"""Classes whose fields another place documents: here the table of switches, a line each."""
STATEFUL = sorted(name for name, (_, node) in ALL.items() if attributes(node) and name not in BY_SWITCH)


def test_the_state_of_the_mmu_is_looked_at() -> None:
    assert {"Kvm", "Vcpu", "KvmMmu", "ShadowPage", "MemSlot", "PageFault", "Mapping", "Processor"} <= set(
        STATEFUL
    )


@pytest.mark.parametrize("name", STATEFUL)
def test_every_attribute_has_a_line_and_every_line_an_attribute(name: str) -> None:
    source, node = ALL[name]
    entries = documented(ast.get_docstring(node) or "")
    bases = inherited(node, {other: pair[1] for other, pair in ALL.items()})
    own = attributes(node) - bases
    where = f"{name} in {source.relative_to(PACKAGE)}"
    assert not own - set(entries), f"{where}: no line in its `Attributes:` section"
    assert not set(entries) - attributes(node), f"{where}: a line for what is not an attribute"
