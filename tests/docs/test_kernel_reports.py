"""The reports about KVM: each has a program that compiles, and what it printed on the kernels."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "kernel-reports"
REPORTS = [path for path in sorted(FOLDER.glob("*.md")) if path.stem != "index"]
SECTIONS = ["Symptom", "Scenario", "Mechanism", "What would fix it", "Severity", "Where it stands"]


def test_the_index_has_them_all() -> None:
    listed = re.findall(r"^([a-z][\w-]+)$", (FOLDER / "index.md").read_text(), re.MULTILINE)
    assert sorted(listed) == [path.stem for path in REPORTS]
    assert sorted(listed) == sorted(path.stem for path in FOLDER.glob("*.c"))


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_a_report_says_what_a_maintainer_asks(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [*SECTIONS, "What it prints", "The program"]
    assert "shadowmmu " in text.partition("## Scenario")[2].partition("## ")[0]
    included = re.findall(r"^```{literalinclude} (.*)$", text, re.MULTILINE)
    assert included[-1] == f"{path.stem}.c"
    for name in included:
        assert (FOLDER / name).exists(), name


@pytest.mark.parametrize("path", REPORTS, ids=lambda path: path.stem)
def test_its_program_showed_it_on_the_last_kernel(path: Path) -> None:
    outputs = {
        file.name.removeprefix(f"{path.stem}.").removesuffix(".txt"): file.read_text()
        for file in (FOLDER / "output").glob(f"{path.stem}.*.txt")
    }
    assert "# exit status 1\n" in outputs["7.3.4"]
    for text in outputs.values():
        assert f"/{path.stem}" in text
        assert re.findall(r"^# exit status (\d+)$", text, re.MULTILINE)


def test_the_programs_compile_without_a_warning(tmp_path: Path) -> None:
    if shutil.which("cc") is None or shutil.which("make") is None:
        pytest.skip("there is no C compiler")
    for file in (*FOLDER.glob("*.[ch]"), FOLDER / "Makefile"):
        shutil.copy(file, tmp_path)
    made = subprocess.run(
        ["make", "CFLAGS=-O1 -Wall -Wextra -Werror -pthread"], cwd=tmp_path, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
