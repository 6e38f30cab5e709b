"""Read-only views of SPTEs and shadow pages: copies, so that a notebook may keep them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..kvm.bits import (
    ROLE_4BYTE_GPTE,
    ROLE_AD_DISABLED,
    ROLE_CR0_WP,
    ROLE_DIRECT,
    ROLE_EFER_NX,
    ROLE_GUEST_MODE,
    ROLE_INVALID,
    ROLE_LEVEL,
    ROLE_PASSTHROUGH,
    ROLE_QUADRANT_SHIFT,
    ROLE_SMAP_ANDNOT_WP,
    ROLE_SMEP,
)
from ..kvm.spte.mmio import get_mmio_spte_generation, get_mmio_spte_gfn, is_mmio_spte
from ..kvm.spte.rmap import pte_list
from ..kvm.spte.spte import is_access_track_spte, is_executable, is_last_spte, is_shadow_present
from ..kvm.state.shadow_page import ShadowPage as KvmShadowPage
from ..kvm.state.vm import Kvm
from ..kvm.tracepoints.role_layout import RoleLayout, layout_of
from ..show.html.table import table
from ..trace.snapshot import shadow_pages
from ..x86.bits import ADDR, EPT_R, W

__all__ = ["Role", "ShadowPage", "Spte", "page_of", "pages_of", "spte_at", "sptes_of_rmap"]

_FLAGS = (
    (ROLE_4BYTE_GPTE, "4-byte gptes"),
    (ROLE_DIRECT, "direct"),
    (ROLE_INVALID, "invalid"),
    (ROLE_EFER_NX, "efer_nx"),
    (ROLE_CR0_WP, "cr0_wp"),
    (ROLE_SMAP_ANDNOT_WP, "smap_andnot_wp"),
    (ROLE_AD_DISABLED, "ad_disabled"),
    (ROLE_GUEST_MODE, "guest_mode"),
    (ROLE_PASSTHROUGH, "passthrough"),
)


@dataclass(frozen=True, slots=True, repr=False)
class Role:
    """A shadow page's role (union kvm_mmu_page_role), decoded; `word` is the kernel's, with its `layout`."""

    word: int
    layout: RoleLayout

    @property
    def _model(self) -> int:
        return self.layout.model_role(self.word)

    @property
    def level(self) -> int:
        """Level of the page: its SPTEs map 4 KiB (1), 2 MiB (2), ... each."""
        return self.word & ROLE_LEVEL

    @property
    def access(self) -> str:
        """Rights that the guest's upper levels leave, `wux` or (7.3) `rwux`, with `-` for what is missing."""
        return self.layout.letters(self.word)

    @property
    def quadrant(self) -> int:
        """Which part of a 4-byte guest table the page shadows."""
        return self.word >> ROLE_QUADRANT_SHIFT & 3

    @property
    def flags(self) -> tuple[str, ...]:
        """Names of the other bits that are set, as KVM has them."""
        named = (*_FLAGS, (ROLE_SMEP, self.layout.smep))
        return tuple(name for bit, name in named if self._model & bit)

    @property
    def direct(self) -> bool:
        """Whether the page maps consecutive memory and shadows no guest table."""
        return self.word & ROLE_DIRECT != 0

    @property
    def invalid(self) -> bool:
        """Whether the page is zapped and only waits for its last user."""
        return self._model & ROLE_INVALID != 0

    def __repr__(self) -> str:
        words = [f"level {self.level}", self.access, *self.flags]
        if "4-byte gptes" in self.flags:
            words.append(f"quadrant {self.quadrant}")
        return f"<Role {self.word:#x}: {', '.join(words)}>"


@dataclass(frozen=True, slots=True, repr=False)
class Spte:
    """An SPTE as it was when it was read.

    `address` is where it is (host-physical), `level` that of its table, `gfn` the guest frame that it is for.
    `kind` is empty, mmio, frozen, table (it points to a shadow page at `target`) or page (it maps the host
    memory at `target`). `rights` are letters, of pages and tables only.
    """

    address: int
    value: int
    level: int
    gfn: int
    kind: str
    target: int
    rights: str
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"<Spte {self}>"

    def __str__(self) -> str:
        text = f"[{self.address >> 3 & 511}] {self.value:#x}"
        if self.kind in ("table", "page"):
            text += f" -> {self.kind} {self.target:#x} {self.rights}"
        else:
            text += f" {self.kind}"
        return " ".join([text, *self.notes])


def spte_at(kvm: Kvm, address: int, level: int, gfn: int) -> Spte:
    """Return the SPTE at a host-physical address, in a table of `level`, for `gfn`."""
    value = kvm.read_spte(address)

    def spte(kind: str, target: int = 0, rights: str = "", notes: tuple[str, ...] = ()) -> Spte:
        return Spte(address, value, level, gfn, kind, target, rights, notes)

    if value in (0, kvm.design.empty_spte):
        return spte("empty")
    if is_mmio_spte(kvm, value):
        generation = get_mmio_spte_generation(kvm, value)
        return spte("mmio", notes=(f"gfn {get_mmio_spte_gfn(kvm, value):#x}", f"generation {generation}"))
    if value == kvm.frozen_spte:
        return spte("frozen")
    if not is_shadow_present(value):
        return spte("page" if value & 1 else "empty", value & ADDR)
    kind = "page" if is_last_spte(value, level) else "table"
    return spte(kind, value & ADDR, _rights(kvm, value), _notes(kvm, value) if kind == "page" else ())


def _rights(kvm: Kvm, value: int) -> str:
    readable = value & EPT_R if kvm.ept else True
    user = not kvm.ept and value & kvm.shadow_user_mask
    letters = (("r", readable), ("w", value & W), ("x", is_executable(kvm, value)), ("u", user))
    return "".join(letter if held else "-" for letter, held in letters)


def _notes(kvm: Kvm, value: int) -> tuple[str, ...]:
    bits = (
        ("A", value & kvm.shadow_accessed_mask),
        ("D", value & kvm.shadow_dirty_mask),
        ("host-writable", value & kvm.shadow_host_writable_mask),
        ("mmu-writable", value & kvm.shadow_mmu_writable_mask),
        ("access-tracked", is_access_track_spte(kvm, value)),
    )
    return tuple(name for name, held in bits if held)


@dataclass(frozen=True, slots=True, repr=False)
class ShadowPage:
    """A shadow page (struct kvm_mmu_page) as it was when it was asked for.

    address              host-physical address of its 512 SPTEs
    gfn                  guest frame of the table that it shadows; of a direct page the first that it maps
    role                 decoded, see `Role`
    parents              addresses of the SPTEs that point to it
    unsync               the guest may have changed its table since: a flush syncs the page
    unsync_children      how many of its SPTEs lead to unsync pages
    write_flooding_count emulated writes to its table without a use of the page in between
    generation           mmu_valid_gen: older than `struct kvm`'s, the page is obsolete
    obsolete             zapped, or of a generation before the last zap-all
    root_count           users of the page as a root
    tdp_mmu              the page is the TDP MMU's
    """

    address: int
    gfn: int
    role: Role
    parents: tuple[int, ...]
    unsync: bool
    unsync_children: int
    write_flooding_count: int
    generation: int
    obsolete: bool
    root_count: int
    tdp_mmu: bool
    sptes: tuple[Spte, ...]
    """Those that are not empty, in order."""

    @property
    def level(self) -> int:
        """Level of the page, role.level."""
        return self.role.level

    def __len__(self) -> int:
        return len(self.sptes)

    def __iter__(self) -> Iterator[Spte]:
        return iter(self.sptes)

    def __repr__(self) -> str:
        words = [f"gfn {self.gfn:#x}", f"level {self.level}", self.role.access]
        words += ["direct"] if self.role.direct else []
        words += ["unsync"] if self.unsync else []
        words += [f"{self.unsync_children} unsync children"] if self.unsync_children else []
        words += [f"{self.write_flooding_count} writes"] if self.write_flooding_count else []
        words += ["obsolete"] if self.obsolete else []
        words += [f"root of {self.root_count}"] if self.root_count else []
        words += ["of the TDP MMU"] if self.tdp_mmu else []
        return f"<ShadowPage at {self.address:#x}: {', '.join(words)}, {len(self)} SPTEs>"

    def __str__(self) -> str:
        return "\n".join([repr(self), *(f"  {spte}" for spte in self.sptes)])

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows: a row for each SPTE that is not empty."""
        rows = [
            (
                f"[{spte.address >> 3 & 511}]",
                f"{spte.value:#x}",
                f"{spte.kind} {spte.target:#x}" if spte.target else spte.kind,
                spte.rights,
                " ".join(spte.notes),
            )
            for spte in self.sptes
        ]
        return table(repr(self).strip("<>"), ("index", "SPTE", "leads to", "rights", "notes"), rows)


def page_of(kvm: Kvm, sp: KvmShadowPage) -> ShadowPage:
    """Return a view of a shadow page."""
    level = sp.level()
    found = [
        spte_at(kvm, sp.hpa + 8 * index, level, _gfn(kvm, sp, index))
        for index, value in enumerate(kvm.read_table(sp.hpa))
        if value not in (0, kvm.design.empty_spte)
    ]
    layout = layout_of(kvm.design)
    parents = ((sp.ptep,) if sp.ptep else ()) if sp.tdp_mmu_page else tuple(pte_list(kvm, sp.parents()))
    return ShadowPage(
        address=sp.hpa,
        gfn=sp.gfn,
        role=Role(layout.role(sp.role), layout),
        parents=parents,
        unsync=bool(sp.unsync),
        unsync_children=sp.unsync_children,
        write_flooding_count=sp.write_flooding_count,
        generation=sp.mmu_valid_gen,
        obsolete=kvm.is_obsolete(sp),
        root_count=sp.root_count,
        tdp_mmu=bool(sp.tdp_mmu_page),
        sptes=tuple(found),
    )


def _gfn(kvm: Kvm, sp: KvmShadowPage, index: int) -> int:
    """Return the guest frame that an SPTE is for, as far as the page says so."""
    if sp.translations:
        return kvm.read_spte(sp.translations + 8 * index) >> 12
    return sp.gfn + (index << 9 * (sp.level() - 1)) if sp.direct() else 0


def pages_of(kvm: Kvm) -> list[ShadowPage]:
    """Return all shadow pages: the active ones, newest first, those of the TDP MMU, then other roots."""
    listed, others = shadow_pages(kvm)
    return [page_of(kvm, sp) for sp in [*listed, *others]]


def sptes_of_rmap(kvm: Kvm, gfn: int) -> list[Spte]:
    """Return the SPTEs in the reverse maps of a guest frame, of all levels."""
    slot = kvm.gfn_to_memslot(gfn)
    if slot is None:
        return []
    return [
        spte_at(kvm, sptep, level, gfn)
        for level in (1, 2, 3)
        for sptep in pte_list(kvm, slot.rmap_head(gfn, level))
    ]
