"""What an operation of the guest ended with: its value, or the exception that says why there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..kvm.exits.emulate import EmulationError
from ..kvm.exits.page_fault_exit import EndlessFaults
from ..kvm.exits.run import DirtyRingFull
from ..kvm.exits.svm_exits import EntryFailed
from ..kvm.pages.roots import NoShadowPages
from ..kvm.state.oops import KernelOops
from ..kvm.state.vcpu import Vcpu as KvmVcpu
from ..x86.bits import PF_VECTOR
from .faults import GuestFault, VmExit

__all__ = ["answer"]

_SHUTDOWN, _FAIL_ENTRY, _INTERNAL_ERROR, _RING_FULL = 8, 9, 17, 31


def answer(state: KvmVcpu, result: dict[str, Any], refused: OSError | None) -> int:
    """Return the value of an operation of the guest, 0 if it has none; raise what it ended with otherwise."""
    match result["outcome"]:
        case "ok":
            return int(result.get("value", "0"), 16)
        case "exception":
            vector = result["vector"]
            code = result.get("error_code")
            address = int(result["cr2"], 16) if vector == PF_VECTOR else state.cpu.fault_gva
            raise GuestFault(vector, None if code is None else int(code, 16), address)
        case "vmexit":
            raise VmExit(*(int(result[name], 16) for name in ("code", "info1", "info2")))
        case "timeout":
            raise EndlessFaults(f"vCPU {state.id} faults forever at rip {state.rip:#x}")
        case "oops":
            raise KernelOops(result["reason"])
        case "error" if refused is not None:
            raise refused
        case "error":
            raise NoShadowPages("KVM_RUN fails with ENOSPC: no shadow page is left")
    raise _ENDS[result["reason"]](state)


_ENDS: dict[int, Callable[[KvmVcpu], Exception]] = {
    _SHUTDOWN: lambda state: GuestFault(8, 0, state.cr2, shutdown=True),
    _FAIL_ENTRY: lambda state: EntryFailed("the processor refuses the guest's registers (VM entry fails)"),
    _RING_FULL: lambda state: DirtyRingFull(
        f"the dirty ring of vCPU {state.id} is nearly full: harvest_dirty_rings(), then reset_dirty_rings()"
    ),
    _INTERNAL_ERROR: lambda state: EmulationError(f"KVM cannot emulate the instruction at {state.rip:#x}"),
}
