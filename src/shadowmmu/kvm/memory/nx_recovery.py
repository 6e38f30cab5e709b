"""NX huge pages: switching the mitigation, and recovering huge pages (mmu.c, 6.12.111 and 7.3.4)."""

import errno
from collections.abc import Callable

from ...x86.bits import MASK64
from ..bits import DEFECT_NX_RECOVERY_UNFLUSHED
from ..pages.zap import kvm_mmu_prepare_zap_page, kvm_mmu_remote_flush_or_zap
from ..pages.zap_all import zap_all
from ..spte.nx_huge_page import unaccount_nx_huge_page
from ..state.shadow_page import ShadowPage
from ..state.vm import Kvm
from ..tdp.zap import kvm_tdp_mmu_zap_sp
from .kstrtox import kstrtobool
from .memory_region import RegionError

HOUR_MS = 3_600_000


def set_nx_huge_pages(kvm: Kvm, value: str) -> None:
    """Write the module parameter kvm.nx_huge_pages: off, force, auto or a truth value.

    A change zaps every shadow page. auto means off here: the processor has no iTLB multihit bug. Raises
    RegionError: EBUSY for never, which can only be chosen while there is no VM; EINVAL.
    """
    if value == "never":
        raise RegionError(errno.EBUSY, "never can only be chosen while there is no VM")
    words = {"off": False, "auto": False, "force": True}
    new = words[value] if value in words else kstrtobool(value)
    if new != kvm.parameters.nx_huge_pages:
        kvm.parameters.nx_huge_pages = new
        zap_all(kvm)


class NxRecoveryWorker:
    """The kernel thread that recovers huge pages (kvm_nx_huge_page_recovery_worker).

    It exists from the first VM entry of a vCPU on. Time passes only while user space sleeps.

    Attributes:
        kvm: The VM.
        now: Milliseconds that user space slept so far.
        last: `now` at the last pass or, before that, when the worker was started; None: it does not exist
            yet.
    """

    def __init__(self, kvm: Kvm) -> None:
        self.kvm = kvm
        self.now = 0
        self.last: int | None = None

    def start(self) -> None:
        """Start the worker at the first KVM_RUN; later calls do nothing."""
        if self.last is None:
            self.last = self.now

    def period(self) -> int | None:
        """Return the milliseconds between two passes; None if there are none."""
        parameters = self.kvm.parameters
        ratio = parameters.nx_huge_pages_recovery_ratio
        if not parameters.nx_huge_pages or not ratio:
            return None
        return parameters.nx_huge_pages_recovery_period_ms or HOUR_MS // min(ratio, HOUR_MS // 1000)

    def sleep(self, milliseconds: int) -> None:
        """Let time pass, with the passes that are due in it."""
        end = self.now + milliseconds
        period = self.period()
        while self.last is not None and period is not None and self.last + period <= end:
            self.now = max(self.now, self.last + period)
            kvm_recover_nx_huge_pages(self.kvm)
            self.last = self.now
        self.now = end


def kvm_recover_nx_huge_pages(kvm: Kvm) -> None:
    """Zap 1/ratio of the pages without which an executable page could be huge: one pass of the recovery
    worker.

    Since 7.3 that share of the shadow MMU's pages, then that of the TDP MMU's (nx_lists). Pages of the latter
    are then subtracted from the count of the former (nx_recovery_miscounts): both shares get wrong.
    """
    if kvm.design.nx_lists == 1:
        _recover(kvm, lambda sp: True, kvm.stat.nx_lpage_splits)
    else:
        _recover(kvm, lambda sp: not sp.tdp_mmu_page, possible_nx_huge_page_counts(kvm)[0])
        _recover(kvm, lambda sp: sp.tdp_mmu_page, possible_nx_huge_page_counts(kvm)[1])


def possible_nx_huge_page_counts(kvm: Kvm) -> tuple[int, int]:
    """Return how many pages of the shadow and of the TDP MMU can be recovered, as KVM counts them (u64)."""
    tdp = sum(sp.tdp_mmu_page for sp in kvm.possible_nx_huge_pages)
    shadow = len(kvm.possible_nx_huge_pages) - tdp
    return (shadow - kvm.nx_miscounted) & MASK64, (tdp + kvm.nx_miscounted) & MASK64


def _recover(kvm: Kvm, is_listed: Callable[[ShadowPage], bool], count: int) -> None:
    ratio = kvm.parameters.nx_huge_pages_recovery_ratio
    to_zap = ((count + ratio - 1) & MASK64) // ratio if ratio else 0
    invalid_list: list[ShadowPage] = []
    flush = False
    for _ in range(to_zap):
        sp = next(filter(is_listed, kvm.possible_nx_huge_pages), None)
        if sp is None:
            break
        if sp.tdp_mmu_page and kvm.design.nx_recovery_miscounts:
            unaccount_nx_huge_page(kvm, sp)
            kvm.nx_miscounted += 1
        slot = kvm.gfn_to_memslot(sp.gfn)
        if kvm.design.nx_recovery_skips_logged_slots and slot is not None and slot.logs_dirty():
            unaccount_nx_huge_page(kvm, sp)
        elif sp.tdp_mmu_page:
            flush |= kvm_tdp_mmu_zap_sp(kvm, sp) and kvm.design.defect != DEFECT_NX_RECOVERY_UNFLUSHED
        else:
            kvm_mmu_prepare_zap_page(kvm, sp, invalid_list)
    kvm_mmu_remote_flush_or_zap(kvm, invalid_list, flush)
