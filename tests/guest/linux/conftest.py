"""Static programs: busybox, and what is compiled of programs/*.c."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def busybox() -> Path:
    found = shutil.which("busybox")
    if not found:
        pytest.skip("no busybox")
    if b"/ld-linux" in Path(found).read_bytes():
        pytest.skip("busybox is not static")
    return Path(found)


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """compiled("memory"): the static program of programs/memory.c."""
    folder = tmp_path_factory.mktemp("linux")

    def build(name: str) -> Path:
        source, program = Path(__file__).parent / "programs" / f"{name}.c", folder / name
        if program.exists():
            return program
        if not shutil.which("gcc"):
            pytest.skip("no gcc to make a static program with")
        command = ["gcc", "-O1", "-w", "-static", "-pthread", "-o", str(program), str(source)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("no static C library to make a program with")
        return program

    return build
