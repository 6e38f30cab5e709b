"""The registers of each vCPU that decide how it walks its tables, followed through the ops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from shadowmmu.guest.scenario import ops as kinds
from shadowmmu.guest.scenario.scenario import Scenario
from shadowmmu.x86.bits import (
    ADDR,
    CR0_PG,
    CR4_LA57,
    CR4_PAE,
    CR4_PSE,
    EFER_LMA,
    EFER_LME,
    EFER_NX,
    GP_VECTOR,
    MASK64,
    UD_VECTOR,
)

__all__ = ["Registers", "registers_at_start"]

MSR_EFER = 0xC0000080
_REFUSED = {("exception", UD_VECTOR), ("exception", GP_VECTOR)}


@dataclass(frozen=True, slots=True)
class Registers:
    """One vCPU's registers as far as paging depends on them, and the nested CR3 that it gives its L2."""

    cr0: int
    cr3: int
    cr4: int
    efer: int
    ncr3: int | None = None
    """None if the guest is not a hypervisor."""

    @property
    def levels(self) -> int:
        """Levels of the guest's tables: 0 (no paging), 2, 3, 4 or 5."""
        return self.levels_with(self.cr0)

    def levels_with(self, cr0: int) -> int:
        """Return the levels that tables would have under this CR0."""
        if not cr0 & CR0_PG:
            return 0
        if self.efer & EFER_LME:
            return 5 if self.cr4 & CR4_LA57 else 4
        return 3 if self.cr4 & CR4_PAE else 2

    @property
    def nested_levels(self) -> int:
        """Levels of the tables that the guest makes for its L2; their format is that of its own mode."""
        return self.levels_with(CR0_PG)

    @property
    def nx(self) -> bool:
        """EFER.NX."""
        return bool(self.efer & EFER_NX)

    @property
    def pse(self) -> bool:
        """CR4.PSE."""
        return bool(self.cr4 & CR4_PSE)

    def root(self, *, nested: bool = False) -> int:
        """Return the gpa of the topmost table: of the guest's own, or of those for L2."""
        cr3 = (self.ncr3 or 0) if nested else self.cr3
        levels = self.nested_levels if nested else self.levels
        masks = {2: 0xFFFFF000, 3: 0xFFFFFFE0}
        return cr3 & masks.get(levels, ADDR)

    def after(self, op: kinds.Op, result: Mapping[str, Any], *, in_l2: bool) -> Registers:
        """Return the registers after an op of this vCPU that had this result.

        A register that was written counts also if the guest could not continue on its new tables. `in_l2`:
        before the op the vCPU ran L2, so that registers set by the host are L2's.
        """
        if isinstance(op, kinds.ChangeVmcb):
            return replace(self, ncr3=op.ncr3) if op.ncr3 is not None else self
        if isinstance(op, kinds.SetNestedCr3):
            return replace(self, ncr3=op.value)
        if result["outcome"] == "error" or (result["outcome"], result.get("vector")) in _REFUSED:
            return self
        match op:
            case kinds.WriteCr(cr=0):
                return replace(self, cr0=op.value & 0xFFFFFFFF)
            case kinds.WriteCr(cr=3):
                return replace(self, cr3=op.value & (MASK64 >> 1))
            case kinds.WriteCr(cr=4):
                return replace(self, cr4=op.value)
            case kinds.WriteMsr(index=index) if index == MSR_EFER:
                return replace(self, efer=op.value & ~EFER_LMA)
            case kinds.HostSregs() if not in_l2:
                given = {"cr0": op.cr0, "cr3": op.cr3, "cr4": op.cr4, "efer": op.efer}
                return replace(self, **{name: value for name, value in given.items() if value is not None})
        return self


def registers_at_start(scenario: Scenario) -> dict[int, Registers]:
    """Return the registers of each vCPU before the first op."""
    nested = {vmcb.vcpu: vmcb.ncr3 for vmcb in scenario.vmcbs}
    return {
        vcpu.id: Registers(vcpu.cr0, vcpu.cr3, vcpu.cr4, vcpu.efer, nested.get(vcpu.id))
        for vcpu in scenario.vcpus
    }
