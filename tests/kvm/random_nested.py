"""Random scenarios of a hypervisor, L1, and its guest, L2: L1 rewrites nested tables that L2 runs on.

Nested tables of every level are filled at random and shared, L1 edits them through a window, the host logs,
splits and takes memory away. The same seed gives the same scenario. L2's own code and L1's own tables stay.
"""

import random

MODES = ("long4", "long5", "pae", "32")
DATA = [0x800000 + 0x1000 * i for i in range(8)]
LOGGED = [0x20000000 + 0x1000 * i for i in range(8)]
NOTHING = [0xD0000000, 0xFEE00000]
HUGE = 0x10000000
WINDOW, HUGE_WINDOW = 0x50000000, 0x60000000
TABLES = 0x22000000
SVME = {"long4": 0xD00, "long5": 0xD00, "pae": 0x800, "32": 0}


class NestedGenerator:
    """Writes one scenario of about `count` operations."""

    def __init__(self, mode: str, seed: int, count: int) -> None:
        self.random = rng = random.Random(f"nested {mode} {seed}")
        self.mode = mode
        self.count = count
        self.levels = {"long4": 4, "long5": 5, "pae": 3, "32": 2}[mode]
        self.size, self.bits = (4, 10) if mode == "32" else (8, 9)
        self.large = 1 << 22 if mode == "32" else 1 << 21
        self.base = rng.choice((0x20000, TABLES))
        frames = iter(range(self.base, self.base + 0x40000, 0x1000))
        self.tables = {
            level: [next(frames) for _ in range(4 if level == 1 else 2)]
            for level in range(1, self.levels + 1)
        }
        self.everything = [(level, table) for level in self.tables for table in self.tables[level]]
        self.lines: list[str] = []
        self.logging = {1: False, 2: False}
        self.eager = rng.random() < 0.8
        self.manual = rng.choice((0, 0, 1, 3))

    # -- pieces ------------------------------------------------------------------------------------------

    def index(self, level: int) -> int:
        if level > 3:
            return 0
        if level == 3:
            return self.random.choice((0, 1))
        return self.random.choice((0, 1, 2, 3, 8, 511) if level == 1 else (0, 1, 2, 3))

    def address(self) -> int:
        found = sum(self.index(level) << 12 + self.bits * (level - 1) for level in range(1, self.levels + 1))
        return found & 0x7FFFFFFF | self.random.choice((0, 0, 4, 0xFFC, 0xFFE))

    def flags(self, *, leaf: bool) -> int:
        def maybe(bit: int, likely: float) -> int:
            return bit if self.random.random() < likely else 0

        flags = 1 | maybe(2, 0.9) | maybe(4, 0.96) | maybe(0x20, 0.8) | (maybe(0x40, 0.7) if leaf else 0)
        return flags | (maybe(1 << 63, 0.06) | maybe(1 << 45, 0.02) if self.size == 8 else 0)

    def entry(self, level: int) -> int:
        chance = self.random.random()
        if chance < 0.1:
            return self.random.choice((0, 0, 0x20))
        if self.mode == "pae" and level == 3:
            return self.random.choice(self.tables[2]) | 1
        if level == 1:
            table = self.random.choice(self.everything)[1]
            huge = HUGE + self.random.choice((0, 0x1000, 0x200000, 0x3FF000))
            page = self.random.choice((*DATA, *LOGGED, *NOTHING, table, huge, huge, huge, huge))
            return page | self.flags(leaf=True)
        if level == 2 and chance < 0.55:
            page = self.random.choice((HUGE, HUGE, HUGE + self.large, 0x800000, LOGGED[0]))
            return page // self.large * self.large | self.flags(leaf=True) | 0x80
        if level == 3 and chance < 0.2:
            return 0x40000000 | self.flags(leaf=True) | 0x80
        if chance < 0.59:
            return self.random.choice((0x70000000, self.everything[0][1])) | self.flags(leaf=False)
        return self.random.choice(self.tables[level - 1]) | self.flags(leaf=False)

    # -- setup -------------------------------------------------------------------------------------------

    def setup(self) -> None:
        rng = self.random
        self.lines += [
            "param kvm_amd npt=1",
            f"param kvm tdp_mmu={int(rng.random() < 0.7)}",
            f"param kvm eager_page_split={int(self.eager)}",
            f"param kvm nx_huge_pages={int(rng.random() < 0.25)}",
            f"param kvm flush_on_reuse={int(rng.random() < 0.15)}",
            f"mode {self.mode}",
            "vcpus 2",
            "nested",
            "slot 0 0x0 16M",
            f"slot 1 {HUGE:#x} 8M {rng.choice(('huge2m', 'huge2m', 'thp', 'memfd', ''))}",
            f"slot 2 0x20000000 64K {rng.choice(('', '', 'lazy'))}",
            f"slot 3 {TABLES:#x} 2M {rng.choice(('', 'dirty', 'thp', 'huge2m', 'lazy'))}",
        ]
        self.lines += [f"cap 168 {self.manual}"] if self.manual else []
        self.lines += ["alloc 0x2000", "tramp 0x1000", f"map 0x1000 {WINDOW:#x} {self.base:#x} 0x67 n=16"]
        huge = "level=2 n=2" if self.mode == "32" else "level=2 n=4"
        self.lines += [f"map 0x1000 {HUGE_WINDOW:#x} {HUGE:#x} 0x67 {huge}", "alloc 0xa0000"]
        for level, table in self.everything:
            for index in sorted({self.index(level) for _ in range(8)}) if level < 4 else (0,):
                entry = self.entry(level) if level < 4 else rng.choice(self.tables[level - 1]) | 0x27
                self.lines.append(f"npt pt {table:#x} {index} {entry:#x}")
        middle = self.tables[min(self.levels, 3)] if self.levels > 2 else []
        present = 1 if self.mode == "pae" else 0x27
        self.lines += [f"npt pt {table:#x} 3 {0xF010E000 | present:#x}" for table in middle]
        roots = self.tables[self.levels]
        self.lines += [f"ntramp {roots[0]:#x}", f"ntramp {roots[1]:#x}"]
        self.lines.append(f"start cr3=0x1000 ncr3={roots[0]:#x} ncr3@1={roots[1]:#x}")
        self.lines += ["nop", "@1 nop"]

    # -- operations --------------------------------------------------------------------------------------

    def in_l2(self) -> str:
        kind = self.random.choices(("read", "write", "xchg", "add", "cmpxchg", "stos"), (9, 8, 1, 1, 1, 1))[0]
        values = {"read": "", "cmpxchg": " 0x5 0x0", "stos": " 0x7 n=2"}
        return f"l2{kind} {self.address():#x}{values.get(kind, f' {self.random.getrandbits(16):#x}')}"

    def edit(self) -> list[str]:
        level, table = self.random.choice(self.everything)
        value, gva = self.entry(level), WINDOW + table - self.base + self.size * self.index(level)
        kind = self.random.choices(("write", "xchg", "add", "stos"), (8, 2, 1, 1))[0]
        if kind in ("add", "stos"):
            return [f"{kind} {gva:#x} 0x0" + (" n=4" if kind == "stos" else "")]
        if self.mode == "pae":
            return [f"{kind} {gva:#x} {value & 0xFFFFFFFF:#x}", f"write {gva + 4:#x} {value >> 32:#x}"]
        return [f"{kind} {gva:#x} {value:#x}"]

    def in_l1(self) -> list[str]:
        rng, chance = self.random, self.random.random()
        if chance < 0.65:
            return self.edit()
        if chance < 0.8:
            gva = HUGE_WINDOW + 0x200000 * rng.randrange(4) + 0x1000 * rng.randrange(4)
            return [f"{rng.choice(('read', 'write'))} {gva:#x}"]
        if chance < 0.84 and self.levels > 3:
            return [f"cr4 {rng.choice((0, 1 << 20, 1 << 21)) | (0x1020 if self.levels == 5 else 0x20):#x}"]
        if chance < 0.86:
            return [f"l1invlpga {self.address():#x} 1"]
        if chance < 0.88:
            return ["vmcb asid=0", "l2nop", "vmcb asid=1"]
        if chance < 0.90:
            return [f"efer {SVME[self.mode]:#x}", "l2nop", f"efer {SVME[self.mode] | 0x1000:#x}"]
        root = rng.choice(self.tables[self.levels])
        if rng.random() < 0.1:
            root = rng.choice((0x70000000, self.tables[1][0], 1 << 45))
        return [f"ncr3 {root:#x}", "l2exit"]

    def host(self) -> list[str]:
        rng = self.random
        page = rng.choice((*DATA, *LOGGED))
        match rng.randrange(12):
            case 0 | 1 | 2:
                slot = rng.choice((1, 1, 2))
                self.logging[slot] = not self.logging[slot]
                return [f"dirtylog {'on' if self.logging[slot] else 'off'} {slot}"]
            case 3 | 4:
                slot = rng.choice((1, 1, 2))
                return [f"getdirty {slot}"] if self.logging[slot] else []
            case 5:
                return (
                    [f"cleardirty 1 {64 * rng.randrange(32)} 64"] if self.manual and self.logging[1] else []
                )
            case 6:
                return [f"madvise_dontneed {page:#x} 0x1000", f"hosttouch {page:#x} 0x1000"]
            case 7:
                return [f"madvise_dontneed {HUGE + 0x200000 * rng.randrange(4):#x} 0x200000"]
            case 8:
                return ["mprotect 0x800000 0x4000 ro", self.in_l2(), "mprotect 0x800000 0x4000 rw"]
            case 9:
                return ["slot 5 0x70000000 64K", self.in_l2(), "delslot 5"]
            case 10:
                self.eager = not self.eager
                return [f"modparam kvm eager_page_split {'NY'[self.eager]}", "hostsregs"]
            case _:
                return [
                    f"nrmmu {rng.choice((64, 70, 1000))}",
                    f"modparam kvm nx_huge_pages {rng.choice('NY')}",
                ]

    def text(self) -> str:
        self.setup()
        end = len(self.lines) + self.count
        while len(self.lines) < end:
            at = self.random.choice(("", "", "@1 "))
            chance = self.random.random()
            if chance < 0.6:
                self.lines.append(at + self.in_l2())
            elif chance < 0.8:
                self.lines.append(f"{at}l2exit")
                for _ in range(self.random.choice((1, 2, 4))):
                    self.lines += [at + line for line in self.in_l1()]
            else:
                self.lines += self.host()
        return "\n".join(self.lines) + "\n"


def random_nested(mode: str, seed: int, count: int) -> str:
    """The text of a scenario of about `count` operations."""
    return NestedGenerator(mode, seed, count).text()
