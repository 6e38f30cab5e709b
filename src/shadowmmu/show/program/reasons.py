"""Why the entries on the way of an address are as they are, at a point of a program's run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from shadowmmu.guest.observe.entry_history import EntryChange, EntryHistory, ShadowEntry, shadow_walk
from shadowmmu.guest.play.guest_walk import GuestEntry, guest_walk, levels_of
from shadowmmu.guest.scenario.host_processor import HostProcessor
from shadowmmu.guest.svm.layout import PHYSICAL_BITS
from shadowmmu.guest.svm.machine import SvmMachine
from shadowmmu.kvm.spte.mmio import is_mmio_spte
from shadowmmu.kvm.spte.spte import is_last_spte, is_shadow_present
from shadowmmu.kvm.tracepoints.event import Event
from shadowmmu.kvm.tracepoints.exits import EmulateInsn, PageFault
from shadowmmu.kvm.tracepoints.mmu import (
    FastPageFault,
    GetPage,
    PageEvent,
    PrepareZapPage,
    SetSpte,
    SyncPage,
    UnsyncPage,
    ZapAllFast,
)
from shadowmmu.kvm.tracepoints.reasons import pferr_flags
from shadowmmu.kvm.tracepoints.tracer import TRACEPOINTS
from shadowmmu.show.decode import GpteFormat, decode_gpte, decode_spte, parse_spte
from shadowmmu.show.program.stopped import stop_data, where_text
from shadowmmu.show.reasons.effect import effect_of
from shadowmmu.trace.snapshot import backed
from shadowmmu.x86.bits import ADDR, CR4_PSE, EFER_NX, A, D

__all__ = ["Reasons", "reasons_at", "reasons_data", "reasons_lines"]

_EVENTS_SHOWN = 4
_CHANGES_SHOWN = 4
_PLAIN = ("old", "new", "exit", "reason", "rip", "symbol", "call")
_OF_GUEST = ("kvm_page_fault", "kvm_emulate_insn")


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry on the way: whose tables, level, place, value in words, and its changes, newest first."""

    guest: bool
    level: int
    name: str
    text: str
    changes: Sequence[EntryChange]


@dataclass(frozen=True, slots=True)
class Reasons:
    """The walks of an address at a point, and the history of their entries.

    where  where the program is, as stop_data has it
    gpa    where the guest's tables lead; None: nowhere
    """

    gva: int
    where: dict[str, Any]
    entries: tuple[_Entry, ...]
    gpa: int | None
    lost: int
    effects: dict[int, str]
    """id of a change -> what it means, in words."""


def reasons_at(history: EntryHistory, point: object) -> Reasons:
    """Return the reasons for the entries on the way of an address; the machine is at the point."""
    running = history.running
    machine = running.machine
    guest, gpa = guest_walk(machine.machine, machine.vcpu, history.gva)
    entries = [_guest_entry(machine, history, entry) for entry in guest]
    entries += [_shadow_entry(machine, history, entry) for entry in shadow_walk(running, history.gva)]
    effects = {id(change): _effect(machine, change, entry) for entry in entries for change in entry.changes}
    where = stop_data(point, running)
    return Reasons(history.gva, where, tuple(entries), gpa, history.lost, effects)


def _guest_entry(machine: SvmMachine, history: EntryHistory, entry: GuestEntry) -> _Entry:
    vcpu = machine.vcpu
    form = GpteFormat(
        levels_of(vcpu), vcpu.maxphyaddr, bool(vcpu.efer & EFER_NX), bool(vcpu.cr4 & CR4_PSE), amd=True
    )
    decoded = decode_gpte(entry.value, level=entry.level, form=form)
    name = f"gpa {entry.table:#x}[{entry.index}]"
    return _Entry(
        True, entry.level, name, f"{entry.value:#x} {decoded.short}".rstrip(), history.of_guest(entry.gpa)
    )


def _shadow_entry(machine: SvmMachine, history: EntryHistory, entry: ShadowEntry) -> _Entry:
    text = _spte_name(machine, entry.value, entry.level)
    short = decode_spte(
        parse_spte(f"{entry.value:x}"), level=entry.level, host=HostProcessor(PHYSICAL_BITS)
    ).short
    name = f"{entry.table:#x}[{entry.index}]"
    return _Entry(False, entry.level, name, f"{text} {short}".rstrip(), history.of(entry.sptep))


def _spte_name(machine: SvmMachine, value: int, level: int) -> str:
    """Return an SPTE with what it leads to: a table by its address, a page by what it backs."""
    kvm = machine.kvm
    if is_mmio_spte(kvm, value):
        return f"mmio:{value:x}"
    if not is_shadow_present(value):
        return "empty" if value in (0, 1 << 63) else f"{value:#x}"
    if not is_last_spte(value, level):
        return f"table {value & ADDR:#x}|{value & ~ADDR:x}"
    pfn = (value & ADDR) >> 12
    found = backed(machine.machine, {pfn}).get(pfn)
    place = f"gpa:{found:x}" if isinstance(found, int) else found or f"pfn?{pfn:x}"
    return f"{place}|{value & ~ADDR:x}"


def _effect(machine: SvmMachine, change: EntryChange, entry: _Entry) -> str:
    old = change.old or 0
    if change.new is None:
        return "its shadow page was freed"
    if not change.guest:
        text = effect_of(
            machine.kvm, old, change.new, entry.level, _spte_name(machine, change.new, entry.level)
        )
        if change.old is None:
            return f"{text} (the table is new)"
        return text if change.events else f"{text}; the processor used the entry"
    if change.old is None:
        return f"{change.new:#x} when this address was first looked at"
    gained = change.new & ~old
    used = old | gained == change.new and not gained & ~(A | D)
    how = "a walk of the tables set Accessed or Dirty" if used else "the guest wrote it"
    return f"{old:#x} -> {change.new:#x}; {how}"


# -- for people --------------------------------------------------------------------------------------------


def reasons_lines(reasons: Reasons) -> Iterator[str]:
    """Yield both walks side by side, then the history of each entry."""
    where = reasons.where
    yield f"{reasons.gva:#x} at {where['point']}, after {where['exit']:,} exits"
    yield where_text(where)
    yield ""
    yield from _walk_lines(reasons)
    yield ""
    yield "history of the entries, recorded from the start of the program, newest first:"
    if reasons.lost:
        yield f"  (the oldest {reasons.lost:,} changes were not kept)"
    for entry in sorted(reasons.entries, key=lambda entry: (entry.guest, entry.level)):
        whose = "the guest's" if entry.guest else "KVM's"
        yield f"{whose} level {entry.level}, {entry.name} = {entry.text}"
        if not entry.changes:
            yield "  never changed"
        for change in entry.changes[:_CHANGES_SHOWN]:
            yield from _change_lines(change, reasons.effects[id(change)], reasons.gva)
        if len(entry.changes) > _CHANGES_SHOWN:
            yield f"  ... and {len(entry.changes) - _CHANGES_SHOWN:,} older changes (--json has all)"


def _walk_lines(reasons: Reasons) -> Iterator[str]:
    guest = {entry.level: f"{entry.name} = {entry.text}" for entry in reasons.entries if entry.guest}
    shadow = {entry.level: f"{entry.name} = {entry.text}" for entry in reasons.entries if not entry.guest}
    width = max([len(text) for text in guest.values()] + [len("the guest's tables")])
    title = "the guest's tables"
    yield f"level  {title:{width}}  KVM's tables"
    for level in sorted({*guest, *shadow}, reverse=True):
        yield f"{level:<5}  {guest.get(level, ''):{width}}  {shadow.get(level, '')}".rstrip()
    leads = "leads nowhere" if reasons.gpa is None else f"leads to gpa {reasons.gpa:#x}"
    yield f"       {leads:{width}}  {'' if shadow else 'no root, or nothing that KVM could map'}".rstrip()


def _change_lines(change: EntryChange, effect: str, gva: int) -> Iterator[str]:
    yield f"  exit {change.exit:,}: {effect}"
    call = f" for {change.call}" if change.call else ""
    yield f"      {change.reason} at {change.symbol} of {change.who}{call}"
    shown = [event for event in change.events if _concerns(event, change)]
    for event in shown[:_EVENTS_SHOWN]:
        yield f"      {_words(event, gva)}: {event.name}"
    if len(shown) > _EVENTS_SHOWN:
        yield f"      ... and {len(shown) - _EVENTS_SHOWN:,} more events"


def _words(event: Event, gva: int) -> str:
    """Return what an event says, in words."""
    match event:
        case PageFault(fault_address=address, error_code=code):
            elsewhere = "" if address >> 12 == gva >> 12 else "another page, "
            return f"an access faulted at {address:#x} ({elsewhere}{pferr_flags(code & 0x1F) or 'read'})"
        case EmulateInsn():
            return "KVM emulated the instruction"
        case GetPage(gfn=gfn, level=level):
            return f"a shadow page of level {level} was made for gfn {gfn:#x}"
        case SyncPage(gfn=gfn):
            return f"the unsync page of gfn {gfn:#x} was synced with the guest's table"
        case UnsyncPage(gfn=gfn):
            return f"the table at gfn {gfn:#x} may be written, its shadow page got out of sync"
        case PrepareZapPage(gfn=gfn, level=level):
            return f"the shadow page of level {level} of gfn {gfn:#x} was zapped"
        case ZapAllFast():
            return "all shadow pages became obsolete"
        case SetSpte():
            return "a fault, or the prefetch of its neighbours, set the entry"
        case FastPageFault():
            return "the fault was fixed without mmu_lock"
    meaning = TRACEPOINTS[event.name].meaning.rstrip(".")
    return f"{meaning[:1].lower()}{meaning[1:]}"


def _concerns(event: Event, change: EntryChange) -> bool:
    """Return whether an event says something about a change: it is not one of another entry."""
    if change.guest:
        return event.name in _OF_GUEST
    sptep = getattr(event, "sptep", None)
    if sptep is not None:
        return bool(sptep == change.place)
    return not isinstance(event, PageEvent) or bool(getattr(event, "created", 1))


def reasons_data(reasons: Reasons) -> dict[str, Any]:
    """Return the same as plain data."""
    return {
        "gva": reasons.gva,
        "gpa": reasons.gpa,
        "where": reasons.where,
        "recorded": "from the start of the program",
        "lost": reasons.lost,
        "entries": [
            {
                "tables": "guest" if entry.guest else "kvm",
                "level": entry.level,
                "name": entry.name,
                "value": entry.text,
                "changes": [
                    {
                        **{name: getattr(change, name) for name in _PLAIN},
                        "who": change.who._asdict(),
                        "effect": reasons.effects[id(change)],
                        "events": [f"{event.name}: {event.text()}" for event in change.events],
                    }
                    for change in entry.changes
                ],
            }
            for entry in reasons.entries
        ],
    }
