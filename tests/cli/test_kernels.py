import json

import pytest

from shadowmmu.kvm.design.switches import PROFILES, SWITCHES


def test_all_kernels_are_listed(invoke):
    output = invoke("kernels").output
    for profile in PROFILES:
        assert f"{profile.kernel} " in output
        assert f"for releases {profile.series}*" in output
    assert list(json.loads(invoke("kernels", "--json").output)) == [profile.kernel for profile in PROFILES]


def test_two_kernels_differ_in_the_switches_that_the_table_says(invoke):
    found = json.loads(invoke("kernels", "6.1.176", "7.3.4", "--json").output)
    assert found["kernels"] == ["6.1.176", "7.3.4"]
    for switch in SWITCHES:
        values = [switch.kernels.get(series, switch.default) for series in ("6.1", "7.3")]
        row = found["switches"].get(switch.name)
        assert (row is None) == (values[0] == values[1])
        if row is not None:
            assert [row["6.1.176"], row["7.3.4"]] == values


def test_a_difference_names_values_effect_and_scenario(invoke):
    output = invoke("kernels", "6.12.111", "7.3.4").output
    assert "  role_has_smep: no -> yes\n" in output
    assert "      scenarios/kernels/role_has_smep.txt\n" in output
    assert output.endswith(" switches differ\n")


def test_one_kernel_is_compared_with_the_default(invoke):
    assert invoke("kernels", "7.3.4").output == invoke("kernels", "6.12.111", "7.3.4").output
    assert "6.12.111 and 6.12.111: 0 switches differ" in invoke("kernels", "6.12.111").output


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("5.10",), "kernel 5.10 has no profile; there are "),
        (("6.1", "6.12", "7.3"), "Give at most two releases."),
    ],
)
def test_what_is_no_kernel_is_refused(invoke, arguments, said):
    refused = invoke("kernels", *arguments)
    assert refused.exit_code != 0
    assert said in refused.output
