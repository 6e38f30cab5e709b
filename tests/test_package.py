"""The package as a user gets it: what is installed, which mode it runs in, how fast it starts."""

import os
import re
import runpy
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import shadowmmu
from shadowmmu._native import hot_modules

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "shadowmmu"
MODE_LINE = "shadowmmu: not compiled, runs interpreted"


def run(*arguments: str, home: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run python with `home` (if given) first on its path and only `environment` to choose the mode."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SHADOWMMU_")}
    if home is not None:
        inherited["PYTHONPATH"] = str(home)
    return subprocess.run(
        [sys.executable, *arguments], env=inherited | environment, capture_output=True, text=True, check=False
    )


def sources_below(folder: Path) -> set[str]:
    """The files below a folder, relative to it, without what tools and compilers leave there."""
    made = {".so", ".pyc", ".c"}  # and the .pxd of constants, which setup.py writes
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and path.suffix not in made
        and path.name not in ("bits.pxd", "vmx.pxd")
        and ".egg-info" not in str(path)
    }


@pytest.fixture(scope="module")
def uncompiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip installs it where no C compiler works."""
    tree, home = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("home")
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE"):
        shutil.copy2(ROOT / name, tree)
    for name in ("src", "build/cython"):  # with the generated C, so that Cython has nothing to do
        if (ROOT / name).exists():
            shutil.copytree(
                ROOT / name, tree / name, ignore=shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__")
            )
    command = [
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-build-isolation",
        "--target",
    ]
    installed = run(*command, str(home), str(tree), CC="false", LDSHARED="false")
    assert installed.returncode == 0, installed.stderr
    return home / "shadowmmu"


def test_mode_is_the_requested_one() -> None:
    asked = os.environ.get("SHADOWMMU_INTERPRETED", "") not in ("", "0")
    assert shadowmmu.native != asked


def test_hot_modules_come_from_where_the_mode_says() -> None:
    for source in hot_modules(SOURCE):
        name = ".".join(("shadowmmu", *source.relative_to(SOURCE).with_suffix("").parts))
        module = __import__(name, fromlist=["__file__"])
        assert module.__file__ is not None
        assert Path(module.__file__).suffix == (".so" if shadowmmu.native else ".py"), name


def test_install_has_every_source_file(uncompiled: Path) -> None:
    assert sources_below(uncompiled) == sources_below(SOURCE)


def test_source_archive_has_what_make_needs(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    folders = ("src", "tests", "typings", "benchmarks", "scenarios", ".ci", ".github")
    files = (
        "Makefile",
        "MANIFEST.in",
        "setup.py",
        "pyproject.toml",
        "README.md",
        "CONTRIBUTING.md",
        "LICENSE",
    )
    for name in folders:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in files:
        shutil.copy2(ROOT / name, tree)
    made = subprocess.run(
        [sys.executable, "setup.py", "--quiet", "sdist", "--formats", "tar"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert not (tree / "build").exists(), "nothing is compiled for it"
    (archive,) = (tree / "dist").iterdir()
    shutil.unpack_archive(archive, tmp_path / "unpacked", filter="data")
    (unpacked,) = (tmp_path / "unpacked").iterdir()
    for name in folders:
        assert sources_below(unpacked / name) == sources_below(tree / name), name
    assert set(files) <= {path.name for path in unpacked.iterdir()}


def test_uncompiled_install_says_so_once(uncompiled: Path) -> None:
    done = run("-c", "import shadowmmu; print(shadowmmu.native, shadowmmu.Vm)", home=uncompiled.parent)
    assert done.stdout.startswith("False <class"), done.stderr
    assert done.stderr.startswith(MODE_LINE)
    assert done.stderr.count("\n") == 1


def test_asking_for_interpreted_runs_is_silent(uncompiled: Path) -> None:
    done = run("-c", "import shadowmmu", home=uncompiled.parent, SHADOWMMU_INTERPRETED="1")
    assert (done.returncode, done.stderr) == (0, "")


def test_required_native_is_an_error_where_it_is_missing(uncompiled: Path) -> None:
    done = run("-c", "import shadowmmu", home=uncompiled.parent, SHADOWMMU_REQUIRE_NATIVE="1")
    assert done.returncode == 1
    assert "ImportError: shadowmmu: SHADOWMMU_REQUIRE_NATIVE is set, but" in done.stderr


def test_required_native_contradicts_interpreted() -> None:
    done = run("-c", "import shadowmmu", SHADOWMMU_REQUIRE_NATIVE="1", SHADOWMMU_INTERPRETED="1")
    assert done.returncode == 1
    assert "but SHADOWMMU_INTERPRETED is set" in done.stderr


def test_import_loads_no_room() -> None:
    done = run("-c", "import sys, shadowmmu; print(*sorted(sys.modules))", SHADOWMMU_INTERPRETED="1")
    loaded = [name for name in done.stdout.split() if name.startswith(("shadowmmu.", "cython", "Cython"))]
    assert loaded == ["shadowmmu._native"]


def test_import_is_fast() -> None:
    done = run("-X", "importtime", "-c", "import shadowmmu", SHADOWMMU_INTERPRETED="1")
    times = re.findall(r"\| +(\d+) \| shadowmmu$", done.stderr, re.MULTILINE)
    assert int(times[0]) < 100_000, "microseconds"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Guest'"):
        shadowmmu.Guest  # noqa: B018


def test_modules_compiled_for_speed_are_hot_modules() -> None:
    setup = runpy.run_path(str(ROOT / "setup.py"))
    hot = {source.relative_to(SOURCE).with_suffix("").as_posix() for source in hot_modules(SOURCE)}
    assert setup["FASTEST"] <= hot
    levels = {name: setup["extension"](name).extra_compile_args[0] for name in hot}
    assert {name for name, level in levels.items() if level == "-O3"} == setup["FASTEST"]
    assert set(levels.values()) == {"-O3", "-O1"}


def test_no_bounds_check_is_given_up_for_speed() -> None:
    assert runpy.run_path(str(ROOT / "setup.py"))["DIRECTIVES"]["boundscheck"] is True


def test_generated_c_is_not_shared_between_releases_of_cython() -> None:
    import Cython

    assert runpy.run_path(str(ROOT / "setup.py"))["BUILD"].name == Cython.__version__


def test_plain_install_brings_what_the_extra_for_programs_does() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    plain = {line.partition(";")[0].strip() for line in project["dependencies"]}
    assert set(project["optional-dependencies"]["guest"]) <= plain


def test_wheels_are_built_for_each_supported_python() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == ">=3.11"
    assert project["tool"]["cibuildwheel"]["build"] == "cp31{1,2,3,4}-manylinux_x86_64"
    workflow = (ROOT / ".github" / "workflows" / "tests.yml").read_text()
    assert all(f'"3.{minor}"' in workflow for minor in range(11, 15))


MAKE_VENV = """case "$*" in *"-m venv"*) mkdir -p .venv/bin; cp "$0" .venv/bin/python;; esac\n"""


def make_run(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """`make run` in a folder with the Makefile and no sources; `python` is a shell script as Python."""
    shutil.copy2(ROOT / "Makefile", folder)
    (folder / "src").mkdir()
    for name in ("pyproject.toml", "setup.py"):
        (folder / name).touch()
    script = folder / "python"
    script.write_text(f"#!/bin/sh\n{python}\n")
    script.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "--no-print-directory", "run", f"PYTHON={script}"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("python", "message"),
    [
        ("exit 1", "needs Python 3.11 or newer: no "),
        ('case "$*" in *version_info*) exit 1;; --version) echo Python 3.9.2;; esac', "Python 3.9.2 found"),
        ('case "$*" in *ensurepip*) exit 1;; esac', "install python3-venv"),
        (MAKE_VENV + 'case "$*" in *"-m pip"*) exit 1;; esac', "pip could not install the package"),
    ],
)
def test_make_says_what_is_missing(tmp_path: Path, python: str, message: str) -> None:
    done = make_run(tmp_path, python)
    assert done.returncode == 2
    assert message in done.stderr


def test_make_says_that_it_goes_on_without_a_compiler(tmp_path: Path) -> None:
    no_headers = 'case "$*" in *get_path*) echo /nowhere;; *"-m venv"*) cp "$0" .venv/bin/shadowmmu;; esac'
    done = make_run(tmp_path, MAKE_VENV + no_headers)
    assert done.returncode == 0, done.stderr
    assert done.stderr.startswith("warning: needs a C compiler and the headers of Python")
    assert done.stdout.splitlines()[:2] == ["creating .venv", "installing"]


def test_cython_floor_is_the_same_for_building_and_running() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    floors = [
        next(line for line in lines if line.startswith("cython"))
        for lines in (project["build-system"]["requires"], project["project"]["dependencies"])
    ]
    assert floors[0] == floors[1]
