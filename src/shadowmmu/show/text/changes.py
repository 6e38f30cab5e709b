"""What an op changed, in lines: guest entries, shadow pages, SPTEs, roots."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from .runs import entry_runs

__all__ = ["change_lines"]


def _root(name: str) -> str:
    """Return a root, in words if it is no shadow page; recordings call the dummy `?...`."""
    if name == "dummy" or name.startswith("?"):
        return "dummy: the guest's own root table is in no memory slot"
    return "none: one is made at the next entry" if name == "invalid" else name


def change_lines(
    changes: Sequence[Sequence[str]], delta: Mapping[str, Any], known: Collection[str]
) -> Iterator[str]:
    """Yield the lines of an op: its `gptes` and its `delta`; `known` are the pages before it."""
    for gpa, old, new in changes:
        yield f"guest entry at {gpa}: {old} -> {new}"
    for path in delta.get("del", ()):
        if path.startswith("sps:") and path.count(":") == 1:
            yield f"{path[4:]} removed"
    entries: dict[str, dict[int, str]] = {}
    for path, value in delta.get("set", {}).items():
        parts = path.split(":")
        if parts[0] == "sps" and len(parts) == 2:
            role = "direct" if value.get("direct") else f"of guest table {value['gfn']}"
            if "off_list" in value:
                role = "special"
            yield f"{parts[1]} new: level {value['level']}, {role}, gfn {value['gfn']}, {value['access']}"
        elif parts[0] == "sps" and parts[2] == "unsync":
            yield f"{parts[1]} {'unsync' if value else 'in sync'}"
        elif parts[0] == "sps" and parts[2] == "sptes" and parts[1] in known:
            changed = {parts[3]: value} if len(parts) == 4 else value
            held = entries.setdefault(parts[1], {})
            held.update((int(index), spte) for index, spte in changed.items())
        elif parts[0] == "vcpus" and parts[2:] == ["root"]:
            yield f"vCPU {parts[1]} root {_root(value)}"
    for name, values in entries.items():
        yield f"{name} {' '.join(entry_runs(sorted(values.items())))}"
