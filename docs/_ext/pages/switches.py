"""The switches: values, kernels, origin, effect."""

from __future__ import annotations

from collections.abc import Iterator

from marked import code, prose, sentence, table
from shadowmmu.kvm.design.switches import PROFILES, SWITCHES, Switch, values_named

_MOST = 12
"""Values of a switch that are listed; of more only the default."""


def page() -> str:
    """Return the reference: the switches of kernels, then those of each mail."""
    mails = dict.fromkeys(switch.mail for switch in SWITCHES if switch.mail)
    parts = ["## Differences between kernels", *_switches("")]
    for mail in sorted(mails):
        parts += [f"## Mail {mail[:3]}", f"[What the mail says](../mails/{mail[:3]}.md).", *_switches(mail)]
    return "\n\n".join(parts)


def _switches(mail: str) -> Iterator[str]:
    for switch in SWITCHES:
        if switch.mail == mail:
            yield _switch(switch)


def _switch(switch: Switch) -> str:
    values = values_named(switch)
    shown = values if len(values) <= _MOST else [switch.default]
    marks = [
        code(value)
        + (" (default)" if value == switch.default else "")
        + (" (unsafe)" if value in switch.unsafe else "")
        for value in shown
    ]
    if len(values) > len(shown):
        marks.append(f"{len(values) - len(shown)} others, all unsafe: see the [museum](museum.md)")
    kernels = ", ".join(
        f"{profile.kernel}: {code(profile.values.get(switch.name, switch.default))}" for profile in PROFILES
    )
    rows = [("Values", ", ".join(marks)), ("Kernels", kernels), ("Origin", prose(switch.origin))]
    return f"(switch-{switch.name})=\n### {code(switch.name)}\n\n{sentence(switch.effect)}\n\n" + "\n".join(
        f"- {name}: {text}" for name, text in rows
    )


def changed() -> str:
    """Return the table of the switches in which kernels differ."""
    names = [switch.name for switch in SWITCHES if any(switch.name in profile.values for profile in PROFILES)]
    rows = [
        [f"[{code(name)}](#switch-{name})", *(code(_value(name, n)) for n in range(len(PROFILES)))]
        for name in names
    ]
    return table(["Switch", *(profile.kernel for profile in PROFILES)], rows)


def _value(name: str, profile: int) -> str:
    default = next(switch.default for switch in SWITCHES if switch.name == name)
    return PROFILES[profile].values.get(name, default)
