"""Why a guest left to KVM: SVM exit codes and VMX exit reasons, with what the MMU does (6.12.111)."""

from __future__ import annotations

import re

from shadowmmu.guest.scenario.text import shown
from shadowmmu.x86.svm import exit_reason
from shadowmmu.x86.vmx import FAILED_VMENTRY, vmx_exit_reason

from .record import Decoded, Field
from .words import WordError

__all__ = ["decode_exit", "parse_exit"]

_SVM = {
    "read_cr3": "The guest reads CR3, which with shadow paging is not its own.",
    "write_cr0": "CR0.WP and PG are part of the role: another root may be needed (kvm_post_set_cr0).",
    "write_cr3": "Shadow paging: kvm_mmu_new_pgd looks the root up among the current and three previous "
    "ones, and unsync pages are synced.",
    "write_cr4": "PSE, PAE, LA57, SMEP, SMAP and PKE are part of the role; PGE and PCIDE flush.",
    "PF excp": "Shadow paging: info1 is the error code, info2 the address. kvm_mmu_page_fault walks the "
    "guest's tables and maps the page, emulates, or injects the #PF.",
    "invlpg": "kvm_mmu_invlpg syncs the SPTE of the address in the current and previous roots if its table "
    "is unsync, and flushes it.",
    "invlpga": "INVLPGA of a hypervisor in the guest: kvm_mmu_invlpg.",
    "invpcid": "kvm_handle_invpcid flushes roots by their PCID.",
    "npf": "Nested paging: info1 is the error code, info2 the guest physical address. kvm_mmu_page_fault "
    "maps the page; for L2 it may be an exit to L1.",
    "vmrun": "The guest is a hypervisor and runs L2: guest_mmu shadows L1's nested tables.",
    "hypercall": "VMMCALL.",
    "io": "A port, nothing of the MMU.",
    "msr": "EFER changes the role, other MSRs do not concern the MMU.",
    "shutdown": "A triple fault: the vCPU is reset.",
    "-0x1": "VMEXIT_INVALID: the processor refused the state of the guest.",
}
_VMX = {
    "EXCEPTION_NMI": "With ept=0 page faults come here; intr_info says which exception.",
    "CR_ACCESS": "Bits 3:0 of the qualification are the register, 5:4 the access; CR3 loads need exits with "
    "ept=0 only.",
    "INVLPG": "kvm_mmu_invlpg; with ept=0 only.",
    "EPT_VIOLATION": "info1 is the qualification: the access in bits 2:0, the rights that were there in 5:3. "
    "KVM makes a page-fault error code of it and maps the page.",
    "EPT_MISCONFIG": "An MMIO SPTE: the access is emulated, without any look at the guest's tables if its "
    "page is cached.",
    "PML_FULL": "The log of dirty pages is full: its 512 entries become dirty bits (vmx_flush_pml_buffer).",
    "INVPCID": "kvm_handle_invpcid flushes roots by their PCID.",
    "TRIPLE_FAULT": "The vCPU is reset.",
    "INVALID_STATE": "The processor refused the state of the guest.",
}


def parse_exit(text: str, *, vmx: bool) -> int:
    """Return an exit code from a number or KVM's name of it. Raises WordError.

    SVM codes are hexadecimal, VMX reasons decimal as in their manuals; with 0x both are hexadecimal.
    """
    stripped = text.strip()
    if re.fullmatch("0[xX][0-9a-fA-F]{1,8}", stripped):
        return int(stripped, 16)
    by_name = {_name(code, vmx=vmx).lower(): code for code in range(0x401)}
    if stripped.lower() in by_name:
        return by_name[stripped.lower()]
    if re.fullmatch("[0-9]{1,9}" if vmx else "[0-9a-fA-F]{1,8}", stripped):
        return int(stripped, 10 if vmx else 16)
    known = "npf, 0x400 or 400" if not vmx else "EPT_VIOLATION, 48 or 0x30"
    raise WordError(f"{shown(repr(text))} must be an exit code: {known}")


def decode_exit(word: int, *, vmx: bool) -> Decoded:
    """Return what an exit code of SVM, or an exit reason of VMX, says."""
    name = _name(word, vmx=vmx)
    known = not name.split(" ", maxsplit=1)[0].startswith("0x")
    vendor = "VMX exit reason" if vmx else "SVM exit code"
    fields = [Field("reason", 15 if vmx else 31, 0, word & (0xFFFF if vmx else 0xFFFFFFFF), name)]
    said = []
    if vmx and word >> 16:
        failed = bool(word & FAILED_VMENTRY)
        fields.append(
            Field("flags", 31, 16, word >> 16 & 0xFFFF, "VM entry failed" if failed else "other flags")
        )
        if failed:
            said.append("The VM entry failed: no instruction of the guest ran.")
    meaning = (_VMX if vmx else _SVM).get(name.split(" ", 1)[0] if vmx else name)
    if meaning:
        said.append(meaning)
    elif not known:
        said.append("KVM has no name for it.")
    number = f"{word & 0xFFFF}" if vmx else f"{word:#x}"
    return Decoded("exit", word, f"{vendor} {number}: {name}", tuple(fields), name, tuple(said))


def _name(code: int, *, vmx: bool) -> str:
    return vmx_exit_reason(code) if vmx else exit_reason(code)
