"""Guest tables on nested tables, and a reference that walks them one dimension at a time.

Object i of the guest's memory, a table of level i or the page (6), is in gigabyte i, at the same offset in
host memory whatever the size of the nested page: host(i). So every combination of page sizes gives the same
physical address.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from shadowmmu.x86.bits import (
    ADDR,
    FAULT,
    FETCH,
    NESTED_FAULT,
    NX,
    PF_VECTOR,
    PFERR_F,
    PFERR_GUEST_FINAL,
    PFERR_GUEST_PAGE,
    PFERR_P,
    PFERR_RSVD,
    PFERR_U,
    PFERR_W,
    PS,
    READ,
    WRITE,
    A,
    D,
    P,
    U,
    W,
)
from shadowmmu.x86.paging import PagingFormat, paging_format
from shadowmmu.x86.processor import Processor
from shadowmmu.x86.walker import MachineCheck

from .conftest import Memory

FRAMES, MAXPHYADDR = 0x1000, 40
PAGE_OBJECT = 6
RESERVED, BEYOND = 1 << 45, 1 << 38
FULL = P | W | U | A | D


def host(i: int) -> int:
    """Where object i is in host memory."""
    return i * 0x201000


@dataclass
class World:
    """Guest tables of `levels` levels for one address, on nested tables of `nested_levels`.

    `leaf` is the guest's page level; `sizes[i]` the nested page level for object i.
    """

    levels: int
    nested_levels: int
    leaf: int = 1
    sizes: dict[int, int] = field(default_factory=dict)
    smap: bool = False
    wp: bool = True
    nx: bool = True

    def __post_init__(self) -> None:
        self.memory = Memory(FRAMES)
        self.form = paging_format(self.levels)
        self.nested_form = paging_format(self.nested_levels)
        self.nested_root = self.memory.frame()
        self.entries: dict[tuple[str, int, int], tuple[PagingFormat, int]] = {}
        self.gva = 0
        for level in range(1, self.levels + 1):
            self.gva |= (0 if level == 3 else 5) << self.form.level_shift(level)
        self.gva = self.gva >> 30 << 30 | host(PAGE_OBJECT) | 0x123
        for i in self.objects():
            self._map_object(i, self.sizes.get(i, 1))
        if self.levels == 0:
            self.gva = self.gpa(PAGE_OBJECT) | 0x123
        self._fill_guest_tables()

    def objects(self) -> list[int]:
        return [*range(max(self.leaf, 1), self.levels + 1), PAGE_OBJECT]

    def gpa(self, i: int) -> int:
        """Where object i is in the guest's memory; above 4 GiB only if the entry can say so."""
        gigabyte = 3 if i == PAGE_OBJECT and (self.levels == 0 or self.levels == 2 and self.leaf == 1) else i
        return gigabyte << 30 | host(i)

    def _map_object(self, i: int, level: int) -> None:
        size = 1 << 12 + 9 * (level - 1)
        gpa = self.gpa(i)
        leaf = (host(i) & -size) | FULL | (PS if level > 1 else 0)
        hpa = self.memory.map(self.nested_form, self.nested_root, gpa, leaf, level)
        self.entries["nested", i, level] = self.nested_form, hpa
        for upper in range(level + 1, self.nested_levels + 1):
            at = self.memory.entry_at(self.nested_form, self.nested_root, gpa, upper)
            self.entries["nested", i, upper] = self.nested_form, at
            self.memory.set(self.nested_form, at, self.memory.get(self.nested_form, at) | A)

    def _fill_guest_tables(self) -> None:
        form = self.form
        for level in range(self.levels, self.leaf - 1, -1):
            at = host(level) + form.index(self.gva, level) * form.entry_bytes
            if level > self.leaf:
                entry = self.gpa(level - 1) | (P if form.levels == level == 3 else FULL)
            else:
                page = self.gpa(PAGE_OBJECT) >> form.level_shift(level) << form.level_shift(level)
                entry = page & 0xFFFFFFFF if form.levels == 2 else page
                entry |= FULL | (PS if level > 1 else 0)
                entry |= page >> 32 << 13 if form.levels == level == 2 else 0
            self.memory.set(form, at, entry)
            self.entries["guest", level, level] = form, at

    def entry(self, name: tuple[str, int, int]) -> int:
        form, hpa = self.entries[name]
        return self.memory.get(form, hpa)

    def change(self, name: tuple[str, int, int], bits: int) -> None:
        """Flip bits of an entry, as far as it has them."""
        form, hpa = self.entries[name]
        entry = self.memory.get(form, hpa) ^ bits
        self.memory.set(form, hpa, entry & (1 << 8 * form.entry_bytes) - 1)

    def processor(self, *, tlb: bool) -> Processor:
        cpu = Processor(self.memory.words, tlb=tlb)
        cpu.set_nested(levels=self.nested_levels, maxphyaddr=MAXPHYADDR)
        cpu.set_paging(
            levels=self.levels,
            cr0_wp=self.wp,
            efer_nx=self.nx,
            cr4_smap=self.smap,
            maxphyaddr=MAXPHYADDR,
        )
        cpu.nested_root = self.nested_root
        cpu.root = self.gpa(self.levels) if self.levels else 0
        return cpu


def outcome(cpu: Processor, gva: int, kind: int) -> tuple[object, ...]:
    try:
        hpa = cpu.access(gva, kind)
    except MachineCheck:
        return ("machine check",)
    if hpa != FAULT:
        return "ok", hpa
    if cpu.fault_vector == NESTED_FAULT:
        return "nested", cpu.fault_gpa, cpu.fault_error_code
    assert cpu.fault_gpa == FAULT
    return "fault", cpu.fault_vector, cpu.fault_error_code


class NestedFault(Exception):
    pass


class Reference:
    """The rules once more, one dimension at a time, on the same memory."""

    def __init__(self, world: World) -> None:
        self.world = world

    def load(self, form: PagingFormat, hpa: int) -> int:
        if hpa >= FRAMES << 12:
            raise MachineCheck
        return self.world.memory.get(form, hpa)

    def nested(self, gpa: int, kind: int, where: int) -> int:
        form, world = self.world.nested_form, self.world
        code = PFERR_U | {READ: 0, WRITE: PFERR_W, FETCH: PFERR_F}[kind] | where
        table, rights, nx = world.nested_root, W | U, 0
        for level in range(form.levels, 0, -1):
            at = table + 8 * form.index(gpa, level)
            entry = self.load(form, at)
            if not entry & P:
                raise NestedFault(gpa, code)
            size = 1 << form.level_shift(level)
            large = level > 1 and bool(entry & PS)
            too_far = entry & ADDR & ~((1 << MAXPHYADDR) - 1)
            if too_far or (large and (level > 3 or entry & ADDR & (size - 1) & ~0x1000)):
                raise NestedFault(gpa, code | PFERR_P | PFERR_RSVD)
            rights, nx = rights & entry, nx | entry & NX
            if level == 1 or large:
                break
            world.memory.set(form, at, entry | A)
            table = entry & ADDR
        if not rights & U or (kind == WRITE and not rights & W) or (kind == FETCH and nx):
            raise NestedFault(gpa, code | PFERR_P)
        world.memory.set(form, at, entry | A | (D if kind == WRITE else 0))
        return (entry & ADDR) // size * size + gpa % size

    def access(self, gva: int, kind: int, *, user: bool, ac: bool) -> tuple[object, ...]:
        try:
            return self.translate(gva, kind, user=user, ac=ac)
        except NestedFault as fault:
            return "nested", *fault.args
        except MachineCheck:
            return ("machine check",)

    def translate(self, gva: int, kind: int, *, user: bool, ac: bool) -> tuple[object, ...]:
        world, form = self.world, self.world.form
        if not world.levels:
            return self.reach(gva, kind)
        code = (PFERR_U if user else 0) | (PFERR_W if kind == WRITE else 0)
        code |= PFERR_F if kind == FETCH and world.levels != 2 else 0
        table, rights, nx = world.gpa(world.levels), W | U, 0
        for level in range(world.levels, 0, -1):
            at = self.nested(table + form.index(gva, level) * form.entry_bytes, WRITE, PFERR_GUEST_PAGE)
            entry = self.load(form, at)
            if not entry & P:
                return "fault", PF_VECTOR, code
            if self.is_reserved(entry, level):
                return "fault", PF_VECTOR, code | PFERR_P | PFERR_RSVD
            table = entry & ADDR
            if form.levels == level == 3:
                continue
            rights, nx = rights & entry, nx | entry & NX
            if level == 1 or entry & PS:
                break
            world.memory.set(form, at, entry | A)
        allowed = not (kind == FETCH and nx)
        if user:
            allowed &= bool(rights & U) and (kind != WRITE or bool(rights & W))
        else:
            allowed &= kind != WRITE or bool(rights & W) or not world.wp
            allowed &= not (world.smap and rights & U and kind != FETCH and not ac)
        if not allowed:
            return "fault", PF_VECTOR, code | PFERR_P
        world.memory.set(form, at, entry | A | (D if kind == WRITE else 0))
        size = 1 << form.level_shift(level)
        frame = table // size * size
        if form.levels == level == 2:
            frame |= (entry >> 13 & 0xF) << 32
        return self.reach(frame + gva % size, kind)

    def is_reserved(self, entry: int, level: int) -> bool:
        """For the bits that the test flips."""
        if self.world.levels == 2:
            return bool(level == 2 and entry & PS and entry >> 17 & 0x1F)
        if self.world.levels == level == 3:
            return bool(entry & (NX | RESERVED | W | U | A | D << 2 | PS | 1 << 62))
        return bool(entry & RESERVED)

    def reach(self, gpa: int, kind: int) -> tuple[object, ...]:
        hpa = self.nested(gpa, kind, PFERR_GUEST_FINAL)
        return ("ok", hpa) if hpa < FRAMES << 12 else ("machine check",)
