"""Program files: ELF and multiboot images, checked before a byte of them is loaded.

A file is hostile: every number in it is held against the file's size and the guest's memory.
"""

import struct
from dataclasses import dataclass
from enum import Enum

__all__ = ["Image", "ImageError", "Kind", "Segment", "kind_of", "read_image"]

ELF_MAGIC = b"\x7fELF"
HEADER_MAGIC, HEADER_MAGIC_2 = 0x1BADB002, 0xE85250D6
HEADER_SEARCH = 8192
HEADER_ADDRESSES = 1 << 16
HEADER_UNKNOWN = 0xFFF8
"""Flags of things that a boot loader must know or refuse."""
ET_REL, ET_EXEC, ET_DYN, ET_CORE = 1, 2, 3, 4
EM_386, EM_X86_64 = 3, 62
PT_LOAD, PT_INTERP = 1, 3
MACHINES = {
    2: "SPARC",
    8: "MIPS",
    20: "PowerPC",
    21: "PowerPC64",
    22: "s390",
    40: "ARM",
    183: "AArch64",
    243: "RISC-V",
}
MOST_SEGMENTS = 4096
LOWEST = 0x1000


class ImageError(ValueError):
    """A program that cannot be run; the text says why, and how to fix it."""


class Kind(Enum):
    """What a file is, by its first bytes.

    MULTIBOOT   a program for a bare machine
    LINUX       a program for Linux
    UNKNOWN     neither
    """

    MULTIBOOT = "multiboot"
    LINUX = "linux"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Segment:
    """Bytes at a guest-physical address, followed by zeros up to `size`."""

    address: int
    data: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Image:
    """A multiboot program: what to load, and where it starts (32 bits, paging off)."""

    entry: int
    segments: tuple[Segment, ...]

    @property
    def end(self) -> int:
        """The first address after all segments."""
        return max((segment.address + segment.size for segment in self.segments), default=0)


@dataclass(frozen=True, slots=True)
class _Program:
    """A program header."""

    type: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int


def kind_of(head: bytes) -> Kind:
    """Return what a file that begins with `head` is; the first 8 KiB say it."""
    if _find_header(head) is not None:
        return Kind.MULTIBOOT
    if head.startswith(ELF_MAGIC):
        return Kind.LINUX
    return Kind.UNKNOWN


def _find_header(data: bytes) -> int | None:
    """Return where the multiboot header is."""
    magic = HEADER_MAGIC.to_bytes(4, "little")
    at = data.find(magic, 0, HEADER_SEARCH)
    while at >= 0:
        inside = at % 4 == 0 and at + 12 <= len(data)
        if inside and sum(struct.unpack_from("<3I", data, at)) & 0xFFFFFFFF == 0:
            return at
        at = data.find(magic, at + 1, HEADER_SEARCH)
    return None


def read_image(data: bytes) -> Image:
    """Return the multiboot program in a file. Raises ImageError."""
    at = _find_header(data)
    if data.startswith(ELF_MAGIC):
        programs, entry, _ = read_elf(data)
    elif at is None:
        raise ImageError("it is neither an ELF file nor has it a multiboot header")
    if at is None:
        second = HEADER_MAGIC_2.to_bytes(4, "little") in data[:32768]
        raise ImageError(
            "it has a multiboot 2 header; add one of multiboot 1"
            if second
            else "it has no multiboot header in its first 8 KiB"
        )
    (flags,) = struct.unpack_from("<I", data, at + 4)
    if flags & HEADER_UNKNOWN:
        raise ImageError(f"its multiboot header asks for features ({flags:#x}) that are not known")
    if flags & HEADER_ADDRESSES:
        return _flat_image(data, at)
    if not data.startswith(ELF_MAGIC):
        raise ImageError("its multiboot header gives no addresses, and it is not an ELF file")
    return _elf_image(data, programs, entry)


def _flat_image(data: bytes, at: int) -> Image:
    """Return an image whose multiboot header says where it is loaded (the `aout kludge`)."""
    if at + 32 > len(data):
        raise ImageError("it is truncated in its multiboot header")
    header, start, load_end, bss_end, entry = struct.unpack_from("<5I", data, at + 12)
    if start > header or header - start > at:
        raise ImageError(f"its multiboot header is at {header:#x}, before what is loaded at {start:#x}")
    offset = at - (header - start)
    length = load_end - start if load_end else len(data) - offset
    if length < 0 or offset + length > len(data):
        raise ImageError(f"it is truncated: {length} bytes are to be loaded, {len(data) - offset} are there")
    size = max(length, bss_end - start)
    return Image(entry, (Segment(start, data[offset : offset + length], size),))


def read_elf(data: bytes) -> tuple[list[_Program], int, int]:
    """Return (program headers, entry, machine) of an ELF file for x86 that can be loaded as it is.

    Raises ImageError.
    """
    if len(data) < 20:
        raise ImageError("it is truncated in its ELF header")
    wide, order = data[4] == 2, data[5]
    kind, machine = struct.unpack_from("<HH" if order != 2 else ">HH", data, 16)
    if machine not in (EM_386, EM_X86_64) or data[4] not in (1, 2) or order != 1:
        raise ImageError(f"it is a program for {MACHINES.get(machine, f'machine {machine}')}, not for x86")
    if len(data) < (64 if wide else 52):
        raise ImageError("it is truncated in its ELF header")
    if wide:
        entry, offset = struct.unpack_from("<QQ", data, 24)
        size, count = struct.unpack_from("<HH", data, 54)
    else:
        entry, offset = struct.unpack_from("<II", data, 24)
        size, count = struct.unpack_from("<HH", data, 42)
    if kind == ET_REL:
        raise ImageError("it is an object file: link it first")
    if kind == ET_CORE:
        raise ImageError("it is a core dump, not a program")
    if kind not in (ET_EXEC, ET_DYN):
        raise ImageError(f"it is an ELF file of type {kind}, not a program")
    if not count or count > MOST_SEGMENTS or size < (56 if wide else 32):
        raise ImageError(f"it has {count} program headers of {size} bytes: nothing can be loaded")
    if offset + size * count > len(data):
        raise ImageError("it is truncated: its program headers are missing")
    programs = [_program(data, offset + size * n, wide=wide) for n in range(count)]
    if any(program.type == PT_INTERP for program in programs):
        raise ImageError("it is dynamically linked: link it with -static")
    for program in programs:
        if program.type != PT_LOAD:
            continue
        if program.offset + program.filesz > len(data):
            missing = program.offset + program.filesz - len(data)
            raise ImageError(f"it is truncated: {missing} bytes of a segment are missing")
        if program.filesz > program.memsz:
            raise ImageError("a segment has more bytes in the file than in memory")
    return programs, entry, machine


def _program(data: bytes, at: int, *, wide: bool) -> _Program:
    if wide:
        kind, _, offset, vaddr, paddr, filesz, memsz = struct.unpack_from("<2I5Q", data, at)
    else:
        kind, offset, vaddr, paddr, filesz, memsz = struct.unpack_from("<6I", data, at)
    return _Program(kind, offset, vaddr, paddr, filesz, memsz)


def _elf_image(data: bytes, programs: list[_Program], entry: int) -> Image:
    loads = [program for program in programs if program.type == PT_LOAD and program.memsz]
    if not loads:
        raise ImageError("it has no segment to load")
    for program in loads:
        if program.vaddr <= entry < program.vaddr + program.memsz:
            entry += program.paddr - program.vaddr
            break
    if entry >> 32:
        raise ImageError(f"it starts at {entry:#x}, beyond 4 GiB, where no 32-bit code can be")
    segments = (
        Segment(load.paddr, data[load.offset : load.offset + load.filesz], load.memsz) for load in loads
    )
    return Image(entry, tuple(segments))
