import pytest

from shadowmmu.x86.bits import NX, PS
from shadowmmu.x86.paging import (
    FIVE_LEVEL,
    FOUR_LEVEL,
    NO_PAGING,
    PAE,
    TWO_LEVEL,
    entry_gfn,
    is_canonical,
    paging_format,
    permission_bitmask,
    pse36_gfn_delta,
    reserved_bits,
)

TOP = 0xFFFF_FFFF_FFFF_FFFF


def bits(high: int, low: int) -> int:
    return sum(1 << bit for bit in range(low, high + 1))


@pytest.mark.parametrize(
    ("wp", "nx", "smep", "smap", "table"),
    [
        (1, 1, 0, 0, "00 33 0f 3f 00 33 0f 3f 55 77 5f 7f 55 77 5f 7f"),
        (1, 1, 1, 1, "f0 f3 0f 3f 00 33 0f 3f f5 f7 5f 7f f5 f7 5f 7f"),
        (0, 0, 0, 0, "00 00 0f 3f 00 00 0f 3f 00 00 0f 3f 00 00 0f 3f"),
        (0, 1, 1, 0, "00 00 0f 3f 00 00 0f 3f f5 f5 5f 7f f5 f5 5f 7f"),
    ],
)
def test_permission_vectors(wp: int, nx: int, smep: int, smap: int, table: str) -> None:
    """Appendix E of the specification of the shadow MMU."""
    assert permission_bitmask(wp=bool(wp), nx=bool(nx), smep=bool(smep), smap=bool(smap)).hex(" ") == table


def test_no_reserved_bits_without_paging() -> None:
    assert reserved_bits(0, 40, nx=False, pse=True, gbpages=True, amd=True) == ((), ())


@pytest.mark.parametrize(("pse", "large"), [(False, 0), (True, bits(21, 17))])
def test_reserved_bits_of_2_levels(pse: bool, large: int) -> None:
    assert reserved_bits(2, 40, nx=False, pse=pse, gbpages=True, amd=True) == ((0, 0), (0, large))


@pytest.mark.parametrize(("nx", "nx_bit"), [(True, 0), (False, NX)])
def test_reserved_bits_of_pae(nx: bool, nx_bit: int) -> None:
    high = bits(62, 40) | nx_bit
    pdpte = NX | bits(62, 40) | bits(8, 5) | bits(2, 1)
    assert reserved_bits(3, 40, nx=nx, pse=True, gbpages=True, amd=True) == (
        (high, high, pdpte),
        (high, high | bits(20, 13), 0),
    )


@pytest.mark.parametrize("levels", [4, 5])
@pytest.mark.parametrize("amd", [False, True])
@pytest.mark.parametrize("gbpages", [False, True])
@pytest.mark.parametrize("nx", [False, True])
def test_reserved_bits_of_long_mode(levels: int, amd: bool, gbpages: bool, nx: bool) -> None:
    high = bits(51, 46) | (0 if nx else NX)
    no_gb = 0 if gbpages else PS
    top = [high | PS | (1 << 8 if amd else 0)] * (levels - 3)
    assert reserved_bits(levels, 46, nx=nx, pse=False, gbpages=gbpages, amd=amd) == (
        (high, high, high | no_gb, *top),
        (high, high | bits(20, 13), high | no_gb | bits(29, 13), *top),
    )


def test_a_maxphyaddr_of_52_reserves_no_address_bit() -> None:
    low, _ = reserved_bits(4, 52, nx=True, pse=True, gbpages=True, amd=False)
    assert low == (0, 0, 0, PS)


@pytest.mark.parametrize(
    ("form", "gva", "level", "index"),
    [
        (TWO_LEVEL, 0xFFC0_1000, 2, 1023),
        (TWO_LEVEL, 0xFFC0_1000, 1, 1),
        (PAE, 0xC000_0000, 3, 3),
        (PAE, 0x0020_0000, 2, 1),
        (FOUR_LEVEL, 0xFFFF_8000_0000_0000, 4, 256),
        (FIVE_LEVEL, 0xFFFF_8000_0000_0000, 5, 511),
    ],
)
def test_index(form: object, gva: int, level: int, index: int) -> None:
    assert form.index(gva, level) == index


def test_entry_gfn_rounds_to_the_level_and_drops_what_is_not_an_address() -> None:
    assert entry_gfn(FOUR_LEVEL, NX | 0x7FF0_1234_5678_9FFF, 1) == 0x1_2345_6789
    assert entry_gfn(FOUR_LEVEL, 0x1234_5678_9FFF, 2) == 0x1_2345_6600
    assert entry_gfn(PAE, 0x1234_5678_9FFF, 3) == 0x1_2344_0000
    assert entry_gfn(TWO_LEVEL, 0xFEDC_BFFF, 1) == 0xFEDCB
    assert entry_gfn(TWO_LEVEL, 0xFEDC_BFFF, 2) == 0xFEC00


def test_pse36_takes_bits_16_to_13_as_35_to_32() -> None:
    assert pse36_gfn_delta(0x1_E000) << 12 == 0xF_0000_0000
    assert pse36_gfn_delta(0xFFFE_1FFF) == 0


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        (
            FOUR_LEVEL,
            (0, 0x7FFF_FFFF_FFFF, 0xFFFF_8000_0000_0000, TOP),
            (0x8000_0000_0000, 0xFFFF_7FFF_FFFF_FFFF),
        ),
        (FIVE_LEVEL, (0x00FF_FFFF_FFFF_FFFF, 0xFF00_0000_0000_0000, TOP), (1 << 56, 0xFEFF_FFFF_FFFF_FFFF)),
        (PAE, (0, 0xFFFF_FFFF), (1 << 32, TOP)),
        (NO_PAGING, (0xFFFF_FFFF,), (1 << 32,)),
    ],
)
def test_canonical(form: object, good: tuple[int, ...], bad: tuple[int, ...]) -> None:
    assert all(is_canonical(form, address) for address in good)
    assert not any(is_canonical(form, address) for address in bad)


@pytest.mark.parametrize("levels", [0, 2, 3, 4, 5])
def test_formats_are_found_by_their_number_of_levels(levels: int) -> None:
    assert paging_format(levels).levels == levels


def test_there_is_no_one_level_paging() -> None:
    with pytest.raises(ValueError, match="no paging mode has 1 levels"):
        paging_format(1)
    with pytest.raises(ValueError, match="no paging mode has 6 levels"):
        reserved_bits(6, 40, nx=True, pse=True, gbpages=True, amd=True)
