"""The table of switches and the kernels' profiles; that the model reads each switch, and no other."""

import ast
from pathlib import Path

import pytest

import shadowmmu
from shadowmmu.host.switches import HostSwitches
from shadowmmu.kvm.design.design import Design, design_of
from shadowmmu.kvm.design.switches import (
    DEFAULT_KERNEL,
    PROFILES,
    SWITCHES,
    DesignError,
    Switch,
    kernel_text,
    profile_of,
    switch_named,
    value_of,
    values_named,
)
from shadowmmu.kvm.tracepoints.tracer import TRACEPOINTS

LAB_HEADER = "6.1.0-50-amd64 #1 SMP PREEMPT_DYNAMIC Debian 6.1.176-1 (2026-07-02)"
SOURCES = Path(shadowmmu.__file__).parent
OF_DESIGN = {"merged_prefetch", "value"}
"""What a design has besides its switches."""


def test_every_switch_is_an_attribute_and_says_what_it_is() -> None:
    design = Design()
    assert len({switch.name for switch in SWITCHES}) == len(SWITCHES)
    for switch in SWITCHES:
        assert design.value(switch.name) == switch.default
        assert len(values_named(switch)) > 1
        assert switch.origin
        assert switch.effect


@pytest.mark.parametrize("switch", SWITCHES, ids=lambda switch: switch.name)
def test_a_value_is_held_by_its_attribute_only(switch: Switch) -> None:
    for value, number in switch.values.items():
        design = Design({switch.name: value})
        assert getattr(design, switch.name) == number
        others = [other for other in SWITCHES if other is not switch]
        assert all(design.value(other.name) == other.default for other in others)


def test_profiles_are_values_of_the_table() -> None:
    assert PROFILES[0].values == {}
    assert DEFAULT_KERNEL == "6.12.111"
    known = {profile.series for profile in PROFILES}
    assert all(switch.kernels.keys() <= known for switch in SWITCHES)
    for profile in PROFILES:
        for name, value in profile.values.items():
            assert value in switch_named(name).values
            assert value != switch_named(name).default, f"{profile.kernel} {name} is the default"


@pytest.mark.parametrize(
    ("release", "kernel"),
    [
        ("6.12.111", "6.12.111"),
        ("6.12.111 (shadowmmu)", "6.12.111"),
        ("6.12.111+deb12-amd64 #1 SMP", "6.12.111"),
        ("6.12", "6.12.111"),
        ("6.1.176", "6.1.176"),
        ("6.1", "6.1.176"),
        (LAB_HEADER, "6.1.176"),
    ],
)
def test_a_release_names_a_profile(release: str, kernel: str) -> None:
    assert profile_of(release).kernel == kernel
    assert kernel_text(release) == f"{kernel} (shadowmmu)"
    assert profile_of(kernel_text(release)).kernel == kernel


@pytest.mark.parametrize("release", ["", "6", "6.10.3", "5.10.0-50 x", "16.1.2", "6.13-rc1"])
def test_other_kernels_are_refused_in_one_line(release: str) -> None:
    with pytest.raises(
        DesignError, match=r"has no profile; there are 6\.12\.111, 6\.1\.176, 7\.3\.4$"
    ) as caught:
        design_of(release)
    assert "\n" not in str(caught.value)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(DesignError, match="no switch 'nonsense'; there are set_sregs_flushes"):
        Design({"nonsense": "yes"})
    with pytest.raises(AttributeError, match="a design has no switch 'nonsense'"):
        _ = Design().nonsense
    with pytest.raises(DesignError, match="switch invlpg_zaps has no value 'maybe'; there are no, yes"):
        value_of("invlpg_zaps", "maybe")


# -- who reads them --------------------------------------------------------------------------------------


def is_design(node: ast.expr) -> bool:
    """Whether an expression is a design by its name: `kvm.design`, `self._design`, `design_of(...)`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in ("design_of", "Design")
    name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    return name.lstrip("_") == "design"


def names_read(text: str) -> set[str]:
    """What a source reads of designs."""
    return {
        node.attr
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Attribute) and is_design(node.value)
    }


def reads() -> dict[str, set[str]]:
    """The files that read each attribute of a design; dictionaries named so and modules are none."""
    found: dict[str, set[str]] = {}
    for path in SOURCES.rglob("*.py"):
        for name in names_read(path.read_text()) - set(dir(dict)) - {"design", "switches"}:
            found.setdefault(name, set()).add(path.name)
    return found


def test_a_misspelt_switch_is_found() -> None:
    text = "def f(vcpu, design):\n    return vcpu.kvm.design.unsink or design_of('6.1').zero_pag or design.x"
    assert names_read(text) == {"unsink", "zero_pag", "x"}


def test_what_is_read_of_a_design_is_a_switch() -> None:
    unknown = {name: files for name, files in reads().items() if name not in OF_DESIGN}
    for switch in SWITCHES:
        unknown.pop(switch.name, None)
    assert unknown == {}


def test_every_switch_is_read() -> None:
    host = set(HostSwitches.__dataclass_fields__)
    events = {name for tracepoint in TRACEPOINTS.values() for name in tracepoint.others}
    unread = {switch.name for switch in SWITCHES} - reads().keys() - host - events
    assert unread == set()
