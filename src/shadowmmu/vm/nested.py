"""Nested guests: the guest (L1) is a hypervisor that runs a guest of its own (L2) on nested tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..guest.scenario import ops
from .answer import answer
from .config import PAGE, ConfigurationError, check_word
from .faults import VmExit
from .tables import GuestTables

if TYPE_CHECKING:
    from .operations import Operations

__all__ = ["L2", "Nested"]


class Nested:
    """L1's nested tables (SVM's nested paging), one set for all vCPUs. L2 is 32-bit code without paging."""

    def __init__(self, vm: Operations, tables: GuestTables) -> None:
        self._vm = vm
        self.tables = tables

    @property
    def ncr3(self) -> int:
        """The nested CR3: guest-physical address of the root table."""
        return self.tables.root

    def map(
        self,
        l2_gpa: int,
        gpa: int,
        size: int | str = PAGE,
        *,
        page_size: int | str = PAGE,
        writable: bool = True,
    ) -> None:
        """Map L2's [l2_gpa, l2_gpa + size) to L1's memory at gpa. KVM does not see it."""
        level, _, pages = self.tables.check_range(l2_gpa, gpa, size, page_size, mmio=False)
        flags = self.tables.flags(
            level, writable=writable, user=True, executable=True, accessed=True, dirty=True
        )
        self._vm.edit(lambda: self.tables.map(l2_gpa, gpa, level, pages, flags))

    def unmap(self, l2_gpa: int, size: int | str = PAGE) -> int:
        """Clear the leaves of [l2_gpa, l2_gpa + size); return the bytes that were mapped."""
        return self._vm.edit(lambda: self.tables.unmap(l2_gpa, size))

    def gpte_address(self, l2_gpa: int, level: int = 1) -> int:
        """Return the guest-physical address of the entry for an L2 address. Raises LookupError."""
        return self.tables.address(l2_gpa, level)

    def __repr__(self) -> str:
        return f"<Nested tables at {self.ncr3:#x}>"


class L2:
    """L2 on one vCPU. An access from L1 enters L2 by VMRUN first; one that leaves to L1 raises VmExit."""

    def __init__(self, vm: Operations, vcpu: int) -> None:
        self._vm = vm
        self._vcpu = vcpu

    @property
    def running(self) -> bool:
        """Whether the vCPU is in L2 now."""
        return self._vm.player.cpus[self._vcpu].vcpu.guest_mode

    def read(self, gpa: int, size: int = 4) -> int:
        """Load 1, 2 or 4 bytes at an L2 address."""
        return self._access("read", gpa, 0, size)

    def write(self, gpa: int, value: int, size: int = 4) -> None:
        """Store 1, 2 or 4 bytes at an L2 address."""
        self._access("write", gpa, value, size)

    def _access(self, kind: str, gpa: int, value: int, size: int) -> int:
        if size not in (1, 2, 4):
            raise ConfigurationError(f"size={size!r} must be one of 1, 2, 4: L2 is 32-bit code")
        check_word("gpa", gpa, 4)
        check_word("value", value, size)
        text = f"l2{kind} {gpa:#x}{f' {value:#x}' if kind == 'write' else ''} size={size}"
        return self._play(
            ops.Access(
                line=0, text=text, vcpu=self._vcpu, kind=kind, user=False, gva=gpa, size=size, value=value,
                l2=True,
            )
        )  # fmt: skip

    def exit(self) -> None:
        """Execute VMMCALL in L2, which ends in L1."""
        try:
            self._play(ops.L2Exit(line=0, text="l2exit", vcpu=self._vcpu))
        except VmExit:
            return

    def _play(self, op: ops.Op) -> int:
        state = self._vm.player.cpus[self._vcpu].vcpu
        return answer(state, self._vm.play_op(op), self._vm.player.refused)

    def __repr__(self) -> str:
        return f"<L2 of vCPU {self._vcpu}, {'running' if self.running else 'not running'}>"
