"""Module parameters of scenarios: what they can be, what they come to."""

import pytest
from guest.language import parse
from kvm.world import World

from shadowmmu.guest.scenario.module_params import param_value, parameters_of
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.guest.scenario.setup import ScenarioError


def test_parameters_that_are_not_given_have_kvm_s_defaults():
    parameters = parameters_of({"kvm_amd.npt": "N"})
    assert parameters.mmio_caching
    assert (parameters.nx_huge_pages_recovery_ratio, parameters.nx_huge_pages_recovery_period_ms) == (60, 0)


def test_mmio_caching_and_the_recovery_of_nx_huge_pages_are_parameters():
    scenario = parse("nop", "param kvm mmio_caching=N nx_huge_pages_recovery_ratio=7",
                     "param kvm nx_huge_pages_recovery_period_ms=20")  # fmt: skip
    parameters = parameters_of(scenario.params)
    assert not parameters.mmio_caching
    assert (parameters.nx_huge_pages_recovery_ratio, parameters.nx_huge_pages_recovery_period_ms) == (7, 20)
    changed = scenario.with_params(
        {"kvm.mmio_caching": "1", "kvm.nx_huge_pages_recovery_ratio": "4294967295"}
    )
    assert parameters_of(changed.params).nx_huge_pages_recovery_ratio == (1 << 32) - 1


@pytest.mark.parametrize("value", ["-1", "4294967296", "x", "", "1" * 5000])
def test_a_recovery_ratio_is_a_number_of_32_bits(value):
    assert param_value("kvm.nx_huge_pages_recovery_ratio", value) is None
    with pytest.raises(ScenarioError, match=r"is not a value of .*; use a number of 32 bits"):
        parse("nop").with_params({"kvm.nx_huge_pages_recovery_ratio": value})


@pytest.mark.parametrize("parameter", ["kvm_amd avic", "kvm_intel vpid", "kvm halt_poll_ns"])
def test_a_parameter_that_is_not_modelled_is_refused_as_such(parameter):
    with pytest.raises(
        ScenarioError, match=f"x.txt:9: what the parameter `{parameter}` does is not modelled"
    ):
        parse("nop", f"param {parameter}=1")


@pytest.mark.parametrize("setup", [[], ["param kvm_amd npt=1"]])
def test_without_mmio_caching_every_access_is_a_fault(setup):
    world = World("long4", "param kvm mmio_caching=N", *setup, "map 0x1000 0x400000 0xd0000000 0x67")
    for _ in range(3):
        assert world.do("read 0x400000").result["mmio"]
    assert world.stats["pf_mmio_spte_created"] == 0


def test_a_header_has_these_only_if_they_were_given():
    assert not [name for name in parse("nop").params if "recovery" in name or "mmio" in name]
    text = "param kvm mmio_caching=Y\nmode long4\nslot 0 0x0 1M\nstart\n"
    assert parse_scenario(text).params["kvm.mmio_caching"] == "Y"
