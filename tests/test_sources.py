"""The .py and .pxd files of hot modules say the same, and extensions are as new as both."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import shadowmmu
from shadowmmu._native import _obstacle, hot_modules
from shadowmmu._sources import cimported, constants, constants_pxd, why_stale, write_constants
from shadowmmu.host import bits as host_bits
from shadowmmu.kvm import bits as kvm_bits
from shadowmmu.x86 import bits as x86_bits, vmx as x86_vmx

PACKAGE = Path(shadowmmu.__file__).parent
HOT = hot_modules(PACKAGE)

# -- constants -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [x86_bits, host_bits, kvm_bits, x86_vmx], ids=lambda bits: bits.__name__)
def test_c_has_the_names_and_values_of_python(bits: object) -> None:
    source = Path(bits.__file__)  # type: ignore[attr-defined]
    text = constants_pxd(source)
    macros = dict(re.findall(r"#define (\w+) (0x[0-9a-f]+)ULL$", text, re.MULTILINE))
    names = dict(re.findall(r'const u64 (\w+) "(\w+)"', text))
    values = {name: int(macros[macro], 0) for name, macro in names.items()}
    assert values == {name: value for name, value in vars(bits).items() if type(value) is int}
    assert values.keys() and len(macros) == len(names)
    if shadowmmu.native:
        assert source.with_suffix(".pxd").read_text() == text


@pytest.mark.parametrize("value", ["-1", "1 << 64", "'text'", "None"])
def test_what_is_no_word_is_no_constant(tmp_path: Path, value: str) -> None:
    source = tmp_path / "bits.py"
    source.write_text(f"GOOD = 1\nBAD = {value}\n")
    with pytest.raises(ValueError, match=r"bits\.py: BAD = .* must be an unsigned 64-bit number"):
        constants_pxd(source)


def test_macros_of_two_rooms_never_meet() -> None:
    macros = [re.findall(r"#define (\w+)", constants_pxd(source)) for source in constants(PACKAGE)]
    assert len(macros) == 4
    assert len(set().union(*macros)) == sum(map(len, macros))


def test_constants_are_written_only_when_they_change(tmp_path: Path) -> None:
    source, pxd = tmp_path / "x86" / "bits.py", tmp_path / "x86" / "bits.pxd"
    source.parent.mkdir()
    source.write_text("ONE = 1\n")
    write_constants(tmp_path)
    os.utime(pxd, (1, 1))
    source.write_text("# the first\nONE = 1\n")
    write_constants(tmp_path)
    assert pxd.stat().st_mtime == 1
    source.write_text("ONE = 2\n")
    write_constants(tmp_path)
    assert pxd.stat().st_mtime > 1
    assert "#define SHADOWMMU_X86_BITS_ONE 0x2ULL\n" in pxd.read_text()


# -- extensions ------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package whose `kvm/hot.pxd` cimports `kvm/middle.pxd`, which cimports constants."""
    package = tmp_path / "src" / "shadowmmu"
    (package / "kvm").mkdir(parents=True)
    (package / "x86").mkdir()
    (package / "x86" / "types.pxd").touch()
    (package / "kvm" / "bits.py").write_text("ONE = 1\n")
    (package / "kvm" / "middle.pxd").write_text("from .bits cimport *\n")
    (package / "kvm" / "hot.pxd").write_text("cimport cython\nfrom ..kvm.middle cimport (A,\n    B)\n")
    (package / "kvm" / "other.pxd").write_text("from shadowmmu.kvm.hot cimport C\n")
    for name in ("middle", "hot", "other"):
        (package / "kvm" / f"{name}.py").touch()
    write_constants(package)
    for path in package.rglob("*"):
        os.utime(path, (100, 100))
    for name in ("middle", "hot", "other"):
        extension = package / "kvm" / f"{name}.abi3.so"
        extension.touch()
        os.utime(extension, (200, 200))
    return package


def test_cimports_are_followed(package: Path) -> None:
    found = {pxd.name: [path.name for path in cimported(package, pxd)] for pxd in package.rglob("*.pxd")}
    assert found["hot.pxd"] == ["middle.pxd"]
    assert found["middle.pxd"] == ["bits.pxd"]
    assert found["bits.pxd"] == ["types.pxd"]
    assert found["other.pxd"] == ["hot.pxd"]


def test_extensions_as_new_as_their_sources_are_used(package: Path) -> None:
    assert why_stale(package, hot_modules(package)) == ""


@pytest.mark.parametrize(
    ("edited", "first"),
    [
        ("hot.py", "hot"),
        ("hot.pxd", "hot"),
        ("middle.pxd", "hot"),
        ("bits.pxd", "hot"),
        ("other.pxd", "other"),
    ],
)
def test_an_extension_older_than_what_it_is_compiled_from_is_refused(
    package: Path, edited: str, first: str
) -> None:
    os.utime(package / "kvm" / edited, (300, 300))
    expected = f"kvm/{edited} is newer than kvm/{first}.abi3.so"
    assert why_stale(package, hot_modules(package)) == expected


def test_a_changed_constant_makes_extensions_stale_and_a_comment_does_not(package: Path) -> None:
    bits = package / "kvm" / "bits.py"
    bits.write_text("# the first\nONE = 1\n")
    assert why_stale(package, hot_modules(package)) == ""
    bits.write_text("ONE = 2\n")
    assert why_stale(package, hot_modules(package)) == "kvm/bits.py is newer than bits.pxd"
    (package / "kvm" / "bits.pxd").unlink()
    assert why_stale(package, hot_modules(package)) == "kvm/bits.pxd is missing"


def test_only_a_checkout_compares_what_it_runs_with_its_sources(package: Path) -> None:
    assert _obstacle(package) == ("", "")
    os.utime(package / "kvm" / "hot.py", (300, 300))
    assert _obstacle(package) == ("", ""), (
        "an installed package has no setup.py, and files as new as its install"
    )
    (package.parents[1] / "setup.py").touch()
    assert _obstacle(package) == ("kvm/hot.py is newer than kvm/hot.abi3.so", "run make build")
    (package / "kvm" / "hot.abi3.so").unlink()
    assert _obstacle(package) == ("not compiled", "install with a C compiler")


# -- attributes ------------------------------------------------------------------------------------------


def declared(text: str) -> Iterator[tuple[str, str, str]]:
    """(class, base or "", declaration) of each `cdef` line of an attribute in the classes of a .pxd."""
    name = base = ""
    for line in text.splitlines():
        if start := re.match(r"cdef class (\w+)(?:\((\w+)\))?:", line):
            name, base = start[1], start[2] or ""
            yield name, base, ""
        elif line.startswith("    cdef ") and "(" not in re.sub(r"\[[^\]]*\]", "", line):
            yield name, base, line.strip()


def visible() -> dict[str, set[str]]:
    """What Python sees of each compiled class: `public` and `readonly` attributes, its bases' included."""
    found: dict[str, set[str]] = {}
    bases: dict[str, str] = {}
    for pxd in PACKAGE.rglob("*.pxd"):
        for name, base, line in declared(pxd.read_text()):
            names = found.setdefault(name, set())
            bases[name] = base
            if attributes := re.match(r"cdef (?:public|readonly) \S+ (.*)", line):
                names.update(re.findall(r"(\w+)(?:\[[^\]]*\])?(?:,|$)", attributes[1]))
    for name in found:
        base = bases[name]
        while base:
            found[name] |= found[base]
            base = bases[base]
    return found


def assigned(tree: ast.ClassDef) -> set[str]:
    """The attributes that the methods of a class set on themselves."""
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


def test_what_interpreted_objects_have_compiled_ones_show() -> None:
    shown, missing = visible(), {}
    for source in HOT:
        for tree in ast.parse(source.read_text()).body:
            if isinstance(tree, ast.ClassDef) and tree.name in shown:
                hidden = {name for name in assigned(tree) - shown[tree.name] if not name.startswith("_")}
                if hidden:
                    missing[tree.name] = hidden
    assert len(shown) > 30
    assert missing == {}


# -- sizes -----------------------------------------------------------------------------------------------


def test_arrays_are_as_long_as_constants_say() -> None:
    """When compiled, setting such a field to a list of another length is a ValueError."""
    sizes = {
        f"{name}: {size}"
        for pxd in PACKAGE.rglob("*.pxd")
        for name, _, line in declared(pxd.read_text())
        for size in re.findall(r"\w\[([^\]]+)\]", line)
        if size not in ("::1", ":")
    }
    assert len(sizes) > 8
    assert {size for size in sizes if not re.search(r"[A-Z]", size.partition(": ")[2])} == set()


# -- exceptions ------------------------------------------------------------------------------------------


def test_functions_that_return_c_values_say_how_they_raise() -> None:
    """Without a sentinel or `noexcept` every caller asks Python for an exception, at each call."""
    unsaid, said = [], 0
    for pxd in PACKAGE.rglob("*.pxd"):
        text = re.sub(r"\([^)]*\)", "()", pxd.read_text())
        for name, rest in re.findall(
            r"^ *cp?def (?:u?int|[ui]\d+|void|bint) (\w+)\(\)(.*)", text, re.MULTILINE
        ):
            said += 1
            if "except" not in rest:
                unsaid.append(f"{pxd.relative_to(PACKAGE)}: {name}")
    assert said > 300
    assert unsaid == []
