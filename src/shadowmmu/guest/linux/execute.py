"""execve: a program from a file into an address space, with its arguments on the stack."""

import errno
import hashlib
import mmap
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from .directory import host_name
from .elf import PF_R, PF_W, PF_X, PIE_BASE, NotExecutable, Program, is_elf, parse
from .layout import PAGE, STACK_BOTTOM, STACK_SIZE, STACK_TOP
from .memory import PROT_EXEC, PROT_READ, PROT_WRITE, AddressSpace, Area, page_up
from .tasks import RFLAGS, RIP, RSP, Task

AT_PHDR, AT_PHENT, AT_PHNUM, AT_PAGESZ, AT_BASE, AT_FLAGS, AT_ENTRY = 3, 4, 5, 6, 7, 8, 9
AT_UID, AT_EUID, AT_GID, AT_EGID, AT_PLATFORM, AT_HWCAP, AT_CLKTCK = 11, 12, 13, 14, 15, 16, 17
AT_SECURE, AT_RANDOM, AT_EXECFN, AT_MINSIGSTKSZ = 23, 25, 31, 51
HWCAP = 0x078BFBFD
"""CPUID 1, EDX, of what programs get without asking: up to SSE2."""
LONGEST_ARGUMENTS = STACK_SIZE // 4
SEED = hashlib.sha256(b"shadowmmu")
"""What is random is the same in every run."""


@dataclass(frozen=True, slots=True)
class Executable:
    """A program and its file, and the one that loads its libraries, if it is dynamically linked."""

    path: str
    fd: int
    program: Program
    interpreter: "Executable | None" = None

    def close(self) -> None:
        os.close(self.fd)
        if self.interpreter is not None:
            self.interpreter.close()


@dataclass(frozen=True, slots=True)
class Script:
    """A file that begins with #!."""

    path: str
    interpreter: bytes
    argument: bytes | None


def read_executable(fd: int, base: int = PIE_BASE) -> Executable | Script:
    """Return what is in an open file, which is taken over; `base` is for programs that can be anywhere.

    Raises OSError, or NotExecutable.
    """
    try:
        status, path = os.fstat(fd), os.readlink(host_name(fd))
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EACCES, "not a file", path)
        if not status.st_size:
            raise NotExecutable("an empty file")
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as data:
            if data[:2] == b"#!":
                return _script(path, data[2:256])
            program = parse(data, base) if is_elf(data[:4]) else None
        if program is None:
            raise NotExecutable("not an ELF file")
        found = Executable(path, fd, program)
        fd = -1
        return found
    finally:
        if fd >= 0:
            os.close(fd)


def _script(path: str, line: bytes) -> Script:
    words = line.split(b"\n")[0].strip().split(None, 1)
    if not words:
        raise NotExecutable("a script without interpreter")
    return Script(path, words[0], words[1] if len(words) > 1 else None)


def load_program(
    task: Task,
    mm: AddressSpace,
    executable: Executable,
    arguments: Sequence[bytes],
    environment: Sequence[bytes],
) -> None:
    """Map the program into an empty address space and make the task begin there; its file is closed.

    Raises OSError (E2BIG), OutOfMemory.
    """
    try:
        if sum(map(len, arguments)) + sum(map(len, environment)) > LONGEST_ARGUMENTS:
            raise OSError(errno.E2BIG, "arguments are too long")
        first = executable.interpreter or executable
        for part in {executable, first}:
            _check_place(mm, part.program)
            _map_segments(mm, part)
        mm.brk_start = mm.brk = executable.program.end
    finally:
        executable.close()
    mm.add(Area(STACK_BOTTOM, STACK_TOP, PROT_READ | PROT_WRITE, name="stack"))
    stack = _push_arguments(mm, executable, arguments, environment)
    process = task.process
    process.mm = mm
    process.program = executable.path
    process.arguments = tuple(arguments)
    process.name = os.fsdecode(os.path.basename(arguments[0] if arguments else executable.path.encode()))[:15]
    task.registers = [0] * 18
    task.registers[RSP], task.registers[RIP], task.registers[RFLAGS] = stack, first.program.entry, 0x202
    task.fs = task.gs = 0


def _check_place(mm: AddressSpace, program: Program) -> None:
    """Raise OSError if a program and the one that loads its libraries want the same place."""
    if any(mm.overlapping(program.segments[0].address & -PAGE, program.end)):
        raise OSError(errno.ENOEXEC, "its segments are where its interpreter is")


def _map_segments(mm: AddressSpace, executable: Executable) -> None:
    pages = mm.frames.file_pages(executable.fd)
    for segment in executable.program.segments:
        prot = PROT_READ if segment.flags & PF_R else 0
        prot |= PROT_WRITE if segment.flags & PF_W else 0
        prot |= PROT_EXEC if segment.flags & PF_X else 0
        start = segment.address & -PAGE
        in_file = segment.address + segment.file_size
        middle = page_up(in_file) if segment.file_size else start
        end = page_up(segment.address + segment.memory_size)
        if middle > start:
            mm.add(Area(start, middle, prot, file=pages, offset=segment.offset // PAGE))
        if end > middle:
            mm.add(Area(middle, end, prot))
        if segment.memory_size > segment.file_size and in_file < middle and prot & PROT_WRITE:
            mm.write(in_file, bytes(middle - in_file))


def _push_arguments(
    mm: AddressSpace, executable: Executable, arguments: Sequence[bytes], environment: Sequence[bytes]
) -> int:
    """Write strings, auxiliary vector and pointers below the stack's top; RSP."""
    program, interpreter = executable.program, executable.interpreter
    strings, address = [], STACK_TOP - 16

    def push(data: bytes) -> int:
        nonlocal address
        address -= len(data)
        strings.append(data)
        return address

    name = push(os.fsencode(executable.path) + b"\0")
    platform = push(b"x86_64\0")
    random = push(SEED.digest()[:16])
    environment_pointers = [push(text + b"\0") for text in reversed(environment)][::-1]
    argument_pointers = [push(text + b"\0") for text in reversed(arguments)][::-1]
    mm.write(address, b"".join(reversed(strings)))
    auxiliary = [
        (AT_HWCAP, HWCAP),
        (AT_PAGESZ, PAGE),
        (AT_CLKTCK, 100),
        (AT_PHDR, program.headers),
        (AT_PHENT, program.header_size),
        (AT_PHNUM, program.header_count),
        (AT_BASE, 0 if interpreter is None else interpreter.program.base),
        (AT_FLAGS, 0),
        (AT_ENTRY, program.entry),
        (AT_UID, os.getuid()),
        (AT_EUID, os.geteuid()),
        (AT_GID, os.getgid()),
        (AT_EGID, os.getegid()),
        (AT_SECURE, 0),
        (AT_RANDOM, random),
        (AT_EXECFN, name),
        (AT_PLATFORM, platform),
        (AT_MINSIGSTKSZ, 2048),
        (0, 0),
    ]
    words = [len(arguments), *argument_pointers, 0, *environment_pointers, 0]
    for pair in auxiliary:
        words += pair
    stack = address - 8 * len(words) & -16
    mm.write(stack, struct.pack(f"<{len(words)}Q", *words))
    return stack
