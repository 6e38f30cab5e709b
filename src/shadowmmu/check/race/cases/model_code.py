"""Cases whose threads are the model's own code (interpreted): faults, zaps, logs and notifiers as they are.

Their names end in m; the protocol's case without it states the kernel's steps by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shadowmmu.kvm.bits import MEM_LOG_DIRTY_PAGES, SPTE_MMU_PRESENT
from shadowmmu.kvm.fault import fast_fault, page_fault
from shadowmmu.kvm.guest_access.mark_dirty import mark_page_dirty_in_slot
from shadowmmu.kvm.memory.dirty_bitmap import kvm_get_dirty_log
from shadowmmu.kvm.memory.dirty_log import kvm_mmu_slot_enable_log
from shadowmmu.kvm.pages.write_protect import kvm_mmu_slot_gfn_write_protect
from shadowmmu.kvm.pages.zap import kvm_mmu_start_zap_all_fast
from shadowmmu.kvm.spte.split_spte import LocklessRead, SpteWrite
from shadowmmu.kvm.tdp.zap import kvm_tdp_mmu_zap_invalidated_roots
from shadowmmu.x86.bits import ADDR, PFERR_P, PFERR_U, PFERR_W, PS, D, W

from ..engine import Op
from ..model import ModelCase, cmpxchg64
from .layout import PRESENT

Threads = dict[str, Callable[[], None]]

GPA = 0x80000
WRITE = PFERR_W | PFERR_U

TDP = """param kvm_amd npt=1
param kvm tdp_mmu=1
mode long4
vcpus 2
slot 0 0x0 1M
alloc 0x2000
tramp 0x1000
map 0x1000 0x0 0x0 0x67 n=256
start cr3=0x1000
nop
@1 nop
"""


class _Tdp(ModelCase):
    """Two vCPUs on the TDP MMU; nothing is mapped at GPA."""

    scenario = TDP

    def slot(self) -> Any:
        return self.kvm.memslot_of(GPA >> 12)

    def accounting(self) -> str:
        """Return what is wrong with the accounting of the TDP MMU; "" if nothing is."""
        kvm = self.kvm
        tables = [sp for sp in kvm.owners if sp is not None and sp.tdp_mmu_page]
        linked, leaves = self._below([sp for sp in tables if not sp.ptep])
        if len(linked) != len(tables):
            return f"{len(tables)} tables there are, {len(linked)} are linked"
        below = sum(sp.ptep != 0 for sp in tables)
        if kvm.tdp_mmu_pages != below:
            return f"{below} tables there are below roots, tdp_mmu_pages is {kvm.tdp_mmu_pages}"
        if kvm.stat.pages_4k != leaves:
            return f"{leaves} small pages are mapped, pages_4k is {kvm.stat.pages_4k}"
        return ""

    def _below(self, roots: list[Any]) -> tuple[set[int], int]:
        linked, leaves = set(), 0
        todo = list(roots)
        while todo:
            sp = todo.pop()
            linked.add(sp.spt)
            for spte in self.kvm.read_table(sp.spt):
                if spte & SPTE_MMU_PRESENT and sp.level() > 1 and not spte & PS:
                    todo.append(self.kvm.sptep_to_sp(spte & ADDR))
                elif spte & SPTE_MMU_PRESENT:
                    leaves += 1
        return linked, leaves


class R29Model(_Tdp):
    """kvm_tdp_mmu_map() twice for one page, with mmu_lock held for reading."""

    name = "R29m"
    title = "the model's TDP MMU: two vCPUs fault on one page"
    protections = {"cmpxchg": "SPTEs are changed by cmpxchg; without: compared, then stored"}

    def threads(self) -> Threads:
        return {"vCPU 0": lambda: self.fault(0), "vCPU 1": lambda: self.fault(1)}

    def fault(self, vcpu: int) -> None:
        self.page_fault(vcpu, GPA, WRITE)

    def check(self) -> None:
        wrong = self.accounting()
        if wrong:
            self.bad(wrong)


class R29Dirty(_Tdp):
    """The explorer's own find: without a bad outcome, as the next write just sets Dirty again."""

    name = "R29n"
    title = "the model's TDP MMU: of two faults on one page the loser takes Dirty from the SPTE (6.12)"
    reachable = "a present SPTE is replaced by one without Dirty: a spurious fault is not seen to be one"
    verdict = (
        "make_spte() takes a short cut if the old SPTE is writable, and leaves Dirty out: the second of "
        "two faults makes another SPTE than the first and stores it. Later kernels always set Dirty in a "
        "writable SPTE (KVM: x86/mmu: Always set SPTE's dirty bit if it's created as writable)."
    )

    def threads(self) -> Threads:
        return {"vCPU 0": lambda: self.fault(0), "vCPU 1": lambda: self.fault(1)}

    def fault(self, vcpu: int) -> None:
        self.page_fault(vcpu, GPA, WRITE)

    def check(self) -> None:
        spte = self.leaf(GPA)
        if spte & W and not spte & D:
            self.witness(f"the SPTE {spte:#x} is writable, was written, and has no Dirty")


class R18Model(_Tdp):
    """A fault of the TDP MMU against MADV_DONTNEED of its page."""

    name = "R18m"
    title = "the model's TDP MMU: a fault while the host takes the page (MADV_DONTNEED)"
    protections = {
        "mmu_invalidate_retry": "the fault looks for invalidations under mmu_lock, and retries",
        "mmu_lock": "the fault holds mmu_lock for reading, the notifier for writing",
    }

    @classmethod
    def changes(cls) -> list[tuple[Any, str, Callable[..., Any]]]:
        real = page_fault.mmu_invalidate_retry

        def retry(kvm: Any, fault: Any) -> bool:
            return "mmu_invalidate_retry" not in getattr(kvm, "race_without", ()) and real(kvm, fault)

        return [(page_fault, "mmu_invalidate_retry", retry)]

    def prepare(self) -> None:
        mapping = self.slot().mapping
        self.index = self.slot().page_index(GPA >> 12)
        self.page = mapping.page(self.index) & ADDR
        drop, fast_page = mapping.drop, mapping.fast_page

        def dropped(first: int, last: int) -> None:
            self.execution.stop(Op("the host takes the page", (("host", True),)))
            drop(first, last)

        def found(index: int, write: int) -> Any:
            self.execution.stop(Op("look the host page up", (("host", False),)))
            return fast_page(index, write)

        mapping.drop, mapping.fast_page = dropped, found

    def threads(self) -> Threads:
        return {"vCPU 0": self.fault, "host": self.discard}

    def fault(self) -> None:
        self.page_fault(0, GPA, WRITE)

    def discard(self) -> None:
        self.machine.kvm.host.madvise_dontneed(self.machine.hva(GPA), 0x1000)

    def check(self) -> None:
        spte = self.leaf(GPA)
        if spte and spte & ADDR == self.page:
            self.bad(f"the SPTE {spte:#x} maps the page that the host took")


class _Log:
    """A dirty bitmap whose words are fetched and cleared in one step, as KVM_GET_DIRTY_LOG does."""

    def __init__(self, case: ModelCase, words: Any) -> None:
        self.case = case
        self.words = words

    def __len__(self) -> int:
        return len(self.words)

    def __getitem__(self, index: int) -> int:
        self.case.execution.atomic(f"xchg dirty_bitmap[{index}], 0", ((f"log{index}", True),))
        old = int(self.words[index])
        self.words[index] = 0
        self.case.execution.say(f" (was {old:#x})")
        return old

    def __setitem__(self, index: int, value: int) -> None:
        """Do nothing more than __getitem__ has done already."""


class R5Model(_Tdp):
    """fast_page_fault() against kvm_get_dirty_log()."""

    name = "R5m"
    title = "the model's TDP MMU: fast_page_fault against KVM_GET_DIRTY_LOG"
    protections = {"mark_after_cmpxchg": "the page is marked dirty after W was set"}

    @classmethod
    def changes(cls) -> list[tuple[Any, str, Callable[..., Any]]]:
        def swapped(kvm: Any, sptep: int, old: int, new: int) -> int:
            if "mark_after_cmpxchg" in getattr(kvm, "race_without", ()):
                fault = kvm.vcpus[0].fault
                mark_page_dirty_in_slot(kvm, fault.slot, fault.gfn)
            return cmpxchg64(kvm, sptep, old, new)

        def mark(kvm: Any, slot: Any, gfn: int) -> None:
            if "mark_after_cmpxchg" not in getattr(kvm, "race_without", ()):
                mark_page_dirty_in_slot(kvm, slot, gfn)

        return [(fast_fault, "cmpxchg64", swapped), (fast_fault, "mark_page_dirty_in_slot", mark)]

    def prepare(self) -> None:
        slot = self.slot()
        self.page_fault(0, GPA, WRITE)
        slot.set_logging(on=True, bitmap=True, initially_set=False)
        assert slot.flags & MEM_LOG_DIRTY_PAGES
        kvm_mmu_slot_enable_log(self.kvm, slot)
        self.log = slot.dirty_bitmap
        slot.dirty_bitmap = _Log(self, self.log)
        slot.set_dirty_bit = self.set_dirty_bit

    def set_dirty_bit(self, page: int) -> None:
        self.execution.atomic(f"set bit {page} of dirty_bitmap", ((f"log{page >> 6}", True),))
        self.log[page >> 6] |= 1 << (page & 63)

    def threads(self) -> Threads:
        return {"vCPU 0": self.fault, "KVM_GET_DIRTY_LOG": self.get}

    def fault(self) -> None:
        self.page_fault(0, GPA, WRITE | PFERR_P)

    def get(self) -> None:
        with self.mmu_lock.write():
            kvm_get_dirty_log(self.kvm, self.slot())

    def check(self) -> None:
        page = (GPA >> 12) - self.slot().base_gfn
        if self.leaf(GPA) & W and not self.log[page >> 6] >> (page & 63) & 1:
            self.bad("the page is writable, and its bit is clear: the next write is lost")


class R4Model(_Tdp):
    """fast_page_fault() against kvm_mmu_slot_gfn_write_protect()."""

    name = "R4m"
    title = "the model's TDP MMU: fast_page_fault against write-protection of a page table"
    protections = {"cmpxchg": "W is set by cmpxchg; without: compared, then stored"}

    def prepare(self) -> None:
        self.page_fault(0, GPA, WRITE)
        slot = self.slot()
        slot.set_logging(on=True, bitmap=True, initially_set=False)
        kvm_mmu_slot_enable_log(self.kvm, slot)

    def threads(self) -> Threads:
        return {"vCPU 0": self.fault, "shadowing": self.protect}

    def fault(self) -> None:
        vcpu = self.kvm.vcpus[0]
        fault = vcpu.fault
        fault.addr, fault.gfn, fault.slot = GPA, GPA >> 12, self.slot()
        fault.write = fault.present = True
        fast_fault.fast_page_fault(vcpu, fault)

    def protect(self) -> None:
        with self.mmu_lock.write():
            kvm_mmu_slot_gfn_write_protect(self.kvm, self.slot(), GPA >> 12, 1)

    def check(self) -> None:
        if self.leaf(GPA) & W:
            self.bad("a shadowed table is writable")


class R22Model(_Tdp):
    """kvm_tdp_mmu_map() against the two halves of kvm_mmu_zap_all_fast()."""

    name = "R22m"
    title = "the model's TDP MMU: a fault while all roots are invalidated and zapped"
    protections = {
        "stale_check": "a fault whose root is obsolete is retried (is_page_fault_stale)",
        "mmu_lock": "roots are invalidated with mmu_lock held for writing",
    }

    @classmethod
    def changes(cls) -> list[tuple[Any, str, Callable[..., Any]]]:
        real = page_fault.is_page_fault_stale

        def stale(vcpu: Any, fault: Any) -> bool:
            found = bool(real(vcpu, fault))
            return found and "stale_check" not in getattr(vcpu.kvm, "race_without", ())

        return [(page_fault, "is_page_fault_stale", stale)]

    def prepare(self) -> None:
        self.page_fault(0, GPA + 0x1000, WRITE)
        self.root = self.kvm.sptep_to_sp(self.kvm.vcpus[0].mmu.root_hpa)

    def threads(self) -> Threads:
        return {"vCPU 0": self.fault, "zap all": self.zap}

    def fault(self) -> None:
        self.page_fault(0, GPA, WRITE)

    def zap(self) -> None:
        with self.mmu_lock.write():
            kvm_mmu_start_zap_all_fast(self.kvm)
        with self.mmu_lock.read():
            kvm_tdp_mmu_zap_invalidated_roots(self.kvm)

    def check(self) -> None:
        if any(spte & SPTE_MMU_PRESENT for spte in self.kvm.read_table(self.root.spt)):
            self.bad("a root that was zapped maps memory again: nobody will zap it")


class R37Model(ModelCase):
    """SpteWrite and LocklessRead of kvm/spte/split_spte.py, access by access."""

    name = "R37m"
    title = "the model's 32-bit host: an SPTE is cleared and set again while it is read without mmu_lock"
    protections = {"clear_spte_count": "the switch clear_spte_count"}
    scenario = """mode long4
slot 0 0x0 1M
alloc 0x2000
tramp 0x1000
map 0x1000 0x0 0x0 0x67 n=256
start cr3=0x1000
read 0x80000
"""

    def design_of(self) -> dict[str, str]:
        count = "yes" if self.has("clear_spte_count") else "no"
        return {"host_word": "32", "empty_spte": "0", "clear_spte_count": count}

    def prepare(self) -> None:
        self.sptep = fast_fault.last_sptep_lockless(self.kvm.vcpus[0], GPA)
        low = PRESENT | SPTE_MMU_PRESENT
        self.old, self.new = 0xA << 32 | low, 0xB << 32 | low
        self.machine.kvm.arena.store(self.sptep, 8, self.old)

    def threads(self) -> Threads:
        return {"LocklessRead": self.read, "SpteWrite": self.write}

    def read(self) -> None:
        read = LocklessRead(self.kvm, self.sptep)
        more = True
        while more:
            self.execution.stop(Op(f"read {read.next}", ((read.next.removesuffix(" again"), False),)))
            more = read.step()
            if read.retries > 1:
                return
        self.note(f"returns {read.value:#x}")
        if read.value & SPTE_MMU_PRESENT and read.value not in (self.old, self.new):
            self.bad(f"read {read.value:#x}: a present SPTE that never was")

    def write(self) -> None:
        for value in (0, self.new):
            write = SpteWrite(self.kvm, self.sptep, value)
            more = True
            while more:
                access = write.accesses[write.done]
                self.execution.stop(Op(f"write {access} of {value:#x}", ((access, True),)))
                more = write.step()


CASES = (R4Model, R5Model, R18Model, R22Model, R29Model, R29Dirty, R37Model)
