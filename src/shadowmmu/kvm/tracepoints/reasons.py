"""Names that the kernel's tables give to exit reasons, exceptions and error bits (6.12.111)."""

from ...x86.bits import EPT_R, EPT_VIOLATION_GVA_TRANSLATED, EPT_VIOLATION_RWX_SHIFT, EPT_W, EPT_X

KVM_ISA_VMX, KVM_ISA_SVM = 1, 2
SVM_EXIT_NPF = 0x400

_PFERR = ((0x1, "P"), (0x2, "W"), (0x4, "U"), (0x8, "RSVD"), (0x10, "F"))
EXCEPTIONS = {
    0: "#DE", 1: "#DB", 3: "#BP", 4: "#OF", 5: "#BR", 6: "#UD", 7: "#NM", 8: "#DF", 10: "#TS", 11: "#NP",
    12: "#SS", 13: "#GP", 14: "#PF", 16: "#MF", 17: "#AC", 18: "#MC",
}  # fmt: skip
_SVM_EXITS = {
    **{base + n: f"{verb}_{kind}{n}" for base, verb, kind, registers in (
        (0x00, "read", "cr", (0, 2, 3, 4, 8)), (0x10, "write", "cr", (0, 2, 3, 4, 8)),
        (0x20, "read", "dr", range(8)), (0x30, "write", "dr", range(8)),
    ) for n in registers},
    **{0x40 + vector: f"{name[1:]} excp" for vector, name in EXCEPTIONS.items()},
    0x60: "interrupt", 0x61: "nmi", 0x62: "smi", 0x63: "init", 0x64: "vintr", 0x65: "cr0_sel_write",
    0x66: "read_idtr", 0x67: "read_gdtr", 0x68: "read_ldtr", 0x69: "read_rt", 0x6A: "write_idtr",
    0x6B: "write_gdtr", 0x6C: "write_ldtr", 0x6D: "write_rt", 0x6E: "rdtsc", 0x6F: "rdpmc", 0x70: "pushf",
    0x71: "popf", 0x72: "cpuid", 0x73: "rsm", 0x74: "iret", 0x75: "swint", 0x76: "invd", 0x77: "pause",
    0x78: "hlt", 0x79: "invlpg", 0x7A: "invlpga", 0x7B: "io", 0x7C: "msr", 0x7D: "task_switch",
    0x7E: "ferr_freeze", 0x7F: "shutdown", 0x80: "vmrun", 0x81: "hypercall", 0x82: "vmload", 0x83: "vmsave",
    0x84: "stgi", 0x85: "clgi", 0x86: "skinit", 0x87: "rdtscp", 0x89: "wbinvd", 0x8A: "monitor",
    0x8B: "mwait", 0x8D: "xsetbv", 0xA2: "invpcid", 0x400: "npf",
}  # fmt: skip
_VMX_EXITS = {
    0: "EXCEPTION_NMI", 1: "EXTERNAL_INTERRUPT", 2: "TRIPLE_FAULT", 3: "INIT_SIGNAL", 4: "SIPI_SIGNAL",
    7: "INTERRUPT_WINDOW", 8: "NMI_WINDOW", 9: "TASK_SWITCH", 10: "CPUID", 12: "HLT", 13: "INVD",
    14: "INVLPG", 15: "RDPMC", 16: "RDTSC", 18: "VMCALL", 19: "VMCLEAR", 20: "VMLAUNCH", 21: "VMPTRLD",
    22: "VMPTRST", 23: "VMREAD", 24: "VMRESUME", 25: "VMWRITE", 26: "VMOFF", 27: "VMON", 28: "CR_ACCESS",
    29: "DR_ACCESS", 30: "IO_INSTRUCTION", 31: "MSR_READ", 32: "MSR_WRITE", 33: "INVALID_STATE",
    34: "MSR_LOAD_FAIL", 36: "MWAIT_INSTRUCTION", 37: "MONITOR_TRAP_FLAG", 39: "MONITOR_INSTRUCTION",
    40: "PAUSE_INSTRUCTION", 41: "MCE_DURING_VMENTRY", 43: "TPR_BELOW_THRESHOLD", 44: "APIC_ACCESS",
    45: "EOI_INDUCED", 46: "GDTR_IDTR", 47: "LDTR_TR", 48: "EPT_VIOLATION", 49: "EPT_MISCONFIG",
    50: "INVEPT", 51: "RDTSCP", 52: "PREEMPTION_TIMER", 53: "INVVPID", 54: "WBINVD", 55: "XSETBV",
    56: "APIC_WRITE", 57: "RDRAND", 58: "INVPCID", 59: "VMFUNC", 60: "ENCLS", 61: "RDSEED", 62: "PML_FULL",
    63: "XSAVES", 64: "XRSTORS", 67: "UMWAIT", 68: "TPAUSE", 74: "BUS_LOCK", 75: "NOTIFY",
}  # fmt: skip


def pferr_flags(error_code: int) -> str:
    """Return the names of a page fault's error bits, the rest in hexadecimal (`P|W|0x100000000`)."""
    names = [name for bit, name in _PFERR if error_code & bit]
    rest = error_code & ~0x1F
    return "|".join([*names, f"{rest:#x}"] if rest else names)


def pferr_of(flags: str) -> int:
    """Return the error code that pferr_flags printed. Raises ValueError."""
    bits = {name: bit for bit, name in _PFERR}
    return sum(bits.get(flag) or int(flag, 16) for flag in flags.split("|") if flag)


def exit_reason(code: int) -> str:
    """Return the name of an SVM exit code (kernel SVM_EXIT_REASONS)."""
    return _SVM_EXITS.get(code, f"{code:#x}")


def vmx_exit_reason(reason: int) -> str:
    """Return the name of a VMX exit reason (kernel VMX_EXIT_REASONS, VMX_EXIT_REASON_FLAGS)."""
    name = _VMX_EXITS.get(reason & 0xFFFF, f"{reason & 0xFFFF:#x}")
    flags = reason & ~0xFFFF
    if not flags:
        return name
    names = ["FAILED_VMENTRY"] if flags & 1 << 31 else []
    rest = flags & ~(1 << 31)
    return f"{name} {'|'.join([*names, f'{rest:#x}'] if rest else names)}"


def svm_exit_code(name: str) -> int | None:
    """Return the SVM exit code of a name; None if SVM has none of this name."""
    return _code_of(_SVM_EXITS, name)


def vmx_exit_code(name: str) -> int | None:
    """Return the VMX exit reason of a name that vmx_exit_reason printed; None if it did not."""
    name, _, flags = name.partition(" ")
    code = _code_of(_VMX_EXITS, name)
    if code is None:
        return None
    return code | sum(
        1 << 31 if flag == "FAILED_VMENTRY" else int(flag, 16) for flag in flags.split("|") if flag
    )


def _code_of(names: dict[int, str], name: str) -> int | None:
    code = next((code for code, known in names.items() if known == name), None)
    return int(name, 16) if code is None and name.startswith("0x") else code


def ept_violation_text(qualification: int) -> str:
    """Return an EPT violation's exit qualification in words: what was tried, and what the tables grant."""

    def rights(bits: int) -> str:
        return "".join(name for bit, name in ((EPT_R, "r"), (EPT_W, "w"), (EPT_X, "x")) if bits & bit) or "-"

    of_a_table = "" if qualification & EPT_VIOLATION_GVA_TRANSLATED else "a table of the guest, "
    granted = rights(qualification >> EPT_VIOLATION_RWX_SHIFT)
    return f"{of_a_table}{rights(qualification)} where {granted} is granted"
