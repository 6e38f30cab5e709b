"""CPUID of the emulated processor: what it really has, as KVM would show it to this guest."""

import ctypes

from ...kvm.registers.msr import APIC_ON
from ...kvm.state.vcpu import Vcpu
from ...x86.bits import CR4_LA57, CR4_OSXSAVE, CR4_PKE
from .layout import library
from .processor import SvmProcessor
from .registers import RAX, RBX, RCX, RDX

HYPERVISOR, EXTENDED_RANGE = 0x40000000, 0x80000000
KVM_SIGNATURE = 0x4B4D564B, 0x564B4D56, 0x4D
"""KVMKVMKVM; the next leaf has no paravirtual features."""
FEATURES, STRUCTURED, EXTENDED, ADDRESSES = 1, 7, 0x80000001, 0x80000008
ECX1_MONITOR, ECX1_VMX, ECX1_PCID, ECX1_X2APIC, ECX1_DEADLINE, ECX1_XSAVE, ECX1_OSXSAVE, ECX1_HYPERVISOR = (
    1 << bit for bit in (3, 5, 17, 21, 24, 26, 27, 31)
)
EDX_APIC = 1 << 9
EBX7_TSC_ADJUST, EBX7_INVPCID = 1 << 1, 1 << 10
ECX7_UMIP, ECX7_PKU, ECX7_OSPKE, ECX7_LA57 = (1 << bit for bit in (2, 3, 4, 16))
ECX_SVM = 1 << 2
CACHED = 1024
CR4_KEY_LOCKER = 1 << 19


class Cpuid:
    """Answers CPUID. `cr4_missing` are the bits of CR4 whose features are not there.

    PCIDs, INVPCID and UMIP are KVM's work; with `has_apic` there is a local APIC around the processor.
    """

    def __init__(self, processor: SvmProcessor, *, la57: bool) -> None:
        self.processor = processor
        self.la57 = la57
        self.has_apic = False
        self.known: dict[tuple[int, int], tuple[int, int, int, int]] = {}
        self.cr4_missing = CR4_PKE | CR4_KEY_LOCKER | CR4_OSXSAVE
        if not la57:
            self.cr4_missing |= CR4_LA57

    def _of_processor(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """Return EAX to EDX as the emulated processor has them."""
        out = [ctypes.c_uint32() for _ in range(4)]
        library().cpuid(self.processor.state, leaf, subleaf, *(ctypes.byref(value) for value in out))
        return out[0].value, out[1].value, out[2].value, out[3].value

    def _ask(self, leaf: int, subleaf: int) -> tuple[int, int, int, int]:
        """Return what the guest sees; leaves after the last one of their range are 0, as on AMD."""
        if leaf == HYPERVISOR:
            return HYPERVISOR + 1, *KVM_SIGNATURE
        if leaf > self._of_processor(leaf & EXTENDED_RANGE, 0)[0]:
            return 0, 0, 0, 0
        eax, ebx, ecx, edx = self._of_processor(leaf, subleaf)
        if leaf == FEATURES:
            ecx &= ~(ECX1_MONITOR | ECX1_VMX | ECX1_X2APIC | ECX1_DEADLINE | ECX1_XSAVE | ECX1_OSXSAVE)
            ecx |= ECX1_HYPERVISOR | ECX1_PCID
            if self.has_apic:
                ecx |= ECX1_X2APIC | ECX1_DEADLINE
        elif leaf == STRUCTURED and not subleaf:
            ebx |= EBX7_INVPCID | (EBX7_TSC_ADJUST if self.has_apic else 0)
            ecx &= ~(ECX7_PKU | ECX7_OSPKE | ECX7_LA57)
            ecx |= ECX7_UMIP | (ECX7_LA57 if self.la57 else 0)
        elif leaf == EXTENDED:
            ecx &= ~ECX_SVM
        elif leaf == ADDRESSES:
            eax = eax & ~0xFF00 | (57 if self.la57 else 48) << 8
        return eax, ebx, ecx, edx

    def execute(self, vcpu: Vcpu) -> None:
        """Execute the instruction: RAX to RDX from EAX and ECX."""
        q = self.processor.q
        key = (q[RAX] & 0xFFFFFFFF, q[RCX] & 0xFFFFFFFF)
        values = self.known.get(key)
        if values is None:
            if len(self.known) >= CACHED:
                self.known.clear()
            values = self.known[key] = self._ask(*key)
        if key[0] in (FEATURES, EXTENDED) and not vcpu.apic_base & APIC_ON:
            values = *values[:3], values[3] & ~EDX_APIC
        q[RAX], q[RBX], q[RCX], q[RDX] = values
