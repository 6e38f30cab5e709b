"""States that share what did not change: each is a value of its own, and a delta copies only its path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["DeltaError", "changed"]


class DeltaError(ValueError):
    """A delta that does not fit the state before it."""


def changed(state: Mapping[str, Any], delta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state after a recording's delta; `state` itself stays as it was. Raises DeltaError."""
    root = dict(state)
    fresh: dict[tuple[str, ...], dict[str, Any]] = {(): root}
    try:
        for path in delta.get("del", ()):
            *parents, last = path.split(":")
            del _own(fresh, tuple(parents))[last]
        for path, value in delta["set"].items():
            *parents, last = path.split(":")
            _own(fresh, tuple(parents))[last] = value
            fresh = {
                owned: held for owned, held in fresh.items() if owned[: len(parents) + 1] != (*parents, last)
            }
    except (KeyError, TypeError, ValueError):
        raise DeltaError("`delta` does not fit the state before it") from None
    return root


def _own(fresh: dict[tuple[str, ...], dict[str, Any]], path: tuple[str, ...]) -> dict[str, Any]:
    """Return the dictionary at `path`, copied unless this delta did so already."""
    if path not in fresh:
        parent = _own(fresh, path[:-1])
        fresh[path] = parent[path[-1]] = dict(parent[path[-1]])
    return fresh[path]
