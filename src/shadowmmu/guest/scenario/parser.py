"""The text of a scenario.

A scenario is a text file, one statement per line, `#` starting a comment. Statements up to `start` describe
the virtual machine (slots, guest page tables, registers; setup.py), those after it are operations of the
guest or of the host (ops.py, parsed by op_parser.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from ...kvm.design.switches import DEFAULT_KERNEL, DesignError, kernel_text, value_of
from ...x86.bits import MASK64
from .host_processor import HostError, HostProcessor
from .line import GPA_LIMIT, U32, Line, split_words, suggestion
from .modes import MODES, TRAMP_SIZE, Mode, Trampoline, trampolines_of
from .module_params import (
    DEFAULT_PARAMS,
    VENDORS,
    choices,
    known_params,
    nested_paging_of,
    not_modelled,
    param_value,
    params_of_vendor,
)
from .op_parser import MAX_COUNT, OpParser
from .ops import (
    Op,
    SetDump,
)
from .scenario import EFER_SVME, Scenario, any_long5, mode_names
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
)
from .text import first_invisible, read_file

__all__ = ["ScenarioParser", "begin_scenario", "load_scenario", "parse_scenario"]

_CR4_LA57 = 0x1000
_PER_VCPU = ("mode", "tramp", "map", "pt", "npt", "ntramp")
"""The setup words that depend on a paging mode: with @N on that of vCPU N, else on that of vCPU 0."""


def load_scenario(path: str | Path) -> Scenario:
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
    return parse_scenario(text, path=path)


def parse_scenario(text: str, *, path: str | Path = "<text>") -> Scenario:
    """Parse the text of a scenario; `path` serves error messages and, by its stem, the scenario's name.

    Raises ScenarioError for anything not understood.
    """
    return ScenarioParser(str(path)).scenario(text)


def begin_scenario(text: str) -> tuple[Scenario, Callable[[str], Op]]:
    """Parse the text of a scenario that is not complete; the function parses one more of its operations.

    It knows the slots that the text and the lines before left; errors name the line after the text. Both
    raise ScenarioError for anything not understood.
    """
    parser = ScenarioParser("<text>")
    return parser.scenario(text), parser.further_op


class ScenarioParser:
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
        self.host = HostProcessor()
        self.host_line: Line | None = None
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
            "host": self._host,
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
        host = self._whole_host()
        return Scenario(
            name=Path(self.path).stem,
            path=self.path,
            title=self.title,
            kernel=kernel_text(DEFAULT_KERNEL),
            params={**self.params, "thp": "always [madvise] never"},
            design=self.design,
            modes=mode_names(self.ops_parser.modes, len(self.vcpus)),
            maxphyaddr=self.physbits or host.maxphyaddr,
            host=host,
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
        if self.mode is None and word not in ("mode", "vcpus", "physbits", "hostbits", "host"):
            line.fail(f"`{word}` comes before `mode`", "begin with `mode long4|long5|pae|32|nopaging`")
        self.ops_parser.about(vcpu)
        if vcpu and word == "mode":
            self._own_mode(line, tokens[1:], vcpu)
            return
        statement = parse(line, tokens[1:])
        if statement is not None:
            self.setup.append(SetupLine(line.number, line.text, statement, vcpu))

    def _word(self, line: Line, word: str) -> tuple[str, int]:
        """Return a setup word and the vCPU whose mode it is about: `map@1`, or `map` for that of vCPU 0."""
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
        """Parse `mode@N`: a vCPU in another mode than vCPU 0, over the same memory."""
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

    def _host(self, line: Line, rest: list[str]) -> None:
        if not rest:
            line.fail("`host` lacks an argument", line.usage())
        for setting in rest:
            name, equals, value = setting.partition("=")
            if not equals:
                line.fail(f"`{setting}` is not a setting", line.usage())
            try:
                self.host = self.host.with_settings({name: value})
            except HostError as error:
                line.fail(error.what, error.fix)
        self.host_line = line

    def _whole_host(self) -> HostProcessor:
        """Return the host's processor by all lines about it."""
        la57 = any_long5(self.ops_parser.modes)
        host = replace(self.host, maxphyaddr=self.hostbits or self.host.maxphyaddr, la57=la57)
        try:
            host.check(vmx="kvm_intel.ept" in self.params)
        except HostError as error:
            assert self.host_line is not None
            self.host_line.fail(error.what, error.fix)
        return host

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
        """Return a vCPU's registers; `cr0=`, `cr4=` and `efer=` are for vCPUs with the mode of vCPU 0."""
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
