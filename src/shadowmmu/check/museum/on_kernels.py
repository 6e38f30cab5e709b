"""On which kernels the museum's scenarios show their defects.

A scenario is played on each profile with the kernel's own design, with the exhibit's switches, and without
the defect.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ...guest.scenario.setup import ScenarioError
from ...kvm.design.switches import PROFILES
from ..checker import Violation
from .results import Exhibit
from .search import check_scenario

__all__ = ["MEANS", "OnKernel", "on_kernels"]

MEANS = {
    "stands": "the kernel has the defect: its own design shows it",
    "returns": "the kernel does not have it; the defect's switches bring it back",
    "nothing": "this scenario shows nothing there, even with the switches",
    "refused": "the kernel cannot play the scenario",
}
"""The verdicts, and what they say."""


@dataclass(frozen=True, slots=True)
class OnKernel:
    """What a scenario shows on one kernel.

    Attributes:
        kernel: The release.
        stock: The first thing wrong with the kernel's own design that is not with the exhibit's safe values;
            None if nothing is.
        historic: The same with the exhibit's switches.
        refused: Why this kernel cannot play the scenario; "" if it can.
    """

    kernel: str
    stock: Violation | None = None
    historic: Violation | None = None
    refused: str = ""

    @property
    def verdict(self) -> str:
        """Return one of MEANS."""
        if self.refused:
            return "refused"
        return "stands" if self.stock else "returns" if self.historic else "nothing"

    def as_dict(self) -> dict[str, object]:
        """Return what a program may read of it."""
        found = self.stock or self.historic
        return {
            "verdict": self.verdict,
            "predicate": found.predicate if found else None,
            "refused": self.refused or None,
        }


def on_kernels(exhibit: Exhibit, lines: Sequence[str]) -> list[OnKernel]:
    """Play the scenario of an exhibit on every kernel there is."""
    stock = [line for line in lines if not line.startswith("design ")]
    return [_played(profile.kernel, stock, exhibit) for profile in PROFILES]


def _played(kernel: str, stock: Sequence[str], exhibit: Exhibit) -> OnKernel:
    try:
        found = check_scenario(stock, kernel=kernel)[1]
        if found is not None and check_scenario(stock, exhibit.fixed, kernel=kernel)[1] is not None:
            found = None
        return OnKernel(kernel, found, check_scenario(stock, exhibit.switches, kernel=kernel)[1])
    except ScenarioError as error:
        return OnKernel(kernel, refused=str(error))
