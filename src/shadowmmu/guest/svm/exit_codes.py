"""Exits of the SVM processor that the model asks for (APM vol. 2, appendix C)."""

from ...x86.svm import (
    SVM_EXIT_CLGI,
    SVM_EXIT_CPUID,
    SVM_EXIT_GDTR_WRITE,
    SVM_EXIT_HLT,
    SVM_EXIT_IDTR_WRITE,
    SVM_EXIT_INTR,
    SVM_EXIT_INVLPGA,
    SVM_EXIT_LDTR_WRITE,
    SVM_EXIT_MONITOR,
    SVM_EXIT_MSR,
    SVM_EXIT_MWAIT,
    SVM_EXIT_PUSHF,
    SVM_EXIT_RDPMC,
    SVM_EXIT_SHUTDOWN,
    SVM_EXIT_SKINIT,
    SVM_EXIT_SMI,
    SVM_EXIT_STGI,
    SVM_EXIT_SWINT,
    SVM_EXIT_TR_WRITE,
    SVM_EXIT_VMLOAD,
    SVM_EXIT_VMMCALL,
    SVM_EXIT_VMRUN,
    SVM_EXIT_VMSAVE,
    SVM_EXIT_XSETBV,
)

EXIT = 0x100
"""What callbacks get for an exit is this more than its code."""
FIRST_INTERCEPT = 0x60
"""Bit n of the intercept words is exit code 0x60 + n."""


INTERCEPTED = (
    SVM_EXIT_INTR,
    SVM_EXIT_SMI,
    SVM_EXIT_IDTR_WRITE,
    SVM_EXIT_GDTR_WRITE,
    SVM_EXIT_LDTR_WRITE,
    SVM_EXIT_TR_WRITE,
    SVM_EXIT_RDPMC,
    SVM_EXIT_PUSHF,
    SVM_EXIT_CPUID,
    SVM_EXIT_SWINT,
    SVM_EXIT_HLT,
    SVM_EXIT_INVLPGA,
    SVM_EXIT_MSR,
    SVM_EXIT_SHUTDOWN,
    SVM_EXIT_VMRUN,
    SVM_EXIT_VMMCALL,
    SVM_EXIT_VMLOAD,
    SVM_EXIT_VMSAVE,
    SVM_EXIT_STGI,
    SVM_EXIT_CLGI,
    SVM_EXIT_SKINIT,
    SVM_EXIT_MONITOR,
    SVM_EXIT_MWAIT,
    SVM_EXIT_XSETBV,
)
NOT_KVMS = frozenset(
    (SVM_EXIT_IDTR_WRITE, SVM_EXIT_GDTR_WRITE, SVM_EXIT_LDTR_WRITE, SVM_EXIT_TR_WRITE, SVM_EXIT_PUSHF)
)
"""Exits that KVM does not ask for: the emulator is not exact there. They are not counted."""
CR_ACCESSES = 1 << 0 | 1 << 3 | 1 << 4 | 1 << 8
"""CR0, CR3, CR4 and CR8; the guest's CR2 is the processor's."""
PASSED_MSRS = (0x174, 0x175, 0x176, *range(0xC0000081, 0xC0000085), *range(0xC0000100, 0xC0000103))
"""In the processor itself: SYSENTER, STAR to FMASK, FS, GS and kernel GS base."""


def msr_permission_map() -> bytes:
    """Return the MSR permission map: two bits each, read and write; only reads of PASSED_MSRS do not exit."""
    bitmap = bytearray(b"\xff" * 0x2000)
    for index in PASSED_MSRS:
        bit = 2 * (index if index < 0x2000 else 0x2000 + index - 0xC0000000)
        bitmap[bit >> 3] &= ~(1 << (bit & 7))
    return bytes(bitmap)
