"""Exit codes of SVM (AMD APM vol. 2, appendix C) under KVM's names, and how its events print them
(SVM_EXIT_REASONS in arch/x86/include/uapi/asm/svm.h, 6.12.111).
"""

from .bits import MASK64
from .exceptions import EXCEPTIONS

# the first of a group: plus the number of the register, or the vector
SVM_EXIT_READ_CR0 = 0x00
SVM_EXIT_WRITE_CR0 = 0x10
SVM_EXIT_READ_DR0 = 0x20
SVM_EXIT_WRITE_DR0 = 0x30
SVM_EXIT_EXCP_BASE = 0x40

SVM_EXIT_INTR = 0x60
SVM_EXIT_NMI = 0x61
SVM_EXIT_SMI = 0x62
SVM_EXIT_INIT = 0x63
SVM_EXIT_VINTR = 0x64
SVM_EXIT_CR0_SEL_WRITE = 0x65
SVM_EXIT_IDTR_READ = 0x66
SVM_EXIT_GDTR_READ = 0x67
SVM_EXIT_LDTR_READ = 0x68
SVM_EXIT_TR_READ = 0x69
SVM_EXIT_IDTR_WRITE = 0x6A
SVM_EXIT_GDTR_WRITE = 0x6B
SVM_EXIT_LDTR_WRITE = 0x6C
SVM_EXIT_TR_WRITE = 0x6D
SVM_EXIT_RDTSC = 0x6E
SVM_EXIT_RDPMC = 0x6F
SVM_EXIT_PUSHF = 0x70
SVM_EXIT_POPF = 0x71
SVM_EXIT_CPUID = 0x72
SVM_EXIT_RSM = 0x73
SVM_EXIT_IRET = 0x74
SVM_EXIT_SWINT = 0x75
SVM_EXIT_INVD = 0x76
SVM_EXIT_PAUSE = 0x77
SVM_EXIT_HLT = 0x78
SVM_EXIT_INVLPG = 0x79
SVM_EXIT_INVLPGA = 0x7A
SVM_EXIT_IOIO = 0x7B
SVM_EXIT_MSR = 0x7C
SVM_EXIT_TASK_SWITCH = 0x7D
SVM_EXIT_FERR_FREEZE = 0x7E
SVM_EXIT_SHUTDOWN = 0x7F
SVM_EXIT_VMRUN = 0x80
SVM_EXIT_VMMCALL = 0x81
SVM_EXIT_VMLOAD = 0x82
SVM_EXIT_VMSAVE = 0x83
SVM_EXIT_STGI = 0x84
SVM_EXIT_CLGI = 0x85
SVM_EXIT_SKINIT = 0x86
SVM_EXIT_RDTSCP = 0x87
SVM_EXIT_ICEBP = 0x88
SVM_EXIT_WBINVD = 0x89
SVM_EXIT_MONITOR = 0x8A
SVM_EXIT_MWAIT = 0x8B
SVM_EXIT_XSETBV = 0x8D
SVM_EXIT_INVPCID = 0xA2
SVM_EXIT_NPF = 0x400

SVM_EXIT_ERR = MASK64
"""VMEXIT_INVALID: the processor refuses the state of the guest."""

SVM_EXIT_REASONS = {
    **{
        base + number: f"{kind}{number}"
        for base, kind, registers in (
            (SVM_EXIT_READ_CR0, "read_cr", (0, 2, 3, 4, 8)),
            (SVM_EXIT_WRITE_CR0, "write_cr", (0, 2, 3, 4, 8)),
            (SVM_EXIT_READ_DR0, "read_dr", range(8)),
            (SVM_EXIT_WRITE_DR0, "write_dr", range(8)),
        )
        for number in registers
    },
    **{SVM_EXIT_EXCP_BASE + vector: f"{name[1:]} excp" for vector, name in EXCEPTIONS.items()},
    SVM_EXIT_INTR: "interrupt",
    SVM_EXIT_NMI: "nmi",
    SVM_EXIT_SMI: "smi",
    SVM_EXIT_INIT: "init",
    SVM_EXIT_VINTR: "vintr",
    SVM_EXIT_CR0_SEL_WRITE: "cr0_sel_write",
    SVM_EXIT_IDTR_READ: "read_idtr",
    SVM_EXIT_GDTR_READ: "read_gdtr",
    SVM_EXIT_LDTR_READ: "read_ldtr",
    SVM_EXIT_TR_READ: "read_rt",
    SVM_EXIT_IDTR_WRITE: "write_idtr",
    SVM_EXIT_GDTR_WRITE: "write_gdtr",
    SVM_EXIT_LDTR_WRITE: "write_ldtr",
    SVM_EXIT_TR_WRITE: "write_rt",
    SVM_EXIT_RDTSC: "rdtsc",
    SVM_EXIT_RDPMC: "rdpmc",
    SVM_EXIT_PUSHF: "pushf",
    SVM_EXIT_POPF: "popf",
    SVM_EXIT_CPUID: "cpuid",
    SVM_EXIT_RSM: "rsm",
    SVM_EXIT_IRET: "iret",
    SVM_EXIT_SWINT: "swint",
    SVM_EXIT_INVD: "invd",
    SVM_EXIT_PAUSE: "pause",
    SVM_EXIT_HLT: "hlt",
    SVM_EXIT_INVLPG: "invlpg",
    SVM_EXIT_INVLPGA: "invlpga",
    SVM_EXIT_IOIO: "io",
    SVM_EXIT_MSR: "msr",
    SVM_EXIT_TASK_SWITCH: "task_switch",
    SVM_EXIT_FERR_FREEZE: "ferr_freeze",
    SVM_EXIT_SHUTDOWN: "shutdown",
    SVM_EXIT_VMRUN: "vmrun",
    SVM_EXIT_VMMCALL: "hypercall",
    SVM_EXIT_VMLOAD: "vmload",
    SVM_EXIT_VMSAVE: "vmsave",
    SVM_EXIT_STGI: "stgi",
    SVM_EXIT_CLGI: "clgi",
    SVM_EXIT_SKINIT: "skinit",
    SVM_EXIT_RDTSCP: "rdtscp",
    SVM_EXIT_WBINVD: "wbinvd",
    SVM_EXIT_MONITOR: "monitor",
    SVM_EXIT_MWAIT: "mwait",
    SVM_EXIT_XSETBV: "xsetbv",
    SVM_EXIT_INVPCID: "invpcid",
    SVM_EXIT_NPF: "npf",
}


def exit_reason(code: int) -> str:
    """Return the name of an SVM exit code (kernel SVM_EXIT_REASONS), or the code in hexadecimal."""
    return SVM_EXIT_REASONS.get(code, f"{code:#x}")
