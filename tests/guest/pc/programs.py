"""Tiny program files, made of machine code."""

import struct

from guest.svm.assembler import asm

MULTIBOOT = struct.pack("<III", 0x1BADB002, 0, -0x1BADB002 & 0xFFFFFFFF)
LOAD = 0x100000
HEADER = 0x1000
"""Offset of the code in the file."""


def elf32(
    code: bytes,
    *,
    address: int = LOAD,
    memory: int = 0,
    entry: int | None = None,
    kind: int = 2,
    machine: int = 3,
    header: bytes = MULTIBOOT,
    interp: bool = False,
) -> bytes:
    """An ELF32 file with a multiboot header, then code; it starts behind the header."""
    body = header + code
    start = address + len(header) if entry is None else entry
    count = 2 if interp else 1
    head = b"\x7fELF\1\1\1" + bytes(9)
    head += struct.pack("<HHIIIIIHHHHHH", kind, machine, 1, start, 52, 0, 0, 52, 32, count, 0, 0, 0)
    head += struct.pack("<8I", 1, HEADER, address, address, len(body), max(len(body), memory), 7, 4096)
    if interp:
        head += struct.pack("<8I", 3, HEADER, address, address, 1, 1, 4, 1)
    return head.ljust(HEADER, b"\0") + body


def elf64(code: bytes, *, address: int = LOAD, header: bytes = MULTIBOOT, vaddr: int | None = None) -> bytes:
    """The same as ELF64; `vaddr`: it is linked for another address than it is loaded to."""
    body = header + code
    linked = address if vaddr is None else vaddr
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, linked + len(header), 64, 0, 0, 64, 56, 1, 0, 0, 0)
    head += struct.pack("<IIQQQQQQ", 1, 7, HEADER, linked, address, len(body), len(body), 4096)
    return head.ljust(HEADER, b"\0") + body


def program(text: str) -> bytes:
    """An ELF32 file of 32-bit assembler text."""
    return elf32(asm(text, 32, LOAD + len(MULTIBOOT)))


def flat(code: bytes, *, bss: int = 0) -> bytes:
    """A file that is no ELF: its multiboot header has the addresses."""
    flags = 1 << 16
    magic = struct.pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF)
    size = 32 + len(code)
    end = LOAD + size
    return magic + struct.pack("<5I", LOAD, LOAD, end, end + bss, LOAD + 32) + code


EXIT_3 = "mov eax, 3\n mov edx, 0xf4\n out dx, eax\n hlt"
HELLO = """
    mov esi, offset text
next: lodsb
    test al, al
    jz done
    mov edx, 0x3f8
    out dx, al
    jmp next
done: mov eax, 3
    mov edx, 0xf4
    out dx, eax
    hlt
text: .asciz "hello\\n"
"""
MODULE = """
    mov esi, [ebx + 24]
    mov ecx, [esi + 4]
    mov esi, [esi]
next: cmp esi, ecx
    jae done
    lodsb
    mov edx, 0x3f8
    out dx, al
    jmp next
done: mov eax, [ebx + 20]
    mov edx, 0xf4
    out dx, eax
    hlt
"""
COMMAND_LINE = """
    cmp eax, 0x2badb002
    jne done
    mov esi, [ebx + 16]
next: lodsb
    test al, al
    jz done
    mov edx, 0x3f8
    out dx, al
    jmp next
done: mov eax, 0
    mov edx, 0xf4
    out dx, eax
    hlt
"""
