"""Random guests under different designs: what a guest and its user space can see must be the same."""

import random
from collections.abc import Mapping
from functools import cache
from typing import Any

from kvm.random_scenarios import DATA, HUGE, LOGGED, random_scenario
from kvm.world import World

import shadowmmu
from shadowmmu.guest.scenario.parser import parse_scenario

Seen = list[Any]
OPS = 100 if shadowmmu.native else 40
"""Operations of a random guest."""


def play(text: str, design: Mapping[str, str], *, checked: bool) -> Seen:
    """Result and changed guest entries of every operation, then guest memory; `checked`: the invariants too.

    Without the dirty log, which also has pages that were only mapped writable.
    """
    world = World.of(text, design=design)
    seen: Seen = []
    for op in parse_scenario(text).ops:
        played = world.play(op) if checked else next(world.player.play([op]), None)
        if played is not None:
            result = {name: value for name, value in played.result.items() if name != "dirty"}
            seen.append((op.text, result, played.gptes))
    frames = [*range(0, 0x100000, 0x1000), *DATA, *LOGGED, *range(HUGE[0], HUGE[0] + 0x400000, 0x1000)]
    return [*seen, [world.machine.peek(frame) for frame in frames]]


@cache
def by_default(text: str) -> Seen:
    """The same under the default design."""
    return play(text, {}, checked=False)


class HugeGuest:
    """Writes a scenario of a guest on huge pages, whose slot logs now and then.

    Two vCPUs reach slot 1 at A and, by other entries, at B; a page in the middle of it is the table behind T.
    Whoever edits a table flushes what it was for, so that results do not depend on what KVM has synced.
    """

    A, B, T, WINDOW = 0x40000000, 0x48000000, 0x50000000, 0x60000000
    SLOT, SIZE, TABLE = 0x10000000, 8 << 20, 0x240000

    def __init__(self, mode: str, seed: int, *, initially_set: bool) -> None:
        self.random = random.Random(f"{mode} {seed} {initially_set}")
        self.mode = mode
        self.entry = 4 if mode == "32" else 8
        self.huge = 22 if mode == "32" else 21
        self.initially_set = initially_set
        self.logs = False

    def setup(self) -> list[str]:
        lines = [f"mode {self.mode}", "vcpus 2", "slot 0 0x0 16M"]
        lines += ["cap 168 3"] if self.initially_set else []
        lines += [f"slot 1 {self.SLOT:#x} 8M huge2m"]
        if self.mode == "nopaging":
            return [*lines, "tramp", "start"]
        directory = {"32": 0x1000, "pae": 0x2000, "long4": 0x3000, "long5": 0x4000}[self.mode]
        n = self.SIZE >> self.huge
        lines += ["alloc 0x2000", "tramp 0x1000"]
        lines += [f"map 0x1000 {gva:#x} {self.SLOT:#x} 0xe7 level=2 n={n}" for gva in (self.A, self.B)]
        lines += [f"map 0x1000 {self.WINDOW:#x} {directory:#x} 0x67"]
        lines += [f"code {self.SLOT + page:#x}" for page in (0x5000, 0x205000)]
        return [*lines, "start cr3=0x1000 cr3@1=0x1000"]

    def flush(self, gva: int) -> list[str]:
        return [f"invlpg {gva:#x}", f"@1 invlpg {gva:#x}"]

    def edit_directory(self) -> list[str]:
        """Another entry for a huge page at A or B, or for T; sometimes none."""
        n = self.random.randrange(self.SIZE >> self.huge)
        gva = self.random.choice((self.A, self.B, self.B)) + (n << self.huge)
        value = (
            self.SLOT + (n << self.huge) | 0x80 | self.random.choice((0x67, 0x67, 0x65, 0x63, 0x27, 0x47, 5))
        )
        if self.random.random() < 0.4:
            gva, value = self.T, self.SLOT + self.TABLE | self.random.choice((0x67, 0x27, 0x65))
        value *= self.random.random() < 0.85
        index = (gva >> self.huge) % (1024 if self.entry == 4 else 512)
        return [f"write {self.WINDOW + index * self.entry:#x} {value:#x}", *self.flush(gva)]

    def edit_table(self) -> list[str]:
        """Another entry for a page at T, written at A or B."""
        index = self.random.randrange(4)
        value = (0x800000 + 0x1000 * self.random.randrange(8) | self.random.choice((0x67, 0x65, 7))) * (
            self.random.random() < 0.9
        )
        at = self.random.choice((self.A, self.B)) + self.TABLE + index * self.entry
        return [f"{self.vcpu()}write {at:#x} {value:#x}", *self.flush(self.T + 0x1000 * index)]

    def vcpu(self) -> str:
        return self.random.choice(("", "", "@1 "))

    def access(self) -> list[str]:
        base = self.SLOT if self.mode == "nopaging" else self.random.choice((self.A, self.A, self.B))
        page = self.random.choice((0, 1, 5, 7, 0x100, 0x200, 0x205, 0x241, 0x3FF, 0x400, 0x7FF))
        gva = base + 0x1000 * page
        if self.mode != "nopaging" and self.random.random() < 0.25:
            gva = self.T + 0x1000 * self.random.randrange(4)
        kind = self.random.choice(("read", "read", "write", "write", "uwrite", "uread", "exec"))
        if kind == "exec":
            gva = base + self.random.choice((0x5000, 0x205000))
        value = f" {self.random.getrandbits(16):#x}" if "write" in kind else ""
        return [f"{self.vcpu()}{kind} {gva:#x}{value}"]

    def log(self) -> list[str]:
        if self.logs and self.random.random() < 0.5:
            first = self.random.choice((0, 0x200, 0x240, 0x400))
            return ["getdirty 1", *([f"cleardirty 1 {first} 64"] if self.initially_set else [])]
        self.logs = not self.logs
        return [f"dirtylog {'on' if self.logs else 'off'} 1"]

    def host(self) -> list[str]:
        page = self.SLOT + self.random.choice((0, 0x200000, 0x400000))
        return [
            self.random.choice(
                (
                    f"modparam kvm nx_huge_pages {self.random.choice('YN')}",
                    f"madvise_dontneed {page:#x} 0x200000",
                    f"mprotect {page:#x} 0x200000 {self.random.choice(('ro', 'rw', 'rw'))}",
                    f"remap {page:#x} 0x200000",
                )
            )
        ]

    def text(self, count: int) -> str:
        lines = self.setup()
        end = len(lines) + count
        makers = [self.access] * 12 + [self.log] * 3 + [self.host]
        if self.mode != "nopaging":
            makers += [self.edit_directory] * 2 + [self.edit_table] * 2
        while len(lines) < end:
            lines += self.random.choice(makers)()
        return "\n".join(lines) + "\n"


def huge_guest(mode: str, seed: int, count: int, *, initially_set: bool = False) -> str:
    """The text of a scenario of `count` operations on huge pages; `initially_set`: logs start all dirty."""
    return HugeGuest(mode, seed, initially_set=initially_set).text(count)


__all__ = ["OPS", "by_default", "huge_guest", "play", "random_scenario"]
