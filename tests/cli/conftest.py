"""A player that plays what was recorded, so that the command line is tested without the model."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from shadowmmu.cli.main import cli
from shadowmmu.trace.recording import Recording

TESTS = Path(__file__).parents[1]
CONFORMANCE = TESTS / "conformance"
SOURCE = TESTS.parent / "src"

_spec = importlib.util.spec_from_file_location("rebuild", TESTS / "trace" / "conftest.py")
assert _spec and _spec.loader
rebuild = importlib.util.module_from_spec(_spec)
sys.modules["rebuild"] = rebuild
_spec.loader.exec_module(rebuild)


class FakePlayer:
    """Finds the fixture with the same setup and gives back its ops; `spoil` may change them."""

    spoil: Callable[[Any], None] | None = None

    def __init__(self, setup: Any, *, tlb: bool = False) -> None:
        from shadowmmu.guest.scenario import Scenario, resolve

        for path in rebuild.FIXTURES:
            recording = Recording.read(path)
            if resolve(Scenario.from_recording(recording)).actions == setup.actions:
                machine = rebuild.Machine(recording)
                self.areas = machine.areas
                self._played = machine.played()
                return
        raise AssertionError("no fixture has this setup")

    def _next(self) -> Any:
        played = next(self._played)
        if self.spoil:
            type(self).spoil(played)
        return played

    def start(self) -> Any:
        return self._next()

    def play(self, ops: Any) -> Any:
        from shadowmmu.guest.scenario import SetAc, SetDump, WatchPage

        for op in ops:
            if not isinstance(op, SetAc | SetDump | WatchPage):
                yield self._next()


@pytest.fixture
def player(monkeypatch: pytest.MonkeyPatch) -> type[FakePlayer]:
    module = ModuleType("shadowmmu.guest.player")
    module.Player = FakePlayer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "shadowmmu.guest.player", module)
    monkeypatch.setattr(FakePlayer, "spoil", None)
    return FakePlayer


@pytest.fixture
def invoke(player: type[FakePlayer]) -> Callable[..., Result]:
    """Run a command in this process, with the fake player."""
    return lambda *args: CliRunner().invoke(cli, [str(arg) for arg in args])


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command as its own process."""
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
        recordings=recordings, scenarios=CONFORMANCE / "scenarios", count=len(rebuild.FIXTURES)
    )
