"""The rooms of the model as a figure: who builds on whom."""

from __future__ import annotations

from svg import arrow, box, figure, text

_KVM = (
    ("exits", "exits of SVM and VMX, KVM_RUN, the emulator"),
    ("fault", "page faults, fast page faults, pre-fault"),
    ("memory", "memslots, notifiers, dirty logs, splits, NX recovery"),
    ("registers", "control registers, INVLPG, nested entry and exit"),
    ("map", "fetch, direct maps, prefetch, page-table writes"),
    ("pages", "shadow pages: lookup, sync, zap, roots"),
    ("tdp", "the TDP MMU"),
    ("spte", "SPTEs, rmaps, unsync marks, flushes"),
    ("guest_access", "guest walks, guest memory, dirty marks"),
    ("state", "Kvm, Vcpu, ShadowPage, MemSlot, statistics"),
    ("tracepoints", "what each event is, carries and prints"),
    ("design", "the table of switches"),
)
"""Highest first; each imports only from those below."""
_ABOVE = (
    ("cli", "the command"),
    ("study", "workloads, costs, studies"),
    ("vm", "the public class Vm"),
    ("show", "decoded words, histories, differences, programs, pages for a browser"),
    ("check", "audit, coherence, random guests, museum, races"),
    ("trace", "events, recordings, ftrace"),
    ("guest", "scenarios, player, workloads, SVM, PC, Linux, what is asked of them"),
)
_BELOW = (("host", "the hypervisor's memory, VMAs, huge pages"), ("x86", "paging, TLB, hardware walker"))
_ROW = 26


def page() -> str:
    """Return the figure."""
    parts, y = [], 10
    for name, says in _ABOVE:
        parts += _row(10, y, 640, name, says)
        y += _ROW + 6
    top = y
    parts.append(box(10, y, 640, 24 + len(_KVM) * (_ROW + 2) + 6))
    parts += [
        text(20, y + 17, "kvm/", "room"),
        text(70, y + 17, "one file per mechanism, named by KVM's word"),
    ]
    y += 24
    for name, says in _KVM:
        parts += _row(30, y, 608, name, says)
        y += _ROW + 2
    y += 12
    for name, says in _BELOW:
        parts += _row(10, y, 640, name, says)
        y += _ROW + 6
    parts += [arrow(680, 14, 680, y - 10), text(694, (top + y) // 2 - 20, "imports", "quiet")]
    parts.append(text(694, (top + y) // 2 - 4, "go down", "quiet"))
    return figure(770, y + 6, "The rooms of the model", parts)


def _row(x: int, y: int, width: int, name: str, says: str) -> list[str]:
    return [
        box(x, y, width, _ROW),
        text(x + 10, y + 17, f"{name}/", "room"),
        text(x + 130, y + 17, says),
    ]
