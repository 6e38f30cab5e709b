"""The host's processor, as far as KVM or what it records depends on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...kvm.state.spte_masks import MOST_L1TF_BITS
from .text import shown

__all__ = ["HOST_SETTINGS", "HostError", "HostProcessor"]

HOST_SETTINGS = ("l1tf", "exitinfo")
"""The settings of a host that have names of their own."""
_YES_NO = {"yes": True, "no": False}


class HostError(ValueError):
    """There is no such processor; `fix` is the remedy."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}; {fix}")
        self.what, self.fix = what, fix


@dataclass(frozen=True, slots=True)
class HostProcessor:
    """A host's processor; by default the ones that the recorded kernels ran on."""

    maxphyaddr: int = 40
    """Bits of a physical address, 32 to 52."""
    la57: bool = False
    """The host's own page tables have five levels, and a guest's may."""
    l1tf: int = 0
    """Bits of a physical address that its L1 cache uses if it is vulnerable to L1TF (x86_cache_bits,
    maxphyaddr to 46), else 0.
    """
    exit_info: bool = True
    """With VMX, exit qualifications of EPT violations have the rights of the linear address (advanced VM-exit
    information); processors that have them have mode-based execute control, too.
    """

    def with_settings(self, values: Mapping[str, str]) -> HostProcessor:
        """Return the same with other settings: `l1tf` -> `44`, `exitinfo` -> `no`. Raises HostError."""
        changed = self
        for name, value in values.items():
            if name == "l1tf":
                if not value.isascii() or not value.isdigit() or len(value) > 2:
                    raise HostError(f"{shown(repr(value))} is not a number of bits", "write l1tf=44")
                changed = replace(changed, l1tf=int(value))
            elif name == "exitinfo":
                if value not in _YES_NO:
                    raise HostError(
                        f"{shown(repr(value))} is not a value of exitinfo",
                        "write exitinfo=yes or exitinfo=no",
                    )
                changed = replace(changed, exit_info=_YES_NO[value])
            else:
                raise HostError(
                    f"a host has no setting {shown(repr(name))}", f"there are {', '.join(HOST_SETTINGS)}"
                )
        return changed

    def check(self, *, vmx: bool) -> None:
        """Raise HostError unless there is such a processor of this vendor."""
        if not vmx and (self.l1tf or not self.exit_info):
            what = "l1tf" if self.l1tf else "exitinfo"
            raise HostError(f"`{what}` is about Intel's processors", "say `vendor intel`, or leave it out")
        if self.l1tf and not self.maxphyaddr <= self.l1tf <= MOST_L1TF_BITS:
            raise HostError(
                f"l1tf={self.l1tf} does not fit a host with {self.maxphyaddr} physical address bits",
                f"its L1 cache uses {self.maxphyaddr} to {MOST_L1TF_BITS} bits"
                if self.maxphyaddr <= MOST_L1TF_BITS
                else f"a host vulnerable to L1TF has at most {MOST_L1TF_BITS} bits (`hostbits`)",
            )
