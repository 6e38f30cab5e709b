"""Guests made at random: the text of a machine, and what may happen on it, line by line of a scenario.

A guest has a few tables of every level, filled at random and shared, and reaches them through windows, so
that it edits tables in use. The `ordinary` guest keeps its tables in order: an entry of a level leads to a
table of the next or to a page, and after most edits it flushes. The `hostile` one writes anything: random
words, tables that lead to themselves, to tables of another level, into memory-mapped devices or nowhere; its
tables are in memory of every kind.

A PAE hypervisor leaves its PDPTEs alone: KVM's walks of nested tables read them anew while its roots are
those of the last VMRUN, so that what one leads to ends up in the shadow of another, for good
(nested_svm_get_tdp_pdptr, FNAME(fetch), 6.12.111). One with vCPUs in PAE and in long mode over the same
nested tables sets none of the bits 62:52, which PAE reserves and long mode does not: no role tells the two
apart.

Crowded guests have so many tables that KVM has to zap shadow pages to make room for others.

Some machines differ: an Intel processor with or without A and D in EPT, another MAXPHYADDR of guest or host,
dirty rings in place of bitmaps, capabilities that the MMU looks at; and some hypervisors have a second vCPU
in PAE mode, whose nested PDPTEs are entries of the first one's nested tables.

The same seed gives the same guest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .ground_setup import DATA, DISABLE_SLOT_ZAP_ALL, HUGE, LAZY, LOGGED, NOTHING, Machine

__all__ = ["Ground"]

TOGGLED_CR4 = (1 << 20, 1 << 21, 1 << 7)
CR0_WP = 1 << 16


@dataclass(frozen=True, slots=True)
class Edit:
    """A write of the guest to an entry of one of its tables."""

    gva: int
    size: int
    value: int

    def line(self, at: str = "", *, locked: bool = False) -> str:
        """Return the write as a line, or the same as an atomic exchange if there is one of its size."""
        kind = "xchg" if locked and self.size >= 4 else "write"
        return f"{at}{kind} {self.gva:#x} {self.value:#x} size={self.size}"


class Ground(Machine):
    """One guest: `setup` are its lines up to `start`, `line` makes one op after the other.

    `vendor` is whose processor it has, amd or intel; by default either, where both have such a guest.
    """

    def first_lines(self) -> list[str]:
        """Return what happens before anything else.

        A crowded guest gets few shadow pages; of some only what a deleted slot maps is zapped with it.
        """
        nop = "l2nop" if self.nested else "nop"
        few = ["nrmmu 64"] if self.crowded else []
        quirks = [DISABLE_SLOT_ZAP_ALL] if self.seed % 5 == 4 else []
        return [*quirks, *few, nop, f"@1 {nop}"]

    # -- operations ----------------------------------------------------------------------------------------

    def edit(self) -> list[Edit]:
        """Return writes of the guest that change one entry: two if its code cannot do it in one."""
        level, table, index = self.place()
        value = self.new_entry(level, table, index)
        if self.hostile and self.random.random() < 0.05:
            gva = self.window[table] + self.entry_size * index
            return [Edit(gva + self.random.randrange(6 if self.mixed else self.entry_size), 1, value & 0xFF)]
        return self.writes(table, index, value)

    def writes(self, table: int, index: int, value: int) -> list[Edit]:
        """Return the writes that set one entry."""
        gva = self.window[table] + self.entry_size * index
        if self.mode != "pae" and not self.mixed:
            return [Edit(gva, self.entry_size, value)]
        return [Edit(gva, 4, value & 0xFFFFFFFF), Edit(gva + 4, 4, value >> 32)]

    def place(self) -> tuple[int, int, int]:
        """Return level, table and index of the entry to be changed."""
        level, table = self.random.choice(self.edited)
        return level, table, self.index(level)

    def new_entry(self, level: int, table: int, index: int) -> int:
        """Return what the guest writes to an entry of one of its tables."""
        return self.entry(level)

    def changes(self, at: str = "") -> list[str]:
        """Return the lines of an edit, sometimes a locked one; `at` says by which vCPU."""
        locked = self.random.random() < 0.15
        return [edit.line(at, locked=locked) for edit in self.edit()]

    def access(self) -> str:
        """Return an access to data, as a line."""
        rng = self.random
        names = ("read", "write", "xchg", "add", "exec") if not self.nested else ("read", "write", "xchg")
        kind = rng.choices(names, (8, 6, 1, 1, 1)[: len(names)])[0]
        prefix = "l2" if self.nested else rng.choice(("", "", "u"))
        if kind == "exec":
            return f"{prefix}exec {self.address() & ~0xFFF:#x}"
        value = "" if kind == "read" else f" {rng.choice((0, rng.getrandbits(16))):#x}"
        return f"{prefix}{kind} {self.address():#x}{value}"

    def control(self, cpu: int) -> list[str]:
        """Return lines that change the guest's roots and modes, or flush."""
        rng, chance = self.random, self.random.random()
        if self.mode == "nopaging":
            return []
        if self.nested:
            root = rng.choice(self.roots(cpu))
            if self.levels < 4 or self.mixed:
                root |= rng.choice((0, 0, 0, 8, 0x18))
            if chance < 0.5:
                return [f"ncr3 {root:#x}", "l2exit"]
            if self.levels > 3 and chance < 0.7:
                return [f"cr4 {rng.choice((0, *TOGGLED_CR4)) | (0x1020 if self.levels == 5 else 0x20):#x}"]
            return [f"l1invlpga {self.address():#x} 1"]
        if chance < 0.5:
            return [f"cr3 {rng.choice(self.tables[self.levels]):#x}"]
        if chance < 0.7:
            return [f"invlpg {self.address():#x}"]
        if chance < 0.8:
            self.cr0[cpu] ^= CR0_WP
            return [f"cr0 {self.cr0[cpu]:#x}"]
        if chance < 0.9:
            self.cr4[cpu] ^= rng.choice(TOGGLED_CR4)
            return [f"cr4 {self.cr4[cpu]:#x}"]
        if self.levels > 2 and chance < 0.96:
            without, with_nx = (0x500, 0xD00) if self.levels > 3 else (0, 0x800)
            return [f"efer {rng.choice((without, with_nx, with_nx)):#x}"]
        return self._switch_mode(cpu)

    def _switch_mode(self, cpu: int) -> list[str]:
        """Return lines of a hostile guest that switches paging off and on, or to other tables, where its mode
        can.
        """
        if not self.hostile or self.levels > 3:
            return ["nop"]
        if self.random.random() < 0.5:
            return [f"cr4 {self.cr4[cpu] ^ 0x30:#x}", "nop", f"cr4 {self.cr4[cpu]:#x}"]
        return [f"cr0 {self.cr0[cpu] ^ 1 << 31:#x}", "nop", f"cr0 {self.cr0[cpu]:#x}"]

    def host(self) -> list[str]:
        """Return lines of what the host does to the guest's memory."""
        rng = self.random
        page = rng.choice((*DATA, *LOGGED))
        choices: list[Callable[[], list[str]]] = [
            self._toggle_logging,
            self._toggle_logging,
            self._read_log,
            self._read_log,
            self._slot_5,
            self._move_slot_4,
            lambda: [f"madvise_dontneed {page:#x} 0x1000", f"hosttouch {page:#x} 0x1000"],
            lambda: [f"madvise_dontneed {HUGE + 0x200000 * rng.randrange(4):#x} 0x200000"],
            lambda: [f"mprotect {page:#x} 0x1000 {rng.choice(('ro', 'rw', 'none'))}"],
            lambda: ["mprotect 0x800000 0xc000 rw", "mprotect 0x20000000 0xc000 rw"],
            lambda: [f"remap {page:#x} 0x1000"],
            lambda: [f"nrmmu {rng.choice((64, 66) if self.crowded else (64, 70, 1000))}"],
            lambda: [f"modparam kvm nx_huge_pages {rng.choice('NNY')}"],
            lambda: self._age(page),
            lambda: self._prefault(page),
            self._lazy_memory,
        ]
        return rng.choice(choices)()

    def _toggle_logging(self) -> list[str]:
        slot = self.random.choice((1, 2))
        self.logging[slot] = not self.logging[slot]
        pages = f"{HUGE:#x} 8M" if slot == 1 else f"{LOGGED[0]:#x} 0xc000"
        aged = [f"age {pages}"] if self.random.random() < 0.2 else []
        return [*aged, f"dirtylog {'on' if self.logging[slot] else 'off'} {slot}"]

    def _read_log(self) -> list[str]:
        slot = self.random.choice((1, 2))
        if not self.logging[slot]:
            return []
        if self.rings:
            return self.ring_lines()
        if self.manual:
            count = 64 if slot == 2 else 2048
            return [f"getdirty {slot}", f"cleardirty {slot} {self.random.randrange(count // 64) * 64} 64"]
        return [f"getdirty {slot}"]

    def ring_lines(self) -> list[str]:
        """Return lines by which user space takes what is in the dirty rings and gives it back."""
        harvests = self.random.choice(
            (["harvestring"], ["@1 harvestring"], ["harvestring", "@1 harvestring"])
        )
        return [*harvests, "resetrings"] if self.random.random() < 0.8 else harvests

    def _age(self, page: int) -> list[str]:
        """Return lines by which the host asks which pages are in use: one, those of a slot that may log, or
        huge ones.
        """
        ranges = (f"{page:#x} 0x1000", f"{LOGGED[0]:#x} 0xc000", f"{HUGE:#x} 0x400000")
        return [f"age {self.random.choice(ranges)}{self.random.choice(('', '', ' flush'))}"]

    def _prefault(self, page: int) -> list[str]:
        """Return lines by which user space lets pages be mapped that nobody has touched yet; KVM refuses it
        without nested paging.
        """
        ranges = (
            f"{page:#x} 0x1000",
            f"{LAZY[0]:#x} 0x3000",
            f"{HUGE:#x} 0x200000",
            f"{NOTHING[0]:#x} 0x1000",
        )
        at = self.random.choice(("", "@1 "))
        return [f"{at}prefault {self.random.choice(ranges)}"]

    def _slot_5(self) -> list[str]:
        self.has_slot_5 = not self.has_slot_5
        return ["slot 5 0xd0000000 64K" if self.has_slot_5 else "delslot 5"]

    def _move_slot_4(self) -> list[str]:
        self.slot_4 ^= 0x18000000
        return [f"movslot 4 {self.slot_4:#x}"]

    def _lazy_memory(self) -> list[str]:
        if self.slot_4 != 0x28000000:
            return []
        advice = self.random.choice((14, 15, 25))
        return self.random.choice(
            ([f"madvise 0x28000000 0x200000 {advice}"], [f"madvise_dontneed {LAZY[0]:#x} 0x2000"])
        )

    def slow(self) -> list[str]:
        """Return lines of what happens seldom: the host's part, and the guest's control registers."""
        cpu = self.random.choice((0, 0, 1))
        at = "@1 " if cpu else ""
        if self.random.random() < 0.5:
            lines = self.host()
            return [*lines[:-1], *self.meanwhile(), *lines[-1:]]
        return self._controls(cpu, at)

    def meanwhile(self) -> list[str]:
        """Return what the guest sometimes does in the middle of the next op of the host."""
        rng = self.random
        if rng.random() < 0.7:
            return []
        kinds = rng.choices((0.3, 0.7, 0.9), (2, 3, 3), k=rng.choice((1, 2, 3, 4)))
        acts = [(rng.choice((1, 1, 1, 2, 3)), self._acts(kind)) for kind in kinds]
        return [f"meanwhile {drop} {line}" for drop, lines in acts for line in lines]

    def _controls(self, cpu: int, at: str) -> list[str]:
        lines = self.control(cpu)
        exits = [f"{at}l2exit"] if self.nested and lines and not lines[0].startswith("l2") else []
        return exits + [at + line for line in lines]

    def _acts(self, chance: float) -> list[str]:
        """Return lines of what the guest does by itself: an access if `chance` is below 0.6, an edit below
        0.8, else something else.
        """
        rng = self.random
        cpu = rng.choice((0, 0, 1))
        at = "@1 " if cpu else ""
        if chance < 0.6:
            return [at + self.access()]
        if chance < 0.8 and self.mode != "nopaging":
            edits = self.changes(at)
            if self.nested:
                return [f"{at}l2exit", *edits]
            flushes = not self.hostile and rng.random() < 0.7
            return [*edits, *([f"{at}cr3 {self._root():#x}"] if flushes else [])]
        return self._controls(cpu, at)

    def lines(self) -> list[str]:
        """Return the lines of the next op of any kind."""
        if self.crowded and self.levels and self.random.random() < 0.15:
            return self._scan()
        chance = self.random.random()
        often = 0.6 if self.mode == "nopaging" else 0.8
        return self._acts(chance) if chance < often else self.slow()

    def _scan(self) -> list[str]:
        """Return reads by one vCPU of a page through each of many leaf tables, of which the other has read
        one.
        """
        address, (one, other) = self.address(), self.random.choice((("", "@1 "), ("@1 ", "")))
        read = "l2read" if self.nested else "read"
        first = address & ~((16 * self.large) - 1) | address & self.large - 1
        return [f"{other}{read} {first:#x}", *(f"{one}{read} {first + self.large * n:#x}" for n in range(16))]

    def _root(self) -> int:
        return self.random.choice(self.tables[self.levels])
