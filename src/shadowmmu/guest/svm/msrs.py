"""Model-specific registers whose access exits, as KVM answers them on AMD (6.12.111).

EFER and what KVM checks are the model's (kvm/registers/msr.py), others are constants, ignored or just kept
(kvm_get_msr_common, kvm_set_msr_common, svm_get_msr, svm_set_msr, get_msr_mce, set_msr_mce). What is in no
table here is unknown to KVM, or belongs to a feature that CPUID does not show: #GP.
"""

from collections.abc import Callable

from ...kvm.registers.msr import (
    HWCR_IGNORED,
    HWCR_VALID,
    MSR_APIC_BASE,
    MSR_EFER,
    MSR_HWCR,
    MSR_MTRR_DEF_TYPE,
    MSR_MTRR_FIXED,
    MSR_MTRR_VARIABLE,
    MSR_PAT,
    MSR_TSC,
    MSR_VM_CR,
    MSR_VM_HSAVE_PA,
    set_msr,
)
from ...kvm.state.vcpu import Vcpu
from ...x86.bits import EFER_SVME, MASK64
from .clock import HOST_CLOCK, Clock

MSR_P5_MC_ADDR, MSR_P5_MC_TYPE, MSR_PLATFORM_ID = 0x00, 0x01, 0x17
MSR_EBL_CR_POWERON, MSR_EBC_FREQUENCY_ID, MSR_SMI_COUNT, MSR_TSC_ADJUST = 0x2A, 0x2C, 0x34, 0x3B
MSR_UCODE_WRITE, MSR_UCODE, MSR_FSB_FREQUENCY, MSR_PLATFORM_INFO, MSR_MTRR_CAP = 0x79, 0x8B, 0xCD, 0xCE, 0xFE
MSR_BBL_CR_CTL3, MSR_MISC_FEATURES, MSR_MCG_CAP, MSR_MCG_STATUS = 0x11E, 0x140, 0x179, 0x17A
MSR_PERF_STATUS, MSR_PERF_CTL, MSR_MISC_ENABLE, MSR_DEBUGCTL, MSR_POWER_CTL = (
    0x198,
    0x199,
    0x1A0,
    0x1D9,
    0x1FC,
)
MSR_LAST_BRANCHES = range(0x1DB, 0x1DF)
MSR_P6_COUNTERS, MSR_P6_SELECTORS, MSR_RAPL = (
    (0xC1, 0xC2),
    (0x186, 0x187),
    (0x606, 0x611, 0x619, 0x639, 0x641),
)
MSR_TSC_DEADLINE = 0x6E0
MSR_TSC_AUX = 0xC0000103
MSR_K7_SELECTORS, MSR_K7_COUNTERS = range(0xC0010000, 0xC0010004), range(0xC0010004, 0xC0010008)
MSR_SYSCFG, MSR_CLK_CTL, MSR_NB_CFG = 0xC0010010, 0xC001001B, 0xC001001F
MSR_PATCH_LOADER, MSR_INT_PENDING, MSR_MMIO_CONF_BASE = 0xC0010020, 0xC0010055, 0xC0010058
MSR_TSEG = 0xC0010112, 0xC0010113
MSR_IC_CFG, MSR_DC_CFG, MSR_TW_CFG, MSR_DE_CFG = 0xC0011021, 0xC0011022, 0xC0011023, 0xC0011029
MSR_BU_CFG2, MSR_EX_CFG = 0xC001102A, 0xC001102C

APIC_BASE_AFTER_RESET = 0xFEE00900
PAT_AFTER_RESET = 0x0007040600070406
CPUID_FAULT = 1 << 31
"""Of MSR_PLATFORM_INFO: CPUID can be made to fault at CPL 3."""
CPUID_FAULTS = 1
"""Of MSR_MISC_FEATURES: it does."""
FAST_STRINGS, EMON, NO_BRANCH_TRACE_NO_PEBS = 1, 1 << 7, 3 << 11
LFENCE_SERIALIZES = 2

CONSTANT = {
    **dict.fromkeys(
        (
            MSR_P5_MC_ADDR,
            MSR_P5_MC_TYPE,
            MSR_PLATFORM_ID,
            MSR_EBL_CR_POWERON,
            MSR_SMI_COUNT,
            *MSR_P6_COUNTERS,
            MSR_MCG_CAP,
            *MSR_P6_SELECTORS,
            MSR_PERF_CTL,
            *MSR_LAST_BRANCHES,
            *MSR_RAPL,
            *MSR_K7_SELECTORS,
            *MSR_K7_COUNTERS,
            MSR_SYSCFG,
            MSR_NB_CFG,
            MSR_INT_PENDING,
            MSR_MMIO_CONF_BASE,
            *MSR_TSEG,
            MSR_IC_CFG,
            MSR_DC_CFG,
            MSR_TW_CFG,
            MSR_BU_CFG2,
            MSR_EX_CFG,
        ),
        0,
    ),
    MSR_EBC_FREQUENCY_ID: 1 << 24,
    MSR_UCODE: 0x01000065,
    MSR_FSB_FREQUENCY: 3,
    MSR_PLATFORM_INFO: CPUID_FAULT,
    MSR_MTRR_CAP: 0x508,
    MSR_BBL_CR_CTL3: 0xBE702111,
    MSR_PERF_STATUS: 4 << 40 | 1000,
    MSR_CLK_CTL: 0x20000000,
}
"""What reads give; there is no PMU, and there are no banks of machine checks."""
IGNORED = frozenset(
    (
        MSR_UCODE_WRITE,
        MSR_UCODE,
        MSR_BBL_CR_CTL3,
        *MSR_P6_COUNTERS,
        *MSR_P6_SELECTORS,
        *MSR_K7_SELECTORS,
        *MSR_K7_COUNTERS,
        MSR_CLK_CTL,
        MSR_NB_CFG,
        MSR_PATCH_LOADER,
        MSR_DC_CFG,
        MSR_TW_CFG,
        MSR_BU_CFG2,
        MSR_EX_CFG,
    )
)
"""Writes to them have no effect."""
KEPT = {
    MSR_TSC_ADJUST: (0, MASK64),
    MSR_MISC_FEATURES: (0, CPUID_FAULTS),
    MSR_MCG_STATUS: (0, MASK64),
    MSR_DEBUGCTL: (0, 0x3F),
    MSR_POWER_CTL: (0, MASK64),
    MSR_DE_CFG: (0, LFENCE_SERIALIZES),
    MSR_MMIO_CONF_BASE: (0, 0),
    MSR_TSC_AUX: (0, (1 << 32) - 1),
}
"""(value after a reset, bits that may be set) of those that just keep what is written."""
CHECKED = frozenset(
    (MSR_PAT, MSR_MTRR_DEF_TYPE, *MSR_MTRR_VARIABLE, *MSR_MTRR_FIXED, MSR_VM_CR, MSR_VM_HSAVE_PA)
)
"""Those whose writes are checked by the model of KVM."""


class Msrs:
    """The MSRs of a vCPU; `readers` and `writers` are user space's: None, or False, is #GP.

    `values` are those that were written or have a constant value, `watchers` are called after a write.
    """

    def __init__(self, vcpu: Vcpu, clock: Clock = HOST_CLOCK) -> None:
        self.clock = clock
        self.vcpu = vcpu
        vcpu.apic_base = APIC_BASE_AFTER_RESET
        self.values = dict.fromkeys(CHECKED, 0) | CONSTANT
        self.values |= {index: value for index, (value, _) in KEPT.items()}
        self.values |= {
            MSR_PAT: PAT_AFTER_RESET,
            MSR_MISC_ENABLE: FAST_STRINGS | NO_BRANCH_TRACE_NO_PEBS,
            MSR_HWCR: 0,
        }
        self.readers: dict[int, Callable[[], int | None] | None] = {}
        self.writers: dict[int, Callable[[int], bool | None] | None] = {}
        self.watchers: dict[int, Callable[[], None]] = {}

    def read(self, index: int) -> int | None:
        """Return what RDMSR gives, or None for #GP."""
        reader = self.readers.get(index)
        if reader is not None:
            return reader()
        if index == MSR_EFER:
            return self.vcpu.efer
        if index == MSR_APIC_BASE:
            return self.vcpu.apic_base
        if index == MSR_TSC:
            return int(self.clock.now() * 1e9)
        return self.values.get(index)

    def write(self, index: int, value: int) -> bool:
        """Do what WRMSR does; False is #GP."""
        accepted = self._write(index, value)
        if accepted and index in self.watchers:
            self.watchers[index]()
        return accepted

    def _write(self, index: int, value: int) -> bool:
        writer = self.writers.get(index)
        if writer is not None:
            return writer(value) is not False
        if index == MSR_EFER and value & EFER_SVME:
            return False
        if index in (MSR_EFER, MSR_APIC_BASE):
            return set_msr(self.vcpu, index, value)
        if index == MSR_TSC or index in IGNORED:
            return True
        kept = self._kept(index, value)
        if kept is None:
            return False
        self.values[index] = kept
        return True

    def _kept(self, index: int, value: int) -> int | None:
        """Return what an MSR that is written keeps, or None for #GP."""
        if index in CHECKED:
            return value if set_msr(self.vcpu, index, value) else None
        if index == MSR_TSC_AUX:
            return value & 0xFFFFFFFF
        if index == MSR_HWCR:
            value &= ~HWCR_IGNORED
            return value if not value & ~HWCR_VALID else None
        if index == MSR_MISC_ENABLE:
            changed = value ^ self.values[index]
            return value ^ changed & EMON if not changed & NO_BRANCH_TRACE_NO_PEBS else None
        if index in KEPT:
            return value if not value & ~KEPT[index][1] else None
        return value if index in self.writers else None

    @property
    def cpuid_faults(self) -> bool:
        """Whether CPUID is #GP at CPL 3."""
        return bool(self.values[MSR_MISC_FEATURES] & CPUID_FAULTS)
