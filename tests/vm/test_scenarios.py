"""A Vm and scenarios: operations as text, a session saved and played again."""

from pathlib import Path

import pytest

from shadowmmu import Access, ConfigurationError, Vm
from shadowmmu.guest.scenario.setup import ScenarioError

SCENARIOS = Path(__file__).parents[2] / "src" / "shadowmmu" / "guest" / "scenario" / "examples"


def test_operations_as_text():
    vm = Vm(vcpus=2)
    vm.map(0x400000, 0x800000)
    assert vm.run_scenario("write 0x400000 42  # a remark\n\n@1 read 0x400000") == [
        {"outcome": "ok"},
        {"outcome": "ok", "value": "0x2a"},
    ]
    with pytest.raises(ScenarioError, match="run_scenario:1: unknown word `wrote`"):
        vm.run_scenario("wrote 0x400000 42")


@pytest.mark.parametrize(
    ("vendor", "params"),
    [("amd", {}), ("amd", {"kvm_amd.npt": 1}), ("intel", {"kvm_intel.ept": 1, "kvm_intel.pml": 0})],
)
@pytest.mark.parametrize("paging", ["nopaging", "32", "pae", "long4", "long5"])
def test_a_saved_session_plays_again(paging, vendor, params, tmp_path):
    vm = Vm("64M", paging, vcpus=2, vendor=vendor, params=params, design={"invlpg_zaps": "yes"})
    slot = vm.add_slot(0x10000000, "4M", dirty_log=True)
    if paging != "nopaging":
        vm.map(0x400000, 0x800000, "16K")
        vm.map(0x10000000, 0x10000000, "16K")
    vm.vcpus[0].write(0x400000, 42)
    vm.vcpus[1].write(0x10000000, 7)
    assert slot.dirty_pages() == [0]
    vm.vcpus[0].invlpg(0x400000)
    vm.age(0x10000000)
    path = tmp_path / "session.txt"
    vm.save(path)
    again = Vm.from_scenario(path, checked=True)
    assert again.history == vm.history
    assert again.check()
    assert again.vcpus[1].read(0x10000000) == 7
    assert dict(again.player.setup.design) == {"invlpg_zaps": "yes"}


def test_what_a_scenario_cannot_say(tmp_path):
    vm = Vm()
    vm.map(0x400000, 0x800000)
    vm.vcpus[0].run([0x400000], Access.READ)
    with pytest.raises(ConfigurationError, match="`1 accesses of vCPU 0` is not an operation of a scenario"):
        vm.save(tmp_path / "session.txt")
    assert not (tmp_path / "session.txt").exists()


@pytest.mark.parametrize("path", sorted(SCENARIOS.glob("*.txt")), ids=lambda path: path.stem)
def test_the_scenarios_that_come_with_this(path):
    vm = Vm.from_scenario(path, checked=True)
    assert vm.check()
    assert vm.shadow_pages
    assert str(vm.walk(0x400000))


def test_operations_are_those_of_the_guest_that_it_is() -> None:
    nested = Vm(nested=True, params={"kvm_amd.npt": 1})
    nested.nested.map(0x800000, 0x900000)
    nested.host_write(0x900000, 7, 4)
    assert nested.run_scenario("vmcb tlb=1\nl2read 0x800000")[1]["value"] == "0x7"
    with pytest.raises(ScenarioError, match="size"):
        Vm(paging="pae").run_scenario("write 0x400000 1 size=8")
