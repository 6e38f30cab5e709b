"""The machine of a random guest: its memory, its tables and what fills them, as lines up to `start`."""

from __future__ import annotations

import random
from itertools import count

__all__ = ["MMUS", "MODES", "PROFILES", "GroundError", "Machine"]

MODES = ("long4", "long5", "pae", "32", "nopaging")
MMUS = ("shadow", "tdp", "direct", "nested")
"""Shadow paging, the TDP MMU, two-dimensional paging without it, and a hypervisor's guest."""
PROFILES = ("ordinary", "hostile")

DATA = [0x800000 + 0x1000 * i for i in range(12)]
LOGGED = [0x20000000 + 0x1000 * i for i in range(12)]
READ_ONLY = [0x24000000, 0x24001000]
LAZY = [0x28000000 + 0x1000 * i for i in range(4)]
NOTHING = [0xD0000000, 0xD0001000, 0xFEE00000]
HUGE = 0x10000000
TABLES = 0x40000
ODD_TABLES = {
    "plain": TABLES,
    "logged": 0x2C000000,
    "read-only": 0x2C000000,
    "lazy": 0x2C000000,
    "huge": 0x40000000,
}
WINDOWS = {"long4": 0x7F0000000000, "long5": 0xFF000000000000, "pae": 0x80000000, "32": 0xE0000000}
NESTED_WINDOW, HUGE_WINDOW = 0x50000000, 0x60000000
LEVELS = {"long4": 4, "long5": 5, "pae": 3, "32": 2, "nopaging": 0}
PAE_ROOT = 0x3F000
"""The page tables of a second vCPU in PAE mode."""
PHYSBITS = (36, 39, 46, 52)
HOSTBITS = (36, 43, 52)
L1TF_BITS = (44, 46)
USUAL_HOSTBITS = 40
FOUR_LEVELS = 48
"""Bits that four levels of nested tables translate: KVM has no answer to an address beyond (to prefault 2^48
maps 0), so that guests with nested tables use none.
"""
RESERVED_IN_PAE = 0x7FF << 52
RING_BYTES = {"amd": 4096, "intel": 16384}
"""The smallest that KVM accepts: PML may fill 512 entries at once."""
DISABLE_NX_HUGE_PAGES, DISABLE_SLOT_ZAP_ALL = "cap 220 0", "cap 213 128"


class GroundError(ValueError):
    """There is no such guest."""


class Machine:
    """The machine of one guest; `setup` are its lines up to `start`. See Ground for the arguments."""

    MANUAL: tuple[int, ...] = (0, 0, 0, 1, 3)
    """Values of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2 to choose from."""

    def __init__(
        self,
        mode: str,
        mmu: str,
        profile: str,
        seed: int,
        *,
        design: dict[str, str] | None = None,
        vendor: str | None = None,
    ) -> None:
        if mode == "nopaging" and mmu == "nested":
            raise GroundError("a guest without paging cannot be a hypervisor")
        self.random = rng = random.Random(f"{mode} {mmu} {profile} {seed}")
        self.mode, self.mmu, self.profile, self.seed = mode, mmu, profile, seed
        self.design = design or {}
        self.hostile = profile == "hostile"
        self.nested = mmu == "nested"
        self.levels = LEVELS[mode]
        self.entry_size, self.bits = (4, 10) if mode == "32" else (8, 9)
        self.large = 1 << 12 + self.bits
        self.mixed = self.nested and mode == "long4" and rng.random() < 0.5
        either = rng.choice(("amd", "amd", "intel")) if mmu in ("tdp", "direct") else "amd"
        self.vendor = vendor or either
        widest = 52 if mmu == "shadow" else FOUR_LEVELS
        self.physbits = min(rng.choice(PHYSBITS), widest) if rng.random() < 0.3 else 0
        self.hostbits = min(rng.choice(HOSTBITS), widest) if rng.random() < 0.2 else 0
        self.l1tf = self._l1tf()
        self.rings = rng.random() < 0.15
        self.crowded = rng.random() < (0.4 if self.nested else 0.2)
        self.kind = self.choose_kind()
        if self.kind == "read-only" and mmu != "shadow":
            self.kind = "plain"
        if self.kind == "huge":
            self.crowded = self.mixed = False
        self.stride = 0x200000 if self.kind == "huge" else 0x1000
        frames = count(ODD_TABLES[self.kind], self.stride)
        self.tables = {
            level: [next(frames) for _ in range(self._table_count(level))]
            for level in range(1, self.levels + 1)
        }
        self.everything = [(level, table) for level in self.tables for table in self.tables[level]]
        fixed = 3 if (mode == "pae" and self.nested) or self.mixed else 0
        self.edited = [(level, table) for level, table in self.everything if level != fixed]
        self.filled = 60 if self.crowded else 12
        self.window: dict[int, int] = {}
        self.logging = {1: False, 2: False}
        self.manual = rng.choice(self.MANUAL)
        self.eager = rng.random() < 0.8
        self.slot_4, self.has_slot_5 = 0x28000000, False
        self.cr0 = [0x80010033] * 2
        self.cr4 = [0x10 if mode == "32" else 0x1020 if mode == "long5" else 0x20] * 2
        self.in_l2 = [False, False]
        self.setup = self._setup()

    def _l1tf(self) -> int:
        """Return the bits that the L1 cache of a processor uses that is vulnerable to L1TF; else 0.

        It has dice of its own, so that a seed means the same guest on either vendor's processor.
        """
        dice = random.Random(f"l1tf {self.seed}")
        least = self.hostbits or USUAL_HOSTBITS
        if self.vendor != "intel" or least > L1TF_BITS[-1] or dice.random() < 0.7:
            return 0
        return dice.choice([least, *(bits for bits in L1TF_BITS if bits > least)])

    def choose_kind(self) -> str:
        """Choose the kind of memory that the tables are in."""
        kinds = ("plain", "logged", "lazy", "read-only")
        return self.random.choice(kinds) if self.hostile else "plain"

    # -- pieces of tables ----------------------------------------------------------------------------------

    def index(self, level: int) -> int:
        """Choose one of the few entries of a table that are in use."""
        if self.mode == "pae" and level == 3:
            return self.random.choice((0, 1))
        if self.nested and level > 3:
            return 0
        if level == 1:
            return self.random.choice((0, 1, 2, 3, 7, 8, 9, 511))
        if level == self.levels:
            return self.random.choice((0, 1))
        return self.random.choice(range(32) if self.crowded and level == 2 else (0, 1, 2))

    def _table_count(self, level: int) -> int:
        """Return how many tables there are of a level."""
        if self.crowded and level < min(self.levels, 3):
            return 80 if level == 1 else 8
        return 4 if level == 1 else 2

    def address(self) -> int:
        """Choose a linear address, or one of L2, that the tables may translate."""
        rng = self.random
        if self.mode == "nopaging":
            return self.data() + 4 * rng.randrange(4)
        gva = sum(self.index(level) << 12 + self.bits * (level - 1) for level in range(1, self.levels + 1))
        gva += 8 * rng.choice((0, 0, 1, 2, 300))
        if self.nested:
            return gva & 0x7FFFFFF8
        if self.levels > 3 and rng.random() < 0.2:
            gva = (gva | -1 << 11 + 9 * self.levels) % (1 << 64)
        return gva

    def data(self) -> int:
        pools = (DATA, LOGGED, READ_ONLY, [HUGE, HUGE + 0x1000, HUGE + 0x200000], LAZY, NOTHING)
        return self.random.choice(self.random.choices(pools, (8, 4, 1, 4, 2, 1))[0])

    def _maybe(self, bit: int, likely: float) -> int:
        return bit if self.random.random() < likely else 0

    def flags(self, *, leaf: bool) -> int:
        maybe = self._maybe
        flags = 1 | maybe(2, 0.85) | maybe(4, 0.96 if self.nested else 0.85) | maybe(0x20, 0.85)
        flags |= (maybe(0x40, 0.7) | maybe(0x100, 0.05)) if leaf else 0
        return flags | (maybe(1 << 63, 0.06) if self.entry_size == 8 else 0)

    def entry(self, level: int) -> int:
        """Make an entry for a table of a level."""
        rng, chance = self.random, self.random.random()
        if chance < 0.08:
            return rng.choice((0, 0, 0x20))
        if self.hostile and chance < 0.16 and (self.mode, level) != ("pae", 3):
            return self._hostile_entry(chance)
        if self.mode == "pae" and level == 3:
            return rng.choice(self.tables[2]) | 1
        if level == 1:
            return self.data() | self.flags(leaf=True)
        if level in (2, 3) and chance < 0.3:
            size = 1 << 12 + self.bits * (level - 1)
            page = rng.choice((HUGE, HUGE + 0x200000, 0x800000, LOGGED[0]))
            return page // size * size | self.flags(leaf=True) | 0x80
        return rng.choice(self.tables[level - 1]) | self.flags(leaf=False)

    def _hostile_entry(self, chance: float) -> int:
        rng = self.random
        if chance < 0.1:
            entry = rng.getrandbits(8 * self.entry_size) | 1
            return entry & ~RESERVED_IN_PAE if self.mixed else entry
        page = rng.choice((*(table for _, table in self.edited), *NOTHING, *READ_ONLY, 0xF0001000))
        return page | self.flags(leaf=True) & ~0x100 | self._maybe(0x80, 0.1)

    # -- setup ---------------------------------------------------------------------------------------------

    def _setup(self) -> list[str]:
        rng = self.random
        lines = [f"title {self.profile} guest, {self.mode}, {self.mmu} MMU, seed {self.seed}"]
        lines += [f"design {name}={value}" for name, value in self.design.items()]
        lines += ["vendor intel"] if self.vendor == "intel" else []
        if self.mmu != "shadow":
            tdp_mmu = rng.choice((0, 1)) if self.nested else int(self.mmu == "tdp")
            if self.vendor == "intel":
                ad_bits = f"eptad={rng.choice('YN')} pml={rng.choice('YN')}"
                lines.append(f"param kvm_intel ept=1 {ad_bits}")
            else:
                lines.append("param kvm_amd npt=1")
            lines += [f"param kvm tdp_mmu={tdp_mmu}"]
            lines += [f"param kvm eager_page_split={int(self.eager)}"]
        lines += [f"param kvm nx_huge_pages={int(rng.random() < 0.2)}"]
        lines += [f"physbits {self.physbits}"] if self.physbits else []
        lines += [f"hostbits {self.hostbits}"] if self.hostbits else []
        lines += [f"host l1tf={self.l1tf}"] if self.l1tf else []
        lines += [f"mode {self.mode}", "vcpus 2", *(["mode@1 pae"] if self.mixed else [])]
        lines += [*(["nested"] if self.nested else []), "slot 0 0x0 16M"]
        lines += [f"slot 1 {HUGE:#x} 8M {rng.choice(('huge2m', 'huge2m', 'thp', 'memfd'))}"]
        lines += ["slot 2 0x20000000 256K", "slot 3 0x24000000 64K ro"]
        lines += [f"slot 4 0x28000000 4M lazy{rng.choice((' thp', ''))}"]
        if self.kind == "huge":
            lines.append(f"slot 6 {ODD_TABLES['huge']:#x} {2 * len(self.everything)}M huge2m")
        elif self.kind != "plain":
            option = {"logged": "dirty", "lazy": "lazy", "read-only": "ro"}[self.kind]
            lines.append(f"slot 6 0x2c000000 2M {option}")
        if self.rings:
            lines.append(f"cap 192 {RING_BYTES[self.vendor]}")
        elif self.manual:
            lines.append(f"cap 168 {self.manual}")
        lines += [DISABLE_NX_HUGE_PAGES] if rng.random() < 0.1 else []
        lines += [f"code {page:#x}" for page in (*DATA, *LOGGED, HUGE, HUGE + 0x1000, HUGE + 0x200000)]
        if self.mode == "nopaging":
            return [*lines, "tramp", "start"]
        lines.append("alloc 0x2000")
        return lines + (self._nested_setup() if self.nested else self._own_tables())

    def _own_tables(self) -> list[str]:
        first, *others = self.tables[self.levels]
        lines = [f"tramp {root:#x}" for root in (first, *others)]
        window = WINDOWS[self.mode]
        for n, (_, table) in enumerate(self.everything):
            self.window[table] = window + self.stride * n
            large = " level=2" if self.kind == "huge" else ""
            lines.append(f"map {first:#x} {self.window[table]:#x} {table:#x} 0x67{large}")
        shift = 12 + self.bits * (self.levels - 1)
        top = window >> shift & (3 if self.mode == "pae" else (1 << self.bits) - 1)
        present = 1 if self.mode == "pae" else 0x27
        lines += [f"pt {root:#x} {top} {0x2000 | present:#x}" for root in others]
        for level, table in self.everything:
            for index in sorted({self.index(level) for _ in range(self.filled)}):
                lines.append(f"pt {table:#x} {index} {self.entry(level):#x}")
        return [*lines, f"start cr3={first:#x} cr3@1={self.random.choice((first, others[0])):#x}"]

    def _nested_setup(self) -> list[str]:
        base = ODD_TABLES[self.kind]
        tables = len(self.everything)
        huge = " level=2" if self.kind == "huge" else ""
        lines = ["tramp 0x1000", f"map 0x1000 {NESTED_WINDOW:#x} {base:#x} 0x67 n={tables}{huge}"]
        self.window = {table: NESTED_WINDOW + table - base for _, table in self.everything}
        large = f"level=2 n={0x800000 // self.large}"
        lines += [f"map 0x1000 {HUGE_WINDOW:#x} {HUGE:#x} 0x67 {large}", "alloc 0xa0000"]
        for level, table in self.everything:
            for index in sorted({self.index(level) for _ in range(self.filled)}) if level < 4 else (0,):
                entry = self.entry(level) if level < 4 else self.tables[level - 1][0] | 0x27
                lines.append(f"npt pt {table:#x} {index} {entry:#x}")
        present = 1 if self.mode == "pae" else 0x27
        middle = self.tables[min(self.levels, 3)] if self.levels > 2 else []
        lines += [f"npt pt {table:#x} 3 {0xF010E000 | present:#x}" for table in middle]
        roots = self.roots(0)
        lines += [f"ntramp {root:#x}" for root in roots]
        start = f"start cr3=0x1000 ncr3={roots[0]:#x} ncr3@1={self.roots(1)[1]:#x}"
        return (
            [*lines, *self._pae_tables(), f"{start} cr3@1={PAE_ROOT:#x} efer@1=0x800"]
            if self.mixed
            else [*lines, start]
        )

    def _pae_tables(self) -> list[str]:
        """Return the setup lines of the own tables of a second vCPU that is in PAE mode, with the same
        windows.
        """
        windows = [
            f"map@1 {PAE_ROOT:#x} {gva:#x} {table:#x} 0x67"
            for gva, table in ((window, table) for table, window in self.window.items())
        ]
        large = f"level=2 n={0x800000 // self.large}"
        huge = f"map@1 {PAE_ROOT:#x} {HUGE_WINDOW:#x} {HUGE:#x} 0x67 {large}"
        return [f"tramp@1 {PAE_ROOT:#x}", *windows, huge]

    def roots(self, cpu: int) -> list[int]:
        """Return the nested roots of a vCPU: where the second one is in PAE mode, its PDPTEs are in these
        tables.
        """
        return self.tables[3 if self.mixed and cpu else self.levels]
