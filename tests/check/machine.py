"""A machine under the eye of coherence: lines in, violations out, and its tables open to damage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from shadowmmu.check.checker import Violation
from shadowmmu.check.coherence import Coherence
from shadowmmu.check.coherence.usable import hardware_walk
from shadowmmu.check.random.fuzz import player_of
from shadowmmu.guest.play.player import OpResult
from shadowmmu.guest.scenario.ops import Op
from shadowmmu.guest.scenario.parser import parse_scenario

GVA, OTHER, GPA = 0x400000, 0x401000, 0x800000
PT_GPA = 0x4000
WINDOW = 0x10000000
SETUP = (
    "mode long4",
    "vcpus 2",
    "slot 0 0x0 16M",
    "slot 2 0x20000000 64K",
    "slot 3 0x24000000 64K ro",
    "alloc 0x2000",
    "tramp 0x1000",
    f"map 0x1000 {GVA:#x} {GPA:#x} 0x67",
    f"map 0x1000 {OTHER:#x} 0x20000000 0x67",
    "map 0x1000 0x402000 0x24000000 0x67",
    "map 0x1000 0x403000 0x801000 0x63",
    "map 0x1000 0x404000 0x802000 0x65",
    f"map 0x1000 {WINDOW:#x} 0x0 0x67 n=16",
    "start cr3=0x1000",
)
GPTE = WINDOW + PT_GPA
"""Where the guest reaches the entry for GVA."""


class Machine:
    """Two vCPUs with four-level tables; pages at 0x400000: plain, of a slot that may log, read-only, of the
    supervisor, not writable.
    """

    def __init__(self, *params: str, setup: Sequence[str] = SETUP) -> None:
        self.lines = [*params, *setup]
        self.player, _ = player_of(self.lines)
        self.coherence = Coherence(self.player)
        self.vcpu = self.player.cpus[0].vcpu
        self.words = self.player.machine.arena.view()

    def op(self, line: str) -> Op:
        return parse_scenario("\n".join([*self.lines, line]) + "\n").ops[-1]

    def do(self, *lines: str) -> list[Violation]:
        """Play lines; what is wrong after the last."""
        found: list[Violation] = []
        for line in lines:
            op = self.op(line)
            self.coherence.before_op(op)
            played = next(self.player.play([op]), None)
            found = self.coherence.after_op(op, played)
        return found

    def fine(self, *lines: str) -> None:
        """Play lines after each of which all is well."""
        for line in lines:
            assert not self.do(line), line

    def result(self, line: str, **result: object) -> list[Violation]:
        """Play a line and claim another result."""
        op = self.op(line)
        self.coherence.before_op(op)
        played: OpResult = next(self.player.play([op]))
        return self.coherence.after_op(op, replace(played, result={**played.result, **result}))

    def sptep(self, gva: int = GVA) -> int:
        path, _ = hardware_walk(self.words, self.vcpu.cpu.root, 4, gva, 46)
        return path[-1][1]

    def spte(self, gva: int = GVA) -> int:
        return int(self.words[self.sptep(gva) >> 3])

    def set_spte(self, value: int, gva: int = GVA) -> None:
        self.words[self.sptep(gva) >> 3] = value

    def look(self) -> list[Violation]:
        return self.coherence.finish()

    def predicates(self) -> set[str]:
        return {violation.predicate for violation in self.look()}
