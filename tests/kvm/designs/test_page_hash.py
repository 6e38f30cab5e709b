"""Mail 000: the hash of shadow pages (`hash_function`, `hash_bits`)."""

import pytest
from kvm.designs.guests import OPS, by_default, play
from kvm.random_scenarios import MODES, random_scenario
from kvm.world import World

HASHES = [
    {"hash_function": "gfn", "hash_bits": "10"},
    {"hash_function": "gfn"},
    {"hash_bits": "10"},
    {"hash_bits": "1"},
    {"hash_bits": "20"},
]


def collisions(world: World) -> int:
    return world.kvm.stat.max_mmu_page_hash_collisions


@pytest.mark.parametrize(
    ("bits", "gfn", "bucket"), [(10, 837, 837), (10, 0x12345, 837), (12, 0x12345, 0x345)]
)
def test_low_bits_of_the_gfn(bits: int, gfn: int, bucket: int) -> None:
    world = World("long4", design={"hash_function": "gfn", "hash_bits": str(bits)})
    assert world.kvm.hash_bucket(gfn) == bucket


@pytest.mark.parametrize("bits", [1, 7, 10, 20])
def test_top_bits_of_the_product(bits: int) -> None:
    """Fewer buckets are unions of more."""
    world = World("long4", design={"hash_bits": str(bits)})
    whole = World("long4", design={"hash_bits": "20"})
    for gfn in (1, 2, 3, 0x100, 0x1000, 0x12345, 0x80000, 0xFFFFF, 1 << 36):
        assert world.kvm.hash_bucket(gfn) == whole.kvm.hash_bucket(gfn) >> (20 - bits)
    assert len(world.kvm.page_hash) == 1 << bits


@pytest.mark.parametrize(
    ("design", "low", "high"),
    [({"hash_function": "gfn", "hash_bits": "10"}, 30, 36), ({"hash_bits": "10"}, 0, 2), ({}, 0, 2)],
)
def test_direct_pages(design: dict[str, str], low: int, high: int) -> None:
    """Every 2 MiB of a guest without tables of its own has a page; nine of its gfn's low ten bits are 0."""
    world = World("nopaging", "slot 1 0x10000000 128M", start="start", design=design)
    for n in range(60):
        world.quick(f"read {0x10000000 + n * 0x200000:#x}")
    world.ok("nop")
    assert low <= collisions(world) <= high


@pytest.mark.parametrize(("function", "most"), [("gfn", 1), ("hash_64", 2)])
def test_shadowed_tables(function: str, most: int) -> None:
    """Tables that lie one behind the other: the low bits of their gfns tell them all apart."""
    world = World(
        "long4",
        "map 0x1000 0x40000000 0x800000 0x67 n=60 stride=0x200000",
        design={"hash_function": function, "hash_bits": "10"},
    )
    for n in range(60):
        world.quick(f"read {0x40000000 + n * 0x200000:#x}")
    world.ok("nop")
    assert collisions(world) <= most


@pytest.mark.parametrize("design", HASHES, ids=lambda design: " ".join(design.values()))
@pytest.mark.parametrize("mode", MODES)
def test_guests_do_not_notice(mode: str, design: dict[str, str]) -> None:
    text = random_scenario(mode, 71, OPS)
    assert play(text, design, checked=True) == by_default(text)
