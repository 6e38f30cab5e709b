"""Making recordings: the lines of a play, in the format of the lab.

All host addresses have names (trace.names).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from shadowmmu.guest.scenario.host_processor import HostProcessor
from shadowmmu.guest.scenario.modes import trampolines_of
from shadowmmu.guest.scenario.scenario import Scenario
from shadowmmu.guest.scenario.setup import (
    L2_CODE,
    PAGE,
    Cap,
    Code,
    L2Code,
    Poke,
    Pt,
    Setup,
    SetupAction,
    SlotSetup,
    Vcpu,
    Vmcb,
    Watch,
    resolve,
)
from shadowmmu.kvm.design.design import design_of
from shadowmmu.kvm.tracepoints.event import Event
from shadowmmu.trace.delta import difference
from shadowmmu.trace.names import Area, Names, RawState, State
from shadowmmu.trace.recorded_events import RECORDED, entries_of
from shadowmmu.trace.recording import Row

__all__ = ["PlayedOp", "Recorder", "json_line"]

_NOT_RECORDED_STATS = {
    "irq_exits", "host_state_reload", "fpu_reload", "req_event", "preemption_reported", "preemption_other",
    "exits", "io_exits", "signal_exits", "halt_poll_fail_ns", "blocking",
}  # fmt: skip
_TRAMP_CODE = 0x2000


class PlayedOp(Protocol):
    """What a player reports about one op (op -1: the machine after `start`)."""

    @property
    def op(self) -> int:
        """Number of the op."""
        ...

    @property
    def text(self) -> str:
        """The line as written."""
        ...

    @property
    def vcpu(self) -> int:
        """The vCPU selected."""
        ...

    @property
    def result(self) -> Mapping[str, Any]:
        """Outcome and values, as recorded."""
        ...

    @property
    def stats(self) -> Mapping[str, Mapping[str, int]]:
        """Differences of the statistics, per `vm`, `vcpu0`, ..."""
        ...

    @property
    def gptes(self) -> Sequence[Sequence[str]]:
        """Guest entries that changed: [gpa, old, new]."""
        ...

    @property
    def events(self) -> Sequence[Event]:
        """The tracepoints that fired."""
        ...

    @property
    def state(self) -> RawState | None:
        """The MMU's state afterwards, None when dumping is off."""
        ...


class Recorder:
    """Turns the ops of one play into the lines of a recording. Give it every op, in order."""

    def __init__(self, scenario: Scenario, areas: Mapping[int, Area]) -> None:
        """`areas` is the player's live view of the memory made for slots (see `Names`)."""
        self._scenario = scenario
        self._setup = resolve(scenario)
        self._design = design_of(scenario.kernel, scenario.design)
        self._names = Names(areas, self._design)
        self._state: State = {}

    @property
    def state(self) -> State:
        """The named state after the last op that had one."""
        return self._state

    @property
    def names(self) -> Names:
        """The names that host addresses have after the last op."""
        return self._names

    def header(self) -> Row:
        """Return the first line."""
        scenario = self._scenario
        return {
            "scenario": scenario.name,
            "title": scenario.title,
            "kernel": scenario.kernel,
            "params": dict(scenario.params),
            **({"design": dict(scenario.design)} if scenario.design else {}),
            "tramp_gva": f"{self._setup.tramp_gva:#x}",
            "events": sorted(RECORDED),
            "setup": _header_setup(self._setup),
        }

    def row(self, played: PlayedOp) -> Row:
        """Return the line of one op."""
        state = None if played.state is None else self._names.state(played.state, played.events)
        row: Row = {"op": played.op, "do": played.text}
        if played.op >= 0:
            row["vcpu"] = played.vcpu
            row["result"] = dict(played.result)
            row["stats"] = {
                group: {name: n for name, n in counters.items() if n and name not in _NOT_RECORDED_STATS}
                for group, counters in played.stats.items()
            }
            row["gptes"] = [list(change) for change in played.gptes]
            row["events"] = self._events(played.events)
        if state is not None:
            row["delta"] = difference(self._state, state)
            self._state = state
        return row

    def _events(self, fired: Iterable[Event]) -> list[Row]:
        code = [(tramp.gva, _TRAMP_CODE) for tramp in trampolines_of(self._setup.modes).values()]
        if self._setup.nested:
            code.append((L2_CODE, PAGE))
        return entries_of(self._names, fired, code, strings=self._design.event_strings != 0)


def _header_setup(setup: Setup) -> list[Row]:
    machine = [action for action in setup.actions if not isinstance(action, Vcpu | Vmcb | Watch)]
    vcpus = [action for action in setup.actions if isinstance(action, Vcpu | Vmcb)]
    cpuid: Row = {"setup": "cpuid", "maxphyaddr": setup.maxphyaddr}
    usual, host = HostProcessor(), setup.host
    if host.maxphyaddr != usual.maxphyaddr:
        cpuid["host"] = host.maxphyaddr
    if host.l1tf != usual.l1tf:
        cpuid["l1tf"] = host.l1tf
    if host.exit_info != usual.exit_info:
        cpuid["exit_info"] = int(host.exit_info)
    entries = [*map(_header_entry, machine), cpuid, *map(_header_entry, vcpus)]
    return [*_header_modes(setup.modes), *entries]


def _header_modes(modes: Sequence[str]) -> list[Row]:
    """Return the mode of the VM; if the vCPUs differ, then those of the others follow."""
    first: Row = {"setup": "mode", "mode": modes[0]}
    if len(set(modes)) == 1:
        return [first]
    return [first, *({"setup": "mode", "vcpu": n, "mode": mode} for n, mode in enumerate(modes) if n)]


def _header_entry(action: SetupAction) -> Row:
    match action:
        case SlotSetup():
            entry = {
                "setup": "slot",
                "id": action.id,
                "gpa": f"{action.gpa:#x}",
                "size": f"{action.size:#x}",
                "flags": action.flags,
                "opts": action.options,
            }
            return entry if action.options in ("trampoline", "nested") else {**entry, "result": action.result}
        case Pt():
            return {
                "setup": "pt",
                "gpa": f"{action.gpa:#x}",
                "size": action.size,
                "val": f"{action.value:#x}",
            }
        case Poke():
            return {"setup": "poke", "gpa": f"{action.gpa:#x}", "val": f"{action.value:#x}"}
        case Code():
            return {"setup": "code", "gpa": f"{action.gpa:#x}"}
        case L2Code():
            return {"setup": "l2code", "gpa": f"{action.gpa:#x}"}
        case Vmcb():
            where = {"gpa": f"{action.gpa:#x}", "ncr3": f"{action.ncr3:#x}"}
            return {"setup": "vmcb", "vcpu": action.vcpu, **where, "asid": action.asid}
        case Cap():
            return {"setup": "cap", "cap": action.cap, "arg": action.arg, "result": action.result}
        case Vcpu():
            registers = {name: f"{getattr(action, name):#x}" for name in ("cr0", "cr3", "cr4", "efer")}
            return {"setup": "vcpu", "id": action.id, **registers}
        case Watch():
            raise AssertionError("watched pages are not in the header")


def json_line(row: Row) -> str:
    """Return a line of a recording, with its end."""
    return json.dumps(row, separators=(",", ":")) + "\n"
