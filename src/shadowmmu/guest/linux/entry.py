"""The part of the kernel that runs on the vCPU: what changes page tables, and the way back to user mode.

Python gives it work, in the order in which it is to be done: stores into tables, INVLPG, FXSAVE and FXRSTOR
at a switch of tasks, MOV to CR3; then it leaves by IRETQ with the registers on its stack. A store that KVM
write-protected exits in the middle of this code, as in a real kernel.
"""

import struct
from collections.abc import Iterable
from typing import Protocol

from .layout import (
    DIRECT_MAP,
    DIRECT_PMDS,
    DIRECT_PUD,
    GDT,
    GDT_PAGE,
    KERNEL_PGD,
    PAGE,
    STACK_PAGE,
    TEXT,
    TEXT_PAGE,
    TEXT_PMD,
    TEXT_PTE,
    TEXT_PUD,
    USER_CS,
    USER_DS,
    WORK,
    WORK_SIZE,
)

CODE = bytes.fromhex(
    "4885d27422"  # 00 work:  test rdx, rdx; jz pages           stores that are left
    "488b3e488b4608488b4e10"  # 05  mov rdi, [rsi]; mov rax, [rsi+8]; mov rcx, [rsi+16]
    "4883c61848ffca"  # 10           add rsi, 24; dec rdx
    "4883f9017505"  # 17           cmp rcx, 1; jne fill
    "488907ebde"  # 1d           mov [rdi], rax; jmp work
    "f348abebd9"  # 22 fill:  rep stosq; jmp work
    "4885db740f"  # 27 pages: test rbx, rbx; jz save            addresses that are left
    "488b3e0f013f"  # 2c           mov rdi, [rsi]; invlpg [rdi]
    "4883c60848ffcbebec"  # 32      add rsi, 8; dec rbx; jmp pages
    "4d85c07404490fae00"  # 3b save: test r8, r8; jz; fxsave64 [r8]
    "4d85e47405490fae0424"  # 44     test r12, r12; jz; fxsave64 [r12]
    "4d85c97404490fae09"  # 4e       test r9, r9; jz; fxrstor64 [r9]
    "4d85d27404410f22da"  # 57       test r10, r10; jz; mov cr3, r10
    "4d85db7405"  # 60           test r11, r11; jz leave
    "0f01d9eb96"  # 65           vmmcall; jmp work               more than the work area holds
    "58595a5b5d5e5f41584159415a415b415c415d415e415f"  # 6a leave: pop rax, rcx, rdx, rbx, rbp, rsi, rdi, r8 to
    "48cf"  # 81             r15; iretq
)
ENTRY = TEXT
FRAME = struct.Struct("<20Q")
FRAME_GPA = STACK_PAGE + PAGE - FRAME.size
STORE, ADDRESS = struct.Struct("<3Q"), struct.Struct("<Q")
MOST_STORES = WORK_SIZE // STORE.size // 2
MOST_INVLPGS = 33
"""More addresses than that are not flushed one by one (tlb_single_page_flush_ceiling)."""
P, W, U, A, D, PS, G, NX = 1, 2, 4, 0x20, 0x40, 0x80, 0x100, 1 << 63


class Memory(Protocol):
    """Guest memory, by guest-physical address."""

    size: int

    def read(self, gpa: int, size: int) -> bytes: ...
    def write(self, gpa: int, data: bytes) -> None: ...


def build_kernel_half(memory: Memory) -> int:
    """Write what is there before the first instruction runs; the first address that is free."""

    def put(table: int, index: int, value: int) -> None:
        memory.write(table + 8 * index, value.to_bytes(8, "little"))

    gigabytes = -(-memory.size >> 30)
    put(KERNEL_PGD, DIRECT_MAP >> 39 & 511, DIRECT_PUD | P | W | A)
    put(KERNEL_PGD, TEXT >> 39 & 511, TEXT_PUD | P | W | A)
    for number in range(gigabytes):
        pmd = DIRECT_PMDS + number * PAGE
        put(DIRECT_PUD, number, pmd | P | W | A)
        for index in range(512):
            gpa = number << 30 | index << 21
            if gpa < memory.size:
                put(pmd, index, gpa | NX | G | PS | P | W | A | D)
    put(TEXT_PUD, TEXT >> 30 & 511, TEXT_PMD | P | W | A)
    put(TEXT_PMD, TEXT >> 21 & 511, TEXT_PTE | P | W | A)
    put(TEXT_PTE, TEXT >> 12 & 511, TEXT_PAGE | G | P | A)
    memory.write(TEXT_PAGE, CODE)
    memory.write(GDT_PAGE, struct.pack(f"<{len(GDT)}Q", *GDT))
    return DIRECT_PMDS + gigabytes * PAGE


class Work:
    """What the entry code is to do before user mode continues."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.stores: list[tuple[int, int, int]] = []
        self.addresses: list[int] = []
        self.flush_all = False
        self.save_fpu = 0
        self.copy_fpu = 0
        self.load_fpu = 0
        self.cr3 = 0

    def __bool__(self) -> bool:
        return bool(
            self.stores
            or self.addresses
            or self.flush_all
            or self.save_fpu
            or self.copy_fpu
            or self.load_fpu
            or self.cr3
        )

    def store(self, gpa: int, value: int) -> None:
        """Write eight bytes."""
        self.stores.append((gpa + DIRECT_MAP, value, 1))

    def store_all(self, stores: Iterable[tuple[int, int]]) -> None:
        """Store values at many addresses."""
        self.stores += [(gpa + DIRECT_MAP, value, 1) for gpa, value in stores]

    def fill(self, gpa: int, count: int) -> None:
        """Write `count` times eight zero bytes; 0 and 1 are not allowed."""
        self.stores.append((gpa + DIRECT_MAP, 0, count))

    def invalidate(self, address: int) -> None:
        """Forget the translation of an address of the tables that are in use."""
        if len(self.addresses) < MOST_INVLPGS:
            self.addresses.append(address)
        else:
            self.flush_all = True

    def give(self, q: memoryview, cr3: int) -> None:
        """Write as much as fits to the work area and set the entry code's registers, `q` being RAX to R15.

        cr3 is what is loaded to flush everything.
        """
        stores = self.stores[:MOST_STORES]
        del self.stores[: len(stores)]
        more = bool(self.stores)
        addresses = [] if more or self.flush_all or self.cr3 else self.addresses
        parts = [STORE.pack(*store) for store in stores]
        parts += [ADDRESS.pack(address) for address in addresses]
        if parts:
            self.memory.write(WORK, b"".join(parts))
        q[2], q[3], q[6], q[11] = len(stores), len(addresses), WORK + DIRECT_MAP, int(more)
        q[8] = q[9] = q[10] = q[12] = 0
        if more:
            return
        q[8] = self.save_fpu and self.save_fpu + DIRECT_MAP
        q[12] = self.copy_fpu and self.copy_fpu + DIRECT_MAP
        q[9] = self.load_fpu and self.load_fpu + DIRECT_MAP
        q[10] = self.cr3 or (cr3 if self.flush_all else 0)
        self.addresses = []
        self.flush_all = False
        self.save_fpu = self.copy_fpu = self.load_fpu = self.cr3 = 0

    def give_frame(self, registers: tuple[int, ...], rip: int, flags: int) -> None:
        """Set what user mode continues with: RAX to R15, RIP, RFLAGS."""
        rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, *upper = registers
        frame = FRAME.pack(rax, rcx, rdx, rbx, rbp, rsi, rdi, *upper, rip, USER_CS, flags, rsp, USER_DS)
        self.memory.write(FRAME_GPA, frame)
