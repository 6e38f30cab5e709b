"""Guest entries decoded, in each paging mode."""

from hypothesis import given, strategies as st

from shadowmmu.show.decode import GpteFormat, decode_gpte

TWO_LEVEL = GpteFormat(levels=2)
PAE = GpteFormat(levels=3)


@given(
    word=st.integers(0, (1 << 64) - 1),
    levels=st.sampled_from([2, 3, 4, 5]),
    level=st.none() | st.integers(1, 5),
    maxphyaddr=st.integers(32, 52),
)
def test_any_entry_comes_back_from_its_fields(
    word: int, levels: int, level: int | None, maxphyaddr: int
) -> None:
    form = GpteFormat(levels=levels, maxphyaddr=maxphyaddr)
    word &= (1 << form.bits) - 1
    decoded = decode_gpte(word, level=min(level, levels) if level else None, form=form)
    assert decoded.encoded() == word


def test_a_leaf_says_where_it_leads() -> None:
    assert decode_gpte(0x807067, level=1).title == "guest entry of level 1: maps 4 KiB at gpa 0x807000"
    assert decode_gpte(0x8000E7, level=2).title == "guest entry of level 2: maps 2 MiB at gpa 0x800000"
    assert decode_gpte(0x2027, level=4).title == "guest entry of level 4: points to a table at gpa 0x2000"


def test_a_huge_32_bit_entry_has_the_bits_of_pse36() -> None:
    decoded = decode_gpte(0x00C020E7, level=2, form=TWO_LEVEL)
    assert decoded.title == "guest entry of level 2: maps 4 MiB at gpa 0x100c00000"


def test_bit_7_means_nothing_without_pse() -> None:
    form = GpteFormat(levels=2, pse=False)
    assert "points to a table" in decode_gpte(0x20E7, level=2, form=form).title


def test_reserved_bits_are_named_where_they_stand_and_in_a_sentence() -> None:
    decoded = decode_gpte(1 << 45 | 0x807067, level=1, form=GpteFormat(maxphyaddr=40))
    assert any("reserved, must be 0: bit 45" in field.meaning for field in decoded.fields)
    assert decoded.implies[0].startswith("Reserved bit 45 set: every walk through it ends in #PF with RSVD")
    assert "Reserved bits 5, 2, 1 set" in decode_gpte(0x2027, level=3, form=PAE).implies[0]


def test_an_entry_without_p_is_the_guests_own() -> None:
    decoded = decode_gpte(0xDEAD0000)
    assert decoded.title == "guest entry that maps nothing"
    assert decoded.encoded() == 0xDEAD0000
