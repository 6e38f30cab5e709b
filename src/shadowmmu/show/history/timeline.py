"""A history op by op, of a scenario that the model plays or of a recording of real KVM: the same moments.

Names (`S7`, `gpa:806000|e67`) are those of recordings (trace.names).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shadowmmu.guest.scenario import ops as kinds
from shadowmmu.guest.scenario.from_recording import rebuild_scenario
from shadowmmu.guest.scenario.host_processor import HostProcessor
from shadowmmu.guest.scenario.modes import MODES
from shadowmmu.guest.scenario.module_params import nested_paging_of
from shadowmmu.guest.scenario.scenario import Scenario
from shadowmmu.guest.scenario.text import read_head
from shadowmmu.trace.names import State
from shadowmmu.trace.recording import Recording, RecordingError, Row

from .delta import DeltaError, changed
from .guest_memory import GuestMemory
from .played import played_rows
from .registers import Registers, registers_at_start

__all__ = [
    "Moment",
    "Timeline",
    "is_recording",
    "moments_of_rows",
    "recorded_timeline",
    "timeline_of",
    "timeline_of_rows",
]

_NO_CHANGE: Mapping[str, Any] = {"set": {}}


@dataclass(frozen=True, slots=True)
class Moment:
    """One op and everything after it. What did not change is the same object as in the moment before."""

    op: int
    """Number of the op; -1 is the machine before the first."""
    text: str
    """The op as written, one space between its words."""
    vcpu: int
    """The vCPU that it selects."""
    result: Mapping[str, Any]
    """Outcome and values, as recorded; empty for op -1."""
    stats: Mapping[str, Mapping[str, int]]
    """Differences of the statistics, per `vm`, `vcpu0`, ..."""
    changes: Sequence[Sequence[str]]
    """Guest entries that changed: [gpa, old, new]."""
    events: Sequence[Row]
    """The tracepoints, as recorded."""
    delta: Mapping[str, Any]
    """The change of the state, `set` and `del` by path."""
    state: State
    """The MMU: kvm, vcpus, sps, order, slots, rmap, lpage, wtrack. Not to be changed."""
    dumped: bool
    """Whether the op's state was recorded; else it is that of the last one that was."""
    guest: GuestMemory
    """The guest's tables."""
    registers: Mapping[int, Registers]
    """Each vCPU's registers."""
    stale: str | None = None
    """Why the value of a read is not what the guest's tables lead to, if so; of played scenarios only."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """All moments of a history; moment n is op n - 1, the first is op -1."""

    name: str
    title: str
    kernel: str
    params: Mapping[str, str]
    design: Mapping[str, str]
    modes: Sequence[str]
    """The paging mode of each vCPU at the start."""
    recorded: bool
    """Whether real KVM did all this, and not the model."""
    maxphyaddr: int
    host: HostProcessor
    moments: Sequence[Moment]

    @property
    def ept(self) -> bool:
        """Whether SPTEs have the format of EPT."""
        return self.params.get("kvm_intel.ept") == "Y"

    @property
    def tdp(self) -> bool:
        """Whether the processor walks nested tables: shadow pages, or the TDP MMU's, map guest-physical
        memory.
        """
        return self.params[nested_paging_of(self.params)] == "Y"

    def at(self, op: int) -> Moment:
        """Return the moment after an op. Raises IndexError if there is no such op."""
        if not -1 <= op < len(self.moments) - 1:
            raise IndexError(f"the op must be -1 to {len(self.moments) - 2}, not {op}")
        return self.moments[op + 1]


def is_recording(path: Path) -> bool:
    """Return whether a file is a recording, not a scenario: it begins with an object of JSON. Raises
    OSError.
    """
    return read_head(path, 1) == b"{"


def timeline_of(scenario: Scenario, *, tlb: bool = False) -> Timeline:
    """Play a scenario on the model and return its history. Raises ScenarioError, DesignError."""
    return timeline_of_rows(scenario, ((row, stale) for _, row, stale in played_rows(scenario, tlb=tlb)))


def timeline_of_rows(scenario: Scenario, rows: Iterable[tuple[Row, str | None]]) -> Timeline:
    """Return the history of a scenario that was played: its rows, each with why the value read is stale."""
    return _timeline(scenario, moments_of_rows(scenario, rows), recorded=False)


def recorded_timeline(recording: Recording) -> Timeline:
    """Return the history of a recording. Raises ScenarioError, RecordingError."""
    scenario = rebuild_scenario(recording)
    rows = ((row, None) for row in (recording.header, *recording.rows))
    try:
        return _timeline(scenario, moments_of_rows(scenario, rows), recorded=True)
    except DeltaError as error:
        raise RecordingError(f"{recording.path}: {error}; record it again") from None


def _timeline(scenario: Scenario, moments: Iterable[Moment], *, recorded: bool) -> Timeline:
    return Timeline(
        name=scenario.name,
        title=scenario.title,
        kernel=scenario.kernel,
        params=scenario.params,
        design=scenario.design,
        modes=scenario.modes,
        recorded=recorded,
        maxphyaddr=scenario.maxphyaddr,
        host=scenario.host,
        moments=tuple(moments),
    )


def moments_of_rows(scenario: Scenario, rows: Iterable[tuple[Row, str | None]]) -> Iterator[Moment]:
    """Yield the moments that the lines of a recording of `scenario` describe, header first.

    Raises DeltaError where a change of the state does not fit what was there.
    """
    lines = iter(rows)
    header, _ = next(lines)
    guest = GuestMemory.of_setup(header["setup"])
    ops = scenario.recorded_ops
    between = {op.op.text: op.op for op in scenario.ops if isinstance(op, kinds.Meanwhile)}
    registers: Mapping[int, Registers] = registers_at_start(scenario)
    state: State = {}
    for row, stale in lines:
        before = state
        state = changed(state, row["delta"]) if "delta" in row else state
        number = row["op"]
        if number >= 0:
            vcpu = row["vcpu"]
            guest = guest.after(row["gptes"], MODES[scenario.modes[vcpu]].entry_size)
            registers = _registers_after(registers, ops[number], row["result"], between, before)
        yield Moment(
            op=number,
            text=" ".join(row["do"].split()),
            vcpu=row.get("vcpu", 0),
            result=row.get("result", {}),
            stats=row.get("stats", {}),
            changes=row.get("gptes", []),
            events=row.get("events", []),
            delta=row.get("delta", _NO_CHANGE),
            state=state,
            dumped="delta" in row,
            guest=guest,
            registers=registers,
            stale=stale,
        )


def _registers_after(
    registers: Mapping[int, Registers],
    op: kinds.Op,
    result: Mapping[str, Any],
    between: Mapping[str, kinds.Op],
    before: State,
) -> Mapping[int, Registers]:
    """Return the registers of all vCPUs after an op, and after those played in its middle."""
    done = [(between[other["do"]], other) for other in result.get("meanwhile", ()) if other["do"] in between]
    found = dict(registers)
    for each, outcome in [*done, (op, result)]:
        if each.vcpu in found:
            in_l2 = bool(before["vcpus"][str(each.vcpu)].get("in_l2"))
            found[each.vcpu] = found[each.vcpu].after(each, outcome, in_l2=in_l2)
    return found if found != registers else registers
