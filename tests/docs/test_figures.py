"""The figures show what the code is: the rooms, and the way of a fault."""

import os
import subprocess
import sys
from importlib import import_module

import pytest
import test_layers
from docs.examples import ROOT

WAY = """
import sys
from shadowmmu import Vm

vm = Vm()
vm.map(0x400000, 0x800000, "16K")
vm.map(0x600000, 0x900000)
vm.vcpus[0].read(0x600000)
calls = []

def called(frame, event, argument):
    if event == "call":
        calls.append((frame.f_code.co_filename, frame.f_code.co_name))

sys.setprofile(called)
vm.vcpus[0].read(0x400000)
sys.setprofile(None)
for file, name in calls:
    print(file.partition("shadowmmu/")[2] or file, name)
"""


@pytest.fixture
def extension(monkeypatch):
    """Import a module of the documentation's extension."""
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "_ext"))
    yield import_module
    for name in [name for name, module in sys.modules.items() if "docs/_ext" in str(module)]:
        del sys.modules[name]


def test_the_way_of_a_fault_is_the_order_of_the_calls(extension):
    environment = {**os.environ, "SHADOWMMU_INTERPRETED": "1", "PYTHONPATH": str(ROOT / "src")}
    environment.pop("SHADOWMMU_REQUIRE_NATIVE", None)
    done = subprocess.run(
        [sys.executable, "-c", WAY], env=environment, capture_output=True, text=True, check=True
    )
    calls = [tuple(line.rsplit(" ", 1)) for line in done.stdout.splitlines()]
    at = 0
    for file, function, _ in extension("fault_way").STEPS:
        here = [n for n, (path, name) in enumerate(calls) if path.endswith(file) and name == function]
        later = [n for n in here if n >= at]
        assert later, f"{file}: {function} is not called after the step before it"
        at = later[0]


def test_the_rooms_are_those_of_the_layers(extension):
    rooms = extension("pages.rooms")
    above, below = ([name for name, _ in part] for part in (rooms._ABOVE, rooms._BELOW))
    assert [*above, "kvm", *below] == list(reversed(test_layers.ROOMS))
    inner = [name for name, _ in rooms._KVM]
    assert [*inner, "bits"] == list(reversed(test_layers.INNER["kvm"]))
