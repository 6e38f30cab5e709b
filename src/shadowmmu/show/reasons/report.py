"""Reasons as lines for people."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import groupby

from shadowmmu.show.history.timeline import Moment
from shadowmmu.show.history.walk import Step, translate
from shadowmmu.show.reasons.change import Cause, Change
from shadowmmu.show.reasons.history import UNEXPLAINED, Reasons
from shadowmmu.show.reasons.sentences import SENTENCES
from shadowmmu.x86.bits import A, D

__all__ = [
    "change_text",
    "flush_lines",
    "gfn_lines",
    "led_there",
    "page_lines",
    "page_list",
    "reason_text",
    "walk_lines",
    "zap_lines",
]


def change_text(change: Change) -> str:
    """Return a change as a sentence: effect; what happened: the kernel function."""
    return f"{change.effect}; {reason_text(change)}"


def reason_text(change: Change) -> str:
    """Return why something changed: what happened: the kernel function."""
    if not change.causes:
        return "the processor used the entry"
    mechanism = change.mechanism
    if mechanism == UNEXPLAINED:
        return str(mechanism.says)
    return f"{mechanism.says or 'no words for it'}: {mechanism.function}"


def led_there(change: Change) -> str:
    """Return what led to the mechanism, innermost first; empty if nothing did."""
    spoken = [cause for cause in change.causes if cause.says is not None]
    after = spoken.index(change.mechanism) + 1 if change.mechanism in spoken else 0
    return "; ".join(dict.fromkeys(_because(cause) for cause in spoken[after:]))


def _because(cause: Cause) -> str:
    return f"{cause.says} ({cause.function})"


def walk_lines(
    reasons: Reasons, moment: Moment, vcpu: int, address: int, *, l2: bool = False
) -> Iterator[str]:
    """Yield both walks of an address with the history of each entry, newest first."""
    past = reasons.before(moment.op)
    walks = translate(reasons.timeline, moment, vcpu, address, l2=l2)
    yield f"{address:#x} on vCPU {vcpu}{' (L2)' if l2 else ''} after op {moment.op}: {moment.text}"
    yield ""
    yield "the guest's tables:"
    for step in walks.guest.steps:
        yield f"  {_step(step)}"
        yield from _guest_history(past, moment, step)
    yield f"  {walks.guest.end}"
    yield ""
    yield "KVM's tables:"
    for change in past.of_root(vcpu, l2=l2)[:1]:
        yield from _lines([change], past, "  ")
    for step in walks.shadow.steps:
        yield f"  {_step(step)}"
        found = past.of_entry(step.table, step.index)
        yield from _lines(found, past, "    ") if found else ["    never changed"]
    yield f"  {walks.shadow.end}"


def _step(step: Step) -> str:
    short = f"  {step.decoded.short}" if step.decoded is not None and step.decoded.short else ""
    return f"L{step.level} {step.table}[{step.index}] = {step.value}{short}"


def _guest_history(reasons: Reasons, now: Moment, step: Step) -> Iterator[str]:
    table = int(step.table.split()[-1], 16)
    for size in (8, 4):
        found = [
            (moment, old, new)
            for moment, old, new in reasons.of_guest_entry(table + step.index * size)
            if moment.op <= now.op and now.guest.entry_sizes.get(table & -4096) == size
        ]
        for moment, old, new in found:
            gained = int(new, 16) & ~int(old, 16)
            only_used = int(old, 16) | gained == int(new, 16) and gained & ~(A | D) == 0
            how = "a walk of the tables set Accessed or Dirty" if only_used else "the guest wrote it"
            yield f"    op {moment.op}: {old} -> {new}; {how}: {moment.text}"


def _lines(changes: Sequence[Change], reasons: Reasons, indent: str) -> Iterator[str]:
    """Changes, those of one op with one reason together."""

    def key(change: Change) -> tuple[int, str, str]:
        return change.op, change_text(change), led_there(change)

    for (op, text, led), group in groupby(changes, key):
        more = len(list(group))
        times = f" ({more} times)" if more > 1 else ""
        yield f"{indent}op {op}: {text}{times}"
        done = "" if op < 0 else f"the op: {reasons.timeline.at(op).text}"
        yield f"{indent}    led there: {'; '.join(filter(None, (led, done))) or 'the start of the machine'}"


def page_list(reasons: Reasons, moment: Moment) -> Iterator[str]:
    """Yield the shadow pages that exist after an op, newest first, each with when and why it was made."""
    pages = moment.state["sps"]
    yield f"{len(pages)} shadow pages after op {moment.op}: {moment.text}"
    for name in sorted(pages, key=lambda name: int(name[1:]), reverse=True):
        page = pages[name]
        of = "maps guest memory" if page.get("direct") else f"shadows the guest's table at {page['gfn']}000"
        state = ", unsync" if page["unsync"] else ""
        root = ", in use as a root" if page["root_count"] else ""
        yield f"  {name} level {page['level']} role 0x{page['role']}, {of}{state}{root}"
        made = [change for change in reasons.of_page(name) if change.kind == "page" and change.new == "made"]
        yield from _lines(made[:1], reasons, "    ")


def page_lines(reasons: Reasons, name: str) -> Iterator[str]:
    """Yield what became of a shadow page, then of its entries."""
    found = reasons.of_page(name)
    yield f"{name}:"
    yield from _lines([c for c in found if c.kind in ("page", "zap")], reasons, "  ")
    yield "its entries, newest first:"
    yield from _entries([c for c in found if c.kind == "spte"], reasons)


def gfn_lines(reasons: Reasons, gfn: int) -> Iterator[str]:
    """Yield the changes of what maps or shadows a guest frame."""
    yield f"guest frame {gfn:#x}, newest first:"
    yield from _entries(reasons.of_gfn(gfn), reasons)


def _entries(changes: Sequence[Change], reasons: Reasons) -> Iterator[str]:
    def key(change: Change) -> tuple[int, Cause, str]:
        return change.op, change.mechanism, led_there(change)

    for (op, _, _), group in groupby(changes, key):
        held = list(group)
        for change in held[:-1]:
            yield f"  op {op}: {change.subject} {change.effect}"
        last = held[-1]
        yield from _lines([replace(last, effect=f"{last.subject} {last.effect}")], reasons, "  ")


def zap_lines(reasons: Reasons) -> Iterator[str]:
    """Yield the zaps by cause, then each, newest first."""
    zaps = reasons.zaps()
    yield from _counted(Counter(change.mechanism.function for change in zaps), "zaps")
    for _, group in groupby(zaps, lambda change: (change.op, change.new, change.mechanism)):
        held = list(group)
        names = ", ".join(change.subject for change in held)
        yield from _lines([replace(held[0], effect=f"{names} {held[0].effect}")], reasons, "  ")


def flush_lines(reasons: Reasons) -> Iterator[str]:
    """Yield the flush requests by cause, then each, newest first."""
    if reasons.needed:
        remote = [change for change in reasons.changes if change.subject == "all vCPUs"]
        judged = Counter(
            change.mechanism.function
            for change, needed in zip(remote, reasons.needed, strict=False)
            if needed
        )
        total = sum(judged.values())
        yield f"{total} of {len(remote)} requests to all vCPUs were needed: without, stale entries serve"
        yield from (f"  {number:5}  {function}" for function, number in judged.most_common())
    yield from _counted(Counter(change.mechanism.function for change in reasons.flushes()), "flush requests")
    yield from _lines(reasons.flushes(), reasons, "  ")


def _counted(counts: Counter[str], what: str) -> Iterator[str]:
    total = sum(counts.values())
    yield f"{total} {what}" + (", by cause:" if counts else "")
    for function, number in counts.most_common():
        words = SENTENCES.get(function)
        yield f"  {number:5}  {words.short if words else 'no words for it'}: {function}"
    if counts:
        yield "newest first:"
