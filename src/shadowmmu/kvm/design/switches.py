"""All switches and the kernels there are: everything in which kernels and designs differ.

To add a switch: a `Switch` in kernel_switches or mail_switches. No code asks for a version: a profile is a
set of values and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .kernel_7_switches import KERNEL_7_SWITCHES
from .kernel_switches import KERNEL_SWITCHES
from .mail_switches import MAIL_SWITCHES
from .switch import DesignError, Switch, nearest, values_named

__all__ = [
    "DEFAULT_KERNEL",
    "PROFILES",
    "SWITCHES",
    "DesignError",
    "Profile",
    "Switch",
    "kernel_text",
    "profile_of",
    "switch_named",
    "value_of",
    "values_named",
]

SWITCHES: tuple[Switch, ...] = KERNEL_SWITCHES + KERNEL_7_SWITCHES + MAIL_SWITCHES
"""Every switch; `shadowmmu designs` prints them."""

_NAMED = {switch.name: switch for switch in SWITCHES}


@dataclass(frozen=True, slots=True)
class Profile:
    """A kernel as values of the switches.

    Attributes:
        kernel: Release, for example 6.1.176.
        series: Start of the release texts that mean this kernel.
    """

    kernel: str
    series: str

    @property
    def values(self) -> Mapping[str, str]:
        """Return the values that are not the defaults, by the switch's name."""
        return {
            switch.name: switch.kernels[self.series] for switch in SWITCHES if self.series in switch.kernels
        }


PROFILES: tuple[Profile, ...] = (
    Profile("6.12.111", "6.12"),
    Profile("6.1.176", "6.1"),
    Profile("7.3.4", "7.3"),
)
"""The kernels there are; the first is the default, which has all switches at theirs."""

DEFAULT_KERNEL = PROFILES[0].kernel


def switch_named(name: str) -> Switch:
    """Return the switch of that name. Raises DesignError."""
    if name not in _NAMED:
        raise DesignError(f"no switch {name!r}{nearest(name, list(_NAMED))}")
    return _NAMED[name]


def value_of(name: str, value: str) -> int:
    """Return the number that a `Design` holds for the value of that name of a switch. Raises DesignError."""
    return switch_named(name).number_of(value)


def profile_of(release: str) -> Profile:
    """Return the profile of a kernel by its release text, `6.1.176` or a header's `6.1.0-50-amd64 #1 SMP
    ...`.

    Kernels of the same stable series share a profile. Raises DesignError.
    """
    for profile in PROFILES:
        word = release.split(" ", 1)[0]
        if word == profile.series or word.startswith((f"{profile.series}.", f"{profile.series}-")):
            return profile
    known = ", ".join(profile.kernel for profile in PROFILES)
    raise DesignError(f"kernel {release.split(' ', 1)[0] or 'unknown'!s} has no profile; there are {known}")


def kernel_text(release: str) -> str:
    """Return what the header of a recording made on the model says of its kernel. Raises DesignError."""
    return f"{profile_of(release).kernel} (shadowmmu)"
