"""Deltas: how recordings store a state, as its difference from the one before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from shadowmmu.trace.names import State

__all__ = ["Delta", "apply_delta", "difference"]

Delta = dict[str, Any]
"""`set`: path -> value; `del`, if there are any: paths."""


def difference(before: State, after: State) -> Delta:
    """Return what has to be set and deleted to come from one state to the next, by path
    (`sps:S7:sptes:3`).
    """
    to_set: State = {}
    to_delete: list[str] = []
    _differences(before, after, "", to_set, to_delete)
    return {"set": to_set, "del": to_delete} if to_delete else {"set": to_set}


def _differences(before: State, after: State, path: str, to_set: State, to_delete: list[str]) -> None:
    to_delete += [path + key for key in before if key not in after]
    for key, value in after.items():
        if key not in before:
            to_set[path + key] = value
        elif isinstance(value, dict) and isinstance(before[key], dict):
            _differences(before[key], value, f"{path}{key}:", to_set, to_delete)
        elif before[key] != value:
            to_set[path + key] = value


def apply_delta(state: State, delta: Mapping[str, Any]) -> None:
    """Carry a delta out on `state`. Raises KeyError or TypeError when it does not fit the state."""
    for path in delta.get("del", ()):
        *parents, last = path.split(":")
        del _descend(state, parents)[last]
    for path, value in delta["set"].items():
        *parents, last = path.split(":")
        _descend(state, parents)[last] = deepcopy(value)


def _descend(state: State, parents: Iterable[str]) -> State:
    for key in parents:
        state = state[key]
    return state
