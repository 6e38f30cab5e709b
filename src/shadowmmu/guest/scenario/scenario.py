"""The scenario language: a machine's setup and the operations played on it.

A scenario is a text file, one statement per line, `#` starting a comment. Statements up to `start` describe
the virtual machine (slots, guest page tables, registers; setup.py), those after it are operations of the
guest or of the host (ops.py). `Scenario.load` reads such a file, `Scenario.from_recording` rebuilds one from
a recording, `setup.resolve` turns either into the `Setup` that a player carries out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

from ...kvm.design.switches import DEFAULT_KERNEL, DesignError, kernel_text, value_of
from ...x86.bits import MASK64
from .modes import MODES, TRAMP_SIZE, Mode, Trampoline, trampolines_of
from .module_params import (
    DEFAULT_PARAMS,
    MORE_PARAMS,
    VENDORS,
    choices,
    known_params,
    nested_paging_of,
    not_modelled,
    param_value,
    params_of_vendor,
)
from .op_parser import (
    GPA_LIMIT,
    MAX_COUNT,
    U32,
    Line,
    OpParser,
    split_words,
    suggestion,
)
from .ops import (
    UNRECORDED,
    Op,
    SetDump,
    SetGpte,
    WatchPage,
)
from .setup import (
    NESTED_GPA,
    NESTED_SIZE,
    NESTED_SLOT,
    PAGE,
    TABLE_MASK,
    Alloc,
    Cap,
    Code,
    L2Code,
    Map,
    Nonleaf,
    Ntramp,
    Poke,
    Pt,
    ScenarioError,
    SetupLine,
    SlotSetup,
    Statement,
    Tramp,
    Vcpu,
    Vmcb,
    Watch,
    resolve,
)
from .text import first_invisible, read_file, shown

__all__ = ["HOST_MAXPHYADDR", "RecordedRun", "Scenario"]

_CR4_LA57 = 0x1000
EFER_SVME = 0x1000

_PER_VCPU = ("mode", "tramp", "map", "pt", "npt", "ntramp")
"""The setup words that depend on a paging mode: with @N on that of vCPU N, else on that of vCPU 0."""
HOST_MAXPHYADDR = 40
"""What the recorded kernels ran on, unless a scenario says otherwise."""


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
    design: Mapping[str, str]
    """Switches that are not as the kernel has them, switch name -> value name."""
    modes: tuple[str, ...]
    """The paging mode of each vCPU."""
    maxphyaddr: int
    """Bits of a physical address as the guest's CPUID has them."""
    host_maxphyaddr: int
    """The same of the host's processor."""
    host_la57: bool
    """The host has five-level page tables; a scenario's host has if its guest may."""
    vcpus: tuple[Vcpu, ...]
    vmcbs: tuple[Vmcb, ...]
    """What each vCPU says about its L2; empty if the guest is no hypervisor."""
    setup: tuple[SetupLine, ...]
    ops: tuple[Op, ...]

    @classmethod
    def load(cls, path: str | Path) -> Scenario:
        """Read a scenario file.

        Raises ScenarioError for anything not understood, OSError if the file cannot be read.
        """
        data = read_file(Path(path))
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            refused = "this is not UTF-8 text", "give a scenario file"
            raise ScenarioError.at(str(path), line, *refused) from None
        return cls.parse(text, path=path)

    @classmethod
    def parse(cls, text: str, *, path: str | Path = "<text>") -> Scenario:
        """Parse the text of a scenario; `path` serves error messages and, by its stem, the scenario's name.

        Raises ScenarioError for anything not understood.
        """
        return _Parser(str(path)).scenario(text)

    @classmethod
    def begin(cls, text: str) -> tuple[Scenario, Callable[[str], Op]]:
        """Parse the text of a scenario that is not complete; the function parses one more of its operations.

        It knows the slots that the text and the lines before left; errors name the line after the text. Both
        raise ScenarioError for anything not understood.
        """
        parser = _Parser("<text>")
        return parser.scenario(text), parser.further_op

    def with_kernel(self, release: str) -> Scenario:
        """The same on another kernel, `6.1.176` for example. Raises DesignError if that is not known."""
        return replace(self, kernel=kernel_text(release))

    def with_vendor(self, vendor: str) -> Scenario:
        """The same on a processor of a vendor, `intel` or `amd`. Raises ScenarioError if it cannot be."""
        if vendor not in VENDORS:
            raise ScenarioError(f"there is no vendor {vendor!r}; there are {', '.join(VENDORS)}")
        if vendor == "intel" and self.vmcbs:
            raise ScenarioError(f"{self.path}: a guest that is a hypervisor is modelled on AMD only")
        return replace(self, params=params_of_vendor(self.params, vendor))

    def with_params(self, values: Mapping[str, str]) -> Scenario:
        """The same with other module parameters, `kvm_intel.eptad` -> `0`.

        Nested paging that they turn on brings the TDP MMU, unless they say otherwise. Raises ScenarioError.
        """
        params = dict(self.params)
        for name, value in values.items():
            if name not in known_params(params):
                known = ", ".join(known_params(params))
                raise ScenarioError(
                    f"{self.path}: there is no parameter {shown(repr(name))}; there are {known}"
                )
            held = param_value(name, value)
            if held is None:
                raise ScenarioError(
                    f"{self.path}: {shown(repr(value))} is not a value of {name}; use {choices(name)}"
                )
            params[name] = held
        nested_paging = nested_paging_of(params)
        if params[nested_paging] == "N":
            if self.vmcbs:
                raise ScenarioError(f"{self.path}: a guest that is a hypervisor needs {nested_paging}")
            params["kvm.tdp_mmu"] = "N"
        elif self.params[nested_paging] == "N" and "kvm.tdp_mmu" not in values:
            params["kvm.tdp_mmu"] = "Y"
        return replace(self, params=params)

    def with_design(self, values: Mapping[str, str]) -> Scenario:
        """The same with other values of switches, names both. Raises DesignError for what there is not."""
        for name, value in values.items():
            value_of(name, value)
        return replace(self, design={**self.design, **values})

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
        return tuple(op for op in self.ops if not isinstance(op, UNRECORDED))


def _with_text(rebuilt: Scenario, text: Scenario) -> Scenario:
    """`text` on the machine of the recording, after a check that it is what was recorded."""

    def differs(line: int, what: str) -> NoReturn:
        another = f"{what}: {rebuilt.path} was recorded from another scenario"
        remedy = "give the folder of its scenarios with --scenarios, or move this file away"
        raise ScenarioError.at(text.path, line, another, remedy)

    if text.modes != rebuilt.modes:
        differs(1, f"mode {' '.join(text.modes)}, recorded {' '.join(rebuilt.modes)}")
    if (text.vcpus, text.vmcbs) != (rebuilt.vcpus, rebuilt.vmcbs):
        differs(1, "the vCPUs' registers at `start` are not the recorded ones")
    written = [action for action in resolve(text).actions if not isinstance(action, Watch)]
    if written != list(resolve(rebuilt).actions):
        differs(1, "the setup is not the recorded one")
    ops: list[Op] = []
    recorded = iter(rebuilt.recorded_ops)
    for op in text.ops:
        if not isinstance(op, UNRECORDED):
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
        text, setup=_with_results(text.setup, rebuilt.setup), name=rebuilt.name, title=rebuilt.title,
        kernel=rebuilt.kernel, params={**_not_recorded(text.params), **rebuilt.params},
        design=rebuilt.design,
        maxphyaddr=rebuilt.maxphyaddr, host_maxphyaddr=rebuilt.host_maxphyaddr,
        host_la57=rebuilt.host_la57, ops=tuple(ops),
    )  # fmt: skip


def _not_recorded(params: Mapping[str, str]) -> dict[str, str]:
    """The parameters that the headers of real recordings do not have."""
    return {name: value for name, value in params.items() if name in MORE_PARAMS}


def _with_results(written: Sequence[SetupLine], recorded: Sequence[SetupLine]) -> tuple[SetupLine, ...]:
    """The setup as written, with what KVM answered to its slots and capabilities when it was recorded."""
    answers = iter([
        item.action.result
        for item in recorded
        if isinstance(item.action, Cap)
        or (isinstance(item.action, SlotSetup) and item.action.options != "trampoline")
    ])  # fmt: skip
    return tuple(
        replace(item, action=replace(item.action, result=next(answers)))
        if isinstance(item.action, SlotSetup | Cap)
        else item
        for item in written
    )


class _Parser:
    """Parses a scenario file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.next_line = 1
        """Number of the line after the text."""
        self.ops_parser = OpParser()
        self.mode: Mode | None = None
        self.own_modes: dict[int, Mode] = {}
        self.title = ""
        self.params: dict[str, str] = dict(DEFAULT_PARAMS)
        self.design: dict[str, str] = {}
        self.physbits: int | None = None
        self.hostbits: int | None = None
        self.nvcpus: int | None = None
        self.nested_line: Line | None = None
        self.setup: list[SetupLine] = []
        self.ops: list[Op] = []
        self.vcpus: tuple[Vcpu, ...] = ()
        self.vmcbs: tuple[Vmcb, ...] = ()
        self._setup_words: dict[str, Callable[[Line, list[str]], Statement | None]] = {
            "mode": self._mode,
            "vcpus": self._vcpus,
            "physbits": self._physbits,
            "hostbits": self._hostbits,
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
            "nested": self._nested,
            "npt": self._npt,
            "ntramp": self._ntramp,
            "l2code": self._l2code,
            "nodump": self._nodump,
            "start": self._start,
        }

    def scenario(self, text: str) -> Scenario:
        ended = False
        lines = text.split("\n")
        self.next_line = len(lines) if text.endswith("\n") else len(lines) + 1
        for number, raw in enumerate(lines, 1):
            if raw.startswith("title ") and not self.title:
                self.title = raw[len("title ") :].strip()
                if invisible := first_invisible(self.title):
                    raise ScenarioError.at(
                        self.path, number, f"an invisible character ({invisible})", "remove it"
                    )
                continue
            if not (words := raw.partition("#")[0].split()) or words[0] == "title":
                continue
            line, tokens = split_words(self.path, number, raw)
            if tokens[0] == "param":
                line.word = "param"
                self._param(line, tokens[1:])
            elif tokens[0] == "vendor":
                line.word = "vendor"
                self._vendor(line, tokens[1:])
            elif tokens[0] == "design":
                line.word = "design"
                self._design(line, tokens[1:])
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
        if self.nested_line is not None and "kvm_amd.npt" not in self.params:
            self.nested_line.fail(
                "a guest that is a hypervisor is modelled on AMD only", "leave the line `vendor intel` out"
            )
        if self.nested_line is not None and self.params.get("kvm_amd.npt") != "Y":
            self.nested_line.fail(
                "a guest that is a hypervisor needs nested paging", "put `param kvm_amd npt=1` first"
            )
        if not self.vcpus or self.mode is None:
            raise ScenarioError.at(self.path, len(lines), "no `start`", "end the setup with `start cr3=GPA`")
        if self.params[nested_paging_of(self.params)] == "N":
            self.params["kvm.tdp_mmu"] = "N"
        return Scenario(
            name=Path(self.path).stem,
            path=self.path,
            title=self.title,
            kernel=kernel_text(DEFAULT_KERNEL),
            params={**self.params, "thp": "always [madvise] never"},
            design=self.design,
            modes=_names(self.ops_parser.modes, len(self.vcpus)),
            maxphyaddr=self.physbits or self.hostbits or HOST_MAXPHYADDR,
            host_maxphyaddr=self.hostbits or HOST_MAXPHYADDR,
            host_la57=_any_long5(self.ops_parser.modes),
            vcpus=self.vcpus,
            vmcbs=self.vmcbs,
            setup=tuple(self.setup),
            ops=tuple(self.ops),
        )

    def further_op(self, raw: str) -> Op:
        return self.ops_parser.op(*split_words(self.path, self.next_line, raw))

    def _vendor(self, line: Line, rest: list[str]) -> None:
        line.split(rest, least=1)
        if self.ops_parser.nested:
            line.fail("a guest that is a hypervisor is modelled on AMD only", "leave this line out")
        self.params = params_of_vendor(self.params, line.choice(0, tuple(VENDORS)))

    def _design(self, line: Line, rest: list[str]) -> None:
        if not rest:
            line.fail("`design` lacks an argument", line.usage())
        for setting in rest:
            name, equals, value = setting.partition("=")
            if not equals:
                line.fail(f"`{setting}` is not a setting", line.usage())
            try:
                value_of(name, value)
            except DesignError as error:
                line.fail(str(error), "see `shadowmmu designs`")
            self.design[name] = value

    def _param(self, line: Line, rest: list[str]) -> None:
        if len(rest) < 2:
            line.fail("`param` lacks an argument", line.usage())
        for setting in rest[1:]:
            name, equals, value = setting.partition("=")
            known = f"{rest[0]}.{name}"
            if equals and known not in self.params and not_modelled(known):
                line.fail(f"what the parameter `{rest[0]} {name}` does is not modelled", "leave it out")
            if not equals or known not in known_params(self.params):
                names = ", ".join(key.replace(".", " ") for key in known_params(self.params))
                line.fail(f"there is no parameter `{rest[0]} {name}`", f"known are {names}")
            held = param_value(known, value)
            if held is None:
                line.fail(f"`{value}` is not a value of {known}", f"use {choices(known)}")
            self.params[known] = held

    def _statement(self, line: Line, tokens: list[str]) -> None:
        word, vcpu = self._word(line, tokens[0])
        line.word = word
        parse = self._setup_words.get(word)
        if parse is None:
            if word.startswith("@") or self.ops_parser.knows(word):
                line.fail(f"`{word}` is an operation", "put it after `start`")
            line.fail(f"unknown word `{word}`", suggestion(word, [*self._setup_words, "title", "param"]))
        if self.mode is None and word not in ("mode", "vcpus", "physbits", "hostbits"):
            line.fail(f"`{word}` comes before `mode`", "begin with `mode long4|long5|pae|32|nopaging`")
        self.ops_parser.about(vcpu)
        if vcpu and word == "mode":
            self._own_mode(line, tokens[1:], vcpu)
            return
        statement = parse(line, tokens[1:])
        if statement is not None:
            self.setup.append(SetupLine(line.number, line.text, statement, vcpu))

    def _word(self, line: Line, word: str) -> tuple[str, int]:
        """A setup word and the vCPU whose mode it is about: `map@1`, or `map` for that of vCPU 0."""
        name, at, digits = word.partition("@")
        if not at or not name:
            return word, 0
        if name not in _PER_VCPU:
            have = ", ".join(_PER_VCPU)
            line.fail(f"`{word}` belongs to no vCPU", f"write `{name}`; with @N there are {have}")
        vcpu = line.parse_number(digits, "vCPU", U32, suffix=False)
        if vcpu >= self.ops_parser.nvcpus:
            line.fail(f"there is no vCPU {vcpu} at this point", "put a `vcpus` line with more vCPUs first")
        return name, vcpu

    def _mode(self, line: Line, rest: list[str]) -> None:
        line.split(rest, least=1)
        if self.mode is not None:
            line.fail("`mode` is given twice", "keep one of them")
        self.mode = MODES[line.choice(0, tuple(MODES))]
        self.ops_parser.set_modes([self.mode])

    def _own_mode(self, line: Line, rest: list[str], vcpu: int) -> None:
        """A vCPU in another mode than vCPU 0, over the same memory."""
        line.split(rest, least=1)
        if self.mode is None:
            line.fail("`mode@N` comes before `mode`", "say the mode of vCPU 0 first")
        if self.setup:
            line.fail("`mode@N` comes after the setup has begun", "put it right after `mode` and `vcpus`")
        if vcpu in self.own_modes:
            line.fail(f"the mode of vCPU {vcpu} is given twice", "keep one of them")
        self.own_modes[vcpu] = MODES[line.choice(0, tuple(MODES))]
        modes = [self.own_modes.get(n, self.ops_parser.modes[0]) for n in range(self.ops_parser.nvcpus)]
        self.ops_parser.set_modes(modes)

    def _vcpus(self, line: Line, rest: list[str]) -> None:
        line.split(rest, least=1)
        if self.nvcpus is not None:
            line.fail("`vcpus` is given twice", "keep one of them")
        if self.own_modes:
            line.fail("`vcpus` comes after `mode@N`", "put it before")
        self.nvcpus = self.ops_parser.nvcpus = line.num(0, "number of vCPUs", 8, 1)

    def _physbits(self, line: Line, rest: list[str]) -> None:
        line.split(rest, least=1)
        self.physbits = line.num(0, "MAXPHYADDR", 52, 32)

    def _hostbits(self, line: Line, rest: list[str]) -> None:
        line.split(rest, least=1)
        self.hostbits = line.num(0, "MAXPHYADDR", 52, 32)

    def _trampolines(self) -> Mapping[str, Trampoline]:
        return trampolines_of([mode.name for mode in self.ops_parser.modes])

    def _slot(self, line: Line, rest: list[str]) -> SlotSetup:
        slot = self.ops_parser.slot_spec(line, rest)
        if slot.id in self.ops_parser.slots:
            line.fail(f"slot {slot.id} exists already", "use another number")
        for other, (gpa, size) in self.ops_parser.slots.items():
            if slot.gpa < gpa + size and gpa < slot.gpa + slot.size:
                line.fail(f"slot {slot.id} overlaps slot {other}", "use other addresses")
        for tramp in self._trampolines().values():
            if slot.gpa < tramp.gpa + TRAMP_SIZE and slot.gpa + slot.size > tramp.gpa:
                line.fail(f"slot {slot.id} overlaps the guest code at {tramp.gpa:#x}", "use other addresses")
        self.ops_parser.slots[slot.id] = slot.gpa, slot.size
        return slot

    def _nested(self, line: Line, rest: list[str]) -> SlotSetup:
        line.split(rest, least=0)
        if any(mode.name == "nopaging" for mode in self.ops_parser.modes):
            line.fail("a guest without paging cannot be a hypervisor", "use another `mode`")
        if NESTED_SLOT in self.ops_parser.slots:
            line.fail(f"slot {NESTED_SLOT} exists already", "leave 62 free, or write `nested` once")
        for other, (gpa, size) in self.ops_parser.slots.items():
            if gpa < NESTED_GPA + NESTED_SIZE and gpa + size > NESTED_GPA:
                line.fail(f"slot {other} overlaps the hypervisor's at {NESTED_GPA:#x}", "use other addresses")
        self.nested_line = line
        self.ops_parser.allow_nested()
        self.ops_parser.slots[NESTED_SLOT] = NESTED_GPA, NESTED_SIZE
        return SlotSetup(NESTED_SLOT, NESTED_GPA, NESTED_SIZE, options="nested")

    def _need_nested(self, line: Line) -> None:
        if not self.ops_parser.nested:
            line.fail(f"`{line.word}` needs a guest that is a hypervisor", "put `nested` before it")

    def _npt(self, line: Line, rest: list[str]) -> Statement:
        self._need_nested(line)
        if not rest or rest[0] not in ("map", "pt"):
            line.fail("`npt` is followed by map or pt", "write `npt map ...` or `npt pt ...`")
        line.word = rest[0]
        return self._map(line, rest[1:]) if rest[0] == "map" else self._pt(line, rest[1:])

    def _ntramp(self, line: Line, rest: list[str]) -> Ntramp:
        self._need_nested(line)
        line.split(rest, least=1)
        return Ntramp(self._gpa(line, 0, 1))

    def _l2code(self, line: Line, rest: list[str]) -> L2Code:
        self._need_nested(line)
        line.split(rest, least=1)
        return L2Code(self._gpa(line, 0, 3))

    def _cap(self, line: Line, rest: list[str]) -> Cap:
        line.split(rest, least=2)
        return Cap(line.num(0, "capability", U32 >> 1), line.num(1, "argument", U32 >> 1))

    def _gpa(self, line: Line, index: int, length: int) -> int:
        gpa = line.num(index, "address", GPA_LIMIT - 1)
        self.ops_parser.inside(line, gpa, length)
        return gpa

    def _alloc(self, line: Line, rest: list[str]) -> Alloc:
        line.split(rest, least=1)
        gpa = line.page_number(0, "address", least=PAGE)
        self.ops_parser.inside(line, gpa, PAGE)
        return Alloc(gpa)

    def _nonleaf(self, line: Line, rest: list[str]) -> Nonleaf:
        line.split(rest, least=1)
        return Nonleaf(line.num(0, "flags"))

    def _tramp(self, line: Line, rest: list[str]) -> Tramp:
        line.split(rest, least=0, most=1)
        cr3 = line.num(0, "address", GPA_LIMIT - 1) if rest else 0
        if self.ops_parser.mode.name != "nopaging":
            self.ops_parser.inside(line, cr3 & TABLE_MASK, 1)
        self._have_code(self._trampolines()[self.ops_parser.mode.name])
        return Tramp(cr3)

    def _have_code(self, tramp: Trampoline) -> None:
        self.ops_parser.slots.setdefault(tramp.slot, (tramp.gpa, TRAMP_SIZE))

    def _map(self, line: Line, rest: list[str]) -> Map:
        mode = self.ops_parser.mode
        if mode.name == "nopaging":
            line.fail("there are no page tables in mode nopaging", "remove `map`")
        line.split(rest, least=4, keys=["level", "n", "stride", "gstride"])
        level = line.key("level", 1, mode.levels, 1)
        cr3 = line.num(0, "address", GPA_LIMIT - 1)
        self.ops_parser.inside(line, cr3 & TABLE_MASK, 1)
        return Map(
            cr3,
            gva=line.num(1, "address", MASK64 if mode.is64 else U32),
            gpa=line.num(2, "address"),
            flags=line.num(3, "flags"),
            level=level,
            count=line.key("n", 1, MAX_COUNT, 1),
            gva_stride=line.key("stride", mode.page_size(level)),
            gpa_stride=line.key("gstride", mode.page_size(level)),
        )

    def _pt(self, line: Line, rest: list[str]) -> Pt:
        return self.ops_parser.gpte(line, rest)

    def _poke(self, line: Line, rest: list[str]) -> Poke:
        line.split(rest, least=2)
        return Poke(self._gpa(line, 0, 8), line.num(1, "value"))

    def _code(self, line: Line, rest: list[str]) -> Code:
        line.split(rest, least=1)
        return Code(self._gpa(line, 0, 2))

    def _watch(self, line: Line, rest: list[str]) -> Watch:
        line.split(rest, least=1)
        return Watch(self._gpa(line, 0, 1))

    def _nodump(self, line: Line, rest: list[str]) -> None:
        line.split(rest, least=0)
        self.ops.append(SetDump(line=line.number, text=line.text, vcpu=0, on=False))

    def _start(self, line: Line, rest: list[str]) -> None:
        nvcpus, nested = self.ops_parser.nvcpus, self.ops_parser.nested
        names = ("cr0", "cr3", "cr4", "efer", *(["ncr3"] if nested else []))
        line.split(rest, least=0, keys=[*names, *(f"{name}@{n}" for name in names for n in range(nvcpus))])
        self.vcpus = tuple(self._vcpu(line, n) for n in range(nvcpus))
        if nested:
            common = line.key("ncr3", 0)
            self.vmcbs = tuple(
                Vmcb(n, NESTED_GPA + PAGE * n, line.key(f"ncr3@{n}", common), 1 + n) for n in range(nvcpus)
            )
        for tramp in self._trampolines().values():
            self._have_code(tramp)
        self.ops_parser.about(0)

    def _vcpu(self, line: Line, number: int) -> Vcpu:
        """A vCPU's registers; `cr0=`, `cr4=` and `efer=` are for the vCPUs that have the mode of vCPU 0."""
        first = self.ops_parser.modes[0]
        self.ops_parser.about(number)
        mode = self.ops_parser.mode

        def key(name: str, default: int) -> int:
            return line.key(f"{name}@{number}", line.key(name, default) if mode is first else default)

        return Vcpu(
            number,
            cr0=key("cr0", mode.cr0),
            cr3=line.key(f"cr3@{number}", line.key("cr3", 0)),
            cr4=key("cr4", mode.cr4) | (_CR4_LA57 if mode.name == "long5" else 0),
            efer=key("efer", mode.efer) | (EFER_SVME if self.ops_parser.nested else 0),
        )


def _names(modes: Sequence[Mode], nvcpus: int) -> tuple[str, ...]:
    """The name of each vCPU's mode; one may stand for all."""
    return tuple(mode.name for mode in (modes if len(modes) > 1 else [modes[0]] * nvcpus))


def _any_long5(modes: Sequence[Mode]) -> bool:
    return any(mode.name == "long5" for mode in modes)


def _has_five_levels(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the first state has a root role of five levels: the host's own tables have as many."""
    try:
        vcpus = rows[0]["delta"]["set"]["vcpus"].values()
        return any(int(vcpu["root_role"], 16) & 15 == 5 for vcpu in vcpus)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return False


def _within(value: Any, top: int, least: int = 0) -> int:
    """An integer of a recording. Raises TypeError, ValueError."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is not an integer")
    if not least <= value <= top:
        raise ValueError(f"{value} is out of range")
    return value


def _result(entry: Mapping[str, Any]) -> int:
    """Return what KVM answered to a setup call, 0 or -errno. Raises TypeError, ValueError."""
    return _within(entry.get("result", 0), 0, -4095)


def _hex(text: Any, top: int = MASK64) -> int:
    """A number that a recording has as text. Raises TypeError, ValueError."""
    return _within(int(text, 16), top)


class _RecordingParser:
    """Rebuilds a scenario from a recording's header and the texts of its ops."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.ops_parser = OpParser()
        self.setup: list[SetupLine] = []
        self.vcpus: list[Vcpu] = []
        self.vmcbs: list[Vmcb] = []
        self.maxphyaddr = HOST_MAXPHYADDR
        self.host_maxphyaddr = HOST_MAXPHYADDR

    def fail(self, line: int, what: str, mend: str) -> NoReturn:
        raise ScenarioError.at(self.path, line, what, mend)

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
            design=self._design(header.get("design", {})),
            modes=_names(self.ops_parser.modes, len(self.vcpus)),
            maxphyaddr=self.maxphyaddr,
            host_maxphyaddr=self.host_maxphyaddr,
            host_la57=_any_long5(self.ops_parser.modes) or _has_five_levels(recording.rows),
            vcpus=tuple(self.vcpus),
            vmcbs=tuple(self.vmcbs),
            setup=tuple(self.setup),
            ops=tuple(self._ops(recording.rows)),
        )

    def _design(self, values: Mapping[str, str]) -> Mapping[str, str]:
        try:
            for name, value in values.items():
                value_of(name, value)
        except (AttributeError, DesignError) as error:
            self.fail(1, f"the design {values!r} is not valid: {error}", "see `shadowmmu designs`")
        return values

    def _entry(self, entry: Mapping[str, Any]) -> None:
        """Add a setup entry. Raises KeyError, TypeError, ValueError for one that no recorder writes."""
        statement: Statement
        match entry["setup"]:
            case "mode":
                self._mode(MODES[entry["mode"]], _within(entry.get("vcpu", 0), len(self.ops_parser.modes)))
                return
            case "cpuid":
                self.maxphyaddr = _within(entry["maxphyaddr"], 52, 32)
                self.host_maxphyaddr = _within(entry.get("host", HOST_MAXPHYADDR), 52, 32)
                return
            case "vcpu":
                registers = (_hex(entry[name]) for name in ("cr0", "cr3", "cr4", "efer"))
                self.vcpus.append(Vcpu(_within(entry["id"], len(self.vcpus), len(self.vcpus)), *registers))
                return
            case "slot":
                statement = self._slot(entry)
                self.ops_parser.slots[statement.id] = statement.gpa, statement.size
            case "pt":
                size = _within(entry["size"], 8)
                if size not in {mode.entry_size for mode in self.ops_parser.modes}:
                    raise ValueError(f"an entry of {size} bytes")
                statement = Pt(self._gpa(entry, size), size, _hex(entry["val"], (1 << 8 * size) - 1))
            case "poke":
                statement = Poke(self._gpa(entry, 8), _hex(entry["val"]))
            case "code":
                statement = Code(self._gpa(entry, 2))
            case "cap":
                number, argument = _within(entry["cap"], U32), _within(entry["arg"], MASK64)
                statement = Cap(number, argument, result=_result(entry))
            case "l2code":
                statement = L2Code(self._gpa(entry, 3))
            case "vmcb":
                addresses = self._gpa(entry, PAGE), _hex(entry["ncr3"])
                vcpu = _within(entry["vcpu"], len(self.vmcbs), len(self.vmcbs))
                self.vmcbs.append(Vmcb(vcpu, *addresses, _within(entry["asid"], U32)))
                return
            case other:
                self.fail(1, f"unknown setup entry `{other}`", "give a recording of this format")
        self.setup.append(SetupLine(1, "", statement))

    def _mode(self, mode: Mode, vcpu: int) -> None:
        """The mode of the VM, or (later entries) of one of its vCPUs, which then follow one by one."""
        before = self.ops_parser.modes if vcpu else []
        if vcpu != len(before):
            raise ValueError(f"mode of vCPU {vcpu}")
        self.ops_parser.set_modes([*before, mode])

    def _gpa(self, entry: Mapping[str, Any], length: int) -> int:
        gpa = _hex(entry["gpa"], GPA_LIMIT - 1)
        self.ops_parser.inside(Line(self.path, 1, ""), gpa, length)
        return gpa

    def _slot(self, entry: Mapping[str, Any]) -> SlotSetup:
        where = _hex(entry["gpa"], GPA_LIMIT - 1), _hex(entry["size"], GPA_LIMIT)
        options = str(entry["opts"])
        if options == "nested":
            self.ops_parser.allow_nested()
        if options in ("trampoline", "nested"):
            slot = _within(entry["id"], U32), *where
            own = {(NESTED_SLOT, NESTED_GPA, NESTED_SIZE)}
            if options == "trampoline":
                tramps = trampolines_of([mode.name for mode in self.ops_parser.modes]).values()
                own = {(tramp.slot, tramp.gpa, TRAMP_SIZE) for tramp in tramps}
            if slot not in own:
                raise ValueError("another slot than the recorder's")
            return SlotSetup(*slot, options=options)
        line = Line(self.path, 1, "", word="slot")
        words = [str(entry["id"]), *map(hex, where), *options.split()]
        return replace(self.ops_parser.slot_spec(line, words), result=_result(entry))

    def _ops(self, rows: Sequence[Mapping[str, Any]]) -> Iterator[Op]:
        dumped = True
        watched = {item.action.gpa & -PAGE for item in self.setup if isinstance(item.action, Pt)}
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
            line, tokens = split_words(self.path, number, row["do"])
            if not tokens:
                line.fail("the op has no text", "make the recording anew")
            op = self.ops_parser.op(line, tokens)
            if isinstance(op, SetGpte):
                watched.add(op.gpa & -PAGE)
            yield op

    def _changed_pages(self, line: int, changes: Iterable[Sequence[str]]) -> list[int]:
        try:
            return [int(gpa, 16) & -PAGE for gpa, _, _ in changes]
        except (TypeError, ValueError):
            self.fail(line, "`gptes` is malformed", "make the recording anew")
