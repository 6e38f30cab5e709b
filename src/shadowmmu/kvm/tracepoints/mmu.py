"""Events of the MMU (arch/x86/kvm/mmu/mmutrace.h, 6.12.111)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

from ...x86.bits import ACC_U, ACC_W, ACC_X, EPT_R, EPT_W, EPT_X, EPT_XU
from ..bits import (
    ROLE_4BYTE_GPTE,
    ROLE_ACCESS_SHIFT,
    ROLE_AD_DISABLED,
    ROLE_DIRECT,
    ROLE_EFER_NX,
    ROLE_INVALID,
)
from .event import Event, Tracepoint
from .fields import Gfn, Gpa, Gva, LeafSpte, Pfn, Role, Spte, Sptep, TdpSpte, Word
from .role_layout import FOUR_ACCESS_BITS, THREE_ACCESS_BITS, RoleLayout

_SPTE_W = 1 << 1
_SPTE_U = 1 << 2
_SPTE_NX = 1 << 63
EPT_SUPPRESS_VE = 1 << 63
_X_MASKS = (0, EPT_X, EPT_X | EPT_XU)


class ShadowPage(Protocol):
    """What the events need of a shadow page (kvm.state.shadow_page)."""

    gfn: int
    role: int
    mmu_valid_gen: int
    root_count: int
    unsync: bool


def access_of(letters: str) -> int:
    """Return the rights (ACC_*) that the letters of an event spell."""
    return sum(bit for letter, bit in (("x", ACC_X), ("w", ACC_W), ("u", ACC_U)) if letter in letters)


class PageEvent(Event):
    """Base of the events about a shadow page: its state when the event fired.

    mmu_valid_gen  generation of the page
    gfn            guest frame of the table that it shadows, or first frame that a direct page maps
    role           kvm_mmu_page_role.word
    root_count     how often it is a root
    unsync         1 if the guest's table may differ from it
    """

    ftrace = (
        "sp gen {mmu_valid_gen} gfn {gfn:x} l{level} {has_4_byte_gpte:8|4}-byte q{quadrant}{direct:| direct}"
        " {access:s}{invalid:| invalid} {efer_nx:!|}nxe {ad_disabled:|!}ad"
        " root {root_count} {unsync:sync|unsync}"
    )
    recorded = "page"
    layout: ClassVar[RoleLayout] = THREE_ACCESS_BITS
    """That of `role`."""
    mmu_valid_gen: int
    gfn: Gfn
    role: Role
    root_count: int
    unsync: int

    @property
    def level(self) -> int:
        """Level of the page."""
        return self.role & 15

    @property
    def quadrant(self) -> int:
        """Which part of a 4-byte table it shadows."""
        return self.role >> 5 & 3

    @property
    def access(self) -> str:
        """Access of its parents, a letter for each right: w, u, x, and since 7.3 before them r."""
        return self.layout.letters(self.role)

    @property
    def has_4_byte_gpte(self) -> bool:
        """Whether the table has entries of 4 bytes."""
        return bool(self.role & ROLE_4BYTE_GPTE)

    @property
    def direct(self) -> bool:
        """Whether it shadows no table."""
        return bool(self.role & ROLE_DIRECT)

    @property
    def invalid(self) -> bool:
        """Whether it was zapped while it was a root."""
        return bool(self.layout.model_role(self.role) & ROLE_INVALID)

    @property
    def efer_nx(self) -> bool:
        """Whether NX is a right bit of its guest's tables."""
        return bool(self.layout.model_role(self.role) & ROLE_EFER_NX)

    @property
    def ad_disabled(self) -> bool:
        """Whether its SPTEs have no Accessed and Dirty bits."""
        return bool(self.role & ROLE_AD_DISABLED)

    @classmethod
    def of(cls, sp: ShadowPage) -> Self:
        """Return the event of a page as it is now."""
        return cls(sp.mmu_valid_gen, sp.gfn, cls.layout.role(sp.role), sp.root_count, sp.unsync)

    @classmethod
    def assemble(cls, shown: Mapping[str, Any]) -> Self:
        """Return the event; of the role only what texts show."""
        role = (
            shown["level"]
            | bool(shown["has_4_byte_gpte"]) * ROLE_4BYTE_GPTE
            | shown["quadrant"] << 5
            | bool(shown["direct"]) * ROLE_DIRECT
            | access_of(shown["access"]) << ROLE_ACCESS_SHIFT
            | bool(shown["invalid"]) * ROLE_INVALID
            | bool(shown["efer_nx"]) * ROLE_EFER_NX
            | bool(shown["ad_disabled"]) * ROLE_AD_DISABLED
        )
        return super().assemble({**shown, "role": cls.layout.role(role)})

    def shown(self, field: str) -> str:
        """Return a field as repr shows it; of the role what matters most."""
        if field != "role":
            return super().shown(field)
        flags = f"{' direct' if self.direct else ''}{' invalid' if self.invalid else ''}"
        return f"{self.role:#x} (level {self.level} {self.access}{flags})"


class GetPage(PageEvent):
    """A shadow page was looked up: found, or made and write-protected.

    created  1 if it was made
    """

    ftrace = f"{PageEvent.ftrace} {{created:existing|new}}"
    created: int

    @classmethod
    def lookup(cls, sp: ShadowPage, created: int) -> Self:
        """Return the event of a page as it is now."""
        role = cls.layout.role(sp.role)
        return cls(sp.mmu_valid_gen, sp.gfn, role, sp.root_count, sp.unsync, created)


class SyncPage(PageEvent):
    """An unsync page is about to become sync (also when it is zapped)."""


class UnsyncPage(PageEvent):
    """A page is about to become unsync."""


class PrepareZapPage(PageEvent):
    """A page is about to be zapped, before children, parents and its role change."""


class GetPage4(GetPage):
    """A shadow page was looked up (7.3: access has four bits)."""

    layout = FOUR_ACCESS_BITS


class SyncPage4(SyncPage):
    """An unsync page is about to become sync (7.3: access has four bits)."""

    layout = FOUR_ACCESS_BITS


class UnsyncPage4(UnsyncPage):
    """A page is about to become unsync (7.3: access has four bits)."""

    layout = FOUR_ACCESS_BITS


class PrepareZapPage4(PrepareZapPage):
    """A page is about to be zapped (7.3: access has four bits)."""

    layout = FOUR_ACCESS_BITS


class PagetableWalk(Event):
    """A guest page-table walk begins; not again when it restarts because an A/D update lost.

    addr   address to translate
    pferr  access, as bits of a page fault's error code
    """

    ftrace = "addr {addr:x} pferr {pferr:x} {pferr:pferr}"
    recorded = "addr pferr"
    addr: Gva
    pferr: Word


class PagingElement(Event):
    """A guest entry was read, before any check; the PDPTE of a PAE walk comes first, as level 3.

    pte    the entry
    level  its level, 1 for the last
    """

    ftrace = "pte {pte:x} level {level}"
    recorded = "pte level"
    pte: Word
    level: int


class SetAccessedBit(Event):
    """The walk is about to set A in a guest entry.

    gpa  where the entry is
    """

    ftrace = "gpa {gpa:x}"
    recorded = "text"
    gpa: Gpa


class SetDirtyBit(Event):
    """The walk is about to set D in a leaf entry, after its A.

    gpa  where the entry is
    """

    ftrace = "gpa {gpa:x}"
    recorded = "text"
    gpa: Gpa


class WalkerError(Event):
    """The guest walk failed: not present, reserved bit, permission, or a table outside memory.

    pferr  error code of the guest's page fault, 32 bits
    """

    ftrace = "pferr {pferr:x} {pferr:pferr}"
    recorded = "text"
    pferr: Word


class MarkMmioSpte(Event):
    """An MMIO SPTE is about to be stored.

    sptep   where
    gfn     guest frame without memory
    access  rights of the guest's mapping: 1 execute, 2 write, 4 user
    gen     19-bit memslot generation in the SPTE
    """

    ftrace = "sptep:{sptep:pointer} gfn {gfn:x} access {access:x} gen {gen:x}"
    recorded = "at=sptep gfn access gen"
    sptep: Sptep
    gfn: Gfn
    access: Word
    gen: Word


class HandleMmioPageFault(Event):
    """A reserved-bit fault met a valid MMIO SPTE.

    addr    address accessed; 0 for direct MMUs
    gfn     guest frame without memory
    access  rights of the guest's mapping: 1 execute, 2 write, 4 user
    """

    ftrace = "addr:{addr:x} gfn {gfn:x} access {access:x}"
    recorded = "text"
    addr: Gva
    gfn: Gfn
    access: Word


class CheckMmioSpte(Event):
    """The generation of an MMIO SPTE is about to be compared.

    spte      the SPTE
    kvm_gen   generation of the memslots
    spte_gen  generation in the SPTE
    """

    ftrace = "spte {spte:x} kvm_gen {kvm_gen:x} spte-gen {spte_gen:x} valid {valid}"
    recorded = "text"
    spte: Word
    kvm_gen: Word
    spte_gen: Word

    @property
    def valid(self) -> bool:
        """Whether the generations are equal."""
        return self.kvm_gen == self.spte_gen


class ZapAllFast(Event):
    """All pages are about to become obsolete.

    mmu_valid_gen   still the old generation
    mmu_used_pages  shadow pages there are
    """

    ftrace = "kvm-mmu-valid-gen {mmu_valid_gen} used_pages {mmu_used_pages:x}"
    recorded = "text"
    mmu_valid_gen: int
    mmu_used_pages: Word


class FastPageFault(Event):
    """A lockless fix was tried.

    vcpu_id     number of the vCPU
    cr2_or_gpa  address of the fault
    error_code  of the fault
    sptep       the SPTE, 0 when there was none
    old_spte    what it was
    new_spte    what it is, read again
    spurious    1 if nothing needed fixing
    fixed       1 if it was fixed
    """

    ftrace = (
        "vcpu {vcpu_id} gva {cr2_or_gpa:x} error_code {error_code:pferr} sptep {sptep:pointer}"
        " old {old_spte:#x} new {new_spte:x} spurious {spurious} fixed {fixed}"
    )
    recorded = "gva=cr2_or_gpa error_code:pferr at=sptep old=old_spte new=new_spte spurious fixed"
    vcpu_id: int
    cr2_or_gpa: Gva
    error_code: Word
    sptep: Sptep
    old_spte: Spte
    new_spte: Spte
    spurious: int
    fixed: int


class SetSpte(Event):
    """A leaf SPTE was installed with a changed value, by a fault or by prefetch.

    gfn     guest frame that it maps
    spte    its value
    sptep   where it is
    level   1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB
    x_mask  bits that allow execution in EPT's format, 0 in the legacy format
    """

    ftrace = "gfn {gfn:x} spte {spte:x} ({permissions:s}) level {level} at {sptep:x}"
    recorded = "gfn spte perm=permissions level at=sptep"
    gfn: Gfn
    spte: LeafSpte
    sptep: Sptep
    level: int
    x_mask: Word = 0

    @property
    def permissions(self) -> str:
        """`rwxu` with `-` for what the SPTE does not allow.

        r always shows if shadow_present_mask is not 0, as it is but for EPT without suppress #VE (6.1); u is
        R of EPT, since 7.3 X for user addresses.
        """
        spte = self.spte
        if self.x_mask:
            always = spte & EPT_SUPPRESS_VE
            user = self.x_mask & EPT_XU or EPT_R
            rights = always or spte & EPT_R, spte & EPT_W, spte & EPT_X, spte & user
        else:
            rights = 1, spte & _SPTE_W, not spte & _SPTE_NX, spte & _SPTE_U
        return "".join(name if right else "-" for name, right in zip("rwxu", rights, strict=True))

    @classmethod
    def assemble(cls, shown: Mapping[str, Any]) -> Self:
        """Return the event in the format in which the SPTE has the permissions shown."""
        assemble = super().assemble
        formats = [assemble({**shown, "x_mask": mask}) for mask in _X_MASKS]
        fitting = (event for event in formats if event.permissions == shown["permissions"])
        return next(fitting, formats[-1])


class SpteRequested(Event):
    """A fault knows the level it maps at.

    gfn    guest frame of the fault
    pfn    exact 4 KiB host frame, 1 << 63 without a slot
    level  1 for 4 KiB, 2 for 2 MiB, 3 for 1 GiB
    """

    ftrace = "gfn {gfn:x} pfn {pfn:x} level {level}"
    recorded = "gfn pfn level"
    gfn: Gfn
    pfn: Pfn
    level: int

    @classmethod
    def of(cls, gfn: int, pfn: int, level: int, access: int) -> Self:
        """Return the event; `access`, what the guest's tables grant, is not shown."""
        return cls(gfn, pfn, level)


class SpteRequestedAccess(SpteRequested):
    """A fault knows the level it maps at (7.3).

    access  what the guest's tables grant; of a direct MMU everything
    """

    ftrace = f"{SpteRequested.ftrace} access {{access:x}}"
    recorded = f"{SpteRequested.recorded} access"
    access: Word

    @classmethod
    def of(cls, gfn: int, pfn: int, level: int, access: int) -> Self:
        """Return the event."""
        return cls(gfn, pfn, level, FOUR_ACCESS_BITS.access(access))


class TdpMmuSpteChanged(Event):
    """An SPTE of the TDP MMU was changed; also when the entries of a removed table are frozen.

    as_id     address space: 0, or 1 for SMM
    gfn       first guest frame that it maps
    level     of the table that it is in
    old_spte  what it was
    new_spte  what it is
    """

    ftrace = "as id {as_id} gfn {gfn:x} level {level} old_spte {old_spte:x} new_spte {new_spte:x}"
    recorded = "gfn level old=old_spte new=new_spte"
    as_id: int
    gfn: Gfn
    level: int
    old_spte: TdpSpte
    new_spte: TdpSpte


class SplitHugePage(Event):
    """A huge SPTE was split, or could not be.

    gfn    first guest frame that it maps
    spte   the huge SPTE
    level  2 for 2 MiB, 3 for 1 GiB
    errno  0, or a negative error number
    """

    ftrace = "gfn {gfn:x} spte {spte:x} level {level} errno {errno}"
    recorded = "gfn spte level errno"
    gfn: Gfn
    spte: LeafSpte
    level: int
    errno: int


class MmuTracepoints:
    """The tracepoints of the MMU, in the order of mmutrace.h."""

    kvm_mmu_pagetable_walk = Tracepoint(PagetableWalk)
    kvm_mmu_paging_element = Tracepoint(PagingElement)
    kvm_mmu_set_accessed_bit = Tracepoint(SetAccessedBit)
    kvm_mmu_set_dirty_bit = Tracepoint(SetDirtyBit)
    kvm_mmu_walker_error = Tracepoint(WalkerError)
    kvm_mmu_get_page = Tracepoint(GetPage.lookup, access_has_read=GetPage4.lookup)
    kvm_mmu_sync_page = Tracepoint(SyncPage.of, access_has_read=SyncPage4.of)
    kvm_mmu_unsync_page = Tracepoint(UnsyncPage.of, access_has_read=UnsyncPage4.of)
    kvm_mmu_prepare_zap_page = Tracepoint(PrepareZapPage.of, access_has_read=PrepareZapPage4.of)
    mark_mmio_spte = Tracepoint(MarkMmioSpte)
    handle_mmio_page_fault = Tracepoint(HandleMmioPageFault)
    fast_page_fault = Tracepoint(FastPageFault)
    kvm_mmu_zap_all_fast = Tracepoint(ZapAllFast)
    check_mmio_spte = Tracepoint(CheckMmioSpte)
    kvm_mmu_set_spte = Tracepoint(SetSpte)
    kvm_mmu_spte_requested = Tracepoint(SpteRequested.of, spte_requested_has_access=SpteRequestedAccess.of)
    kvm_tdp_mmu_spte_changed = Tracepoint(TdpMmuSpteChanged)
    kvm_mmu_split_huge_page = Tracepoint(SplitHugePage)
