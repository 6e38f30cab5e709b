"""The symbol table of a program, also of one that is damaged."""

import struct
from pathlib import Path

import pytest

from shadowmmu.guest.observe.symbols import NO_SYMBOLS, read_symbols

STORM = Path(__file__).parents[1] / "linux" / "guests" / "storm.elf"
DATA = STORM.read_bytes()


def test_a_symbol_has_an_address_and_an_address_its_symbol():
    symbols = read_symbols(DATA)
    touch = symbols.address("touch")
    assert touch is not None
    assert symbols.text(touch) == "touch"
    assert symbols.text(touch + 2) == "touch+0x2"


def test_an_address_after_the_end_of_a_symbol_belongs_to_none():
    symbols = read_symbols(DATA)
    table = symbols.at(symbols.address("table"))
    assert table.size == 16 * 4096
    assert symbols.at(table.address + table.size - 1) is table
    assert symbols.at(table.address + table.size) is not table


def test_a_program_that_may_be_anywhere_has_its_symbols_where_it_is():
    assert read_symbols(DATA, 0x1000).address("touch") == read_symbols(DATA).address("touch") + 0x1000


def test_names_that_do_not_exist_have_others_that_are_like_them():
    assert read_symbols(DATA).address("tuch") is None
    assert read_symbols(DATA).like("tuch") == ["touch"]


@pytest.mark.parametrize("length", [0, 4, 40, 63, 64, 1000, len(DATA) - 500])
def test_a_file_without_its_section_headers_has_none(length):
    assert len(read_symbols(DATA[:length])) == 0


def test_what_is_no_program_has_none():
    assert len(read_symbols(b"#!/bin/sh\n")) == len(NO_SYMBOLS) == 0


@pytest.mark.parametrize("offset", range(0x28, 0x40, 2))
@pytest.mark.parametrize("value", [0, 1, 0x7FFF, 0xFFFF])
def test_no_number_in_the_header_breaks_the_reader(offset, value):
    damaged = bytearray(DATA)
    struct.pack_into("<H", damaged, offset, value)
    assert len(read_symbols(bytes(damaged))) >= 0


def test_no_number_in_the_section_headers_breaks_the_reader():
    (start,) = struct.unpack_from("<Q", DATA, 40)
    for offset in range(start, len(DATA) - 8, 4):
        damaged = bytearray(DATA)
        struct.pack_into("<I", damaged, offset, 0xFFFFFFF0)
        assert len(read_symbols(bytes(damaged))) >= 0
