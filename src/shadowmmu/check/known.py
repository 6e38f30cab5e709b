"""What is known to be wrong with a kernel: values of switches that the table calls unsafe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..kvm.design.switches import SWITCHES, profile_of

__all__ = ["explanation", "unsafe_values"]


def unsafe_values(kernel: str, design: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Return (switch, value, safe value) of what a kernel has that is unsafe, unless `design` sets it.

    Raises DesignError if there is no such kernel.
    """
    held = profile_of(kernel).values
    for switch in SWITCHES:
        value = held.get(switch.name, switch.default)
        if switch.name not in design and value in switch.unsafe:
            yield switch.name, value, switch.safe


def explanation(switch: str, value: str, safe: str) -> str:
    """Return what to say of a finding that does not occur with the safe value of a switch."""
    return f"known: {switch}={value} of this kernel is unsafe; with --design {switch}={safe} all holds"
