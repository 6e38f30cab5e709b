"""Recordings of real KVM and scenarios for the tests of this room."""

from collections import deque
from functools import cache
from pathlib import Path

from shadowmmu.trace.names import State
from shadowmmu.trace.recording import Recording, replay

TESTS = Path(__file__).parents[1]
RECORDINGS = TESTS / "conformance" / "recordings"
SCENARIOS = TESTS / "conformance" / "scenarios"


def recording(name: str) -> Recording:
    return Recording.read(RECORDINGS / f"{name}.jsonl")


@cache
def last_states() -> list[tuple[Recording, State]]:
    """Every recording with its last state."""
    found = []
    for path in sorted(RECORDINGS.rglob("*.jsonl")):
        read = Recording.read(path)
        (last,) = deque(replay(read), 1)
        found.append((read, last[1]))
    return found
