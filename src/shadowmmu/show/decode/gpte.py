"""Entries of the guest's own page tables (AMD APM vol. 2, 5.3 and 5.4)."""

from __future__ import annotations

from dataclasses import dataclass

from shadowmmu.x86.bits import ADDR, NX, PCD, PS, PWT, A, D, G, P, U, W
from shadowmmu.x86.paging import entry_gfn, paging_format, pse36_gfn_delta, reserved_bits

from .record import Decoded, Field, field, flag, rest

__all__ = ["GpteFormat", "decode_gpte"]

_PAT = PS
_PAT_HUGE = 1 << 12
_SIZES = {1: "4 KiB", 2: "2 MiB", 3: "1 GiB"}
_AVAILABLE = "ignored by the processor"


@dataclass(frozen=True, slots=True)
class GpteFormat:
    """In which tables an entry stands."""

    levels: int = 4
    """Levels of the guest's paging mode: 2 (entries of 4 bytes), 3 (PAE), 4 or 5."""
    maxphyaddr: int = 40
    """Bits of a physical address by the guest's CPUID; those above are reserved."""
    nx: bool = True
    """EFER.NX."""
    pse: bool = True
    """CR4.PSE, of meaning with 2 levels only."""
    amd: bool = True
    """AMD reserves bit 8 of levels 4 and 5."""

    @property
    def bits(self) -> int:
        """Bits of an entry."""
        return 8 * paging_format(self.levels).entry_bytes

    def is_leaf(self, word: int, level: int) -> bool:
        """Return whether a present entry of `level` maps a page."""
        if level == 1 or not word & PS:
            return level == 1
        return level == 2 and (self.levels > 2 or self.pse) or (level == 3 and self.levels > 3)

    def gfn(self, word: int, level: int) -> int:
        """Return the frame of a present entry: of its page, or of the table that it points to."""
        form = paging_format(self.levels)
        if not self.is_leaf(word, level):
            return entry_gfn(form, word, 1)
        gfn = entry_gfn(form, word, level)
        return gfn + (pse36_gfn_delta(word) if self.levels == 2 and level == 2 else 0)

    def reserved(self, word: int, level: int) -> int:
        """Return the bits of a present entry that must be zero and are not."""
        rows = reserved_bits(
            self.levels, self.maxphyaddr, nx=self.nx, pse=self.pse, gbpages=True, amd=self.amd
        )
        return word & rows[bool(word & PS)][level - 1]

    def page_size(self, level: int) -> str:
        """Return how much an entry of `level` maps."""
        return "4 MiB" if self.levels == 2 and level == 2 else _SIZES.get(level, "nothing")


def decode_gpte(word: int, *, level: int | None = None, form: GpteFormat | None = None) -> Decoded:
    """Return what an entry of a guest's table of `level` says; without a level it is taken for a leaf's."""
    form = form or GpteFormat()
    assumed = level or (2 if word & PS else 1)
    if not word & P:
        return _not_present(word, form)
    leaf = form.is_leaf(word, assumed)
    reserved = form.reserved(word, assumed)
    fields = _fields(word, form, assumed, leaf=leaf)
    fields += rest(word, fields, _AVAILABLE, form.bits)
    if reserved:
        fields = _mark_reserved(word, fields, reserved)
    where = f"level {assumed}" if level else f"level {assumed}, by its bit 7"
    what = f"maps {form.page_size(assumed)} at gpa" if leaf else "points to a table at gpa"
    title = f"guest entry of {where}: {what} {form.gfn(word, assumed) << 12:#x}"
    said = _sentences(word, form, assumed, reserved, leaf=leaf)
    short = " ".join(f.name for f in fields if f.high == f.low and f.value and f.name != "unused")
    ordered = tuple(sorted(fields, key=lambda f: f.low))
    return Decoded("gpte", word, title, ordered, "", tuple(said), f"{short} reserved" if reserved else short)


def _not_present(word: int, form: GpteFormat) -> Decoded:
    fields = [
        flag(word, P, "P", "present", "not present"),
        *rest(word, [], "the guest's own, ignored", form.bits),
    ]
    said = ("An access faults, and the fault is the guest's (#PF with P clear).",)
    return Decoded("gpte", word, "guest entry that maps nothing", tuple(fields), "", said, "not present")


def _fields(word: int, form: GpteFormat, level: int, *, leaf: bool) -> list[Field]:
    fields = [flag(word, P, "P", "present", "not present")]
    if form.levels != 3 or level != 3:
        fields += [
            flag(word, W, "W", "writable", "read-only"),
            flag(word, U, "U", "user code may use it", "kernel only"),
        ]
    fields += [
        flag(word, PWT, "PWT", "write-through", "write-back"),
        flag(word, PCD, "PCD", "not cached", "cached"),
    ]
    if form.levels != 3 or level != 3:
        fields.append(flag(word, A, "A", "accessed", "not accessed"))
    if leaf:
        fields.append(flag(word, D, "D", "written", "not written"))
        if level == 1:
            fields.append(flag(word, _PAT, "PAT", "page attribute bit", "page attribute bit clear"))
        else:
            fields.append(field(word, PS, "PS", f"a page of {form.page_size(level)}"))
        fields.append(flag(word, G, "G", "global: survives loads of CR3", "not global"))
    return [*fields, *_address_fields(word, form, level, leaf=leaf)]


def _address_fields(word: int, form: GpteFormat, level: int, *, leaf: bool) -> list[Field]:
    if form.levels == 2:
        if leaf and level == 2:
            return [
                flag(word, _PAT_HUGE, "PAT", "page attribute bit", "page attribute bit clear"),
                field(word, 0xF << 13, "address 35:32", f"adds {pse36_gfn_delta(word) << 12:#x} (PSE36)"),
                field(word, 0x3FF << 22, "address 31:22", f"gpa {form.gfn(word, level) << 12:#x}"),
            ]
        return [field(word, 0xFFFFF000, "address", f"gpa {word & 0xFFFFF000:#x}")]
    low = 12 + 9 * (level - 1) if leaf else 12
    mask = ADDR >> low << low
    fields = [field(word, mask, "address", f"gpa {word & mask:#x}")]
    if leaf and level > 1:
        fields.append(flag(word, _PAT_HUGE, "PAT", "page attribute bit", "page attribute bit clear"))
    if form.levels != 3 or level != 3:
        fields.append(flag(word, NX, "NX", "not executable", "executable"))
    return fields


def _mark_reserved(word: int, fields: list[Field], reserved: int) -> list[Field]:
    """Return the fields, those in which reserved bits are set with a word on it."""
    marked = []
    for held in fields:
        mask = ((1 << held.high - held.low + 1) - 1) << held.low
        if reserved & mask:
            meaning = f"{held.meaning}; reserved, must be 0: {_bits(reserved & mask)}"
            held = Field(held.name, held.high, held.low, held.value, meaning)
        marked.append(held)
    return marked


def _bits(mask: int) -> str:
    numbers = [n for n in range(64) if mask >> n & 1]
    if len(numbers) > 2 and numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"bits {numbers[-1]}:{numbers[0]}"
    return f"bit{'s' if len(numbers) > 1 else ''} {', '.join(map(str, reversed(numbers)))}"


def _sentences(word: int, form: GpteFormat, level: int, reserved: int, *, leaf: bool) -> list[str]:
    said = []
    if reserved:
        said.append(
            f"Reserved {_bits(reserved)} set: every walk through it ends in #PF with RSVD (error code bit 3)."
        )
    pae_root = form.levels == 3 and level == 3
    if not leaf:
        said.append("KVM shadows the table with a shadow page when it walks through this entry.")
    if not pae_root:
        if not word & W:
            said.append("Writes fault, except those of the guest's kernel with CR0.WP clear.")
        if not word & U:
            said.append("User accesses fault.")
        if not word & A:
            said.append("Accessed is clear: KVM's walk sets it, but does not prefetch such an entry.")
        if leaf and word & W and not word & D:
            said.append(
                "Dirty is clear: KVM maps the page read-only until the first write, to set Dirty then."
            )
        if form.bits == 64 and word & NX and form.nx:
            said.append("Fetches fault.")
    return said
