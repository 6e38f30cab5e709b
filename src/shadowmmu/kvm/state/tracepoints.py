"""The tracepoints of KVM's MMU: one method each, called at the moment the kernel's tracepoint would fire.

The core calls them with raw integers, and only while `kvm.tracing` is true. Who listens derives from `Tracer`
and overrides the methods it wants.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from ..design.design import Design
from .shadow_page import ShadowPage

KVM_ISA_VMX, KVM_ISA_SVM = 1, 2


class Tracer:
    """Listens to nothing. Method names are the tracepoints' (kernel 6.12.111, mmutrace.h, trace.h, kvm.h).

    Addresses are in bytes, gfn and pfn in 4 KiB frames; `sptep` is the physical address of an SPTE. What is
    needed of a shadow page must be copied: the page changes.
    """

    def attached(self, design: Design) -> None:
        """What follows comes from a VM of that design, which decides what its kernel's events look like."""

    def kvm_mmu_pagetable_walk(self, addr: int, pferr: int) -> None:
        """A guest page-table walk begins; not again when it restarts because an A/D update lost."""

    def kvm_mmu_paging_element(self, pte: int, level: int) -> None:
        """A guest entry was read, before any check; the PDPTE of a PAE walk comes first, as level 3."""

    def kvm_mmu_set_accessed_bit(self, gpa: int) -> None:
        """The walk is about to set A in the guest entry at `gpa`."""

    def kvm_mmu_set_dirty_bit(self, gpa: int) -> None:
        """The walk is about to set D in the leaf entry at `gpa`, after its A."""

    def kvm_mmu_walker_error(self, pferr: int) -> None:
        """The guest walk failed: not present, reserved bit, permission, or a table outside memory."""

    def kvm_mmu_get_page(self, sp: ShadowPage, created: int) -> None:
        """A shadow page was looked up: found, or made and write-protected."""

    def kvm_mmu_sync_page(self, sp: ShadowPage) -> None:
        """An unsync page is about to become sync (also when it is zapped)."""

    def kvm_mmu_unsync_page(self, sp: ShadowPage) -> None:
        """A page is about to become unsync."""

    def kvm_mmu_prepare_zap_page(self, sp: ShadowPage) -> None:
        """A page is about to be zapped, before children, parents and its role change."""

    def mark_mmio_spte(self, sptep: int, gfn: int, access: int, gen: int) -> None:
        """An MMIO SPTE is about to be stored; `gen` is its 19-bit memslot generation."""

    def handle_mmio_page_fault(self, addr: int, gfn: int, access: int) -> None:
        """A reserved-bit fault met a valid MMIO SPTE; `addr` is 0 for direct MMUs."""

    def check_mmio_spte(self, spte: int, kvm_gen: int, spte_gen: int) -> None:
        """The generation of an MMIO SPTE is about to be compared."""

    def kvm_mmu_zap_all_fast(self, mmu_valid_gen: int, used_pages: int) -> None:
        """All pages are about to become obsolete; `mmu_valid_gen` is still the old one."""

    def fast_page_fault(
        self,
        vcpu_id: int,
        gva: int,
        error_code: int,
        sptep: int,
        old_spte: int,
        new_spte: int,
        spurious: int,
        fixed: int,
    ) -> None:
        """A lockless fix was tried; `sptep` is 0 when there was no SPTE, `new_spte` is read again."""

    def kvm_mmu_set_spte(self, gfn: int, spte: int, sptep: int, level: int, ept: int = 0) -> None:
        """A leaf SPTE (`ept`: of EPT) was installed with a changed value, by a fault or by prefetch."""

    def kvm_mmu_spte_requested(self, gfn: int, pfn: int, level: int, access: int) -> None:
        """A fault knows the level it maps at; `pfn` is the exact 4 KiB frame, 1 << 63 without a slot.

        `access` is what the guest's tables grant, of a direct MMU everything (7.3).
        """

    def kvm_page_fault(self, vcpu_id: int, rip: int, address: int, error_code: int) -> None:
        """An intercepted #PF reached KVM, before anything is done about it."""

    def kvm_exit(
        self,
        vcpu_id: int,
        reason: int,
        rip: int,
        info1: int,
        info2: int,
        isa: int = KVM_ISA_SVM,
        intr_info: int = 0,
        error_code: int = 0,
    ) -> None:
        """The guest left hardware; `reason` is the SVM exit code (0x4e is #PF) or, by `isa`, VMX's."""

    def kvm_pml_full(self, vcpu_id: int) -> None:
        """The vCPU's log of dirty pages was full; the exit emptied it."""

    def kvm_cr(self, write: int, cr: int, value: int) -> None:
        """An intercepted MOV to a control register is about to be carried out (VMX)."""

    def kvm_nested_vmexit(self, vcpu_id: int, reason: int, rip: int, info1: int, info2: int) -> None:
        """L2 left hardware; whether L1 or KVM handles it is not decided yet."""

    def kvm_nested_vmenter(
        self,
        rip: int,
        vmcb: int,
        nested_rip: int,
        int_ctl: int,
        event_inj: int,
        tdp_enabled: int,
        guest_pgd: int,
    ) -> None:
        """L1 starts L2; `rip` is L1's after its VMRUN, `guest_pgd` the nested CR3."""

    def kvm_nested_vmenter_failed(self, message: str) -> None:
        """A consistency check of nested virtualisation failed."""

    def kvm_nested_intercepts(
        self, cr_read: int, cr_write: int, exceptions: int, word1: int, word2: int, word3: int
    ) -> None:
        """What L1 intercepts of L2."""

    def kvm_nested_vmexit_inject(self, exit_code: int, exit_info1: int, exit_info2: int) -> None:
        """An exit of L2 goes to L1."""

    def kvm_invlpga(self, rip: int, asid: int, address: int) -> None:
        """INVLPGA of L1."""

    def kvm_mmio(self, kind: int, length: int, gpa: int, value: int) -> None:
        """Emulated MMIO: kind 0 a read that needs userspace, 1 a read completed, 2 a write."""

    def vcpu_match_mmio(self, gva: int, gpa: int, write: int, gpa_match: int) -> None:
        """The emulator hit the vCPU's last-MMIO record, by gpa or by gva."""

    def kvm_emulate_insn(self, rip: int, csbase: int, insn: bytes, mode: str, failed: int) -> None:
        """An instruction is about to be emulated, or could not be; `mode` is `prot64` or `prot32`."""

    def kvm_inj_exception(self, vector: int, has_error: int, error_code: int, reinjected: int) -> None:
        """An exception goes to the guest."""

    def kvm_inj_virq(self, vector: int, soft: int, reinjected: int) -> None:
        """An interrupt goes to the guest; `soft`: an INT n that could not be delivered before."""

    def kvm_msr(self, write: int, index: int, data: int, exception: int) -> None:
        """An intercepted RDMSR or WRMSR was carried out, or faulted."""

    def kvm_age_hva(self, start: int, end: int) -> None:
        """The host asks whether [start, end) was accessed since it last asked."""

    def kvm_test_age_hva(self, hva: int) -> None:
        """The host asks whether the page at hva was accessed, and goes on counting."""

    def kvm_dirty_ring_push(
        self, index: int, dirty_index: int, reset_index: int, slot: int, offset: int
    ) -> None:
        """vCPU `index` wrote down that page `offset` of a slot is dirty; the indices count entries."""

    def kvm_dirty_ring_reset(self, index: int, dirty_index: int, reset_index: int) -> None:
        """The harvested entries of a ring were emptied; there may have been none."""

    def kvm_dirty_ring_exit(self, vcpu_id: int) -> None:
        """KVM_RUN ends because the vCPU's ring is nearly full."""

    def kvm_tdp_mmu_spte_changed(
        self, as_id: int, gfn: int, level: int, old_spte: int, new_spte: int
    ) -> None:
        """An SPTE of the TDP MMU was changed; also when the entries of a removed table are frozen."""

    def kvm_mmu_split_huge_page(self, gfn: int, spte: int, level: int, errno: int) -> None:
        """A huge SPTE was split (errno 0), or could not be: negative errno."""

    def kvm_unmap_hva_range(self, start: int, end: int) -> None:
        """The host is about to change its mappings of [start, end), host virtual addresses."""

    def kvm_set_spte_hva(self, hva: int) -> None:
        """The host replaced the page at `hva` in place (6.1)."""


class Log(Tracer):
    """A tracer that keeps what it hears until it is asked."""

    @abstractmethod
    def attribute(self, task: str) -> None:
        """Say that what was heard since the last `take` happened in kernel thread `task`."""

    @abstractmethod
    def take(self) -> Sequence[Any]:
        """The events since the last call."""
