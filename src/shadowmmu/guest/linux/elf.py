"""Which files are programs that can run: ELF executables for x86-64."""

import mmap
import os
import struct
from dataclasses import dataclass
from itertools import pairwise

from .layout import MMAP_TOP, PAGE, STACK_BOTTOM

HEADER = 64
PT_LOAD, PT_DYNAMIC, PT_INTERP, PT_TLS, PT_GNU_STACK = 1, 2, 3, 7, 0x6474E551
ET_EXEC, ET_DYN = 2, 3
EM_X86_64 = 62
PF_X, PF_W, PF_R = 1, 2, 4
MOST_SEGMENTS = 64
PIE_BASE, INTERPRETER_BASE = 0x555555554000, MMAP_TOP
LONGEST_NAME = 4096


class NotExecutable(Exception):
    """The file is not a program that can run here; the message says why."""


@dataclass(frozen=True, slots=True)
class LoadSegment:
    """A PT_LOAD; address and sizes in bytes, `flags` of PF_R, PF_W, PF_X."""

    address: int
    offset: int
    file_size: int
    memory_size: int
    flags: int


@dataclass(frozen=True, slots=True)
class Program:
    """What is needed to start a program; all addresses are those it has in memory."""

    entry: int
    segments: tuple[LoadSegment, ...]
    headers: int
    header_size: int
    header_count: int
    end: int
    base: int = 0
    interpreter: str | None = None
    """Who loads a dynamically linked program."""


def is_elf(data: bytes) -> bool:
    """Return whether a file that begins so is one."""
    return data[:4] == b"\x7fELF"


def parse(data: bytes | mmap.mmap, base: int = PIE_BASE) -> Program:
    """Return the program in a file; `base` is where it is put if it can be anywhere. Raises NotExecutable."""
    if not is_elf(data[:4]):
        raise NotExecutable("not an ELF file")
    if len(data) < HEADER:
        raise NotExecutable("truncated: the ELF header is not complete")
    if data[4] != 2:
        raise NotExecutable("a 32-bit program; only 64-bit ones run here")
    if data[5] != 1:
        raise NotExecutable("a big-endian program")
    kind, machine = struct.unpack_from("<HH", data, 16)
    if machine != EM_X86_64:
        raise NotExecutable(f"for another processor than x86-64 (ELF machine {machine})")
    if kind not in (ET_EXEC, ET_DYN):
        raise NotExecutable(f"not a program but ELF type {kind}")
    entry, headers = struct.unpack_from("<QQ", data, 24)
    size, count = struct.unpack_from("<HH", data, 54)
    if size != 56 or not 0 < count <= MOST_SEGMENTS:
        raise NotExecutable(f"it has {count} program headers of {size} bytes")
    if headers + size * count > len(data):
        raise NotExecutable("truncated: its program headers are not complete")
    base = base if kind == ET_DYN else 0
    segments, headers_address, interpreter = [], 0, None
    for number in range(count):
        type_, flags, offset, address, _, file_size, memory_size, _ = struct.unpack_from(
            "<IIQQQQQQ", data, headers + size * number
        )
        if type_ == PT_INTERP:
            interpreter = _interpreter(data, offset, file_size)
        if type_ != PT_LOAD or not memory_size:
            continue
        segment = LoadSegment(address + base, offset, file_size, memory_size, flags)
        _check(segment, len(data))
        segments.append(segment)
        if offset <= headers < offset + file_size:
            headers_address = headers - offset + segment.address
    if not segments:
        raise NotExecutable("it has nothing to load")
    for low, high in pairwise(segments):
        if _page_end(low) > high.address & -PAGE:
            raise NotExecutable("its segments overlap or are not in order")
    end = _page_end(segments[-1])
    entry += base
    if not any(one.flags & PF_X and one.address <= entry < one.address + one.memory_size for one in segments):
        raise NotExecutable(f"it begins at {entry:#x}, which is in no segment with code")
    return Program(entry, tuple(segments), headers_address, size, count, end, base, interpreter)


def _interpreter(data: bytes | mmap.mmap, offset: int, size: int) -> str:
    name = data[offset : offset + size]
    if not 2 <= len(name) == size <= LONGEST_NAME or name[-1] or name.index(0) != size - 1:
        raise NotExecutable("the name of its interpreter is damaged")
    return os.fsdecode(name[:-1])


def _page_end(segment: LoadSegment) -> int:
    return -(-(segment.address + segment.memory_size) // PAGE) * PAGE


def _check(segment: LoadSegment, file_size: int) -> None:
    if segment.offset + segment.file_size > file_size:
        raise NotExecutable("truncated: a segment reaches beyond the end of the file")
    if segment.file_size > segment.memory_size:
        raise NotExecutable("a segment is larger in the file than in memory")
    if segment.address < PAGE or segment.address + segment.memory_size > STACK_BOTTOM:
        raise NotExecutable(f"a segment is at {segment.address:#x}, where no program can be")
    if (segment.address - segment.offset) % PAGE:
        raise NotExecutable("a segment is not aligned as in the file")
