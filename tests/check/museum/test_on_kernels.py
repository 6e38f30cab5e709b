"""What the museum's scenarios show on every kernel follows from the kernels' own switches."""

from pathlib import Path

import pytest

from shadowmmu.check.museum.on_kernels import MEANS, OnKernel, on_kernels
from shadowmmu.check.museum.results import EXHIBITS, Exhibit, exhibit_named
from shadowmmu.kvm.design.switches import DEFAULT_KERNEL, PROFILES, profile_of, switch_named

ROOT = Path(__file__).parents[3]


def row(exhibit: Exhibit) -> dict[str, OnKernel]:
    found = on_kernels(exhibit, (ROOT / exhibit.scenario).read_text().splitlines())
    return {one.kernel: one for one in found}


def has_it(kernel: str, exhibit: Exhibit) -> bool:
    held = profile_of(kernel).values
    return all(
        held.get(name, switch_named(name).default) == value for name, value in exhibit.switches.items()
    )


@pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.name)
def test_a_defect_stands_where_the_kernel_has_its_switches(exhibit: Exhibit) -> None:
    found = row(exhibit)
    assert list(found) == [profile.kernel for profile in PROFILES]
    assert found[DEFAULT_KERNEL].verdict in ("stands", "returns"), "the searches ran on it"
    for kernel, one in found.items():
        if one.verdict == "stands":
            assert any(
                profile_of(kernel).values.get(name, switch_named(name).default) in switch_named(name).unsafe
                for name in exhibit.switches
            )
        assert one.verdict in MEANS
        if has_it(kernel, exhibit) and one.historic is not None:
            assert one.verdict == "stands"


def test_a_kernel_that_cannot_play_it_says_why() -> None:
    lines = (ROOT / exhibit_named("parent_left").scenario).read_text().splitlines()
    for one in on_kernels(exhibit_named("parent_left"), [*lines, "nonsense"]):
        assert (one.verdict, one.stock, one.historic) == ("refused", None, None)
        assert "nonsense" in one.refused
        assert one.as_dict()["refused"] == one.refused
