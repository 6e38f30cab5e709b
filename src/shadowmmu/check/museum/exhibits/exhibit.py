"""What an exhibit of the museum says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ....kvm.design.switches import switch_named

__all__ = ["Exhibit", "defect", "exhibit"]


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One defect.

    story     what was wrong, and what a guest or its host could see
    fix       title of the public commit that fixed it, or "about" and what is known
    kernels   which kernels had it, as far as known
    switches  the design that brings it back; values that are not unsafe only make the defect visible
    """

    name: str
    title: str
    story: str
    fix: str
    kernels: str
    switches: Mapping[str, str]

    @property
    def scenario(self) -> str:
        """File of the scenario that shows it, from the root of the repository."""
        return f"scenarios/museum/{self.name}.txt"

    @property
    def fixed(self) -> Mapping[str, str]:
        """The same design without the defect."""
        return {
            name: switch_named(name).safe if value in switch_named(name).unsafe else value
            for name, value in self.switches.items()
        }


def exhibit(
    name: str, title: str, story: str, fix: str, kernels: str, switches: Mapping[str, str]
) -> Exhibit:
    """Return an exhibit whose story may have been written on several lines."""
    return Exhibit(name, title, " ".join(story.split()), fix, kernels, switches)


def defect(name: str, title: str, story: str, fix: str, kernels: str, **surroundings: str) -> Exhibit:
    """Return the exhibit of a value of the switch `defect`, with switches that make it visible."""
    return exhibit(name, title, story, fix, kernels, {"defect": name, **surroundings})
