"""The hooks: silent while tracing is off, and one for each tracepoint."""

import inspect
from pathlib import Path

import pytest
from kvm.random_scenarios import MODES, random_scenario
from kvm.world import World

from shadowmmu.guest.scenario.scenario import Scenario
from shadowmmu.kvm.state.tracepoints import Tracer
from shadowmmu.trace.events import EventLog

HOOKS = {name for name, _ in inspect.getmembers(Tracer, inspect.isfunction) if not name.startswith("_")}
KVM = Path(inspect.getfile(Tracer)).parents[1]


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_told_while_tracing_is_off(mode: str) -> None:
    text = random_scenario(mode, 3, 60)
    world = World.of(text)
    world.kvm.tracing = False
    for op in Scenario.parse(text).ops:
        list(world.player.play([op]))
    assert list(world.player.log.take()) == []


def test_the_default_tracer_takes_it_all() -> None:
    text = random_scenario("long4", 4, 60)
    world = World.of(text)
    world.kvm.tracer = Tracer()
    for op in Scenario.parse(text).ops:
        list(world.player.play([op]))


def test_every_hook_is_called_somewhere_and_heard_by_the_log() -> None:
    sources = "".join(path.read_text() for path in KVM.rglob("*.py") if path.name != "tracepoints.py")
    sources += (KVM.parent / "guest" / "play" / "accesses.py").read_text()
    assert {name for name in HOOKS if f"tracer.{name}(" not in sources} == set()
    assert {name for name in HOOKS if getattr(EventLog, name) is getattr(Tracer, name)} == set()
