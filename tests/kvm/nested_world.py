"""A World whose guest is a hypervisor, L1.

Its nested tables for L2 are at NPT: root, PDPT, PD, PT one after the other (32: root and PT; PAE: root, PD,
PT). L2 sees four pages at DATA, and slot 1, 8 MiB at HUGE, from L2_HUGE on in large pages. L1 has the nested
tables at WINDOW and slot 1 at L1_HUGE.
"""

from kvm.world import World

from shadowmmu.guest.play.player import OpResult
from shadowmmu.kvm.bits import SPTE_MMU_PRESENT
from shadowmmu.kvm.pages.shadow_walk import shadow_walk_sptep
from shadowmmu.kvm.state.vcpu import Vcpu
from shadowmmu.x86.bits import ADDR, PS, P

NPT, DATA, HUGE = 0x1F000, 0x800000, 0x10000000
WINDOW, L1_HUGE, L2_HUGE = 0x40000000, 0x60000000, 0x50000000
PT = NPT + 0x3000
"""L1's leaf table for DATA in mode long4."""
MODES = ("long4", "long5", "pae", "32")
"""Paging modes of L1."""


def pt(page: int, value: int) -> str:
    """L1 writes the entry of a page of DATA in its nested tables."""
    return f"write {WINDOW + 0x3000 + 8 * page:#x} {value:#x}"


def nested_text(
    *setup: str, mode: str = "long4", tdp_mmu: int = 1, vcpus: int = 2, backing: str = "huge2m"
) -> str:
    """The scenario up to `start`; `setup` comes at its end, parameters and capabilities first."""
    early = [line for line in setup if line.split()[0] in ("param", "cap", "slot")]
    large = 1 << 22 if mode == "32" else 1 << 21
    lines = [
        "param kvm_amd npt=1",
        f"param kvm tdp_mmu={tdp_mmu}",
        *(line for line in early if line.startswith("param")),
        f"mode {mode}",
        f"vcpus {vcpus}",
        "nested",
        "slot 0 0x0 16M",
        f"slot 1 {HUGE:#x} 8M {backing}",
        *(line for line in early if not line.startswith("param")),
        "alloc 0x2000",
        "tramp 0x1000",
        f"map 0x1000 {WINDOW:#x} {NPT:#x} 0x67 n=8",
        f"map 0x1000 {L1_HUGE:#x} {HUGE:#x} 0x67 level=2 n={0x800000 // large}",
        "alloc 0x20000",
        f"ntramp {NPT:#x}",
        f"npt map {NPT:#x} {DATA:#x} {DATA:#x} 0x67 n=4",
        f"npt map {NPT:#x} {L2_HUGE:#x} {HUGE:#x} 0x67 level=2 n={0x800000 // large}",
        *(line for line in setup if line not in early),
        f"start cr3=0x1000 ncr3={NPT:#x}",
    ]
    return "\n".join(lines) + "\n"


def nested_world(
    *setup: str, mode: str = "long4", tdp_mmu: int = 1, tlb: bool = False, **options: object
) -> World:
    """Both vCPUs have run their first instruction."""
    host_la57 = bool(options.pop("host_la57", False))
    world = World.of(nested_text(*setup, mode=mode, tdp_mmu=tdp_mmu, **options), tlb=tlb, host_la57=host_la57)
    world.ok("nop", "@1 nop")
    return world


def vmexit(played: OpResult) -> tuple[int, int, int]:
    """Code and both infos of the #VMEXIT that an operation ended in."""
    assert played.result["outcome"] == "vmexit", played.result
    return tuple(int(played.result[name], 16) for name in ("code", "info1", "info2"))


def nested_walk(world: World, ngpa: int, vcpu: Vcpu | None = None) -> list[int]:
    """Addresses of the SPTEs on the walk of guest_mmu for an address of L2, the last one last."""
    mmu = (vcpu or world.vcpu).guest_mmu
    level, table, found = mmu.shadow_level(), mmu.root_hpa, []
    if table in (0, (1 << 64) - 1):
        return []
    while True:
        sptep = shadow_walk_sptep(table, ngpa, level)
        found.append(sptep)
        spte = world.kvm.read_spte(sptep)
        present = spte & (P if mmu.root_is_special() and level > 2 else SPTE_MMU_PRESENT)
        if not present or level == 1 or (spte & PS and level < 4):
            return found
        table, level = spte & ADDR, level - 1


def nested_spte(world: World, ngpa: int) -> int:
    """The last SPTE on that walk; 0 if there is no root."""
    walk = nested_walk(world, ngpa)
    return world.kvm.read_spte(walk[-1]) if walk else 0
