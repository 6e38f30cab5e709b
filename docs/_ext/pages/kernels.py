"""The kernels: which there are, and in which switches they differ."""

from __future__ import annotations

from pages import switches
from shadowmmu.kvm.design.switches import PROFILES


def page() -> str:
    """Return the list of kernels, and the table of their differences."""
    kernels = "\n".join(
        f"- **{profile.kernel}**, for recordings of {profile.series}.x"
        + (" (the default)" if profile is PROFILES[0] else "")
        for profile in PROFILES
    )
    return f"{kernels}\n\n## In what they differ\n\n{switches.changed()}"
