"""Nested SVM: L1 runs a guest of its own, L2, on nested tables of its own (svm/nested.c, 6.12.111).

While L2 runs, guest_mmu shadows L1's nested tables. L1 describes L2 in a page of its memory, the VMCB12; what
it asks for beyond paging is not modelled.
"""

from dataclasses import dataclass

from ...x86.bits import CR0_CD, CR0_NW, CR0_PE, CR0_PG, CR4_PAE, EFER_LME, EFER_SVME, GP_VECTOR, UD_VECTOR
from ...x86.svm import SVM_EXIT_ERR, SVM_EXIT_NPF, SVM_EXIT_SHUTDOWN
from ..bits import DEFECT_NESTED_UNSYNCED, REQ_MMU_SYNC, REQ_TLB_FLUSH_CURRENT, REQ_TRIPLE_FAULT
from ..guest_access.guest_memory import read_guest, write_guest
from ..pages.role import kvm_init_mmu, kvm_init_shadow_npt_mmu
from ..pages.roots import kvm_mmu_new_pgd
from ..state.vcpu import QueuedException, Vcpu
from .regs import CR4_KNOWN, EFER_FFXSR, EFER_KNOWN, load_pdptrs

INTERCEPTS, ASID, NESTED_CTL, NESTED_CR3 = 0x00, 0x58, 0x90, 0xB0
INT_CTL, EXIT_CODE, EXIT_INFO1, EXIT_INFO2, EVENT_INJ = 0x60, 0x70, 0x78, 0x80, 0xA8
SAVE_EFER, SAVE_CR4, SAVE_CR3, SAVE_CR0, SAVE_RIP = 0x4D0, 0x548, 0x550, 0x558, 0x578
INTERCEPT_VMRUN = 1
WORD_VMRUN = 0x10
"""Offsets in a VMCB (AMD APM vol. 2, appendix B)."""


@dataclass(frozen=True, slots=True)
class L1State:
    """L1's registers while L2 runs, for #VMEXIT (svm.vmcb01.ptr->save, svm.nested.vmcb12_gpa).

    Attributes:
        vmcb12: Physical address in L1 of the VMCB12.
        cr0: L1's CR0.
        cr3: L1's CR3.
        cr4: L1's CR4.
        efer: L1's EFER.
        rip: L1's RIP after its VMRUN.
    """

    vmcb12: int
    cr0: int
    cr3: int
    cr4: int
    efer: int
    rip: int


def _read(vcpu: Vcpu, vmcb12: int, offset: int, size: int = 8) -> int:
    """Return a field of the VMCB12; 0 if it cannot be read."""
    return read_guest(vcpu.kvm, vmcb12 + offset, size) or 0


def _write(vcpu: Vcpu, vmcb12: int, offset: int, value: int) -> None:
    """Store a field of 8 bytes in the VMCB12."""
    write_guest(vcpu.kvm, vmcb12 + offset, 8, value)


def _trace_vmenter(vcpu: Vcpu, vmcb12: int) -> None:
    """Fire the tracepoints of an entry of L2."""
    if not vcpu.kvm.tracing:
        return
    words = [_read(vcpu, vmcb12, INTERCEPTS + 4 * i, 4) for i in range(6)]
    vcpu.kvm.tracer.kvm_nested_vmenter(
        vcpu.rip,
        vmcb12,
        _read(vcpu, vmcb12, SAVE_RIP),
        _read(vcpu, vmcb12, INT_CTL, 4),
        _read(vcpu, vmcb12, EVENT_INJ, 4),
        _read(vcpu, vmcb12, NESTED_CTL) & 1,
        _read(vcpu, vmcb12, NESTED_CR3),
    )
    vcpu.kvm.tracer.kvm_nested_intercepts(
        words[0] & 0xFFFF, words[0] >> 16, words[2], words[3], words[4], words[5]
    )


def _failed_check(vcpu: Vcpu, vmcb12: int) -> str | None:
    """Return what makes the VMCB12 invalid, in the tracepoint's words, or None: nested_vmcb_check_save, then
    _controls.

    Only the checks of what is modelled.
    """
    cr0, cr4 = _read(vcpu, vmcb12, SAVE_CR0), _read(vcpu, vmcb12, SAVE_CR4)
    efer = _read(vcpu, vmcb12, SAVE_EFER)
    long_mode = efer & EFER_LME and cr0 & CR0_PG
    nested_paging = _read(vcpu, vmcb12, NESTED_CTL) & 1
    checks = (
        ("!(save->efer & EFER_SVME)", not efer & EFER_SVME),
        ("(save->cr0 & X86_CR0_CD) == 0 && (save->cr0 & X86_CR0_NW)", not cr0 & CR0_CD and cr0 & CR0_NW),
        ("save->cr0 & ~0xffffffffULL", cr0 >> 32),
        ("!(save->cr4 & X86_CR4_PAE)", long_mode and not cr4 & CR4_PAE),
        ("!(save->cr0 & X86_CR0_PE)", long_mode and not cr0 & CR0_PE),
        (
            "!kvm_vcpu_is_legal_cr3(vcpu, save->cr3)",
            long_mode and _read(vcpu, vmcb12, SAVE_CR3) >> vcpu.maxphyaddr,
        ),
        ("!__kvm_is_valid_cr4(vcpu, save->cr4)", cr4 & (~CR4_KNOWN | vcpu.cr4_missing)),
        ("!kvm_valid_efer(vcpu, save->efer)", efer & (~EFER_KNOWN | EFER_FFXSR & vcpu.efer_missing)),
        (
            "!vmcb12_is_intercept(control, INTERCEPT_VMRUN)",
            not _read(vcpu, vmcb12, WORD_VMRUN, 4) & INTERCEPT_VMRUN,
        ),
        ("control->asid == 0", not _read(vcpu, vmcb12, ASID, 4)),
        (
            "(control->nested_ctl & SVM_NESTED_CTL_NP_ENABLE) && "
            "!kvm_vcpu_is_legal_gpa(vcpu, control->nested_cr3)",
            nested_paging and _read(vcpu, vmcb12, NESTED_CR3) >> vcpu.maxphyaddr,
        ),
    )
    return next((text for text, failed in checks if failed), None)


def nested_svm_check_permissions(vcpu: Vcpu) -> bool:
    """Return whether L1 may use SVM's instructions; if not, queue #UD."""
    if vcpu.efer & EFER_SVME and vcpu.is_paging():
        return True
    vcpu.exception = QueuedException(UD_VECTOR, None, None)
    return False


def nested_svm_can_vmrun(vcpu: Vcpu, vmcb12: int) -> bool:
    """Return whether there are a host save area and a VMCB12 in a memslot; if not, queue #GP."""
    slot = vcpu.kvm.visible_memslot(vmcb12 >> 12)
    if vcpu.hsave_msr and not vmcb12 & 0xFFF and slot is not None:
        return True
    vcpu.exception = QueuedException(GP_VECTOR, 0, None)
    return False


def nested_svm_transition_tlb_flush(vcpu: Vcpu) -> None:
    """Request a sync of the MMU that takes over, and a flush: L1 and L2 share one ASID."""
    if vcpu.kvm.design.defect != DEFECT_NESTED_UNSYNCED:
        vcpu.make_request(REQ_MMU_SYNC)
    vcpu.make_request(REQ_TLB_FLUSH_CURRENT)


def nested_svm_vmrun(vcpu: Vcpu, vmcb12: int) -> None:
    """Emulate VMRUN of L1, with RIP after it already: the vCPU becomes L2, or stays L1 if the VMCB12 is not
    valid.
    """
    failed = _failed_check(vcpu, vmcb12)
    if failed is not None:
        if vcpu.kvm.tracing:
            vcpu.kvm.tracer.kvm_nested_vmenter_failed(failed)
        _write(vcpu, vmcb12, EXIT_CODE, SVM_EXIT_ERR)
        _write(vcpu, vmcb12, EXIT_INFO1, 0)
        _write(vcpu, vmcb12, EXIT_INFO2, 0)
        return
    l1 = L1State(vmcb12, vcpu.cr0, vcpu.cr3, vcpu.cr4, vcpu.efer, vcpu.rip)
    vcpu.l1_state = l1
    _trace_vmenter(vcpu, vmcb12)
    vcpu.nested_run_pending = True
    vcpu.stat.guest_mode = 1
    vcpu.guest_mode = True
    nested_svm_transition_tlb_flush(vcpu)
    _nested_svm_init_mmu_context(vcpu, l1, _read(vcpu, vmcb12, NESTED_CR3))
    vcpu.efer = _read(vcpu, vmcb12, SAVE_EFER)
    vcpu.cr0 = _read(vcpu, vmcb12, SAVE_CR0)
    vcpu.cr4 = _read(vcpu, vmcb12, SAVE_CR4)
    vcpu.cr3 = _read(vcpu, vmcb12, SAVE_CR3)
    vcpu.rip = _read(vcpu, vmcb12, SAVE_RIP)
    kvm_init_mmu(vcpu)


def _nested_svm_init_mmu_context(vcpu: Vcpu, l1: L1State, nested_cr3: int) -> None:
    """Switch to guest_mmu; it caches roots of other nested CR3s as every MMU caches roots of other CR3s."""
    vcpu.nested_cr3 = nested_cr3
    vcpu.mmu = vcpu.guest_mmu
    kvm_init_shadow_npt_mmu(vcpu, l1.cr4, l1.efer)
    kvm_mmu_new_pgd(vcpu, nested_cr3)
    vcpu.walk_mmu = vcpu.nested_mmu


def nested_svm_vmexit(vcpu: Vcpu) -> None:
    """Return to L1 (#VMEXIT), with the exit in vcpu.exit_code, exit_info1 and exit_info2 stored in the
    VMCB12.
    """
    l1 = vcpu.l1_state
    assert l1 is not None
    vcpu.l1_state = None
    vcpu.nested_run_pending = False
    vcpu.guest_mode = False
    vcpu.stat.guest_mode = 0
    for offset, value in (
        (SAVE_EFER, vcpu.efer),
        (SAVE_CR0, vcpu.cr0),
        (SAVE_CR3, vcpu.cr3),
        (SAVE_CR4, vcpu.cr4),
        (SAVE_RIP, vcpu.rip),
        (EXIT_CODE, vcpu.exit_code),
        (EXIT_INFO1, vcpu.exit_info1),
        (EXIT_INFO2, vcpu.exit_info2),
    ):
        _write(vcpu, l1.vmcb12, offset, value)
    vcpu.nested_cr3 = 0
    vcpu.efer, vcpu.cr0, vcpu.cr4, vcpu.rip = l1.efer, l1.cr0, l1.cr4, l1.rip
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_nested_vmexit_inject(vcpu.exit_code, vcpu.exit_info1, vcpu.exit_info2)
    nested_svm_transition_tlb_flush(vcpu)
    vcpu.mmu = vcpu.walk_mmu = vcpu.root_mmu
    vcpu.cpu.nested_root = vcpu.root_mmu.root_hpa
    vcpu.cpu.root = l1.cr3
    _nested_svm_load_cr3(vcpu, l1.cr3)
    vcpu.exception = None
    vcpu.soft_interrupt = None


def nested_svm_triple_fault(vcpu: Vcpu) -> None:
    """Report L2's shutdown to L1."""
    vcpu.exit_code, vcpu.exit_info1, vcpu.exit_info2 = SVM_EXIT_SHUTDOWN, 0, 0
    nested_svm_vmexit(vcpu)


def _nested_svm_load_cr3(vcpu: Vcpu, cr3: int) -> None:
    """Switch back to L1's CR3.

    If its PDPTEs are not valid L1 is shut down, and the walker stays L2's. Before 7.3 KVM stops half-way and
    keeps L2's CR3 as L1's until the next exit corrects it. That is harmless unless a root must be loaded
    meanwhile: then L1 runs with that CR3.
    """
    if vcpu.is_pae_paging() and not load_pdptrs(vcpu, cr3):
        if vcpu.kvm.design.invalid_l1_pdptes_shut_down:
            vcpu.make_request(REQ_TRIPLE_FAULT)
        if vcpu.kvm.design.gva_walk_shared:
            vcpu.root_mmu.copy_walk(vcpu.nested_mmu)
        if vcpu.kvm.tracing:
            vcpu.kvm.tracer.kvm_nested_vmenter_failed("!load_pdptrs(vcpu, cr3)")
        return
    kvm_mmu_new_pgd(vcpu, cr3)
    vcpu.cr3 = cr3
    kvm_init_mmu(vcpu)


def nested_svm_inject_npf_exit(vcpu: Vcpu, address: int, error_code: int) -> None:
    """Exit to L1 with a nested page fault: L1's nested tables do not map the address."""
    if vcpu.exit_code != SVM_EXIT_NPF:
        vcpu.exit_code = SVM_EXIT_NPF
        vcpu.exit_info1 = 1 << 32
        vcpu.exit_info2 = address
    vcpu.exit_info1 = vcpu.exit_info1 >> 32 << 32 | error_code & 0xFFFF
    nested_svm_vmexit(vcpu)
