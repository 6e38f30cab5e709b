"""The operations of a scenario: what the guest does, and what the host does to it."""

from __future__ import annotations

from dataclasses import dataclass

from .setup import SlotSetup

__all__ = [
    "GUEST_OPS",
    "UNRECORDED",
    "Access",
    "Age",
    "ChangeVmcb",
    "ClearDirty",
    "DeleteSlot",
    "EnableCap",
    "Exec",
    "GetDirty",
    "HarvestRing",
    "HostRead",
    "HostSregs",
    "HostTouch",
    "HostWrite",
    "Invlpg",
    "Invlpga",
    "L2Exit",
    "LruAge",
    "Madvise",
    "Meanwhile",
    "ModParam",
    "MoveSlot",
    "Mprotect",
    "Nop",
    "Op",
    "Prefault",
    "Remap",
    "ResetRings",
    "SetAc",
    "SetDump",
    "SetGpte",
    "SetMmuPages",
    "SetNestedCr3",
    "SetSlot",
    "SetSlotFlag",
    "Sleep",
    "Sysfs",
    "Translate",
    "WatchPage",
    "WriteCr",
    "WriteMsr",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """One statement after `start`; `text` is the line without comment and trailing space, as recorded."""

    line: int
    text: str
    vcpu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Access(Op):
    """A memory access of the guest. `kind` is read, write, xchg, add, cmpxchg or stos.

    `value` is what is stored or added, cut to the access; `expected` is cmpxchg's comparand; `count` the
    repetitions of `rep stosl`. `l2`: it is the guest's guest that makes it.
    """

    kind: str
    user: bool
    gva: int
    size: int
    value: int = 0
    expected: int = 0
    count: int = 1
    l2: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Nop(Op):
    """Run the guest code without any access of its own."""

    user: bool
    l2: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Exec(Op):
    """Jump to `gva`."""

    user: bool
    gva: int
    l2: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class L2Exit(Op):
    """VMMCALL of L2, which ends in L1; from L1 after a VMRUN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetNestedCr3(Op):
    """L1 runs L2 with another nested CR3."""

    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeVmcb(Op):
    """The VMCB12 changes: nested CR3, ASID, TLB control; None: not."""

    ncr3: int | None
    asid: int | None
    tlb: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Invlpga(Op):
    """INVLPGA of L1."""

    address: int
    asid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Invlpg(Op):
    """INVLPG."""

    gva: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteCr(Op):
    """MOV to CR0, CR3 or CR4 by the guest."""

    cr: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteMsr(Op):
    """WRMSR by the guest (`efer V` is WRMSR of 0xc0000080)."""

    index: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAc(Op):
    """EFLAGS.AC of the following ops of this vCPU. Leaves no record."""

    on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDump(Op):
    """Whether the following ops record the state. Leaves no record."""

    on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchPage(Op):
    """Report changes of a page from here on. Leaves no record."""

    gpa: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSlot(Op):
    """KVM_SET_USER_MEMORY_REGION; `keep` takes the slot's former memory if the size is the same."""

    slot: SlotSetup
    keep: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteSlot(Op):
    """Delete a slot; its host memory stays. The kernel answers EINVAL for a slot that does not exist."""

    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveSlot(Op):
    """Give a slot another gpa."""

    slot: int
    gpa: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSlotFlag(Op):
    """`dirtylog` and `roflag`: set or clear one flag of a slot."""

    slot: int
    flag: int
    on: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GetDirty(Op):
    """KVM_GET_DIRTY_LOG."""

    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ClearDirty(Op):
    """KVM_CLEAR_DIRTY_LOG with all bits set for `pages` pages from page `first` of the slot."""

    slot: int
    first: int
    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EnableCap(Op):
    """KVM_ENABLE_CAP on the VM."""

    cap: int
    arg: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetMmuPages(Op):
    """KVM_SET_NR_MMU_PAGES."""

    pages: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Madvise(Op):
    """madvise() on the memory of a gpa range (`madvise_dontneed` is advice 4)."""

    gpa: int
    length: int
    advice: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mprotect(Op):
    """mprotect() on the memory of a gpa range; `protection` is ro, rw or none."""

    gpa: int
    length: int
    protection: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remap(Op):
    """Fresh anonymous memory in place of the old."""

    gpa: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTouch(Op):
    """The host reads and writes one byte of each page, which faults it in."""

    gpa: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Age(Op):
    """The host's page reclaim asks whether the memory of a gpa range was accessed, and forgets it.

    `flush`: it flushes TLBs besides (mmu notifier clear_flush_young instead of clear_young).
    """

    gpa: int
    length: int
    flush: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HarvestRing(Op):
    """User space takes the dirty entries of this vCPU's dirty ring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetRings(Op):
    """KVM_RESET_DIRTY_RINGS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRead(Op):
    """The host reads guest memory."""

    gpa: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HostWrite(Op):
    """The host writes guest memory, unseen by KVM."""

    gpa: int
    size: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SetGpte(Op):
    """The host writes a guest page-table entry of `size` bytes, unseen by KVM; its page is watched."""

    gpa: int
    size: int
    value: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModParam(Op):
    """Write a parameter of a loaded module."""

    module: str
    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sysfs(Op):
    """Write a file of the host's sysfs or procfs."""

    path: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sleep(Op):
    """Let time pass on the host."""

    milliseconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LruAge(Op):
    """Let the host's LRU age all memory of the hypervisor's process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSregs(Op):
    """KVM_SET_SREGS with these registers changed."""

    cr0: int | None
    cr3: int | None
    cr4: int | None
    efer: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Translate(Op):
    """KVM_TRANSLATE."""

    gva: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefault(Op):
    """KVM_PRE_FAULT_MEMORY."""

    gpa: int
    length: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Meanwhile(Op):
    """`op`, of a guest, is for the middle of the next operation: when that drops mmu_lock for the
    `drop`-th time; if it never does, `op` is left out.
    """

    drop: int
    op: Op


GUEST_OPS = (Access, Nop, Exec, Invlpg, WriteCr, WriteMsr, L2Exit, SetNestedCr3, Invlpga)
"""The kinds that the guest carries out: KVM sees what they do to its tables."""

UNRECORDED = (SetAc, SetDump, WatchPage, Meanwhile)
"""The kinds that leave no record."""
