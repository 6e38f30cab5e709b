"""The scenario that a recording was made from, rebuilt from the recording."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, Protocol

from ...kvm.design.switches import DesignError, value_of
from ...kvm.state.spte_masks import MOST_L1TF_BITS
from ...x86.bits import MASK64
from .host_processor import HostError, HostProcessor
from .line import GPA_LIMIT, U32, Line, split_words
from .modes import MODES, TRAMP_SIZE, Mode, trampolines_of
from .module_params import (
    MORE_PARAMS,
)
from .op_parser import OpParser
from .ops import (
    UNRECORDED,
    Op,
    SetDump,
    SetGpte,
    WatchPage,
)
from .scenario import Scenario, any_long5, mode_names
from .setup import (
    NESTED_GPA,
    NESTED_SIZE,
    NESTED_SLOT,
    PAGE,
    Cap,
    Code,
    L2Code,
    Poke,
    Pt,
    ScenarioError,
    SetupLine,
    SlotSetup,
    Statement,
    Vcpu,
    Vmcb,
    Watch,
    resolve,
)

__all__ = ["RecordedRun", "rebuild_scenario"]


class RecordedRun(Protocol):
    """What `rebuild_scenario` needs of a recording (trace.recording.Recording is one)."""

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


def rebuild_scenario(recording: RecordedRun, *, text: Scenario | None = None) -> Scenario:
    """Rebuild the scenario that a recording was made from; its `setup` holds single entries only.

    The header has the setup resolved to single entries, each row the text of its op, and a row without
    state was played with the dump off. `ac` and `watch` lines are not in the file: without `text`
    EFLAGS.AC stays off, and a page that is no page table is watched from the first op that reports it.
    `text`, the scenario itself, supplies them; it must be the one recorded, setup entry by setup entry
    and op by op.

    Raises ScenarioError where a row's op is not understood or `text` is another scenario.
    """
    rebuilt = _RecordingParser(str(recording.path)).scenario(recording)
    return rebuilt if text is None else _with_text(rebuilt, text)


def _with_text(rebuilt: Scenario, text: Scenario) -> Scenario:
    """Return the scenario `text` on the machine of the recording. Raises if it is not what was recorded."""

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
        maxphyaddr=rebuilt.maxphyaddr, host=rebuilt.host, ops=tuple(ops),
    )  # fmt: skip


def _not_recorded(params: Mapping[str, str]) -> dict[str, str]:
    """Return the parameters that the headers of real recordings do not have."""
    return {name: value for name, value in params.items() if name in MORE_PARAMS}


def _with_results(written: Sequence[SetupLine], recorded: Sequence[SetupLine]) -> tuple[SetupLine, ...]:
    """Return the setup as written, with the recorded answers of KVM to its slots and capabilities."""
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


def _has_five_levels(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the first state has a root role of five levels: the host's own tables have as many."""
    try:
        vcpus = rows[0]["delta"]["set"]["vcpus"].values()
        return any(int(vcpu["root_role"], 16) & 15 == 5 for vcpu in vcpus)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return False


def _within(value: Any, top: int, least: int = 0) -> int:
    """Return an integer of a recording. Raises TypeError, ValueError."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is not an integer")
    if not least <= value <= top:
        raise ValueError(f"{value} is out of range")
    return value


def _result(entry: Mapping[str, Any]) -> int:
    """Return what KVM answered to a setup call, 0 or -errno. Raises TypeError, ValueError."""
    return _within(entry.get("result", 0), 0, -4095)


def _hex(text: Any, top: int = MASK64) -> int:
    """Return a number that a recording has as text. Raises TypeError, ValueError."""
    return _within(int(text, 16), top)


class _RecordingParser:
    """Rebuilds a scenario from a recording's header and the texts of its ops."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.ops_parser = OpParser()
        self.setup: list[SetupLine] = []
        self.vcpus: list[Vcpu] = []
        self.vmcbs: list[Vmcb] = []
        self.host = HostProcessor()
        self.maxphyaddr = self.host.maxphyaddr

    def fail(self, line: int, what: str, fix: str) -> NoReturn:
        raise ScenarioError.at(self.path, line, what, fix)

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
            modes=mode_names(self.ops_parser.modes, len(self.vcpus)),
            maxphyaddr=self.maxphyaddr,
            host=self._host(recording),
            vcpus=tuple(self.vcpus),
            vmcbs=tuple(self.vmcbs),
            setup=tuple(self.setup),
            ops=tuple(self._ops(recording.rows)),
        )

    def _host(self, recording: RecordedRun) -> HostProcessor:
        la57 = any_long5(self.ops_parser.modes) or _has_five_levels(recording.rows)
        host = replace(self.host, la57=la57)
        try:
            host.check(vmx="kvm_intel.ept" in recording.header["params"])
        except HostError as error:
            self.fail(1, error.what, "make the recording anew")
        return host

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
                self.host = HostProcessor(
                    maxphyaddr=_within(entry.get("host", self.host.maxphyaddr), 52, 32),
                    l1tf=_within(entry.get("l1tf", 0), MOST_L1TF_BITS),
                    exit_info=bool(_within(entry.get("exit_info", 1), 1)),
                )
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
        """Return the mode of the VM, or (later entries) of one of its vCPUs, which then follow one by one."""
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
