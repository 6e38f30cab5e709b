"""What the page's menus and its completion offer: the tables of switches, parameters and words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shadowmmu.guest.scenario.language import GROUPS
from shadowmmu.guest.scenario.module_params import DEFAULT_PARAMS, MORE_PARAMS, VENDORS, values_of_param
from shadowmmu.kvm.design.kernel_7_switches import KERNEL_7_SWITCHES
from shadowmmu.kvm.design.kernel_switches import KERNEL_SWITCHES
from shadowmmu.kvm.design.mail_switches import MAIL_SWITCHES
from shadowmmu.kvm.design.switches import PROFILES, SWITCHES, Switch

__all__ = ["completions", "menus"]

_GROUPS = {
    "The mails' designs": MAIL_SWITCHES,
    "Kernels": KERNEL_SWITCHES,
    "Kernel 7": KERNEL_7_SWITCHES,
}


def menus() -> dict[str, Any]:
    """Return kernels, vendors, parameters and switches with their values, as plain data for JSON."""
    return {
        "kernels": {profile.kernel: dict(profile.values) for profile in PROFILES},
        "vendors": list(VENDORS),
        "params": [{"name": name, "values": values_of_param(name)} for name in _params()],
        "switches": [
            {"title": title, "switches": [_switch(switch) for switch in switches]}
            for title, switches in _GROUPS.items()
        ],
    }


def _params() -> Iterator[str]:
    yield from dict.fromkeys([*VENDORS["amd"], *VENDORS["intel"], *DEFAULT_PARAMS, *MORE_PARAMS])


def _switch(switch: Switch) -> dict[str, Any]:
    return {
        "name": switch.name,
        "values": _single_values(switch),
        "default": switch.default,
        "effect": switch.effect,
        "origin": switch.origin,
        "unsafe": list(switch.unsafe),
    }


def _single_values(switch: Switch) -> list[str]:
    """Return the values by name, and each number that is a value, too."""
    return list(dict.fromkeys([*switch.values, *map(str, switch.numbers)]))


def completions() -> dict[str, Any]:
    """Return the words of the language, and what may follow `design`, as plain data for JSON."""
    return {
        "words": [
            {
                "group": group,
                "name": word.name,
                "usage": word.usage,
                "means": word.means,
                "example": word.example,
                "setup": word.setup,
                "op": word.op,
                "forms": list(word.forms),
            }
            for group, words in GROUPS.items()
            for word in words
        ],
        "designs": {switch.name: _single_values(switch) for switch in SWITCHES},
    }
