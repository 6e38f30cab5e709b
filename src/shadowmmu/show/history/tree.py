"""The guest's tables and KVM's as trees of lines, each knowing what the op before changed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shadowmmu.show.decode import Decoded, GpteFormat, decode_ept, decode_gpte, decode_spte, parse_spte
from shadowmmu.show.text.runs import runs
from shadowmmu.trace.names import State
from shadowmmu.x86.bits import P
from shadowmmu.x86.paging import paging_format

from .timeline import Moment, Timeline

__all__ = ["Node", "guest_tree", "shadow_tree"]

_LINK = re.compile(r"(S\d+)\|")
_MAPPED = re.compile(r"gpa:([0-9a-f]+)(\|[0-9a-f]+)")
_ENTRIES_OF_PDPT = 4


@dataclass(frozen=True, slots=True)
class Node:
    """A line and what is below it."""

    label: str
    changed: bool
    """The op changed this entry or page."""
    name: str
    """What the line is about: a page `S7`, a table `gpa 4000`, or the entry `S7[3]` or `gpa 4018`."""
    decoded: Decoded | None
    """What an entry says; None for tables and empty entries."""
    children: tuple[Node, ...]

    @property
    def changed_below(self) -> bool:
        """Whether the line or one below it changed."""
        return self.changed or any(child.changed_below for child in self.children)


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry of a table, before runs are made of it."""

    index: int
    text: str
    name: str
    place: int
    """What grows in a run."""
    kind: str
    """What is equal in a run."""
    was: str | None
    """What the op replaced; None if it did not change the entry."""
    decoded: Decoded | None
    child: Node | None

    def node(self) -> Node:
        changed = "" if self.was is None else f"  was {self.was}"
        short = f"  {self.decoded.short}" if self.decoded is not None and self.decoded.short else ""
        label = f"[{self.index}] {self.text}{short}{changed}"
        children = () if self.child is None else (self.child,)
        return Node(label, self.was is not None, self.name, self.decoded, children)


def _nodes(entries: Sequence[_Entry]) -> Iterator[Node]:
    """Yield the entries as lines; those without anything below or new go together in runs."""
    start = 0
    for position in range(len(entries) + 1):
        alone = position == len(entries) or entries[position].child is not None
        if not alone and entries[position].was is None:
            continue
        plain = entries[start:position]
        for first, last, _ in runs([(entry.index, (entry.kind, entry.place)) for entry in plain], 1):
            one, other = plain[first], plain[last]
            if first == last:
                yield one.node()
            else:
                short = one.decoded.short if one.decoded is not None else ""
                label = f"[{one.index}..{other.index}] {one.text} .. {other.text}  {short}"
                yield Node(label, False, one.name, one.decoded, ())
        if position < len(entries):
            yield entries[position].node()
        start = position + 1


# -- the guest's -------------------------------------------------------------------------------------------


def guest_tree(timeline: Timeline, moment: Moment) -> tuple[Node, ...]:
    """Return the guest's tables from each root in use, of vCPUs and of those that they give their L2."""
    roots: dict[tuple[int, GpteFormat], list[str]] = {}
    for vcpu, registers in moment.registers.items():
        for nested in (False, True):
            levels = registers.nested_levels if nested else registers.levels
            if not levels or (nested and registers.ncr3 is None):
                continue
            amd = "kvm_intel.ept" not in timeline.params
            form = GpteFormat(levels, timeline.maxphyaddr, registers.nx, registers.pse, amd)
            users = roots.setdefault((registers.root(nested=nested), form), [])
            users.append(f"{'nested ' if nested else ''}CR3 of vCPU {vcpu}")
    seen: set[tuple[int, int]] = set()
    return tuple(
        _guest_table(moment, form, root, form.levels, seen, f"{', '.join(users)}: ")
        for (root, form), users in roots.items()
    )


def _guest_table(
    moment: Moment, form: GpteFormat, table: int, level: int, seen: set[tuple[int, int]], prefix: str
) -> Node:
    size = paging_format(form.levels).entry_bytes
    shadows = [
        name
        for name, page in moment.state["sps"].items()
        if not page.get("direct") and int(page["gfn"], 16) == table >> 12
    ]
    label = f"{prefix}gpa {table:x} level {level}"
    label += f", shadowed by {', '.join(shadows)}" if shadows else ""
    name = f"gpa {table:x}"
    if table & -4096 not in moment.guest.pages:
        return Node(f"{label}, not recorded", False, name, None, ())
    if (table, level) in seen:
        return Node(f"{label}, shown above", False, name, None, ())
    seen.add((table, level))
    changes = {int(gpa, 16): old.removeprefix("0x") for gpa, old, _ in moment.changes}
    values = dict(moment.guest.entries(table & -4096, size))
    for gpa in changes:
        if gpa & -4096 == table & -4096:
            values.setdefault((gpa & 4095) // size, 0)
    start = (table & 4095) // size
    entries = []
    for index, value in sorted(values.items()):
        if form.levels == 3 and level == 3 and not 0 <= index - start < _ENTRIES_OF_PDPT:
            continue
        gpa = (table & -4096) + index * size
        decoded = decode_gpte(value, level=level, form=form)
        leaf = form.is_leaf(value, level)
        child = None
        if value & P and not leaf:
            child = _guest_table(moment, form, form.gfn(value, level) << 12, level - 1, seen, "")
        place = form.gfn(value, level) if value & P else 0
        kind = f"{decoded.short}{leaf}" if value & P else f"{value:x}"
        entries.append(
            _Entry(index - start, f"{value:x}", f"gpa {gpa:x}", place, kind, changes.get(gpa), decoded, child)
        )
    return Node(label, False, name, None, tuple(_nodes(entries)))


# -- KVM's -------------------------------------------------------------------------------------------------


def shadow_tree(timeline: Timeline, moment: Moment, before: State) -> tuple[Node, ...]:
    """Return KVM's tables from each root, then pages in no root's tree; `before` is the state before."""
    decode = decode_ept if timeline.ept else decode_spte

    def decoded(text: str, level: int) -> Decoded:
        return decode(parse_spte(text), level=level, host=timeline.host)

    pages = moment.state["sps"]
    seen: set[str] = set()
    found = []
    users: dict[str, list[str]] = {}
    for name, what in _roots(moment.state):
        if name in pages:
            users.setdefault(name, []).append(what)
        else:
            found.append(Node(f"root of {what}: {name}", False, name, None, ()))
    for name, whats in users.items():
        found.append(_shadow_table(pages, before, name, seen, decoded, f"root of {'; '.join(whats)}: "))
    left = [name for name in pages if name not in seen]
    for name in sorted(left, key=lambda name: any(p.split("[")[0] in left for p in pages[name]["parents"])):
        if name not in seen:
            found.append(_shadow_table(pages, before, name, seen, decoded, "in no root's tree: "))
    return tuple(found)


def _roots(state: State) -> Iterator[tuple[str, str]]:
    """Return the names of the roots, and whose they are."""
    for vcpu, top in state["vcpus"].items():
        for mmu, whose in ((top, ""), (top.get("guest_mmu"), " for L2")):
            if mmu is None:
                continue
            if "pae_root" in mmu:
                for number, text in enumerate(mmu["pae_root"]):
                    if match := _LINK.match(text):
                        yield match[1], f"vCPU {vcpu}{whose}, {mmu['root']}[{number}]"
            else:
                yield mmu["root"], f"vCPU {vcpu}{whose}"
            for pgd, name in mmu["prev"]:
                yield name, f"vCPU {vcpu}{whose}, previous, CR3 {pgd}"


def _shadow_table(
    pages: Mapping[str, Mapping[str, Any]],
    before: State,
    name: str,
    seen: set[str],
    decoded: Callable[[str, int], Decoded],
    prefix: str,
) -> Node:
    page = pages[name]
    old = before.get("sps", {}).get(name)
    label = f"{prefix}{name} {_page_words(page)}" + ("" if old is not None else ", new")
    if name in seen:
        return Node(f"{prefix}{name}, shown above", False, name, None, ())
    seen.add(name)
    was = {} if old is None else old["sptes"]
    entries = []
    for index in sorted({*page["sptes"], *was}, key=int):
        text = page["sptes"].get(index, "empty")
        link = _LINK.match(text)
        child = None
        if link is not None and link[1] in pages:
            child = _shadow_table(pages, before, link[1], seen, decoded, "")
        mapped = _MAPPED.fullmatch(text)
        changed = None if old is None or was.get(index, "empty") == text else was.get(index, "empty")
        entries.append(
            _Entry(
                int(index),
                text,
                f"{name}[{index}]",
                int(mapped[1], 16) if mapped else 0,
                mapped[2] if mapped else text,
                changed,
                None if text == "empty" else decoded(text, page["level"]),
                child,
            )
        )
    return Node(label, old is not page, name, None, tuple(_nodes(entries)))


def _page_words(page: Mapping[str, Any]) -> str:
    words = [f"level {page['level']}"]
    words.append(
        f"direct, gfn {page['gfn']}" if page.get("direct") else f"of gpa {int(page['gfn'], 16) << 12:x}"
    )
    if page.get("has_4_byte_gpte"):
        words.append(f"part {page.get('quadrant', 0)}")
    words.append(page["access"])
    words += ["unsync"] if page["unsync"] else []
    words += [f"{page['unsync_children']} unsync below"] if page["unsync_children"] else []
    words += [f"{page['flood']} writes towards flooding"] if page["flood"] else []
    words += ["zapped"] if page.get("invalid") else []
    return ", ".join(words)
