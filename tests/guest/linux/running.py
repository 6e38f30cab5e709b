"""A program on the model and natively, to be compared."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from launcher import launcher

for package in ("unicorn", "iced_x86"):
    pytest.importorskip(package, reason=f"machine code needs {package}: pip install 'shadowmmu[guest]'")

RUN = "import sys; from shadowmmu.cli.main import main; sys.argv[0] = 'shadowmmu'; main()"
MODES = ("--no-npt", "--npt")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "80"}


@dataclass(frozen=True)
class Done:
    """How a program ended; `files` is what there is in its directory then: modes and contents."""

    output: bytes
    status: int
    told: str
    files: dict[str, tuple[int, bytes]]

    @property
    def visible(self) -> tuple[bytes, int, dict[str, tuple[int, bytes]]]:
        """What has to be the same natively."""
        return self.output, self.status, self.files


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    found = {}
    for path in folder.rglob("*"):
        if path.is_symlink():
            contents = os.fsencode(path.readlink())
        else:
            contents = path.read_bytes() if path.is_file() else b""
        found[str(path.relative_to(folder))] = path.lstat().st_mode, contents
    return found


def model(program: Path, *arguments: str, options: tuple[str, ...] = (), folder: Path) -> Done:
    return shadowmmu("run", *options, str(program), "--", *arguments, folder=folder)


def shadowmmu(*words: str, folder: Path) -> Done:
    folder.mkdir(exist_ok=True)
    return ended(launcher().run(words, cwd=folder, env=ENVIRONMENT, timeout=120), folder)


def native(program: Path, *arguments: str, folder: Path) -> Done:
    return run([str(program), *arguments], folder)


def run(command: list[str], folder: Path) -> Done:
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        command,
        cwd=folder,
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=False,
    )
    return ended(done, folder)


def ended(done: subprocess.CompletedProcess[bytes], folder: Path) -> Done:
    status = done.returncode if done.returncode >= 0 else 128 - done.returncode
    return Done(done.stdout, status, done.stderr.decode(errors="replace"), files(folder))
