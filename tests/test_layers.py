"""The rooms of the package, and those inside them: imports go only backwards along the way of the data."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import shadowmmu

PACKAGE = Path(shadowmmu.__file__).parent
ROOMS = ("x86", "host", "kvm", "guest", "trace", "check", "show", "vm", "study", "cli")
INNER = {
    "kvm": (
        "bits",
        "design",
        "tracepoints",
        "state",
        "guest_access",
        "spte",
        "tdp",
        "pages",
        "map",
        "registers",
        "memory",
        "fault",
        "exits",
    ),
    "guest": ("scenario", "play", "workload", "svm", "pc", "linux", "observe"),
    "show": (
        "decode",
        "text",
        "html",
        "history",
        "reasons",
        "program",
        "perfetto",
        "browser",
        "lanes",
        "playground",
        "diff",
        "tui",
    ),
    "check": (
        "known",
        "checker",
        "audit",
        "coherence",
        "checks",
        "scenario",
        "program",
        "random",
        "museum",
        "race",
    ),
}
"""The rooms (folders and single files) inside a room, lowest first."""
MOST_MODULES = 20


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


def cimported_module(source: Path, line: str) -> str | None:
    """The module of this package that a line of a .pxd file imports from."""
    words = line.split()
    if words[:1] != ["from"] or not words[1].startswith("."):
        return None
    module = words[1].lstrip(".")
    folder = ("shadowmmu", *source.relative_to(PACKAGE).parent.parts)
    return ".".join((*folder[: len(folder) - (len(words[1]) - len(module)) + 1], module))


def cimported(source: Path, line: str) -> str | None:
    """The room that a line of a .pxd file imports from."""
    module = cimported_module(source, line)
    return None if module is None else room(module)


def needed(source: Path) -> Iterator[str]:
    """The modules of the package that a file imports when it runs, also inside functions."""
    folder = ("shadowmmu", *source.relative_to(PACKAGE).parent.parts)
    tree = ast.parse(source.read_text())
    for node in list(ast.walk(tree)):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = ".".join(folder[: len(folder) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, (base, node.module)))
            for alias in node.names:
                yield f"{module}.{alias.name}"
            yield module


STATE = {"shadowmmu.kvm.state.vm", "shadowmmu.kvm.state.vcpu", "shadowmmu.kvm.state.tdp_iter"}
"""A VM has vCPUs, each of which has its VM, as struct kvm and struct kvm_vcpu: the one circle."""


def test_no_module_imports_itself_through_others() -> None:
    files = {
        ".".join(("shadowmmu", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in PACKAGE.rglob("*.py")
    }
    ahead = {
        name: {module for module in needed(path) if module in files and module != name}
        for name, path in files.items()
    }
    while free := [name for name, modules in ahead.items() if not modules & ahead.keys() - STATE]:
        for name in free:
            del ahead[name]
    assert ahead == {}


def test_every_folder_is_a_room() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)


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


def inner(room_name: str, module: str) -> str | None:
    """The room inside `room_name` that a module is in; None outside of it."""
    parts = module.split(".")
    return parts[2] if parts[:2] == ["shadowmmu", room_name] and len(parts) > 2 else None


@pytest.mark.parametrize("name", INNER)
def test_every_folder_and_file_of_a_room_is_listed(name: str) -> None:
    folders = {path.parent.name for path in (PACKAGE / name).glob("*/__init__.py")}
    files = {path.stem for path in (PACKAGE / name).glob("*.py")} - {"__init__"}
    assert folders | files == set(INNER[name])


@pytest.mark.parametrize("name", INNER)
def test_imports_inside_a_room_go_only_backwards(name: str) -> None:
    rooms = INNER[name]
    imports = {
        (source, f"line {line}", target)
        for source in (PACKAGE / name).rglob("*.py")
        for line, target in imported(source)
    } | {
        (source, line, target)
        for source in (PACKAGE / name).rglob("*.pxd")
        for line in source.read_text().splitlines()
        if (target := cimported_module(source, line)) is not None
    }
    assert imports
    forward = {
        f"{source.relative_to(PACKAGE)}: {line} imports {module}"
        for source, line, module in imports
        if (target := inner(name, module)) in rooms
        and (own := source.relative_to(PACKAGE / name).with_suffix("").parts[0]) in rooms
        and rooms.index(target) > rooms.index(own)
    }
    assert not forward


@pytest.mark.parametrize("name", INNER["kvm"])
def test_no_room_of_the_mmu_is_crowded(name: str) -> None:
    modules = {path for path in (PACKAGE / "kvm" / name).glob("*.py") if path.stem != "__init__"}
    assert len(modules) <= MOST_MODULES


def test_the_root_imports_only_the_public_classes() -> None:
    modules = {module for _, module in imported(PACKAGE / "__init__.py") if room(module) is not None}
    public = {name for name in shadowmmu.__all__ if name not in ("__version__", "native")}
    assert modules == {"shadowmmu.vm", *(f"shadowmmu.vm.{name}" for name in public)}
