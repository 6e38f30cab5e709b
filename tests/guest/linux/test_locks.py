"""Locks keep processes of the guest apart, and a guest and other programs."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from guest.linux.running import ENVIRONMENT, RUN, model, native

REFUSED = b"record -11\nflock -11\n"


@contextmanager
def holder(command: list[str], folder: Path) -> Iterator[None]:
    """A program that holds the locks of a file meanwhile."""
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdin is not None
    lines = [process.stdout.readline() for _ in range(2)]
    assert lines == [b"record 0\n", b"flock 0\n"]
    yield
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


@pytest.mark.parametrize("holding", ["native", "model"])
def test_locks_of_another_program_count(
    compiled: Callable[[str], Path], holding: str, tmp_path: Path
) -> None:
    program, file = compiled("locks"), tmp_path / "file"
    file.write_bytes(bytes(100))
    on_model = [sys.executable, "-c", RUN, "run", str(program), "--"]
    with holder([*(on_model if holding == "model" else [str(program)]), str(file), "hold"], tmp_path):
        assert model(program, str(file), "try", folder=tmp_path).output == REFUSED
        assert native(program, str(file), "try", folder=tmp_path).output == REFUSED
    assert native(program, str(file), "try", folder=tmp_path).output == b"record 0\nflock 0\n"
