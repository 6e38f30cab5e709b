"""What a VM shows beside its tracepoints, looked at between them: flush requests, flushes, page numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from shadowmmu.kvm.bits import REQ_TLB_FLUSH_CURRENT, REQ_TLB_FLUSH_GUEST
from shadowmmu.kvm.state.vm import Kvm

__all__ = ["VmWatch"]

_LOCAL = {REQ_TLB_FLUSH_CURRENT: "current context", REQ_TLB_FLUSH_GUEST: "guest"}


class VmWatch:
    """Compares a VM with how it was at the last look.

    A vCPU's own request that was made and served in between stays unseen; its flush does not.
    """

    def __init__(self, kvm: Kvm) -> None:
        self._kvm = kvm
        self._requests = kvm.stat.remote_tlb_flush_requests
        self._own: dict[tuple[int, int], bool] = {}
        self._flushes = {vcpu.id: vcpu.stat.tlb_flush for vcpu in kvm.vcpus}
        self._counters: dict[str, Mapping[str, int]] = {}

    def requests(self) -> Iterator[tuple[str, list[int]]]:
        """Yield each new flush request: what it is of, and the vCPUs that must flush."""
        kvm = self._kvm
        for _ in range(kvm.stat.remote_tlb_flush_requests - self._requests):
            yield "all vCPUs", [vcpu.id for vcpu in kvm.vcpus]
        self._requests = kvm.stat.remote_tlb_flush_requests
        for vcpu in kvm.vcpus:
            for request, what in _LOCAL.items():
                pending = bool(vcpu.requests & request)
                if pending and not self._own.get((vcpu.id, request)):
                    yield f"vCPU {vcpu.id}, {what}", [vcpu.id]
                self._own[vcpu.id, request] = pending

    def flushes(self) -> Iterator[int]:
        """Yield each vCPU that flushed."""
        for vcpu in self._kvm.vcpus:
            if vcpu.stat.tlb_flush != self._flushes.get(vcpu.id, 0):
                self._flushes[vcpu.id] = vcpu.stat.tlb_flush
                yield vcpu.id

    def counters(self) -> Iterator[tuple[str, Mapping[str, int]]]:
        """Yield the diagrams whose values changed."""
        kvm, stat = self._kvm, self._kvm.stat
        now: dict[str, Mapping[str, int]] = {
            "shadow pages": {
                "used": kvm.n_used_mmu_pages,
                "indirect": kvm.indirect_shadow_pages,
                "of the TDP MMU": kvm.tdp_mmu_pages,
            },
            "unsync pages": {"unsync": stat.mmu_unsync},
            "mapped pages": {"4k": stat.pages_4k, "2m": stat.pages_2m, "1g": stat.pages_1g},
        }
        for name, values in now.items():
            if values != self._counters.get(name):
                self._counters[name] = values
                yield name, values
