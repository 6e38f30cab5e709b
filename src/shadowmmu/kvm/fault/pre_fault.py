"""Mapping guest memory before it is accessed (KVM_PRE_FAULT_MEMORY, mmu.c and kvm_main.c, 6.12.111)."""

import errno

from ..bits import (
    INVALID_PAGE,
    REQ_MMU_FREE_OBSOLETE_ROOTS,
    RET_PF_EFAULT,
    RET_PF_EMULATE,
    RET_PF_ENOSPC,
    RET_PF_RETRY,
)
from ..memory.memory_region import RegionError
from ..pages.roots import kvm_mmu_free_obsolete_roots, kvm_mmu_load
from ..spte.huge_page import pages_per_hpage
from ..state.running_vcpu import loaded
from ..state.vcpu import Vcpu
from .page_fault import kvm_mmu_do_page_fault

PFERR_GUEST_FINAL = 1 << 32
ENDLESS = 1000
"""Retries of a page after which user space gives up: before 7.3 only VM entry replaces an obsolete root."""


def kvm_vcpu_pre_fault_memory(vcpu: Vcpu, gpa: int, size: int) -> None:
    """Map guest-physical addresses [gpa, gpa + size) through the current root. Raises RegionError if the
    first page cannot be mapped.
    """
    if not vcpu.kvm.design.pre_fault_memory:
        raise RegionError(errno.EINVAL, "this kernel has no KVM_PRE_FAULT_MEMORY")
    if gpa % 4096 or size % 4096 or not 0 < size < (1 << 64) - gpa:
        raise RegionError(
            errno.EINVAL, f"{size:#x} bytes at {gpa:#x}: must be whole 4 KiB pages, at least one, below 2^64"
        )
    end, first = gpa + size, gpa
    try:
        with loaded(vcpu):
            while gpa < end:
                gpa = _map_page(vcpu, gpa)
    except RegionError:
        if gpa == first:
            raise


def _map_page(vcpu: Vcpu, gpa: int) -> int:
    """Map the page of any size at gpa. Return the address after it. Raises RegionError."""
    if vcpu.kvm.design.reload_frees_obsolete_roots and vcpu.requests & REQ_MMU_FREE_OBSOLETE_ROOTS:
        vcpu.requests &= ~REQ_MMU_FREE_OBSOLETE_ROOTS
        kvm_mmu_free_obsolete_roots(vcpu)
    if vcpu.mmu.root_hpa == INVALID_PAGE:
        kvm_mmu_load(vcpu)
    if not vcpu.kvm.parameters.tdp_enabled or not vcpu.mmu.direct():
        raise RegionError(errno.EOPNOTSUPP, "pre-faulting needs two-dimensional paging, and not L2")
    for _ in range(ENDLESS):
        result = kvm_mmu_do_page_fault(vcpu, gpa, PFERR_GUEST_FINAL, 1)
        if result != RET_PF_RETRY:
            break
    numbers = {
        RET_PF_RETRY: errno.EINTR,
        RET_PF_EMULATE: errno.ENOENT,
        RET_PF_EFAULT: errno.EFAULT,
        RET_PF_ENOSPC: errno.ENOSPC,
    }
    if result in numbers:
        raise RegionError(numbers[result], f"the page at {gpa:#x} cannot be mapped")
    length = pages_per_hpage(vcpu.fault.goal_level) << 12
    return gpa // length * length + length
