"""Random scenarios: guests that rewrite their own page tables at every level, on a host that changes memory.

The same seed gives the same scenario. Tables are filled at random and reachable through windows, so that the
guest edits tables in use, tables of the wrong level, and tables that map themselves.
"""

import random

MODES = ("long4", "long5", "pae", "32", "nopaging")
DATA = [0x800000 + 0x1000 * i for i in range(12)]
LOGGED = [0x20000000 + 0x1000 * i for i in range(12)]
READ_ONLY = [0x24000000, 0x24001000]
HUGE = [0x10000000, 0x10200000]
LAZY = [0x28000000 + 0x1000 * i for i in range(4)]
NOTHING = [0xD0000000, 0xD0001000, 0xFEE00000]
WINDOW = {"long4": 0x7F0000000000, "long5": 0xFF000000000000, "pae": 0x80000000, "32": 0xE0000000}
WRITE_PROTECT = 0x10000
ENDLESS = 500
"""Attempts at one instruction after which such a guest counts as busy with itself for ever.

Some execute a page of zeros that is a page table, or fault on the way to each handler: the thousands of exits
up to the model's own limit are all alike, and took longer than everything else that these guests do.
"""


class Generator:
    """Writes one scenario of `count` operations."""

    def __init__(self, mode: str, seed: int, count: int) -> None:
        self.random = random.Random(f"{mode} {seed}")
        self.mode = mode
        self.count = count
        self.seed = seed
        self.entry_size = 4 if mode == "32" else 8
        self.levels = {"long4": 4, "long5": 5, "pae": 3, "32": 2, "nopaging": 0}[mode]
        self.bits = 10 if mode == "32" else 9
        frames = iter(range(0x40000, 0x80000, 0x1000))
        counts = {1: 4, 2: 2}
        self.tables = {
            level: [next(frames) for _ in range(counts.get(level, 2))] for level in range(1, self.levels + 1)
        }
        self.everything = [table for level in self.tables for table in self.tables[level]]
        self.window: dict[int, int] = {}
        self.lines: list[str] = []
        self.logging = False
        self.has_slot_5 = False
        self.slot_4 = "0x28000000"
        self.cr0 = [0x80010033, 0x80010033]
        self.cr4 = [0x10 if mode == "32" else 0x20] * 2
        if mode == "long5":
            self.cr4 = [0x1020] * 2

    # -- pieces ------------------------------------------------------------------------------------------

    def index(self, level: int) -> int:
        if self.mode == "pae" and level == 3:
            return self.random.choice((0, 1))
        if level == 1:
            return self.random.choice((0, 1, 2, 3, 7, 8, 9, 511))
        if level == self.levels:
            return self.random.choice((0, 1))
        return self.random.choice((0, 1, 2))

    def address(self) -> int:
        if self.mode == "nopaging":
            return self.data() + 4 * self.random.randrange(4)
        gva = sum(self.index(level) << (12 + self.bits * (level - 1)) for level in range(1, self.levels + 1))
        return gva + self.entry_size * self.random.choice((0, 0, 1, 2, 300))

    def data(self) -> int:
        return self.random.choices(
            [*DATA, *LOGGED, *READ_ONLY, *HUGE, *LAZY, *NOTHING],
            [4] * len(DATA) + [2] * len(LOGGED) + [2, 2, 4, 4] + [2] * len(LAZY) + [1, 1, 1],
        )[0]

    def flags(self) -> int:
        def maybe(bit: int, likely: float) -> int:
            return bit if self.random.random() < likely else 0

        flags = 1 | maybe(2, 0.85) | maybe(4, 0.85) | maybe(0x20, 0.8) | maybe(0x40, 0.7) | maybe(0x100, 0.05)
        return flags | (maybe(1 << 63, 0.08) if self.entry_size == 8 else 0)

    def entry(self, level: int) -> int:
        chance = self.random.random()
        if chance < 0.1:
            return 0
        if chance < 0.13:
            return self.random.getrandbits(8 * self.entry_size) | 1
        if self.mode == "pae" and level == 3:
            return self.random.choice(self.tables[2]) | 1
        if level == 1:
            page = self.data() if chance < 0.85 else self.random.choice(self.everything)
            return page | self.flags()
        if level in (2, 3) and chance < 0.3:
            size = {"32": 22}.get(self.mode, 12 + self.bits * (level - 1))
            page = self.random.choice([*HUGE, 0, DATA[0], LOGGED[0], self.everything[0]])
            return page >> size << size | self.flags() | 0x80
        if chance < 0.36:
            return self.random.choice(self.everything) | self.flags() & ~0x100
        return self.random.choice(self.tables[level - 1]) | self.flags() & ~0x100

    # -- setup -------------------------------------------------------------------------------------------

    def setup(self) -> None:
        kind = self.random.choice(("huge2m", "thp", "memfd"))
        self.lines += [
            f"mode {self.mode}",
            "vcpus 2",
            "slot 0 0x0 16M",
            f"slot 1 0x10000000 4M {kind}",
            "slot 2 0x20000000 256K",
            "slot 3 0x24000000 64K ro",
            f"slot 4 0x28000000 4M lazy{self.random.choice((' thp', ''))}",
        ]
        if self.mode == "nopaging":
            self.lines += ["tramp", "start"]
            return
        self.lines.append("alloc 0x2000")
        first, *others = self.tables[self.levels]
        self.lines += [f"tramp {root:#x}" for root in (first, *others)]
        window = WINDOW[self.mode]
        for n, table in enumerate(self.everything):
            self.window[table] = window + 0x1000 * n
            self.lines.append(f"map {first:#x} {self.window[table]:#x} {table:#x} 0x67")
        top = window >> (12 + self.bits * (self.levels - 1)) & (
            3 if self.mode == "pae" else (1 << self.bits) - 1
        )
        present = 1 if self.mode == "pae" else 0x27
        self.lines += [f"pt {root:#x} {top} {0x2000 | present:#x}" for root in others]
        for level, tables in self.tables.items():
            for table in tables:
                indices = sorted({self.index(level) for _ in range(12)})
                self.lines += [f"pt {table:#x} {index} {self.entry(level):#x}" for index in indices]
        self.lines.append(f"start cr3={first:#x} cr3@1={self.random.choice((first, others[0])):#x}")

    # -- operations --------------------------------------------------------------------------------------

    def access(self) -> str:
        kind = self.random.choices(("read", "write", "xchg", "add", "exec"), (8, 6, 1, 1, 2))[0]
        user = self.random.choice(("", "", "u"))
        gva = self.address()
        if self.mode in ("long4", "long5"):
            gva = self.random.choice((gva, gva, gva, gva | -1 << (47 if self.levels == 4 else 56))) % (
                1 << 64
            )
        value = (
            "" if kind in ("read", "exec") else f" {self.random.choice((0, self.random.getrandbits(16))):#x}"
        )
        return f"{user}{kind} {gva:#x}{value}"

    def edit(self) -> str:
        level = self.random.choice(list(self.tables))
        table = self.random.choice(self.tables[level])
        value = self.entry(level)
        gva = self.window[table] + self.entry_size * self.index(level)
        if self.mode == "pae":
            half = self.random.choice((0, 0, 1))
            gva, value = gva + 4 * half, value >> 32 * half & 0xFFFFFFFF
        kind = self.random.choices(("write", "xchg", "add", "stos"), (8, 2, 1, 1))[0]
        value = 0 if kind in ("add", "stos") else value
        return f"{kind} {gva:#x} {value:#x}" + (" n=4" if kind == "stos" else "")

    def control(self, cpu: int) -> str:
        chance = self.random.random()
        if chance < 0.4:
            return f"cr3 {self.random.choice(self.tables[self.levels]):#x}"
        if chance < 0.7:
            return f"invlpg {self.address():#x}"
        if chance < 0.8:
            self.cr0[cpu] ^= WRITE_PROTECT
            return f"cr0 {self.cr0[cpu]:#x}"
        if chance < 0.93:
            self.cr4[cpu] ^= self.random.choice((1 << 20, 1 << 21, 1 << 7))
            return f"cr4 {self.cr4[cpu]:#x}"
        if self.levels < 3:
            return "nop"
        without_nx, with_nx = (0x500, 0xD00) if self.levels > 3 else (0, 0x800)
        return f"efer {self.random.choice((without_nx, with_nx)):#x}"

    def host(self) -> str:
        page = self.random.choice([*DATA, *LOGGED, *HUGE, *LAZY])
        match self.random.randrange(13):
            case 0 | 1:
                self.logging = not self.logging
                return f"dirtylog {'on' if self.logging else 'off'} 2"
            case 2:
                return "getdirty 2" if self.logging else "nop"
            case 3:
                return f"madvise_dontneed {page:#x} 0x1000"
            case 4:
                return f"hosttouch {page:#x} 0x2000"
            case 5:
                return f"mprotect {page:#x} 0x1000 {self.random.choice(('ro', 'rw', 'none'))}"
            case 6:
                return f"remap {page:#x} 0x1000"
            case 7:
                return self.random.choice(("slot 5 0x50000000 64K", "delslot 5"))
            case 8:
                return self.random.choice(("movslot 4 0x30000000", "movslot 4 0x28000000"))
            case 9:
                return f"nrmmu {self.random.choice((64, 70, 1000))}"
            case 10:
                return f"modparam kvm nx_huge_pages {self.random.choice('YN')}"
            case 11:
                return f"madvise 0x28000000 0x200000 {self.random.choice((14, 15, 25))}"
            case _:
                return "mprotect 0x800000 0xc000 rw"

    def operation(self) -> str:
        cpu = self.random.choice((0, 0, 1))
        at = "@1 " if cpu else ""
        chance = self.random.random()
        if self.mode == "nopaging":
            return self.host() if chance < 0.25 else at + self.access()
        if chance < 0.5:
            return at + self.access()
        if chance < 0.78:
            return at + self.edit()
        if chance < 0.92:
            return at + self.control(cpu)
        return self.host()

    def is_possible(self, line: str) -> bool:
        """Whether the slots that the line needs are there; keeps track of slots 4 and 5."""
        word, *arguments = line.split()
        if line == "delslot 5":
            possible, self.has_slot_5 = self.has_slot_5, False
            return possible
        if word == "slot":
            self.has_slot_5 = True
        elif word == "movslot":
            self.slot_4 = arguments[1]
        elif word in ("madvise", "madvise_dontneed", "hosttouch", "mprotect", "remap"):
            return not arguments[0].startswith("0x28") or self.slot_4 == "0x28000000"
        return True

    def text(self) -> str:
        self.setup()
        end = len(self.lines) + self.count
        while len(self.lines) < end:
            line = self.operation()
            if self.is_possible(line):
                self.lines.append(line)
        return "\n".join(self.lines) + "\n"


def random_scenario(mode: str, seed: int, count: int) -> str:
    """The text of a scenario of `count` operations."""
    return Generator(mode, seed, count).text()
