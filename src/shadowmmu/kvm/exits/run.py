"""Entering the guest (vcpu_enter_guest, arch/x86/kvm/x86.c, svm.c and vmx.c for the registers, 6.12.111).

Requests are served in KVM's order: a full dirty ring, obsolete roots, sync, load root, flush all, flush
current, flush guest, a triple fault, the processor's log of dirty pages; then a pending exception is
injected, and the MMU loaded if it has no root.
"""

from cython import uint as u32

from ...x86.bits import CR0_WP, CR4_LA57, CR4_PAE, CR4_PGE, CR4_PSE, CR4_SMAP, CR4_SMEP, EFER_NX
from ..bits import (
    INVALID_PAGE,
    REQ_LOAD_MMU_PGD,
    REQ_MMU_FREE_OBSOLETE_ROOTS,
    REQ_MMU_SYNC,
    REQ_TLB_FLUSH,
    REQ_TLB_FLUSH_CURRENT,
    REQ_TLB_FLUSH_GUEST,
    REQ_TRIPLE_FAULT,
    REQ_UPDATE_CPU_DIRTY_LOGGING,
)
from ..guest_access.dirty_ring import kvm_dirty_ring_check_request
from ..pages.roots import kvm_mmu_free_obsolete_roots, kvm_mmu_free_roots, kvm_mmu_load, kvm_mmu_load_pgd
from ..pages.sync import kvm_mmu_sync_roots, unsync_prev_roots
from ..registers.nested import nested_svm_triple_fault
from ..registers.pml import vmx_update_cpu_dirty_logging
from ..state.vcpu import Vcpu


class TripleFault(Exception):
    """The guest could not take a double fault, or has no root: KVM_RUN ends with KVM_EXIT_SHUTDOWN."""


def _take(vcpu: Vcpu, request: u32) -> bool:
    """Clear a request. Return whether it was pending."""
    if not vcpu.requests & request:
        return False
    vcpu.requests &= ~request
    return True


def kvm_vcpu_flush_tlb_guest(vcpu: Vcpu) -> None:
    """Flush as the guest asked for: the TLB, and with shadow paging sync what is unsync."""
    vcpu.stat.tlb_flush += 1
    if not vcpu.kvm.parameters.tdp_enabled:
        kvm_mmu_sync_roots(vcpu)
        kvm_mmu_free_roots(vcpu.kvm, vcpu.mmu, unsync_prev_roots(vcpu))
    vcpu.cpu.flush_all()


class DirtyRingFull(Exception):
    """The vCPU's dirty ring is nearly full: KVM_RUN ends with KVM_EXIT_DIRTY_RING_FULL."""


def service_requests(vcpu: Vcpu) -> None:
    """Serve all pending requests. Raises DirtyRingFull or TripleFault if that is one of them."""
    if kvm_dirty_ring_check_request(vcpu):
        raise DirtyRingFull
    if _take(vcpu, REQ_MMU_FREE_OBSOLETE_ROOTS):
        kvm_mmu_free_obsolete_roots(vcpu)
    if _take(vcpu, REQ_MMU_SYNC):
        kvm_mmu_sync_roots(vcpu)
    if _take(vcpu, REQ_LOAD_MMU_PGD):
        kvm_mmu_load_pgd(vcpu)
    if _take(vcpu, REQ_TLB_FLUSH):
        vcpu.stat.tlb_flush += 1
        vcpu.cpu.flush_all()
        vcpu.requests &= ~REQ_TLB_FLUSH_CURRENT
    if _take(vcpu, REQ_TLB_FLUSH_CURRENT):
        vcpu.stat.tlb_flush += 1
        vcpu.cpu.flush_all()
    if _take(vcpu, REQ_TLB_FLUSH_GUEST):
        kvm_vcpu_flush_tlb_guest(vcpu)
    if _take(vcpu, REQ_TRIPLE_FAULT):
        if not vcpu.guest_mode:
            raise TripleFault
        nested_svm_triple_fault(vcpu)
    if _take(vcpu, REQ_UPDATE_CPU_DIRTY_LOGGING):
        vmx_update_cpu_dirty_logging(vcpu)


def _guest_levels(vcpu: Vcpu) -> u32:
    """Return the levels of the tables that the guest's own registers ask for; 0 without paging."""
    if not vcpu.is_paging():
        return 0
    if vcpu.is_long_mode():
        return 5 if vcpu.cr4 & CR4_LA57 else 4
    return 3 if vcpu.cr4 & CR4_PAE else 2


def _configure_nested_paging(vcpu: Vcpu) -> None:
    """Set the processor up for two-dimensional paging: the guest's own registers, and KVM's nested tables."""
    parameters = vcpu.kvm.parameters
    if parameters.vmx:
        vcpu.cpu.set_ept(
            levels=vcpu.mmu.shadow_level(),
            maxphyaddr=vcpu.host_maxphyaddr,
            ad=parameters.ept_ad_bits,
            execute_only=parameters.ept_exec_only,
            mbec=vcpu.kvm.mbec,
        )
    else:
        vcpu.cpu.set_nested(levels=parameters.tdp_level, maxphyaddr=vcpu.host_maxphyaddr)
    vcpu.cpu.set_paging(
        levels=_guest_levels(vcpu),
        cr0_wp=bool(vcpu.cr0 & CR0_WP),
        efer_nx=bool(vcpu.efer & EFER_NX),
        cr4_smep=bool(vcpu.cr4 & CR4_SMEP),
        cr4_smap=bool(vcpu.cr4 & CR4_SMAP),
        cr4_pse=bool(vcpu.cr4 & CR4_PSE),
        cr4_pge=bool(vcpu.cr4 & CR4_PGE),
        maxphyaddr=vcpu.host_maxphyaddr,
        amd=not parameters.vmx,
    )


def _configure_shadow_paging(vcpu: Vcpu) -> None:
    """Set the processor up for the shadow's paging mode, with WP and NX always on."""
    paging = vcpu.is_paging()
    vcpu.cpu.set_paging(
        levels=vcpu.mmu.shadow_level(),
        cr0_wp=True,
        efer_nx=True,
        cr4_smep=paging and bool(vcpu.cr4 & CR4_SMEP),
        cr4_smap=paging and bool(vcpu.cr4 & CR4_SMAP),
        maxphyaddr=vcpu.host_maxphyaddr,
    )


def configure_cpu(vcpu: Vcpu) -> None:
    """Set the processor up for the guest's registers, unless it is already."""
    wanted = (vcpu.cr0, vcpu.cr4, vcpu.efer, vcpu.mmu.shadow_level())
    if wanted == vcpu.configured:
        return
    if vcpu.kvm.parameters.tdp_enabled:
        _configure_nested_paging(vcpu)
    else:
        _configure_shadow_paging(vcpu)
    vcpu.configured = wanted


def vcpu_enter_guest(vcpu: Vcpu) -> None:
    """Do everything that comes before VM entry; again if preparing it made requests.

    Raises NoShadowPages, DirtyRingFull or TripleFault.
    """
    while True:
        _prepare_entry(vcpu)
        if not vcpu.requests:
            break
        if vcpu.exception is not None:
            vcpu.exception.reinjected = True
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_entry(vcpu.id, vcpu.rip, False)
    configure_cpu(vcpu)


def _inject_soft_interrupt(vcpu: Vcpu) -> None:
    """Inject an INT n again. svm_inject_irq without nRIP reads the instruction to find its end, and drops the
    interrupt if that fails.
    """
    interrupt = vcpu.soft_interrupt
    if interrupt is None:
        return
    if not vcpu.kvm.parameters.vmx and not interrupt.skip():
        vcpu.soft_interrupt = None
        return
    if vcpu.kvm.tracing:
        vcpu.kvm.tracer.kvm_inj_virq(interrupt.vector, True, True)
    vcpu.stat.irq_injections += 1


def _prepare_entry(vcpu: Vcpu) -> None:
    """Serve requests, inject what is pending, and load the MMU if it has no root. Raises as service_requests
    and kvm_mmu_load do.
    """
    if vcpu.requests:
        service_requests(vcpu)
    _inject_soft_interrupt(vcpu)
    if vcpu.exception is not None and vcpu.kvm.tracing:
        exception = vcpu.exception
        vcpu.kvm.tracer.kvm_inj_exception(
            exception.vector,
            exception.error_code is not None,
            exception.error_code or 0,
            exception.reinjected,
        )
    if vcpu.mmu.root_hpa == INVALID_PAGE:
        kvm_mmu_load(vcpu)
