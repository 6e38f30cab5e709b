"""The machine of a scenario: paging modes, setup statements, and what they come to.

`resolve` carries the statements out on a sparse copy of guest memory, so that `map`, `alloc`, `nonleaf` and
`tramp` become single guest page-table entries: the `Setup` that a player builds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NoReturn, Self

from ...x86.bits import MASK64
from .host_processor import HostProcessor
from .modes import MODES, TRAMP_SIZE, trampolines_of
from .text import shown

if TYPE_CHECKING:
    from .scenario import Scenario

__all__ = [
    "HOST_SAVE_AREAS",
    "KVM_MEM_LOG_DIRTY_PAGES",
    "KVM_MEM_READONLY",
    "L2_CODE",
    "L2_CODE_END",
    "NESTED_GPA",
    "NESTED_SIZE",
    "NESTED_SLOT",
    "PAGE",
    "PDPT_MASK",
    "TABLE_MASK",
    "Alloc",
    "Cap",
    "Code",
    "L2Code",
    "Map",
    "Nonleaf",
    "Ntramp",
    "Poke",
    "Pt",
    "ScenarioError",
    "Setup",
    "SetupAction",
    "SetupLine",
    "SlotSetup",
    "Statement",
    "Tramp",
    "Vcpu",
    "Vmcb",
    "Watch",
    "resolve",
]

KVM_MEM_LOG_DIRTY_PAGES = 1
KVM_MEM_READONLY = 2

NESTED_SLOT = 62
NESTED_GPA = 0xF0100000
NESTED_SIZE = 0x20000
HOST_SAVE_AREAS = NESTED_GPA + 0x4000
"""One page for each vCPU that is a hypervisor."""
L2_CODE = NESTED_GPA + 0xD000
"""L2's own code, at the same address in L2."""
L2_CODE_END = b"\xe6\xe2\xf4"
"""`out %al,$0xe2; hlt`"""
_L2_TABLES = {2: 0xE000, 1: 0xF000}
"""Offsets in slot 62 of the tables that map L2's own code, for the mode of vCPU 0."""
_MORE_L2_TABLES = 0x2000
"""Bytes from there to those of the next mode."""
_TRAMP_TABLES = {1: 0x2000, 2: 0x3000, 3: 0x4000, 4: 0x5000}

PAGE = 0x1000
TABLE_MASK = 0x000F_FFFF_FFFF_F000
PDPT_MASK = 0x000F_FFFF_FFFF_FFE0


class ScenarioError(ValueError):
    """A scenario that cannot be played; the text is `file:line: what is wrong; how to fix it`.

    Attributes:
        line: Number of the line, or None where it is about no line.
    """

    line: int | None = None

    @classmethod
    def at(cls, path: str, line: int, what: str, fix: str) -> Self:
        """Return the error for a line of a file; what it quotes is shortened and printable."""
        error = cls(f"{path}:{line}: {shown(what)}; {shown(fix)}")
        error.line = line
        return error


# -- statements ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SlotSetup:
    """A memslot and its host memory: populated anonymous 4 KiB pages unless an option differs."""

    id: int
    gpa: int
    size: int
    flags: int = 0
    """KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY."""
    options: str = ""
    """The options as written, one space between them; `trampoline` marks the slot of the guest code."""
    lazy: bool = False
    thp: bool = False
    huge2m: bool = False
    huge1g: bool = False
    memfd: bool = False
    skew: int = 0
    """Bytes by which the host address is not congruent to the gpa modulo 1 GiB."""
    line: int = field(default=0, compare=False)
    result: int = field(default=0, compare=False)
    """In a recording: what KVM answered, 0 or -errno; a scenario's own setup must be accepted."""


@dataclass(frozen=True, slots=True)
class Pt:
    """Store one guest page-table entry of `size` bytes; its page is watched from then on."""

    gpa: int
    size: int
    value: int


@dataclass(frozen=True, slots=True)
class Poke:
    """Store 8 bytes of data."""

    gpa: int
    value: int


@dataclass(frozen=True, slots=True)
class Code:
    """Store `int $0x20`, a target for exec."""

    gpa: int


@dataclass(frozen=True, slots=True)
class Cap:
    """KVM_ENABLE_CAP on the VM."""

    cap: int
    arg: int
    line: int = field(default=0, compare=False)
    result: int = field(default=0, compare=False)
    """In a recording: what KVM answered, 0 or -1; a scenario's own setup must be accepted."""


@dataclass(frozen=True, slots=True)
class Watch:
    """Report changes of the page that holds `gpa` with every op."""

    gpa: int


@dataclass(frozen=True, slots=True)
class Vcpu:
    """Registers of a vCPU at the start."""

    id: int
    cr0: int
    cr3: int
    cr4: int
    efer: int


@dataclass(frozen=True, slots=True)
class Map:
    """`map`: `count` leaves of `level`, tables in between allocated where missing."""

    cr3: int
    gva: int
    gpa: int
    flags: int
    level: int
    count: int
    gva_stride: int
    gpa_stride: int


@dataclass(frozen=True, slots=True)
class Tramp:
    """`tramp`: map the guest code's pages into the address space at `cr3`."""

    cr3: int


@dataclass(frozen=True, slots=True)
class Alloc:
    """`alloc`: `map` takes its page-table pages from here upwards."""

    gpa: int


@dataclass(frozen=True, slots=True)
class Nonleaf:
    """`nonleaf`: flags of the non-leaf entries `map` creates."""

    flags: int


@dataclass(frozen=True, slots=True)
class L2Code:
    """Store what ends an op of L2, a target for l2exec."""

    gpa: int


@dataclass(frozen=True, slots=True)
class Ntramp:
    """`ntramp`: map L2's own code into the nested address space at `ncr3`."""

    ncr3: int


@dataclass(frozen=True, slots=True)
class Vmcb:
    """What a vCPU, as L1, says about its L2."""

    vcpu: int
    gpa: int
    ncr3: int
    asid: int


SetupAction = SlotSetup | Pt | Poke | Code | L2Code | Cap | Watch | Vcpu | Vmcb
Statement = SlotSetup | Pt | Poke | Code | L2Code | Cap | Watch | Map | Tramp | Ntramp | Alloc | Nonleaf


@dataclass(frozen=True, slots=True)
class SetupLine:
    """One setup statement where it was written."""

    line: int
    text: str
    action: Statement
    vcpu: int = 0
    """It is about the tables of this vCPU's mode."""


# -- resolving -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setup:
    """A machine ready to be built: every memslot, guest entry and register in the order they are set."""

    path: str
    """The scenario's file, for messages."""
    modes: tuple[str, ...]
    """The paging mode of each vCPU."""
    maxphyaddr: int
    """Bits of a physical address as the guest's CPUID has them."""
    host: HostProcessor
    params: Mapping[str, str]
    """Module parameters, and `kernel`."""
    design: Mapping[str, str]
    """Switches that are not as the kernel has them."""
    actions: tuple[SetupAction, ...]
    """Slots, entries and capabilities as written; the vCPUs last."""

    @property
    def tramp_gva(self) -> int:
        """Where the pages of vCPU 0's own code are mapped."""
        return trampolines_of(self.modes)[self.modes[0]].gva

    @property
    def nested(self) -> bool:
        """The guest is a hypervisor with a guest of its own."""
        return any(isinstance(action, Vmcb) for action in self.actions)

    @property
    def vcpus(self) -> tuple[Vcpu, ...]:
        """The vCPUs, by id."""
        return tuple(action for action in self.actions if isinstance(action, Vcpu))

    @property
    def nvcpus(self) -> int:
        """Number of vCPUs."""
        return len(self.vcpus)

    @property
    def watched_pages(self) -> dict[int, int]:
        """Guest pages (gpa) whose changes are reported, in this order, each with the bytes of its entries."""
        own = MODES[self.modes[0]].entry_size
        pages: dict[int, int] = {}
        for action in self.actions:
            if isinstance(action, Pt | Watch):
                pages.setdefault(action.gpa & -PAGE, action.size if isinstance(action, Pt) else own)
        return pages


class _Builder:
    """Carries setup statements out on a sparse copy of guest memory and lists the entries they come to."""

    def __init__(self, scenario: Scenario) -> None:
        self.modes = [MODES[name] for name in scenario.modes]
        self.mode = self.modes[0]
        self.trampolines = trampolines_of(scenario.modes)
        self.path = scenario.path
        self.line = 0
        self.pages: dict[int, bytearray] = {}
        self.slots: dict[int, tuple[int, int]] = {}
        self.next_table: int | None = None
        self.nonleaf = 0x27
        self.actions: list[SetupAction] = []

    def fail(self, what: str, fix: str) -> NoReturn:
        raise ScenarioError.at(self.path, self.line, what, fix)

    def page(self, gpa: int) -> bytearray:
        base = gpa & -PAGE
        if not any(start <= base < start + size for start, size in self.slots.values()):
            self.fail(f"no slot has guest address {gpa:#x}", "add a `slot` line that covers it")
        return self.pages.setdefault(base, bytearray(PAGE))

    def store(self, gpa: int, data: bytes) -> None:
        for offset, byte in enumerate(data):
            self.page(gpa + offset)[(gpa + offset) % PAGE] = byte

    def slot(self, slot: SlotSetup) -> None:
        self.slots[slot.id] = slot.gpa, slot.size
        self.actions.append(slot)

    def pt(self, gpa: int, value: int, size: int = 0) -> None:
        size = size or self.mode.entry_size
        if value >> 8 * size:
            self.fail(f"the entry {value:#x} does not fit in {size} bytes", "use a lower address")
        self.store(gpa, value.to_bytes(size, "little"))
        self.actions.append(Pt(gpa, size, value))

    def need_tramp(self, mode: str) -> int:
        """Make the slot of the guest code for a mode, if there is none yet; its gpa."""
        tramp = self.trampolines[mode]
        if tramp.slot not in self.slots:
            self.slot(SlotSetup(tramp.slot, tramp.gpa, TRAMP_SIZE, options="trampoline"))
        return tramp.gpa

    def tramp(self, cr3: int) -> None:
        mode = self.mode
        base = self.need_tramp(mode.name)
        if mode.name == "nopaging":
            return
        for level in range(mode.levels, 1, -1):
            table = cr3 & PDPT_MASK if level == mode.levels else base + _TRAMP_TABLES[level]
            below = base + _TRAMP_TABLES[level - 1]
            self.pt(
                table + mode.index(mode.tramp_gva, level) * mode.entry_size, mode.nonleaf(below, level, 0x27)
            )
        leaves = base + _TRAMP_TABLES[1]
        self.pt(leaves, base | 0x63)
        self.pt(leaves + mode.entry_size, base + PAGE | 0x67)

    def ntramp(self, ncr3: int) -> None:
        """Map L2's code page in L1's nested tables: the last two are in slot 62, those above level 3 come
        from `alloc` where they are missing.
        """
        mode, table = self.mode, ncr3
        own = NESTED_GPA + _MORE_L2_TABLES * self.trampolines[mode.name].number
        for level in range(mode.levels, 3, -1):
            where = mode.index(L2_CODE, level) * mode.entry_size
            entry = self.entry(table, where)
            if not entry & 1:
                entry = self.new_table() | self.nonleaf
                self.pt((table & TABLE_MASK) + where, entry)
            table = entry & TABLE_MASK
        for level in range(min(mode.levels, 3), 1, -1):
            self.pt(
                (table & PDPT_MASK) + mode.index(L2_CODE, level) * mode.entry_size,
                mode.nonleaf(own + _L2_TABLES[level - 1], level, 0x27),
            )
            table = own + _L2_TABLES[level - 1]
        self.pt(table + mode.index(L2_CODE, 1) * mode.entry_size, L2_CODE | 0x67)

    def entry(self, table: int, where: int) -> int:
        held = self.page(table & TABLE_MASK)
        return int.from_bytes(held[where : where + self.mode.entry_size], "little")

    def new_table(self) -> int:
        table = self.next_table
        if table is None:
            self.fail("`map` needs a page for a page table", "put `alloc GPA` before it")
        code = any(tramp.gpa <= table < tramp.gpa + TRAMP_SIZE for tramp in self.trampolines.values())
        if code or any(self.page(table)):
            self.fail(
                f"`map` would take page {table:#x} for a page table, but it is in use",
                "give `alloc` a stretch of unused pages",
            )
        self.next_table = table + PAGE
        return table

    def map_one(self, cr3: int, gva: int, gpa: int, flags: int, level: int) -> None:
        mode, table = self.mode, cr3
        for upper in range(mode.levels, level, -1):
            where = mode.index(gva, upper) * mode.entry_size
            entry = self.entry(table, where)
            if not entry & 1:
                entry = mode.nonleaf(self.new_table(), upper, self.nonleaf)
                self.pt((table & PDPT_MASK) + where, entry)
            table = entry & TABLE_MASK
        leaf = (table & PDPT_MASK) + mode.index(gva, level) * mode.entry_size
        self.pt(leaf, gpa | flags | (0x80 if level > 1 else 0))

    def statement(self, statement: Statement) -> None:
        match statement:
            case SlotSetup():
                self.slot(replace(statement, line=self.line))
            case Pt():
                self.pt(statement.gpa, statement.value, statement.size)
            case Poke():
                self.store(statement.gpa, statement.value.to_bytes(8, "little"))
                self.actions.append(statement)
            case Code():
                self.store(statement.gpa, b"\xcd\x20")
                self.actions.append(statement)
            case L2Code():
                self.store(statement.gpa, L2_CODE_END)
                self.actions.append(statement)
            case Watch():
                self.page(statement.gpa)
                self.actions.append(statement)
            case Cap():
                self.actions.append(replace(statement, line=self.line))
            case Map():
                for n in range(statement.count):
                    gva = statement.gva + n * statement.gva_stride & MASK64
                    gpa = statement.gpa + n * statement.gpa_stride & MASK64
                    self.map_one(statement.cr3, gva, gpa, statement.flags, statement.level)
            case Tramp():
                self.tramp(statement.cr3)
            case Ntramp():
                self.ntramp(statement.ncr3)
            case Alloc():
                self.next_table = statement.gpa
            case Nonleaf():
                self.nonleaf = statement.flags


def _vcpus_with_vmcbs(scenario: Scenario) -> list[Vcpu | Vmcb]:
    vmcbs = {vmcb.vcpu: vmcb for vmcb in scenario.vmcbs}
    found: list[Vcpu | Vmcb] = []
    for vcpu in scenario.vcpus:
        found.append(vcpu)
        if vcpu.id in vmcbs:
            found.append(vmcbs[vcpu.id])
    return found


def resolve(scenario: Scenario) -> Setup:
    """Carry out `map`, `alloc`, `nonleaf` and `tramp`, so that only single entries are left.

    The slot of a mode's guest code is made by the first `tramp`, or at the start. Raises ScenarioError where
    an entry would lie outside every slot, where `map` has no page for a table, or finds the page in use.
    """
    builder = _Builder(scenario)
    for item in scenario.setup:
        builder.line = item.line
        builder.mode = builder.modes[item.vcpu]
        builder.statement(item.action)
    for mode in builder.trampolines:
        builder.need_tramp(mode)
    return Setup(
        path=scenario.path,
        modes=scenario.modes,
        maxphyaddr=scenario.maxphyaddr,
        host=scenario.host,
        params={**scenario.params, "kernel": scenario.kernel},
        design=scenario.design,
        actions=(*builder.actions, *_vcpus_with_vmcbs(scenario)),
    )
