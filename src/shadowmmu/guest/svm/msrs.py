"""Model-specific registers whose access exits: EFER and what KVM checks are the model's, others just kept."""

import time
from collections.abc import Callable

from ...kvm.msr import (
    MSR_APIC_BASE,
    MSR_EFER,
    MSR_MTRR_DEF_TYPE,
    MSR_MTRR_FIXED,
    MSR_MTRR_VARIABLE,
    MSR_PAT,
    set_msr,
)
from ...kvm.vcpu import Vcpu

MSR_TSC, MSR_MTRR_CAP, MSR_MISC_ENABLE, MSR_UCODE, MSR_TSC_AUX = 0x10, 0xFE, 0x1A0, 0x8B, 0xC0000103
MSR_TSC_DEADLINE = 0x6E0
MSR_TSC_ADJUST, MSR_DEBUGCTL, MSR_SPEC_CTRL, MSR_HWCR, MSR_SYSCFG = 0x3B, 0x1D9, 0x48, 0xC0010015, 0xC0010010
APIC_BASE_AFTER_RESET = 0xFEE00900
PAT_AFTER_RESET = 0x0007040600070406
KEPT = (
    MSR_TSC_ADJUST,
    MSR_DEBUGCTL,
    MSR_SPEC_CTRL,
    MSR_TSC_AUX,
    MSR_HWCR,
    MSR_SYSCFG,
    MSR_MISC_ENABLE,
    MSR_UCODE,
)


class Msrs:
    """The MSRs of a vCPU; `readers` and `writers` are user space's: None, or False, is #GP.

    `watchers` are called when an MSR was written.
    """

    def __init__(self, vcpu: Vcpu) -> None:
        self.vcpu = vcpu
        vcpu.apic_base = APIC_BASE_AFTER_RESET
        self.values = {MSR_PAT: PAT_AFTER_RESET, MSR_MTRR_DEF_TYPE: 0, MSR_MTRR_CAP: 0x508}
        self.values.update(dict.fromkeys((*MSR_MTRR_VARIABLE, *MSR_MTRR_FIXED, *KEPT), 0))
        self.checked = frozenset((MSR_PAT, MSR_MTRR_DEF_TYPE, *MSR_MTRR_VARIABLE, *MSR_MTRR_FIXED))
        self.readers: dict[int, Callable[[], int | None] | None] = {}
        self.writers: dict[int, Callable[[int], bool | None] | None] = {}
        self.watchers: dict[int, Callable[[], None]] = {}

    def read(self, index: int) -> int | None:
        """RDMSR; None is #GP."""
        reader = self.readers.get(index)
        if reader is not None:
            return reader()
        if index == MSR_EFER:
            return self.vcpu.efer
        if index == MSR_APIC_BASE:
            return self.vcpu.apic_base
        if index == MSR_TSC:
            return time.perf_counter_ns()
        return self.values.get(index)

    def write(self, index: int, value: int) -> bool:
        """WRMSR; False is #GP."""
        accepted = self._write(index, value)
        if accepted and index in self.watchers:
            self.watchers[index]()
        return accepted

    def _write(self, index: int, value: int) -> bool:
        writer = self.writers.get(index)
        if writer is not None:
            return writer(value) is not False
        if index in (MSR_EFER, MSR_APIC_BASE):
            return set_msr(self.vcpu, index, value)
        if index == MSR_TSC:
            return True
        if index not in self.values or index == MSR_MTRR_CAP:
            return False
        if index in self.checked and not set_msr(self.vcpu, index, value):
            return False
        self.values[index] = value
        return True
