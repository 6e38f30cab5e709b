"""Exit codes of an SVM processor (APM vol. 2, appendix C), their names, and which are asked for."""

EXIT = 0x100
"""What callbacks get for an exit is this more than its code."""
EXIT_READ_CR, EXIT_WRITE_CR, EXIT_READ_DR, EXIT_WRITE_DR, EXIT_EXCEPTION = 0x00, 0x10, 0x20, 0x30, 0x40
EXIT_INTR, EXIT_SMI = 0x60, 0x62
EXIT_CR0_SEL_WRITE, EXIT_RDTSC, EXIT_RDPMC, EXIT_CPUID = 0x65, 0x6E, 0x6F, 0x72
EXIT_IDTR_READ, EXIT_GDTR_READ, EXIT_LDTR_READ, EXIT_TR_READ = 0x66, 0x67, 0x68, 0x69
EXIT_IDTR_WRITE, EXIT_GDTR_WRITE, EXIT_LDTR_WRITE, EXIT_TR_WRITE = 0x6A, 0x6B, 0x6C, 0x6D
EXIT_PUSHF, EXIT_IRET = 0x70, 0x74
EXIT_SWINT, EXIT_INVD, EXIT_HLT, EXIT_INVLPG, EXIT_INVLPGA, EXIT_IOIO = 0x75, 0x76, 0x78, 0x79, 0x7A, 0x7B
EXIT_MSR, EXIT_TASK_SWITCH, EXIT_SHUTDOWN = 0x7C, 0x7D, 0x7F
EXIT_VMRUN, EXIT_VMMCALL, EXIT_VMLOAD, EXIT_VMSAVE, EXIT_STGI, EXIT_CLGI, EXIT_SKINIT = range(0x80, 0x87)
EXIT_RDTSCP, EXIT_INVPCID = 0x87, 0xA2
EXIT_ICEBP, EXIT_WBINVD, EXIT_MONITOR, EXIT_MWAIT, EXIT_XSETBV = 0x88, 0x89, 0x8A, 0x8B, 0x8D
EXIT_NPF = 0x400
FIRST_INTERCEPT = 0x60
"""Bit n of the intercept words is exit code 0x60 + n."""

_NAMES = {
    EXIT_CR0_SEL_WRITE: "cr0_sel_write",
    EXIT_IDTR_READ: "idtr_read",
    EXIT_GDTR_READ: "gdtr_read",
    EXIT_LDTR_READ: "ldtr_read",
    EXIT_TR_READ: "tr_read",
    EXIT_RDTSC: "rdtsc",
    EXIT_RDPMC: "rdpmc",
    EXIT_RDTSCP: "rdtscp",
    EXIT_INVPCID: "invpcid",
    EXIT_CPUID: "cpuid",
    EXIT_IDTR_WRITE: "idtr_write",
    EXIT_GDTR_WRITE: "gdtr_write",
    EXIT_LDTR_WRITE: "ldtr_write",
    EXIT_TR_WRITE: "tr_write",
    EXIT_PUSHF: "pushf",
    EXIT_IRET: "iret",
    EXIT_SWINT: "swint",
    EXIT_HLT: "hlt",
    EXIT_INVLPG: "invlpg",
    EXIT_INVLPGA: "invlpga",
    EXIT_IOIO: "ioio",
    EXIT_MSR: "msr",
    EXIT_SHUTDOWN: "shutdown",
    EXIT_VMRUN: "vmrun",
    EXIT_VMMCALL: "vmmcall",
    EXIT_MONITOR: "monitor",
    EXIT_MWAIT: "mwait",
    EXIT_XSETBV: "xsetbv",
    EXIT_NPF: "npf",
}


def exit_name(code: int) -> str:
    """What an exit code stands for."""
    if code < EXIT_WRITE_CR:
        return f"read_cr{code}"
    if code < EXIT_WRITE_CR + 0x10:
        return f"write_cr{code - EXIT_WRITE_CR}"
    if EXIT_EXCEPTION <= code < EXIT_EXCEPTION + 32:
        return f"excp{code - EXIT_EXCEPTION}"
    return _NAMES.get(code, f"{code:#x}")


INTERCEPTED = (
    EXIT_INTR,
    EXIT_SMI,
    EXIT_IDTR_WRITE,
    EXIT_GDTR_WRITE,
    EXIT_LDTR_WRITE,
    EXIT_TR_WRITE,
    EXIT_RDPMC,
    EXIT_PUSHF,
    EXIT_CPUID,
    EXIT_SWINT,
    EXIT_HLT,
    EXIT_INVLPGA,
    EXIT_MSR,
    EXIT_SHUTDOWN,
    EXIT_VMRUN,
    EXIT_VMMCALL,
    EXIT_VMLOAD,
    EXIT_VMSAVE,
    EXIT_STGI,
    EXIT_CLGI,
    EXIT_SKINIT,
    EXIT_MONITOR,
    EXIT_MWAIT,
    EXIT_XSETBV,
)
NOT_KVMS = frozenset((EXIT_IDTR_WRITE, EXIT_GDTR_WRITE, EXIT_LDTR_WRITE, EXIT_TR_WRITE, EXIT_PUSHF))
"""Exits that KVM does not ask for: the emulator is not exact there. They are not counted."""
CR_ACCESSES = 1 << 0 | 1 << 3 | 1 << 4 | 1 << 8
"""CR0, CR3, CR4 and CR8; the guest's CR2 is the processor's."""
PASSED_MSRS = (0x174, 0x175, 0x176, *range(0xC0000081, 0xC0000085), *range(0xC0000100, 0xC0000103))
"""In the processor itself: SYSENTER, STAR to FMASK, FS, GS and kernel GS base."""


def msr_permission_map() -> bytes:
    """Each access to an MSR is intercepted but reads of PASSED_MSRS: two bits each, read and write."""
    bitmap = bytearray(b"\xff" * 0x2000)
    for index in PASSED_MSRS:
        bit = 2 * (index if index < 0x2000 else 0x2000 + index - 0xC0000000)
        bitmap[bit >> 3] &= ~(1 << (bit & 7))
    return bytes(bitmap)
