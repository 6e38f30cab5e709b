"""Cases whose threads are the model's own code: the log of huge pages is cleared while a table in them is
shadowed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shadowmmu.kvm.bits import REQ_TLB_FLUSH
from shadowmmu.kvm.memory import dirty_bitmap, split_huge_page
from shadowmmu.kvm.memory.dirty_bitmap import kvm_clear_dirty_log
from shadowmmu.kvm.spte import flush
from shadowmmu.x86.bits import ADDR, PFERR_U

from ..engine import Op
from ..model import ModelCase

Threads = dict[str, Callable[[], None]]

MEMORY = """slot 0 0x0 16M
slot 1 0x40000000 4M huge2m
cap 168 3
alloc 0x2000
tramp 0x1000
"""
TABLE = 0x40008000
OLD, NEW = 0x800067, 0x801067
CONTENTS = f"""poke {TABLE:#x} {OLD:#x}
poke 0x801000 0x2222
"""


class _Logged(ModelCase):
    """vCPU 1 has the huge page of TABLE writable in its TLB when the log is cleared; vCPU 0 uses the table.

    Attributes:
        address: What the table translates.
    """

    address: int

    @classmethod
    def changes(cls) -> list[tuple[Any, str, Callable[..., Any]]]:
        real = flush.kvm_make_all_cpus_request

        def request(kvm: Any, what: int) -> None:
            if what == REQ_TLB_FLUSH and hasattr(kvm, "race"):
                kvm.race[0].stop(Op("flush all TLBs", (("tlb", True),)))
            real(kvm, what)

        def released(kvm: Any) -> None:
            if hasattr(kvm, "race_lock"):
                kvm.race_lock.release()

        def dropped(kvm: Any) -> None:
            released(kvm)
            if hasattr(kvm, "race_lock"):
                kvm.race_lock.acquire(write=True)

        return [
            (flush, "kvm_make_all_cpus_request", request),
            (dirty_bitmap, "mmu_lock_dropped", released),
            (split_huge_page, "mmu_lock_dropped", dropped),
        ]

    def prepare(self) -> None:
        self.slot = self.kvm.memslot_of(TABLE >> 12)
        self.writer = self.kvm.vcpus[1]
        self.writer.requests &= ~REQ_TLB_FLUSH
        data = self.kvm.memslot_of(NEW >> 12)
        self.new_page = data.mapping.page(data.page_index(NEW >> 12)) & ADDR

    def threads(self) -> Threads:
        return {"KVM_CLEAR_DIRTY_LOG": self.clear, "vCPU 0": self.use, "vCPU 1": self.write}

    def clear(self) -> None:
        words = memoryview(bytearray(b"\xff" * (self.slot.npages // 8))).cast("Q")
        self.mmu_lock.acquire(write=True)
        kvm_clear_dirty_log(self.kvm, self.slot, 0, words)

    def use(self) -> None:
        self.page_fault(0, self.address, PFERR_U)
        self.execution.stop(Op("has used the table", (("table", False),)))

    def write(self) -> None:
        self.execution.stop(Op("writes the table if its TLB has it", (("tlb", True), ("table", True))))
        if not self.writer.requests & REQ_TLB_FLUSH:
            self.machine.host_write(TABLE, 8, NEW)
            self.note("written, no exit")

    def check(self) -> None:
        spte = self.leaf(self.address)
        if self.machine.host_read(TABLE, 8) == NEW and spte and spte & ADDR != self.new_page:
            self.bad(f"the table has {NEW:#x} by now, its shadow {spte:#x}: nobody will see it")


class Rc1Model(_Logged):
    """kvm_clear_dirty_log() against a fault that shadows a table in the huge page."""

    name = "R-c1m"
    title = "the model's CLEAR_DIRTY_LOG: a huge page is protected, and flushed after mmu_lock is released"
    protections = {"flush_before_unlock": "the switch clear_log_flushes_under_lock"}
    missing = frozenset({"flush_before_unlock"})
    verdict = "No kernel has the protection: a finding, see scenarios/reports/clear-log-shadow.txt."
    address = 0x80200000
    scenario = (
        f"mode long4\nvcpus 2\n{MEMORY}"
        "map 0x1000 0x80000000 0x802000 0x67\n"
        "map 0x1000 0x40000000 0x40000000 0x67 level=2\n"
        f"pt 0x3000 1 {TABLE | 0x67:#x}\n{CONTENTS}start cr3=0x1000\n"
        f"read 0x80000000\n@1 write {TABLE:#x} {OLD:#x}\ndirtylog on 1\n"
    )

    def design_of(self) -> dict[str, str]:
        return {"clear_log_flushes_under_lock": "yes" if self.has("flush_before_unlock") else "no"}


class Rc3Model(_Logged):
    """kvm_mmu_try_split_huge_pages() of a nested guest's huge page, into a table with fewer rights."""

    name = "R-c3m"
    title = "the model's eager splits: a huge page is split into a table with fewer rights"
    protections = {"split_flush": "the switch split_flush: every split flushes, or by the rule of mail 001"}
    verdict = "7.3.4 has the mail's rule: a finding, see scenarios/mails/001-nested-hole.txt."
    address = 0xC0200000
    scenario = (
        f"param kvm_amd npt=1\nparam kvm tdp_mmu=1\nmode long4\nnested\nvcpus 2\n{MEMORY}"
        "map 0x1000 0x7f0000000000 0xf010e000 0x67\nalloc 0x20000\nntramp 0x1f000\n"
        "npt map 0x1f000 0x40000000 0x40000000 0x67 level=2\n"
        "npt map 0x1f000 0x80000000 0x40000000 0x67 level=2\n"
        f"npt map 0x1f000 0xc0000000 0x802000 0x67\n{CONTENTS}"
        "l2code 0x40009000\nstart cr3=0x1000 ncr3=0x1f000 ncr3@1=0x1f000\n"
        f"l2exec 0x80009000\nl2exit\nwrite 0x7f0000000008 {TABLE | 0x67:#x}\nl2read 0xc0200000\nl2exit\n"
        "write 0x7f0000000010 0\nwrite 0x7f0000000018 0\nwrite 0x7f0000000020 0\n"
        "l2write 0x40000000 1\ndirtylog on 1\nl2read 0xc0000000\n"
        f"@1 l2write {TABLE:#x} {OLD:#x}\n"
    )

    def design_of(self) -> dict[str, str]:
        return {
            "split_flush": "stable" if self.has("split_flush") else "if_not_identical",
            "clear_log_flushes_under_lock": "yes",
        }


CASES = (Rc1Model, Rc3Model)
