"""Names that the kernel's tables give to exit reasons, exceptions and error bits (6.12.111)."""

from ...x86.bits import EPT_R, EPT_VIOLATION_GVA_TRANSLATED, EPT_VIOLATION_RWX_SHIFT, EPT_W, EPT_X
from ...x86.svm import SVM_EXIT_REASONS
from ...x86.vmx import FAILED_VMENTRY, VMX_EXIT_REASONS

KVM_ISA_VMX, KVM_ISA_SVM = 1, 2

_PFERR = ((0x1, "P"), (0x2, "W"), (0x4, "U"), (0x8, "RSVD"), (0x10, "F"))


def pferr_flags(error_code: int) -> str:
    """Return the names of a page fault's error bits, the rest in hexadecimal (`P|W|0x100000000`)."""
    names = [name for bit, name in _PFERR if error_code & bit]
    rest = error_code & ~0x1F
    return "|".join([*names, f"{rest:#x}"] if rest else names)


def pferr_of(flags: str) -> int:
    """Return the error code that pferr_flags printed. Raises ValueError."""
    bits = {name: bit for bit, name in _PFERR}
    return sum(bits.get(flag) or int(flag, 16) for flag in flags.split("|") if flag)


def svm_exit_code(name: str) -> int | None:
    """Return the SVM exit code of a name; None if no exit of SVM has this name."""
    return _code_of(SVM_EXIT_REASONS, name)


def vmx_exit_code(name: str) -> int | None:
    """Return the VMX exit reason of a name that vmx_exit_reason printed; None if it did not."""
    name, _, flags = name.partition(" ")
    code = _code_of(VMX_EXIT_REASONS, name)
    if code is None:
        return None
    return code | sum(
        FAILED_VMENTRY if flag == "FAILED_VMENTRY" else int(flag, 16) for flag in flags.split("|") if flag
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
