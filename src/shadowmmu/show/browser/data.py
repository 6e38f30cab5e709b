"""The history that a page carries: deltas op by op, and every entry that can be met decoded once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from shadowmmu.kvm.design.design import design_of
from shadowmmu.kvm.tracepoints.role_layout import layout_of
from shadowmmu.show.decode import (
    Decoded,
    GpteFormat,
    decode_cpu_role,
    decode_ept,
    decode_gpte,
    decode_role,
    decode_spte,
    parse_spte,
)
from shadowmmu.show.history.guest_memory import GuestMemory
from shadowmmu.show.history.registers import Registers
from shadowmmu.show.history.timeline import Moment, Timeline
from shadowmmu.show.reasons.change import Change
from shadowmmu.show.text.event_text import event_lines
from shadowmmu.show.text.outcome import outcome_details
from shadowmmu.x86.bits import ADDR, P

from .reachable import reachable_entries
from .reasons_data import ReasonsData

__all__ = ["page_data"]

Data = dict[str, Any]


def page_data(timeline: Timeline, changes: Sequence[Change] = ()) -> Data:
    """Return what the page's script reads, as plain data for JSON; `changes` have reasons."""
    decoded = _DecodedWords(timeline)
    reasons = ReasonsData(changes)
    ops = []
    before: Moment | None = None
    for moment in timeline.moments:
        op = _op(before, moment)
        why = reasons.of_op(moment.op)
        ops.append({**op, "why": why} if why else op)
        decoded.learn(before, moment)
        before = moment
    return {
        "name": timeline.name,
        "title": timeline.title,
        "kernel": timeline.kernel,
        "params": dict(timeline.params),
        "design": dict(timeline.design),
        "modes": list(timeline.modes),
        "recorded": timeline.recorded,
        "tdp": timeline.tdp,
        "maxphyaddr": timeline.maxphyaddr,
        "memory": _memory(timeline.moments[0].guest),
        "ops": ops,
        "reasons": reasons.sentences,
        "decoded": decoded.found,
    }


def _memory(guest: GuestMemory) -> Data:
    """Return table pages by gpa: bytes of an entry, and those entries that are not zero."""
    return {
        f"{gpa:x}": {
            "size": guest.entry_sizes[gpa],
            "entries": {
                str(index): f"{value:x}"
                for index, value in guest.entries(gpa, guest.entry_sizes[gpa]).items()
            },
        }
        for gpa in guest.pages
    }


def _op(before: Moment | None, moment: Moment) -> Data:
    op: Data = {
        "op": moment.op,
        "text": moment.text,
        "vcpu": moment.vcpu,
        "delta": moment.delta,
    }
    if moment.result:
        op["outcome"] = moment.result["outcome"]
        op["details"] = outcome_details(moment.result)
    if moment.stale:
        op["stale"] = moment.stale
    if not moment.dumped:
        op["undumped"] = True
    meanwhile = [f"{done['do'].strip()}: {done['outcome']}" for done in moment.result.get("meanwhile", ())]
    if meanwhile:
        op["meanwhile"] = meanwhile
    counters = {group: dict(held) for group, held in moment.stats.items() if held}
    if counters:
        op["stats"] = counters
    if moment.changes:
        op["changes"] = [[gpa.removeprefix("0x"), old.removeprefix("0x"), new.removeprefix("0x")]
                         for gpa, old, new in moment.changes]  # fmt: skip
        op["sizes"] = {f"{int(gpa, 16) & -4096:x}": moment.guest.entry_sizes[int(gpa, 16) & -4096]
                       for gpa, _, _ in moment.changes}  # fmt: skip
    lines = list(event_lines(moment.events))
    if lines:
        op["events"] = lines
    if before is None or before.registers is not moment.registers:
        op["registers"] = {
            str(vcpu): _registers(held)
            for vcpu, held in moment.registers.items()
            if before is None or before.registers[vcpu] != held
        }
    return op


def _registers(registers: Registers) -> Data:
    found: Data = {
        "levels": registers.levels,
        "root": f"{registers.root():x}",
        "pse": registers.pse,
        "nx": registers.nx,
        "cr0": f"{registers.cr0:x}",
        "cr3": f"{registers.cr3:x}",
        "cr4": f"{registers.cr4:x}",
        "efer": f"{registers.efer:x}",
    }
    if registers.ncr3 is not None:
        found |= {"nestedLevels": registers.nested_levels, "nestedRoot": f"{registers.root(nested=True):x}"}
    return found


class _DecodedWords:
    """Decodes each different word once. Of entries the address is left out, so that few are different."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._layout = layout_of(design_of(timeline.kernel, timeline.design))
        self._decode_spte = decode_ept if timeline.ept else decode_spte
        self.found: dict[str, Data] = {
            "spte": {},
            "gpte": {"0": _words(decode_gpte(0))},
            "role": {},
            "cpuRole": {},
        }

    def learn(self, before: Moment | None, moment: Moment) -> None:
        """Decode what is new in a moment."""
        for name, page in moment.state.get("sps", {}).items():
            if before is None or before.state["sps"].get(name) is not page:
                self._page(page)
        for vcpu in moment.state.get("vcpus", {}).values():
            self._mmu(vcpu)
            if "guest_mmu" in vcpu:
                self._mmu(vcpu["guest_mmu"])
        if before is None or before.guest is not moment.guest or before.registers is not moment.registers:
            for key, value, level, form in _gptes(self._timeline, moment):
                if key not in self.found["gpte"]:
                    self.found["gpte"][key] = _words(decode_gpte(value, level=level, form=form))

    def _page(self, page: Mapping[str, Any]) -> None:
        role = page["role"]
        if role not in self.found["role"]:
            self.found["role"][role] = _words(decode_role(int(role, 16), self._layout))
        for text in page["sptes"].values():
            self._spte(text, page["level"])

    def _mmu(self, mmu: Mapping[str, Any]) -> None:
        role = mmu["cpu_role"]
        if role not in self.found["cpuRole"]:
            self.found["cpuRole"][role] = _words(decode_cpu_role(int(role, 16), self._layout))
        for text in mmu.get("pae_root", ()):
            self._spte(text, 3)

    def _spte(self, text: str, level: int) -> None:
        bits = text.partition("|")[2]
        key = f"{level}:|{bits}" if bits else f"{level}:{text}"
        if key not in self.found["spte"]:
            spte = parse_spte(f"|{bits}" if bits else text)
            decoded = self._decode_spte(spte, level=level, host=self._timeline.host)
            self.found["spte"][key] = _words(decoded)


def _gptes(timeline: Timeline, moment: Moment) -> Iterator[tuple[str, int, int, GpteFormat]]:
    """Yield every present guest entry that a walk can meet: its key, a word without
    address, level and format.

    Those that are not present are all decoded alike, under the key 0.
    """
    amd = "kvm_intel.ept" not in timeline.params
    for registers in moment.registers.values():
        for nested in (False, True):
            levels = registers.nested_levels if nested else registers.levels
            if not levels or (nested and registers.ncr3 is None):
                continue
            form = GpteFormat(levels, timeline.maxphyaddr, registers.nx, registers.pse, amd)
            for level, value in reachable_entries(moment.guest, form, registers.root(nested=nested)):
                if value & P:
                    bits = value & ~_address_bits(form, level, value)
                    yield f"{levels}/{level}/{int(form.nx)}{int(form.pse)}/{bits:x}", bits, level, form


def _address_bits(form: GpteFormat, level: int, value: int) -> int:
    """Return the bits of an entry that are an address and may have any value."""
    if form.levels == 2:
        return 0xFFC00000 if level == 2 and form.is_leaf(value, level) else 0xFFFFF000
    shift = 12 + 9 * (level - 1) if form.is_leaf(value, level) else 12
    return ADDR & (1 << form.maxphyaddr) - 1 & -(1 << shift)


def _words(decoded: Decoded) -> Data:
    """Return what a reader should see of a word besides the word itself."""
    return {
        "title": decoded.title,
        "short": decoded.short,
        "printed": decoded.printed,
        "implies": list(decoded.implies),
        "fields": [[field.bits, field.name, f"{field.value:x}", field.meaning] for field in decoded.fields],
    }
