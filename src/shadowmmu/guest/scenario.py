"""The scenario language: a machine's setup and the operations played on it.

A scenario is a text file, one statement per line, `#` starting a comment. Statements up to `start` describe
the virtual machine (slots, guest page tables, registers), those after it are operations of the guest or of
the host. `Scenario.load` reads such a file, `Scenario.from_recording` rebuilds one from a recording, and
`resolve` turns either into the `Setup` a player carries out: `map`, `alloc` and `tramp` become single guest
page-table entries.

Numbers are written as in C (`0x1f`, `017`, `31`), positional ones may end in K, M or G. Everything that is
not understood raises `ScenarioError` with file, line, what is wrong and how to mend it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Protocol

__all__ = [
    "KVM_MEM_LOG_DIRTY_PAGES",
    "KVM_MEM_READONLY",
    "MODES",
    "TRAMP_GPA",
    "TRAMP_SIZE",
    "TRAMP_SLOT",
    "Access",
    "Alloc",
    "Cap",
    "ClearDirty",
    "Code",
    "DeleteSlot",
    "EnableCap",
    "Exec",
    "GetDirty",
    "HostRead",
    "HostSregs",
    "HostTouch",
    "HostWrite",
    "Invlpg",
    "Madvise",
    "Map",
    "ModParam",
    "Mode",
    "MoveSlot",
    "Mprotect",
    "Nonleaf",
    "Nop",
    "Op",
    "Poke",
    "Prefault",
    "Pt",
    "Remap",
    "Scenario",
    "ScenarioError",
    "SetAc",
    "SetDump",
    "SetGpte",
    "SetMmuPages",
    "SetSlot",
    "SetSlotFlag",
    "Setup",
    "SetupAction",
    "SetupLine",
    "Sleep",
    "SlotSetup",
    "Sysfs",
    "Tramp",
    "Translate",
    "Vcpu",
    "Watch",
    "WatchPage",
    "WriteCr",
    "WriteMsr",
    "resolve",
]

KVM_MEM_LOG_DIRTY_PAGES = 1
KVM_MEM_READONLY = 2
_MSR_EFER = 0xC0000080
_MADV_DONTNEED = 4

TRAMP_SLOT = 63
TRAMP_GPA = 0xF0000000
TRAMP_SIZE = 0x8000
_TRAMP_TABLES = {1: 0x2000, 2: 0x3000, 3: 0x4000, 4: 0x5000}

_PAGE = 0x1000
_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1
_GPA_LIMIT = 1 << 52
_TABLE_MASK = 0x000F_FFFF_FFFF_F000
_PDPT_MASK = 0x000F_FFFF_FFFF_FFE0
_NSLOTS = 64
_MAX_MAP = 1 << 20
_MAX_COUNT = 1 << 20


class ScenarioError(ValueError):
    """A scenario that cannot be played; the text is `file:line: what is wrong; how to mend it`."""


@dataclass(frozen=True, slots=True)
class Mode:
    """A paging mode of the guest: its page-table format and the registers a vCPU starts with."""

    name: str
    levels: int
    """Levels of the guest's page tables; nopaging keeps the value of the two-level format, unused."""
    entry_size: int
    """Bytes of a guest page-table entry."""
    index_bits: int
    is64: bool
    """64-bit guest code."""
    tramp_gva: int
    """Where the guest code's own pages (slot 63) are mapped."""
    cr0: int
    cr4: int
    efer: int

    def index(self, gva: int, level: int) -> int:
        """Index of `gva` in a table of `level` (the PDPT of PAE has four entries)."""
        mask = 3 if self.name == "pae" and level == 3 else (1 << self.index_bits) - 1
        return gva >> (12 + self.index_bits * (level - 1)) & mask

    def page_size(self, level: int) -> int:
        """Bytes mapped by a leaf entry of `level`."""
        return 1 << (12 + self.index_bits * (level - 1))

    def nonleaf(self, table: int, level: int, flags: int) -> int:
        """Entry of `level` that points to `table`; only P may be set in a PAE PDPTE."""
        return table | (1 if self.name == "pae" and level == 3 else flags)


MODES: dict[str, Mode] = {
    mode.name: mode
    for mode in (
        Mode("long4", 4, 8, 9, True, 0xFFFFFFFF80000000, 0x80010033, 0x20, 0xD00),
        Mode("long5", 5, 8, 9, True, 0xFFFFFFFF80000000, 0x80010033, 0x20, 0xD00),
        Mode("pae", 3, 8, 9, False, 0xC0000000, 0x80010033, 0x20, 0x800),
        Mode("32", 2, 4, 10, False, 0xFFC00000, 0x80010033, 0x10, 0),
        Mode("nopaging", 2, 8, 9, False, TRAMP_GPA, 0x10033, 0x10, 0),
    )
}
_CR4_LA57 = 0x1000

# --------------------------------------------------------------------------------------------- setup actions


@dataclass(frozen=True, slots=True)
class SlotSetup:
    """A memslot and the host memory behind it: populated anonymous 4 KiB pages unless an option differs."""

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


SetupAction = SlotSetup | Pt | Poke | Code | Cap | Watch | Vcpu
_Statement = SlotSetup | Pt | Poke | Code | Cap | Watch | Map | Tramp | Alloc | Nonleaf


@dataclass(frozen=True, slots=True)
class SetupLine:
    """One setup statement where it was written."""

    line: int
    text: str
    action: _Statement


# ------------------------------------------------------------------------------------------------ operations


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
    repetitions of `rep stosl`.
    """

    kind: str
    user: bool
    gva: int
    size: int
    value: int = 0
    expected: int = 0
    count: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Nop(Op):
    """Run the guest code without any access of its own."""

    user: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Exec(Op):
    """Jump to `gva`."""

    user: bool
    gva: int


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
    """madvise() on the memory behind a gpa range (`madvise_dontneed` is advice 4)."""

    gpa: int
    length: int
    advice: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mprotect(Op):
    """mprotect() on the memory behind a gpa range; `protection` is ro, rw or none."""

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


_UNRECORDED = (SetAc, SetDump, WatchPage)

# -------------------------------------------------------------------------------------------- whole scenario


class RecordedRun(Protocol):
    """What `Scenario.from_recording` needs of a recording (trace.recording.Recording is one)."""

    @property
    def path(self) -> Path:
        """Where it was read from."""
        ...

    @property
    def header(self) -> Mapping[str, Any]:
        """The first line."""
        ...

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """The lines after it: op -1, op 0, ..."""
        ...


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario as written, or as rebuilt from a recording (then `setup` holds single entries only)."""

    name: str
    path: str
    title: str
    kernel: str
    params: Mapping[str, str]
    """Module parameters as a recording's header names them: `kvm_amd.npt` = `N`, ..."""
    mode: str
    maxphyaddr: int
    vcpus: tuple[Vcpu, ...]
    setup: tuple[SetupLine, ...]
    ops: tuple[Op, ...]

    @classmethod
    def load(cls, path: str | Path) -> Scenario:
        """Read a scenario file.

        Raises ScenarioError for anything not understood, OSError if the file cannot be read.
        """
        data = Path(path).read_bytes()
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise ScenarioError(f"{path}:{line}: this is not UTF-8 text; give a scenario file") from None
        return cls.parse(text, path=path)

    @classmethod
    def parse(cls, text: str, *, path: str | Path = "<text>") -> Scenario:
        """Parse the text of a scenario; `path` serves error messages and, by its stem, the scenario's name.

        Raises ScenarioError for anything not understood.
        """
        return _Parser(str(path)).scenario(text)

    @classmethod
    def from_recording(cls, recording: RecordedRun, *, text: Scenario | None = None) -> Scenario:
        """Rebuild the scenario that a recording was made from.

        The header has the setup resolved to single entries, each row the text of its op, and a row without
        state was played with the dump off. `ac` and `watch` lines are not in the file: without `text`
        EFLAGS.AC stays off, and a page that is no page table is watched from the first op that reports it.
        `text`, the scenario itself, supplies them; it must be the one recorded, setup entry by setup entry
        and op by op.

        Raises ScenarioError where a row's op is not understood or `text` is another scenario.
        """
        rebuilt = _RecordingParser(str(recording.path)).scenario(recording)
        return rebuilt if text is None else _with_text(rebuilt, text)

    @property
    def recorded_ops(self) -> tuple[Op, ...]:
        """The ops that leave a record, in order: number n is the recording's op n."""
        return tuple(op for op in self.ops if not isinstance(op, _UNRECORDED))


@dataclass(frozen=True, slots=True)
class Setup:
    """A machine ready to be built: every memslot, guest entry and register in the order they are set."""

    mode: str
    maxphyaddr: int
    params: Mapping[str, str]
    """Module parameters, and `kernel`."""
    actions: tuple[SetupAction, ...]
    """Slots, entries and capabilities as written; the vCPUs last."""

    @property
    def tramp_gva(self) -> int:
        """Where the guest code's own pages are mapped."""
        return MODES[self.mode].tramp_gva

    @property
    def vcpus(self) -> tuple[Vcpu, ...]:
        """The vCPUs, by id."""
        return tuple(action for action in self.actions if isinstance(action, Vcpu))

    @property
    def nvcpus(self) -> int:
        """Number of vCPUs."""
        return len(self.vcpus)

    @property
    def watched_pages(self) -> tuple[int, ...]:
        """Guest pages (gpa) whose changes are reported, in the order in which they are reported."""
        pages = (action.gpa & -_PAGE for action in self.actions if isinstance(action, Pt | Watch))
        return tuple(dict.fromkeys(pages))


# ------------------------------------------------------------------------------------------------- resolving


class _Builder:
    """Carries setup statements out on a sparse copy of guest memory and lists the entries they come to."""

    def __init__(self, scenario: Scenario) -> None:
        self.mode = MODES[scenario.mode]
        self.path = scenario.path
        self.line = 0
        self.pages: dict[int, bytearray] = {}
        self.slots: dict[int, tuple[int, int]] = {}
        self.next_table: int | None = None
        self.nonleaf = 0x27
        self.actions: list[SetupAction] = []

    def fail(self, what: str, mend: str) -> NoReturn:
        raise ScenarioError(f"{self.path}:{self.line}: {what}; {mend}")

    def page(self, gpa: int) -> bytearray:
        base = gpa & -_PAGE
        if not any(start <= base < start + size for start, size in self.slots.values()):
            self.fail(f"no slot has guest address {gpa:#x}", "add a `slot` line that covers it")
        return self.pages.setdefault(base, bytearray(_PAGE))

    def store(self, gpa: int, data: bytes) -> None:
        for offset, byte in enumerate(data):
            self.page(gpa + offset)[(gpa + offset) % _PAGE] = byte

    def slot(self, slot: SlotSetup) -> None:
        self.slots[slot.id] = slot.gpa, slot.size
        self.actions.append(slot)

    def pt(self, gpa: int, value: int) -> None:
        size = self.mode.entry_size
        if value >> 8 * size:
            self.fail(f"the entry {value:#x} does not fit in {size} bytes", "use a lower address")
        self.store(gpa, value.to_bytes(size, "little"))
        self.actions.append(Pt(gpa, size, value))

    def need_tramp(self) -> None:
        if TRAMP_SLOT not in self.slots:
            self.slot(SlotSetup(TRAMP_SLOT, TRAMP_GPA, TRAMP_SIZE, options="trampoline"))

    def tramp(self, cr3: int) -> None:
        self.need_tramp()
        mode = self.mode
        if mode.name == "nopaging":
            return
        for level in range(mode.levels, 1, -1):
            table = cr3 & _PDPT_MASK if level == mode.levels else TRAMP_GPA + _TRAMP_TABLES[level]
            below = TRAMP_GPA + _TRAMP_TABLES[level - 1]
            self.pt(
                table + mode.index(mode.tramp_gva, level) * mode.entry_size, mode.nonleaf(below, level, 0x27)
            )
        leaves = TRAMP_GPA + _TRAMP_TABLES[1]
        self.pt(leaves, TRAMP_GPA | 0x63)
        self.pt(leaves + mode.entry_size, TRAMP_GPA + _PAGE | 0x67)

    def new_table(self) -> int:
        table = self.next_table
        if table is None:
            self.fail("`map` needs a page for a page table", "put `alloc GPA` before it")
        if any(self.page(table)) or TRAMP_GPA <= table < TRAMP_GPA + TRAMP_SIZE:
            self.fail(
                f"`map` would take page {table:#x} for a page table, but it is in use",
                "give `alloc` a stretch of unused pages",
            )
        self.next_table = table + _PAGE
        return table

    def map_one(self, cr3: int, gva: int, gpa: int, flags: int, level: int) -> None:
        mode, table = self.mode, cr3
        for upper in range(mode.levels, level, -1):
            where = mode.index(gva, upper) * mode.entry_size
            held = self.page(table & _TABLE_MASK)
            entry = int.from_bytes(held[where : where + mode.entry_size], "little")
            if not entry & 1:
                entry = mode.nonleaf(self.new_table(), upper, self.nonleaf)
                self.pt((table & _PDPT_MASK) + where, entry)
            table = entry & _TABLE_MASK
        leaf = (table & _PDPT_MASK) + mode.index(gva, level) * mode.entry_size
        self.pt(leaf, gpa | flags | (0x80 if level > 1 else 0))

    def statement(self, statement: _Statement) -> None:
        match statement:
            case SlotSetup():
                self.slot(statement)
            case Pt():
                self.pt(statement.gpa, statement.value)
            case Poke():
                self.store(statement.gpa, statement.value.to_bytes(8, "little"))
                self.actions.append(statement)
            case Code():
                self.store(statement.gpa, b"\xcd\x20")
                self.actions.append(statement)
            case Watch():
                self.page(statement.gpa)
                self.actions.append(statement)
            case Cap():
                self.actions.append(statement)
            case Map():
                for n in range(statement.count):
                    gva = statement.gva + n * statement.gva_stride & _U64
                    gpa = statement.gpa + n * statement.gpa_stride & _U64
                    self.map_one(statement.cr3, gva, gpa, statement.flags, statement.level)
            case Tramp():
                self.tramp(statement.cr3)
            case Alloc():
                self.next_table = statement.gpa
            case Nonleaf():
                self.nonleaf = statement.flags


def resolve(scenario: Scenario) -> Setup:
    """Carry out `map`, `alloc`, `nonleaf` and `tramp`, so that only single entries are left.

    The trampoline's slot 63 is made by the first `tramp`, or at the start. Raises ScenarioError where an
    entry would lie outside every slot, where `map` has no page for a table, or finds the page in use.
    """
    builder = _Builder(scenario)
    for item in scenario.setup:
        builder.line = item.line
        builder.statement(item.action)
    builder.need_tramp()
    return Setup(
        mode=scenario.mode,
        maxphyaddr=scenario.maxphyaddr,
        params={**scenario.params, "kernel": scenario.kernel},
        actions=(*builder.actions, *scenario.vcpus),
    )


def _with_text(rebuilt: Scenario, text: Scenario) -> Scenario:
    """`text` on the machine of the recording, after a check that it is what was recorded."""

    def differs(line: int, what: str) -> NoReturn:
        raise ScenarioError(
            f"{text.path}:{line}: {what}: {rebuilt.path} was recorded from another scenario; "
            "give the folder of its scenarios with --scenarios, or move this file away"
        )

    if text.mode != rebuilt.mode:
        differs(1, f"mode {text.mode}, recorded {rebuilt.mode}")
    if text.vcpus != rebuilt.vcpus:
        differs(1, "the vCPUs' registers at `start` are not the recorded ones")
    written = [action for action in resolve(text).actions if not isinstance(action, Watch)]
    if written != list(resolve(rebuilt).actions):
        differs(1, "the setup is not the recorded one")
    ops: list[Op] = []
    recorded = iter(rebuilt.recorded_ops)
    for op in text.ops:
        if not isinstance(op, _UNRECORDED):
            expected = next(recorded, None)
            if expected is None:
                break
            if op.text != expected.text:
                differs(op.line, f"`{op.text}`, recorded `{expected.text}`")
        ops.append(op)
    missing = next(recorded, None)
    if missing is not None:
        differs(ops[-1].line if ops else 1, f"the scenario ends before `{missing.text}`")
    return replace(
        text, name=rebuilt.name, title=rebuilt.title, kernel=rebuilt.kernel, params=rebuilt.params,
        maxphyaddr=rebuilt.maxphyaddr, ops=tuple(ops),
    )  # fmt: skip


# --------------------------------------------------------------------------------------------------- parsing

_Common = dict[str, Any]
_ON_OFF = ("on", "off")
_SLOT_FLAGS = {
    "dirty": KVM_MEM_LOG_DIRTY_PAGES, "ro": KVM_MEM_READONLY, "lazy": 0, "thp": 0, "huge2m": 0, "huge1g": 0,
    "memfd": 0,
}  # fmt: skip
_BACKINGS = ("thp", "huge2m", "huge1g", "memfd")

_NUMBER = re.compile(r"(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)([KMG]?)", re.ASCII)
_LONGEST_NUMBER = 80
"""Digits beyond these make no difference: the number is out of range."""
_SUFFIX = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

_SIZES64 = {"read": (1, 2, 4, 8), "write": (1, 2, 4, 8), "xchg": (4, 8), "add": (4, 8), "cmpxchg": (4, 8)}
_SIZES32 = {"read": (1, 2, 4), "write": (1, 2, 4), "xchg": (4,), "add": (4,), "cmpxchg": (4, 8)}

_USAGE = {
    "title": "title TEXT",
    "param": "param kvm|kvm_amd NAME=VALUE",
    "mode": "mode long4|long5|pae|32|nopaging",
    "vcpus": "vcpus N (1 to 8)",
    "physbits": "physbits N (32 to 52)",
    "slot": "slot ID GPA SIZE [dirty] [ro] [lazy] [thp|huge2m|huge1g|memfd] [keep] [skew=N]",
    "cap": "cap CAP ARG",
    "alloc": "alloc GPA",
    "nonleaf": "nonleaf FLAGS",
    "tramp": "tramp [CR3]",
    "map": "map CR3 GVA GPA FLAGS [level=L] [n=N] [stride=S] [gstride=S]",
    "pt": "pt TABLE INDEX VALUE",
    "poke": "poke GPA VALUE",
    "code": "code GPA",
    "watch": "watch GPA",
    "nodump": "nodump",
    "start": "start [cr3=GPA] [cr3@N=GPA] [cr0=V] [cr4=V] [efer=V]",
    "read": "read GVA [size=N]",
    "write": "write GVA [VALUE] [size=N]",
    "xchg": "xchg GVA [VALUE] [size=N]",
    "add": "add GVA [VALUE] [size=N]",
    "cmpxchg": "cmpxchg GVA NEW EXPECTED [size=N]",
    "stos": "stos GVA [VALUE] [n=COUNT]",
    "nop": "nop",
    "exec": "exec GVA",
    "invlpg": "invlpg GVA",
    "cr0": "cr0 VALUE",
    "cr3": "cr3 VALUE",
    "cr4": "cr4 VALUE",
    "efer": "efer VALUE",
    "wrmsr": "wrmsr MSR VALUE",
    "ac": "ac on|off",
    "delslot": "delslot ID",
    "movslot": "movslot ID GPA",
    "dirtylog": "dirtylog on|off ID",
    "roflag": "roflag on|off ID",
    "getdirty": "getdirty ID",
    "cleardirty": "cleardirty ID FIRST N",
    "nrmmu": "nrmmu N",
    "madvise_dontneed": "madvise_dontneed GPA LEN",
    "madvise": "madvise GPA LEN ADVICE",
    "mprotect": "mprotect GPA LEN ro|rw|none",
    "remap": "remap GPA LEN",
    "hosttouch": "hosttouch GPA LEN",
    "hostread": "hostread GPA [size=4|8]",
    "hostwrite": "hostwrite GPA VALUE [size=4|8]",
    "modparam": "modparam MODULE NAME VALUE",
    "sysfs": "sysfs PATH VALUE",
    "sleep_ms": "sleep_ms N",
    "hostsregs": "hostsregs [cr0=V] [cr3=V] [cr4=V] [efer=V]",
    "translate": "translate GVA",
    "prefault": "prefault GPA LEN",
    "dump": "dump on|off",
    "end": "end",
}
_NESTED = {
    "nested", "npt", "ntramp", "l2code", "l2read", "l2write", "l2xchg", "l2add", "l2cmpxchg", "l2stos",
    "l2nop", "l2exec", "l2exit", "ncr3", "vmcb", "l1invlpga",
}  # fmt: skip

_YES = {"1", "y", "Y", "on", "ON", "On"}
_NO = {"0", "n", "N", "off", "OFF", "Off"}
_DEFAULT_PARAMS = {
    "kvm_amd.npt": "N",
    "kvm.tdp_mmu": "Y",
    "kvm.eager_page_split": "Y",
    "kvm.nx_huge_pages": "N",
    "kvm.flush_on_reuse": "N",
    "kvm.ignore_msrs": "N",
}
_NX_HUGE_PAGES = {"off": "N", "force": "Y", "auto": "N", "never": "never"}
_KERNEL = "6.12.111 (shadowmmu)"
_HOST_MAXPHYADDR = 40


@dataclass(slots=True)
class _Line:
    """One line's words, taken apart; every failure names file and line."""

    path: str
    number: int
    text: str
    word: str = ""
    args: list[str] = field(default_factory=list)
    keys: dict[str, str] = field(default_factory=dict)
    flags: list[str] = field(default_factory=list)

    def fail(self, what: str, mend: str) -> NoReturn:
        raise ScenarioError(f"{self.path}:{self.number}: {what}; {mend}")

    def usage(self) -> str:
        return f"write `{_USAGE[self.word]}`"

    def split(
        self, rest: Sequence[str], *, least: int, most: int | None = None, keys: Iterable[str] = (),
        flags: Iterable[str] = (),
    ) -> None:  # fmt: skip
        """Sort the words after the first into positional arguments, `key=value` pairs and bare options."""
        known_keys, known_flags = set(keys), set(flags)
        self.args, self.keys, self.flags = [], {}, []
        for token in rest:
            key, equals, value = token.partition("=")
            if equals:
                if key not in known_keys:
                    self.fail(f"`{self.word}` has no option `{key}=`", self.usage())
                if key in self.keys:
                    self.fail(f"`{key}=` is given twice", "keep one of them")
                self.keys[key] = value
            elif token in known_flags:
                if token in self.flags:
                    self.fail(f"`{token}` is given twice", "keep one of them")
                self.flags.append(token)
            elif self.keys or self.flags or len(self.args) == (least if most is None else most):
                self.fail(f"`{token}` is not understood after `{self.word}`", self.usage())
            else:
                self.args.append(token)
        if len(self.args) < least:
            self.fail(f"`{self.word}` lacks an argument", self.usage())

    def parse_number(self, text: str, what: str, top: int, least: int = 0, *, suffix: bool = True) -> int:
        match = _NUMBER.fullmatch(text)
        if match is None or (match[2] and not suffix):
            how = "write it as 0x1f, 31 or 64K" if suffix else "write it as 0x1f or 31, without K, M or G"
            self.fail(f"{what} `{text}` is not a number", how)
        digits = match[1]
        octal = digits[0] == "0" and digits.isdigit()
        value = int(digits[:_LONGEST_NUMBER], 8 if octal else 0) * _SUFFIX[match[2]]
        if not least <= value <= top:
            self.fail(f"{what} {text} is out of range", f"use {_show(least)} to {_show(top)}")
        return value

    def num(self, index: int, what: str, top: int = _U64, least: int = 0) -> int:
        return self.parse_number(self.args[index], what, top, least)

    def key(self, name: str, default: int, top: int = _U64, least: int = 0) -> int:
        given = self.keys.get(name)
        return default if given is None else self.parse_number(given, f"{name}=", top, least, suffix=False)

    def choice(self, index: int, words: Sequence[str]) -> str:
        if self.args[index] not in words:
            self.fail(f"`{self.args[index]}` is not one of {', '.join(words)}", self.usage())
        return self.args[index]

    def page_number(self, index: int, what: str, top: int = _GPA_LIMIT - 1, least: int = 0) -> int:
        if self.num(index, what) % _PAGE:
            self.fail(f"{what} {self.args[index]} is not a multiple of 4K", "round it to whole pages")
        return self.num(index, what, top, least)


def _show(value: int) -> str:
    return str(value) if value < 1000 else f"{value:#x}"


class _OpParser:
    """Parses the lines after `start`; keeps track of which slots there are."""

    def __init__(self) -> None:
        self.mode = MODES["long4"]
        self.nvcpus = 1
        self.slots: dict[int, tuple[int, int]] = {}
        self._ops: dict[str, Callable[[_Line, list[str], _Common], Op]] = {
            "invlpg": self._invlpg,
            "cr0": self._cr,
            "cr3": self._cr,
            "cr4": self._cr,
            "efer": self._efer,
            "wrmsr": self._wrmsr,
            "ac": self._ac,
            "dump": self._dump,
            "watch": self._watch,
            "slot": self._slot,
            "delslot": self._delslot,
            "movslot": self._movslot,
            "dirtylog": self._slot_flag,
            "roflag": self._slot_flag,
            "getdirty": self._getdirty,
            "cleardirty": self._cleardirty,
            "cap": self._cap,
            "nrmmu": self._nrmmu,
            "madvise_dontneed": self._madvise_dontneed,
            "madvise": self._madvise,
            "mprotect": self._mprotect,
            "remap": self._remap,
            "hosttouch": self._hosttouch,
            "hostread": self._hostread,
            "hostwrite": self._hostwrite,
            "pt": self._pt,
            "modparam": self._modparam,
            "sysfs": self._sysfs,
            "sleep_ms": self._sleep,
            "hostsregs": self._hostsregs,
            "translate": self._translate,
            "prefault": self._prefault,
        }
        for user, prefix in ((False, ""), (True, "u")):
            self._ops[f"{prefix}nop"] = partial(self._nop, user=user)
            self._ops[f"{prefix}exec"] = partial(self._exec, user=user)
            for kind in (*_SIZES64, "stos"):
                self._ops[prefix + kind] = partial(self._access, user=user)

    def knows(self, word: str) -> bool:
        """Whether there is an operation of this name."""
        return word in self._ops

    def op(self, line: _Line, tokens: list[str]) -> Op:
        """Parse one line; `tokens` are its words."""
        vcpu, word = 0, tokens[0]
        if word.startswith("@"):
            digits = word[1:]
            if not re.fullmatch("[0-9]{1,4}", digits) or len(tokens) == 1:
                line.fail(f"`{line.text.strip()}` selects no vCPU", "write `@N OP`, for example `@1 nop`")
            vcpu, tokens = int(digits), tokens[1:]
            word = tokens[0]
            if vcpu >= self.nvcpus:
                line.fail(f"there is no vCPU {vcpu}", f"use 0 to {self.nvcpus - 1} or more `vcpus`")
            if word == "dump":
                line.fail("`dump` belongs to no vCPU", "leave the `@N` out")
        parse = self._ops.get(word)
        if parse is None:
            self._refuse(line, word)
        line.word = word if word in _USAGE else word[1:]
        return parse(line, tokens[1:], {"line": line.number, "text": line.text, "vcpu": vcpu})

    def _refuse(self, line: _Line, word: str) -> NoReturn:
        if word in _NESTED:
            line.fail("nested scenarios are not supported yet", "leave this scenario out")
        if word in _USAGE:
            line.fail(f"`{word}` is not an operation", "put it before `start`")
        line.fail(f"unknown word `{word}`", _suggestion(word, [*self._ops, "end"]))

    # -- helpers

    def _gva(self, line: _Line, index: int) -> int:
        return line.num(index, "address", _U64 if self.mode.is64 else _U32)

    def _slot_id(self, line: _Line, index: int) -> int:
        slot = line.num(index, "slot", _NSLOTS - 1)
        if slot not in self.slots:
            have = ", ".join(map(str, sorted(self.slots))) or "none"
            line.fail(f"there is no slot {slot} at this point", f"use one of: {have}")
        return slot

    def _own_slot(self, line: _Line, slot: int) -> int:
        if slot == TRAMP_SLOT:
            line.fail(f"slot {TRAMP_SLOT} holds the guest's own code", "use 0 to 62")
        return slot

    def inside(self, line: _Line, gpa: int, length: int) -> None:
        """Fail unless one slot has all of `length` bytes at `gpa`."""
        for start, size in self.slots.values():
            if start <= gpa < start + size:
                if gpa + length > start + size:
                    line.fail(f"{gpa:#x} + {length:#x} is beyond the slot", f"it ends at {start + size:#x}")
                return
        line.fail(f"no slot has guest address {gpa:#x} at this point", "add a `slot` line that covers it")

    def _range(self, line: _Line) -> tuple[int, int]:
        gpa = line.page_number(0, "address")
        length = line.page_number(1, "length", _GPA_LIMIT, _PAGE)
        self.inside(line, gpa, length)
        return gpa, length

    def slot_spec(self, line: _Line, rest: list[str], *, extra: Sequence[str] = ()) -> SlotSetup:
        """`slot`'s arguments, in the setup and as an op; `line.flags` has its bare options afterwards."""
        line.split(rest, least=3, keys=["skew"], flags=[*_SLOT_FLAGS, *extra])
        slot = self._own_slot(line, line.num(0, "slot", _NSLOTS - 1))
        gpa = line.page_number(1, "address")
        size = line.page_number(2, "size", _GPA_LIMIT, _PAGE)
        skew = line.key("skew", 0, (1 << 30) - 1)
        given = line.flags
        if skew % _PAGE:
            line.fail(f"skew={line.keys['skew']} is not a multiple of 4K", "round it to whole pages")
        if gpa + size > _GPA_LIMIT:
            line.fail(f"the slot ends at {gpa + size:#x}", f"guest addresses end at {_GPA_LIMIT:#x}")
        backing = [word for word in _BACKINGS if word in given]
        if len(backing) > 1:
            line.fail(f"`{backing[0]}` and `{backing[1]}` exclude each other", "keep one of them")
        page = {"huge2m": 1 << 21, "huge1g": 1 << 30}.get(backing[0] if backing else "", _PAGE)
        if size % page or (gpa + skew) % page:
            line.fail(f"address, size or skew do not fit {backing[0]} pages", f"use multiples of {page:#x}")
        return SlotSetup(
            slot,
            gpa,
            size,
            flags=sum(flag for word, flag in _SLOT_FLAGS.items() if word in given),
            options=" ".join(rest[3:]),
            lazy="lazy" in given,
            thp="thp" in given,
            huge2m="huge2m" in given,
            huge1g="huge1g" in given,
            memfd="memfd" in given,
            skew=skew,
        )

    def gpte(self, line: _Line, rest: list[str]) -> Pt:
        """`pt`'s arguments, in the setup and as an op."""
        line.split(rest, least=3)
        entry_size = self.mode.entry_size
        table = line.num(0, "table", _GPA_LIMIT - 1) & _PDPT_MASK
        index = line.num(1, "index", _PAGE // entry_size - 1)
        value = line.num(2, "entry", (1 << 8 * entry_size) - 1)
        gpa = table + index * entry_size
        self.inside(line, gpa, entry_size)
        return Pt(gpa, entry_size, value)

    # -- guest ops

    def _access(self, line: _Line, rest: list[str], common: _Common, *, user: bool) -> Op:
        kind = line.word
        if kind == "stos":
            line.split(rest, least=1, most=2, keys=["n"])
            size = 4
        else:
            needed = 3 if kind == "cmpxchg" else 1
            line.split(rest, least=needed, most=1 if kind == "read" else max(needed, 2), keys=["size"])
            sizes = (_SIZES64 if self.mode.is64 else _SIZES32)[kind]
            size = line.key("size", 8 if self.mode.is64 else 4)
            if size not in sizes:
                line.fail(f"`{kind}` has no {size}-byte form in mode {self.mode.name}",
                          f"use size={'|'.join(map(str, sizes))}")  # fmt: skip
        mask = (1 << 8 * size) - 1
        return Access(
            **common,
            kind=kind,
            user=user,
            gva=self._gva(line, 0),
            size=size,
            value=line.num(1, "value") & mask if len(line.args) > 1 else 0,
            expected=line.num(2, "value") & mask if len(line.args) > 2 else 0,
            count=line.key("n", 1, _MAX_COUNT),
        )

    def _nop(self, line: _Line, rest: list[str], common: _Common, *, user: bool) -> Op:
        line.split(rest, least=0)
        return Nop(**common, user=user)

    def _exec(self, line: _Line, rest: list[str], common: _Common, *, user: bool) -> Op:
        line.split(rest, least=1)
        return Exec(**common, user=user, gva=self._gva(line, 0))

    def _invlpg(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return Invlpg(**common, gva=self._gva(line, 0))

    def _cr(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        value = line.num(0, "value", _U64 if self.mode.is64 else _U32)
        return WriteCr(**common, cr=int(line.word[2:]), value=value)

    def _efer(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return WriteMsr(**common, index=_MSR_EFER, value=line.num(0, "value"))

    def _wrmsr(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        return WriteMsr(**common, index=line.num(0, "MSR", _U32), value=line.num(1, "value"))

    def _ac(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return SetAc(**common, on=line.choice(0, _ON_OFF) == "on")

    # -- host ops

    def _dump(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return SetDump(**common, on=line.choice(0, _ON_OFF) == "on")

    def _watch(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        gpa = line.num(0, "address", _GPA_LIMIT - 1)
        self.inside(line, gpa, 1)
        return WatchPage(**common, gpa=gpa)

    def _slot(self, line: _Line, rest: list[str], common: _Common) -> Op:
        slot = self.slot_spec(line, rest, extra=["keep"])
        self.slots[slot.id] = slot.gpa, slot.size
        return SetSlot(**common, slot=slot, keep="keep" in line.flags)

    def _delslot(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        slot = self._own_slot(line, line.num(0, "slot", _NSLOTS - 1))
        self.slots.pop(slot, None)
        return DeleteSlot(**common, slot=slot)

    def _movslot(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        slot = self._own_slot(line, self._slot_id(line, 0))
        gpa = line.page_number(1, "address")
        self.slots[slot] = gpa, self.slots[slot][1]
        return MoveSlot(**common, slot=slot, gpa=gpa)

    def _slot_flag(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        on = line.choice(0, _ON_OFF) == "on"
        flag = KVM_MEM_READONLY if line.word == "roflag" else KVM_MEM_LOG_DIRTY_PAGES
        return SetSlotFlag(**common, slot=self._slot_id(line, 1), flag=flag, on=on)

    def _getdirty(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return GetDirty(**common, slot=self._slot_id(line, 0))

    def _cleardirty(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=3)
        first, pages = line.num(1, "page", _U32), line.num(2, "number of pages", _U32)
        return ClearDirty(**common, slot=self._slot_id(line, 0), first=first, pages=pages)

    def _cap(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        return EnableCap(**common, cap=line.num(0, "capability", _U32), arg=line.num(1, "argument"))

    def _nrmmu(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return SetMmuPages(**common, pages=line.num(0, "number of pages", _U32))

    def _madvise_dontneed(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        gpa, length = self._range(line)
        return Madvise(**common, gpa=gpa, length=length, advice=_MADV_DONTNEED)

    def _madvise(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=3)
        gpa, length = self._range(line)
        return Madvise(**common, gpa=gpa, length=length, advice=line.num(2, "advice", 1 << 16))

    def _mprotect(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=3)
        gpa, length = self._range(line)
        protection = line.choice(2, ("ro", "rw", "none"))
        return Mprotect(**common, gpa=gpa, length=length, protection=protection)

    def _remap(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        gpa, length = self._range(line)
        return Remap(**common, gpa=gpa, length=length)

    def _hosttouch(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        gpa, length = self._range(line)
        return HostTouch(**common, gpa=gpa, length=length)

    def _host_access(self, line: _Line) -> tuple[int, int]:
        gpa = line.num(0, "address", _GPA_LIMIT - 1)
        size = line.key("size", self.mode.entry_size)
        if size not in (4, 8):
            line.fail(f"`{line.word}` has no {size}-byte form", "use size=4|8")
        self.inside(line, gpa, size)
        return gpa, size

    def _hostread(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1, keys=["size"])
        gpa, size = self._host_access(line)
        return HostRead(**common, gpa=gpa, size=size)

    def _hostwrite(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2, keys=["size"])
        gpa, size = self._host_access(line)
        return HostWrite(**common, gpa=gpa, size=size, value=line.num(1, "value", (1 << 8 * size) - 1))

    def _pt(self, line: _Line, rest: list[str], common: _Common) -> Op:
        entry = self.gpte(line, rest)
        return SetGpte(**common, gpa=entry.gpa, size=entry.size, value=entry.value)

    def _modparam(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=3)
        module = line.choice(0, ("kvm", "kvm_amd"))
        return ModParam(**common, module=module, name=line.args[1], value=line.args[2])

    def _sysfs(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        return Sysfs(**common, path=line.args[0], value=line.args[1])

    def _sleep(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return Sleep(**common, milliseconds=line.num(0, "time", 600_000))

    def _hostsregs(self, line: _Line, rest: list[str], common: _Common) -> Op:
        names = ("cr0", "cr3", "cr4", "efer")
        line.split(rest, least=0, keys=names)
        cr0, cr3, cr4, efer = (line.key(name, 0) if name in line.keys else None for name in names)
        return HostSregs(**common, cr0=cr0, cr3=cr3, cr4=cr4, efer=efer)

    def _translate(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=1)
        return Translate(**common, gva=line.num(0, "address"))

    def _prefault(self, line: _Line, rest: list[str], common: _Common) -> Op:
        line.split(rest, least=2)
        gpa = line.page_number(0, "address")
        return Prefault(**common, gpa=gpa, length=line.page_number(1, "length", _GPA_LIMIT, _PAGE))


def _suggestion(word: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, known, 1)
    return f"did you mean `{close[0]}`?" if close else "see the scenario language for the words there are"


def _words(path: str, number: int, raw: str) -> tuple[_Line, list[str]]:
    """The line as the recorder shows it, and its words."""
    text = raw.partition("#")[0].rstrip()
    if '"' in text or "\\" in text:
        raise ScenarioError(f"{path}:{number}: a quote or backslash; remove it, no op has one")
    return _Line(path, number, text), text.split()


class _Parser:
    """Parses a scenario file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.ops_parser = _OpParser()
        self.mode: Mode | None = None
        self.title = ""
        self.params: dict[str, str] = dict(_DEFAULT_PARAMS)
        self.physbits: int | None = None
        self.nvcpus: int | None = None
        self.setup: list[SetupLine] = []
        self.ops: list[Op] = []
        self.vcpus: tuple[Vcpu, ...] = ()
        self._setup_words: dict[str, Callable[[_Line, list[str]], _Statement | None]] = {
            "mode": self._mode,
            "vcpus": self._vcpus,
            "physbits": self._physbits,
            "slot": self._slot,
            "cap": self._cap,
            "alloc": self._alloc,
            "nonleaf": self._nonleaf,
            "tramp": self._tramp,
            "map": self._map,
            "pt": self._pt,
            "poke": self._poke,
            "code": self._code,
            "watch": self._watch,
            "nodump": self._nodump,
            "start": self._start,
        }

    def scenario(self, text: str) -> Scenario:
        ended = False
        lines = text.split("\n")
        for number, raw in enumerate(lines, 1):
            if raw.startswith("title ") and not self.title:
                self.title = raw[len("title ") :].strip()
                continue
            if not (words := raw.partition("#")[0].split()) or words[0] == "title":
                continue
            line, tokens = _words(self.path, number, raw)
            if tokens[0] == "param":
                line.word = "param"
                self._param(line, tokens[1:])
            elif ended:
                continue
            elif not self.vcpus:
                self._statement(line, tokens)
            elif tokens[0] == "end":
                line.word = "end"
                line.split(tokens[1:], least=0)
                ended = True
            else:
                self.ops.append(self.ops_parser.op(line, tokens))
        if not self.vcpus or self.mode is None:
            raise ScenarioError(f"{self.path}:{len(lines)}: no `start`; end the setup with `start cr3=GPA`")
        if self.params["kvm_amd.npt"] == "N":
            self.params["kvm.tdp_mmu"] = "N"
        return Scenario(
            name=Path(self.path).stem,
            path=self.path,
            title=self.title,
            kernel=_KERNEL,
            params={**self.params, "thp": "always [madvise] never"},
            mode=self.mode.name,
            maxphyaddr=self.physbits or _HOST_MAXPHYADDR,
            vcpus=self.vcpus,
            setup=tuple(self.setup),
            ops=tuple(self.ops),
        )

    def _param(self, line: _Line, rest: list[str]) -> None:
        if len(rest) < 2:
            line.fail("`param` lacks an argument", line.usage())
        for setting in rest[1:]:
            name, equals, value = setting.partition("=")
            known = f"{rest[0]}.{name}"
            if not equals or known not in self.params:
                names = ", ".join(key.replace(".", " ") for key in self.params)
                line.fail(f"there is no parameter `{rest[0]} {name}`", f"known are {names}")
            if value in _YES:
                shown = "Y"
            elif value in _NO:
                shown = "N"
            elif known == "kvm.nx_huge_pages" and value in _NX_HUGE_PAGES:
                shown = _NX_HUGE_PAGES[value]
            else:
                line.fail(f"`{value}` is no value of {known}", "use Y or N")
            self.params[known] = shown

    def _statement(self, line: _Line, tokens: list[str]) -> None:
        line.word = word = tokens[0]
        if word in _NESTED:
            line.fail("nested scenarios are not supported yet", "leave this scenario out")
        parse = self._setup_words.get(word)
        if parse is None:
            if word.startswith("@") or self.ops_parser.knows(word):
                line.fail(f"`{word}` is an operation", "put it after `start`")
            line.fail(f"unknown word `{word}`", _suggestion(word, [*self._setup_words, "title", "param"]))
        if self.mode is None and word not in ("mode", "vcpus", "physbits"):
            line.fail(f"`{word}` comes before `mode`", "begin with `mode long4|long5|pae|32|nopaging`")
        statement = parse(line, tokens[1:])
        if statement is not None:
            self.setup.append(SetupLine(line.number, line.text, statement))

    def _mode(self, line: _Line, rest: list[str]) -> None:
        line.split(rest, least=1)
        if self.mode is not None:
            line.fail("`mode` is given twice", "keep one of them")
        self.mode = self.ops_parser.mode = MODES[line.choice(0, tuple(MODES))]

    def _vcpus(self, line: _Line, rest: list[str]) -> None:
        line.split(rest, least=1)
        if self.nvcpus is not None:
            line.fail("`vcpus` is given twice", "keep one of them")
        self.nvcpus = self.ops_parser.nvcpus = line.num(0, "number of vCPUs", 8, 1)

    def _physbits(self, line: _Line, rest: list[str]) -> None:
        line.split(rest, least=1)
        self.physbits = line.num(0, "MAXPHYADDR", 52, 32)

    def _slot(self, line: _Line, rest: list[str]) -> SlotSetup:
        slot = self.ops_parser.slot_spec(line, rest)
        if slot.id in self.ops_parser.slots:
            line.fail(f"slot {slot.id} exists already", "use another number")
        for other, (gpa, size) in self.ops_parser.slots.items():
            if slot.gpa < gpa + size and gpa < slot.gpa + slot.size:
                line.fail(f"slot {slot.id} overlaps slot {other}", "use other addresses")
        if slot.gpa < TRAMP_GPA + TRAMP_SIZE and slot.gpa + slot.size > TRAMP_GPA:
            line.fail(f"slot {slot.id} overlaps the guest code at {TRAMP_GPA:#x}", "use other addresses")
        self.ops_parser.slots[slot.id] = slot.gpa, slot.size
        return slot

    def _cap(self, line: _Line, rest: list[str]) -> Cap:
        line.split(rest, least=2)
        return Cap(line.num(0, "capability", _U32 >> 1), line.num(1, "argument", _U32 >> 1))

    def _gpa(self, line: _Line, index: int, length: int) -> int:
        gpa = line.num(index, "address", _GPA_LIMIT - 1)
        self.ops_parser.inside(line, gpa, length)
        return gpa

    def _alloc(self, line: _Line, rest: list[str]) -> Alloc:
        line.split(rest, least=1)
        gpa = line.page_number(0, "address", least=_PAGE)
        self.ops_parser.inside(line, gpa, _PAGE)
        return Alloc(gpa)

    def _nonleaf(self, line: _Line, rest: list[str]) -> Nonleaf:
        line.split(rest, least=1)
        return Nonleaf(line.num(0, "flags"))

    def _tramp(self, line: _Line, rest: list[str]) -> Tramp:
        line.split(rest, least=0, most=1)
        cr3 = line.num(0, "address", _GPA_LIMIT - 1) if rest else 0
        if self.ops_parser.mode.name != "nopaging":
            self.ops_parser.inside(line, cr3 & _TABLE_MASK, 1)
        self.ops_parser.slots.setdefault(TRAMP_SLOT, (TRAMP_GPA, TRAMP_SIZE))
        return Tramp(cr3)

    def _map(self, line: _Line, rest: list[str]) -> Map:
        mode = self.ops_parser.mode
        if mode.name == "nopaging":
            line.fail("there are no page tables in mode nopaging", "remove `map`")
        line.split(rest, least=4, keys=["level", "n", "stride", "gstride"])
        level = line.key("level", 1, mode.levels, 1)
        cr3 = line.num(0, "address", _GPA_LIMIT - 1)
        self.ops_parser.inside(line, cr3 & _TABLE_MASK, 1)
        return Map(
            cr3,
            gva=line.num(1, "address", _U64 if mode.is64 else _U32),
            gpa=line.num(2, "address"),
            flags=line.num(3, "flags"),
            level=level,
            count=line.key("n", 1, _MAX_COUNT, 1),
            gva_stride=line.key("stride", mode.page_size(level)),
            gpa_stride=line.key("gstride", mode.page_size(level)),
        )

    def _pt(self, line: _Line, rest: list[str]) -> Pt:
        return self.ops_parser.gpte(line, rest)

    def _poke(self, line: _Line, rest: list[str]) -> Poke:
        line.split(rest, least=2)
        return Poke(self._gpa(line, 0, 8), line.num(1, "value"))

    def _code(self, line: _Line, rest: list[str]) -> Code:
        line.split(rest, least=1)
        return Code(self._gpa(line, 0, 2))

    def _watch(self, line: _Line, rest: list[str]) -> Watch:
        line.split(rest, least=1)
        return Watch(self._gpa(line, 0, 1))

    def _nodump(self, line: _Line, rest: list[str]) -> None:
        line.split(rest, least=0)
        self.ops.append(SetDump(line=line.number, text=line.text, vcpu=0, on=False))

    def _start(self, line: _Line, rest: list[str]) -> None:
        nvcpus, mode = self.ops_parser.nvcpus, self.ops_parser.mode
        if any(token.startswith("ncr3") for token in rest):
            line.fail("nested scenarios are not supported yet", "leave this scenario out")
        own = [f"cr3@{n}" for n in range(nvcpus)]
        line.split(rest, least=0, keys=["cr0", "cr3", "cr4", "efer", *own])
        cr3 = line.key("cr3", 0)
        cr4 = line.key("cr4", mode.cr4) | (_CR4_LA57 if mode.name == "long5" else 0)
        cr0, efer = line.key("cr0", mode.cr0), line.key("efer", mode.efer)
        self.vcpus = tuple(Vcpu(n, cr0, line.key(own[n], cr3), cr4, efer) for n in range(nvcpus))
        self.ops_parser.slots.setdefault(TRAMP_SLOT, (TRAMP_GPA, TRAMP_SIZE))


class _RecordingParser:
    """Rebuilds a scenario from a recording's header and the texts of its ops."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.ops_parser = _OpParser()
        self.setup: list[SetupLine] = []
        self.vcpus: list[Vcpu] = []
        self.maxphyaddr = _HOST_MAXPHYADDR

    def fail(self, line: int, what: str, mend: str) -> NoReturn:
        raise ScenarioError(f"{self.path}:{line}: {what}; {mend}")

    def scenario(self, recording: RecordedRun) -> Scenario:
        header = recording.header
        for entry in header["setup"]:
            try:
                self._entry(entry)
            except (KeyError, TypeError, ValueError) as error:
                if isinstance(error, ScenarioError):
                    raise
                self.fail(1, f"the setup entry {entry!r} is malformed", "make the recording anew")
        if not self.vcpus:
            self.fail(1, "the setup has no vCPU", "make the recording anew")
        self.ops_parser.nvcpus = len(self.vcpus)
        return Scenario(
            name=header["scenario"],
            path=self.path,
            title=header["title"],
            kernel=header["kernel"],
            params=header["params"],
            mode=self.ops_parser.mode.name,
            maxphyaddr=self.maxphyaddr,
            vcpus=tuple(self.vcpus),
            setup=tuple(self.setup),
            ops=tuple(self._ops(recording.rows)),
        )

    def _entry(self, entry: Mapping[str, Any]) -> None:
        statement: _Statement
        match entry["setup"]:
            case "mode":
                self.ops_parser.mode = MODES[entry["mode"]]
                return
            case "cpuid":
                self.maxphyaddr = int(entry["maxphyaddr"])
                return
            case "vcpu":
                registers = (int(entry[name], 16) for name in ("cr0", "cr3", "cr4", "efer"))
                self.vcpus.append(Vcpu(int(entry["id"]), *registers))
                return
            case "slot":
                statement = self._slot(entry)
                self.ops_parser.slots[statement.id] = statement.gpa, statement.size
            case "pt":
                statement = Pt(int(entry["gpa"], 16), int(entry["size"]), int(entry["val"], 16))
            case "poke":
                statement = Poke(int(entry["gpa"], 16), int(entry["val"], 16))
            case "code":
                statement = Code(int(entry["gpa"], 16))
            case "cap":
                statement = Cap(int(entry["cap"]), int(entry["arg"]))
            case "vmcb" | "l2code":
                self.fail(1, "nested scenarios are not supported yet", "leave this recording out")
            case other:
                self.fail(1, f"unknown setup entry `{other}`", "give a recording of this format")
        self.setup.append(SetupLine(1, "", statement))

    def _slot(self, entry: Mapping[str, Any]) -> SlotSetup:
        where = int(entry["gpa"], 16), int(entry["size"], 16)
        options = str(entry["opts"])
        if options == "trampoline":
            return SlotSetup(int(entry["id"]), *where, options=options)
        line = _Line(self.path, 1, "", word="slot")
        if options == "nested":
            line.fail("nested scenarios are not supported yet", "leave this recording out")
        return self.ops_parser.slot_spec(line, [str(entry["id"]), *map(hex, where), *options.split()])

    def _ops(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Op]:
        dumped = True
        watched = {item.action.gpa & -_PAGE for item in self.setup if isinstance(item.action, Pt)}
        for number, row in enumerate(rows, 2):
            if row["op"] < 0:
                continue
            for page in self._changed_pages(number, row["gptes"]):
                if page not in watched:
                    watched.add(page)
                    yield WatchPage(line=number, text=f"watch {page:#x}", vcpu=0, gpa=page)
            if dumped != ("delta" in row):
                dumped = not dumped
                yield SetDump(line=number, text=f"dump {'on' if dumped else 'off'}", vcpu=0, on=dumped)
            line, tokens = _words(self.path, number, row["do"])
            if not tokens:
                line.fail("the op has no text", "make the recording anew")
            op = self.ops_parser.op(line, tokens)
            if isinstance(op, SetGpte):
                watched.add(op.gpa & -_PAGE)
            yield op

    def _changed_pages(self, line: int, changes: Iterable[Sequence[str]]) -> list[int]:
        try:
            return [int(gpa, 16) & -_PAGE for gpa, _, _ in changes]
        except (TypeError, ValueError):
            self.fail(line, "`gptes` is malformed", "make the recording anew")
