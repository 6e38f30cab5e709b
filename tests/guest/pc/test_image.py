"""Program files: what is loaded, and what is refused before it is."""

import struct

import pytest
from guest.pc.programs import EXIT_3, HEADER, LOAD, elf32, elf64, flat, program

from shadowmmu.guest.pc.image import ImageError, Kind, kind_of, read_image
from shadowmmu.guest.pc.multiboot import boot_information

CODE = b"\xf4"


def test_elf_of_both_classes() -> None:
    for data in (elf32(CODE), elf64(CODE)):
        image = read_image(data)
        assert image.entry == LOAD + 12
        assert [(s.address, s.data[-1:], s.size) for s in image.segments] == [(LOAD, CODE, 13)]
        assert kind_of(data[:8192]) is Kind.MULTIBOOT


def test_an_entry_is_where_its_segment_is_loaded() -> None:
    image = read_image(elf64(CODE, vaddr=0xFFFFFFFF80100000))
    assert image.entry == LOAD + 12


def test_memory_behind_the_file() -> None:
    (segment,) = read_image(elf32(CODE, memory=0x5000)).segments
    assert (len(segment.data), segment.size) == (13, 0x5000)
    assert read_image(elf32(CODE, memory=0x5000)).end == LOAD + 0x5000


def test_flat_image() -> None:
    image = read_image(flat(CODE, bss=100))
    assert image.entry == LOAD + 32
    assert [(s.address, s.size) for s in image.segments] == [(LOAD, 133)]
    with pytest.raises(ImageError, match="truncated"):
        read_image(flat(CODE * 100)[:-1])


def test_kinds() -> None:
    assert kind_of(elf32(CODE, header=b"")) is Kind.LINUX
    assert kind_of(b"mode long4\n") is Kind.UNKNOWN
    assert kind_of(b"") is Kind.UNKNOWN
    broken = struct.pack("<III", 0x1BADB002, 0, 1)
    assert kind_of(broken) is Kind.UNKNOWN
    assert kind_of(b"\0\0" + elf32(CODE)[HEADER:]) is Kind.UNKNOWN, "the header has to be aligned"


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "neither"),
        (b"\x7fELF", "truncated in its ELF header"),
        (elf32(CODE)[:51], "truncated in its ELF header"),
        (elf64(CODE)[:60], "truncated in its ELF header"),
        (elf32(CODE)[:70], "program headers are missing"),
        (elf32(CODE)[:-5], "5 bytes of a segment are missing"),
        (elf32(CODE, machine=183), "AArch64, not for x86"),
        (elf32(CODE, machine=4711), "machine 4711, not for x86"),
        (elf32(CODE, kind=1), "object file"),
        (elf32(CODE, kind=4), "core dump"),
        (elf32(CODE, kind=7), "type 7"),
        (elf32(CODE, interp=True), "dynamically linked"),
        (elf32(CODE, header=b""), "no multiboot header"),
        (elf32(CODE, header=struct.pack("<I", 0xE85250D6)), "multiboot 2"),
        (elf32(CODE, header=struct.pack("<III", 0x1BADB002, 8, -(0x1BADB002 + 8) & 0xFFFFFFFF)), "features"),
        (elf32(CODE)[HEADER:], "not an ELF file"),
    ],
)
def test_what_is_refused(data: bytes, says: str) -> None:
    with pytest.raises(ImageError, match=says):
        read_image(data)


def test_big_endian_is_refused() -> None:
    data = bytearray(elf32(CODE))
    data[5] = 2
    data[16:20] = struct.pack(">HH", 2, 20)
    with pytest.raises(ImageError, match="PowerPC"):
        read_image(bytes(data))


def test_no_byte_of_the_headers_can_break_it() -> None:
    for data in (elf32(CODE), elf64(CODE), flat(CODE)):
        for at in (*range(min(120, len(data))), *range(HEADER, min(HEADER + 12, len(data)))):
            for value in (0, 1, 0x7F, 0x80, 0xFF):
                changed = bytearray(data)
                changed[at] = value
                try:
                    image = read_image(bytes(changed))
                except ImageError:
                    continue
                assert image.entry < 1 << 32


def test_boot_information() -> None:
    slots = [(0, 64 << 20)]
    address, block = boot_information("name -v", slots, [(LOAD, LOAD + 1)])
    flags, lower, upper, _, line = struct.unpack_from("<5I", block)
    assert flags & 0x45 == 0x45
    assert (lower, upper) == (640, 63 << 10)
    assert block[line - address :].startswith(b"name -v\0")
    length, at = struct.unpack_from("<2I", block, 44)
    entries = [struct.unpack_from("<IQQI", block, at - address + 24 * n) for n in range(length // 24)]
    assert entries == [
        (20, 0, 0x9FC00, 1),
        (20, 0x9FC00, 0x60400, 2),
        (20, 1 << 20, 63 << 20, 1),
    ]


def test_boot_information_is_where_the_program_is_not() -> None:
    slots = [(0, 64 << 20)]
    for taken in ([(0, 0xA000)], [(0, 0x81000)], [(0, 0x200000)], [(0x9000, 0x9001), (0x80000, 0x90000)]):
        address, block = boot_information("x" * 500, slots, taken)
        assert all(address + len(block) <= start or address >= end for start, end in taken)


def test_programs_are_made_as_expected() -> None:
    assert read_image(program(EXIT_3)).segments[0].data.endswith(b"\xf4")
