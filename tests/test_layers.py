"""The rooms of the package: imports go only backwards along the way of the data."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import shadowmmu

PACKAGE = Path(shadowmmu.__file__).parent
ROOMS = ("x86", "host", "kvm", "guest", "trace", "check", "vm", "cli")  # vm is a file, the public face


def imported(source: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import of the package in a file, also those in functions and for types only."""
    folder = ("shadowmmu", *source.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(folder[: len(folder) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            yield node.lineno, module
            for alias in node.names:
                yield node.lineno, f"{module}.{alias.name}"


def room(module: str) -> str | None:
    """The room a module of the package is in; None for other packages and the package's own root."""
    parts = module.split(".")
    return parts[1] if parts[0] == "shadowmmu" and len(parts) > 1 and parts[1] in ROOMS else None


def cimported(source: Path, line: str) -> str | None:
    """The room that a line of a .pxd file imports from."""
    words = line.split()
    if words[:1] != ["from"] or not words[1].startswith("."):
        return None
    module = words[1].lstrip(".")
    folder = ("shadowmmu", *source.relative_to(PACKAGE).parent.parts)
    return room(".".join((*folder[: len(folder) - (len(words[1]) - len(module)) + 1], module)))


def test_every_folder_is_a_room() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS) - {"vm"}


def sources(name: str, suffix: str) -> list[Path]:
    return [*(PACKAGE / name).rglob(f"*{suffix}"), *PACKAGE.glob(f"{name}{suffix}")]


@pytest.mark.parametrize("name", ROOMS)
def test_imports_go_only_backwards(name: str) -> None:
    assert sources(name, ".py")
    forward = {
        f"{source.relative_to(PACKAGE)}:{line} imports {module}"
        for source in sources(name, ".py")
        for line, module in imported(source)
        if (target := room(module)) is not None and ROOMS.index(target) > ROOMS.index(name)
    }
    assert not forward


@pytest.mark.parametrize("name", ROOMS)
def test_cimports_go_only_backwards(name: str) -> None:
    forward = {
        f"{source.relative_to(PACKAGE)}: {line}"
        for source in sources(name, ".pxd")
        for line in source.read_text().splitlines()
        if (target := cimported(source, line)) is not None and ROOMS.index(target) > ROOMS.index(name)
    }
    assert not forward


def test_the_root_imports_only_its_public_class() -> None:
    modules = {module for _, module in imported(PACKAGE / "__init__.py") if room(module) is not None}
    assert modules == {"shadowmmu.vm", "shadowmmu.vm.Vm"}
