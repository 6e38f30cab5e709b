"""The command in this process, with a player whose results a test may spoil, and as its own process."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from launcher import decoded, launcher

from shadowmmu.cli.commands import cli
from shadowmmu.guest.play import player as module

TESTS = Path(__file__).parents[1]
CONFORMANCE = TESTS / "conformance"
SOURCE = TESTS.parent / "src"


class SpoiledPlayer(module.Player):
    """The player; `spoil` may change what it says of an op."""

    spoil: Callable[[Any], None] | None = None

    def play(self, ops: Iterable[Any]) -> Iterator[Any]:
        for played in super().play(ops):
            if self.spoil:
                type(self).spoil(played)
            yield played


@pytest.fixture
def player(monkeypatch: pytest.MonkeyPatch) -> type[SpoiledPlayer]:
    monkeypatch.setattr(module, "Player", SpoiledPlayer)
    monkeypatch.setattr(SpoiledPlayer, "spoil", None)
    return SpoiledPlayer


@pytest.fixture
def invoke(player: type[SpoiledPlayer]) -> Callable[..., Result]:
    """Run a command in this process."""
    return lambda *args: CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command as its own process, which starts at once."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}

    def run(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        return decoded(launcher().run([*map(str, args)], cwd=cwd, env=environment, timeout=120))

    return run


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command as its own process, started anew; `options` are those of subprocess.run."""
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    code = "from shadowmmu.cli.main import main; main()"

    def run(*args: object, **options: Any) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", code, *map(str, args)]
        return subprocess.run(words, env=environment, text=True, **{"capture_output": True, **options})

    return run


@pytest.fixture
def fixtures() -> SimpleNamespace:
    recordings = CONFORMANCE / "recordings"
    return SimpleNamespace(
        recordings=recordings,
        scenarios=CONFORMANCE / "scenarios",
    )


@pytest.fixture
def small(tmp_path: Path) -> Callable[..., Path]:
    """Write a scenario with these ops; its guest has `pages` pages from 0x400000 on."""

    def write(*ops: str, pages: int = 4) -> Path:
        path = tmp_path / "small.txt"
        mapping = f"map 0x1000 0x400000 0x800000 0x67 n={pages}"
        setup = ("mode long4", "slot 0 0x0 16M", "alloc 0x2000", "tramp 0x1000", mapping, "start cr3=0x1000")
        path.write_text("\n".join((*setup, *ops)) + "\n")
        return path

    return write
