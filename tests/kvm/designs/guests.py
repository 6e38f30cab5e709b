"""Random guests under different designs: what a guest and its user space can see must be the same."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from kvm.invariants import check_tlb
from kvm.random_scenarios import DATA, HUGE, LOGGED, Generator, random_scenario
from kvm.world import World

from shadowmmu.guest.ops import Access, Exec
from shadowmmu.guest.scenario import Scenario

Seen = list[Any]


def play(text: str, design: Mapping[str, str], *, checked: bool) -> Seen:
    """Result and changed guest entries of every operation, then guest memory; `checked`: the invariants too."""
    world = World.of(text, design=design)
    seen: Seen = []
    for op in Scenario.parse(text).ops:
        played = world.play(op) if checked else next(world.player.play([op]), None)
        seen.append(None if played is None else (op.text, played.result, played.gptes))
    frames = [*range(0, 0x100000, 0x1000), *DATA, *LOGGED, *HUGE]
    return [*seen, [world.machine.peek(frame) for frame in frames]]


@cache
def by_default(text: str) -> Seen:
    """The same under the default design."""
    return play(text, {}, checked=False)


def check_tlb_after_each(text: str, design: Mapping[str, str]) -> None:
    """With a TLB: whatever is not about to be flushed is what the tables say."""
    ops = Scenario.parse(text).ops
    gvas = sorted({op.gva & ~0xFFF for op in ops if isinstance(op, Access | Exec)})
    world = World.of(text, tlb=True, design=design)
    compared = 0
    for op in ops:
        world.play(op)
        compared += check_tlb(world.machine, gvas)
    assert compared


class HugeGuests(Generator):
    """Random guests whose slot of huge pages logs now and then."""

    huge_logs = False

    def host(self) -> str:
        if self.random.random() < 0.5:
            return super().host()
        if self.huge_logs and self.random.random() < 0.4:
            return "getdirty 1"
        self.huge_logs = not self.huge_logs
        return f"dirtylog {'on' if self.huge_logs else 'off'} 1"

    def entry(self, level: int) -> int:
        if level == 2 and self.random.random() < 0.5:
            size = 22 if self.mode == "32" else 21
            return self.random.choice(HUGE) >> size << size | self.flags() | 0x80
        return super().entry(level)

    def operation(self) -> str:
        return self.host() if self.random.random() < 0.1 else super().operation()


def huge_guest(mode: str, seed: int, count: int, *, initially_set: bool = False) -> str:
    """The text of a scenario of `count` operations on huge pages; `initially_set`: logs start all dirty."""
    text = HugeGuests(mode, seed, count).text()
    for kind in ("thp", "memfd"):
        text = text.replace(f"slot 1 0x10000000 4M {kind}", "slot 1 0x10000000 4M huge2m")
    if not initially_set:
        return text
    text = text.replace("slot 0 0x0 16M\n", "slot 0 0x0 16M\ncap 168 3\n", 1)
    return "\n".join(_cleared(text.splitlines())) + "\n"


def _cleared(lines: list[str]) -> Iterator[str]:
    """Every reading of the log is followed by a clearing of a part of it."""
    for n, line in enumerate(lines):
        yield line
        if line.startswith("getdirty 1"):
            yield f"cleardirty 1 {n % 16 * 64} 64"


__all__ = ["by_default", "check_tlb_after_each", "huge_guest", "play", "random_scenario"]
