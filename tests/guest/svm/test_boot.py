"""A guest that goes through the modes by itself, from 32 bits without paging to five levels and back."""

import pytest
from guest.svm.assembler import asm
from guest.svm.board import MMUS

from shadowmmu.guest.svm.machine import SvmMachine

BOOT = """
.code32
    lgdt [gdt_pointer]
    mov eax, 0x10
    mov ds, eax
    mov es, eax
    mov ss, eax
    mov esp, 0x9000
    mov dword ptr [0x20000], 0x21007
    mov dword ptr [0x21000], 0x22007
    mov dword ptr [0x22000], 0x87
    mov dword ptr [0x22008], 0x200087
    mov dword ptr [0x24000], 0x20007
    mov dword ptr [0x25000], 0x87
    mov eax, 1
    out 0x10, al
    # two levels, 4 MiB pages
    mov eax, 0x10
    mov cr4, eax
    mov eax, 0x25000
    mov cr3, eax
    mov eax, cr0
    bts eax, 31
    mov cr0, eax
    mov eax, 2
    out 0x10, al
    btr dword ptr [0x30000], 31
    mov eax, cr0
    btr eax, 31
    mov cr0, eax
    # long mode
    mov edi, 0x20000
    call enter_long
    mov eax, 4
    out 0x10, al
    # five levels
    mov eax, cr4
    bts eax, 12
    mov cr4, eax
    mov edi, 0x24000
    call enter_long
    mov eax, 6
    out 0x10, al
    hlt
enter_long:
    mov eax, cr4
    bts eax, 5
    mov cr4, eax
    mov cr3, edi
    mov ecx, 0xc0000080
    rdmsr
    bts eax, 8
    bts eax, 11
    wrmsr
    mov eax, cr0
    bts eax, 31
    mov cr0, eax
    .byte 0xea
    .long long_mode
    .word 8
.code64
long_mode:
    lidt [idt_pointer]
    and byte ptr [gdt + 0x2d], 0xfd
    mov eax, 0x28
    ltr ax
    mov rbx, 0x123456789abcdef0
    mov [0x30008], rbx
    mov rcx, [0x30008]
    cmp rbx, rcx
    jne bad
    ud2
    mov r9, [0x7fff0000]
    mov al, 3
    out 0x10, al
    # and back, through compatibility mode
    mov dword ptr [rsp - 8], offset compatible
    mov dword ptr [rsp - 4], 0x18
    jmp far ptr [rsp - 8]
bad:
    mov al, 0xff
    out 0x10, al
    hlt
handler:
    inc r15
    mov rax, cr2
    add qword ptr [rsp], 2
    iretq
page_fault:
    inc r14
    mov r13, cr2
    add rsp, 8
    add qword ptr [rsp], 8
    iretq
.code32
compatible:
    mov eax, cr0
    btr eax, 31
    mov cr0, eax
    mov ecx, 0xc0000080
    rdmsr
    btr eax, 8
    wrmsr
    mov eax, 5
    out 0x10, al
    ret
.align 8
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff, 0
    .quad 0x00008900a0000067, 0
gdt_pointer:
    .word 0x37
    .long gdt
.align 8
idt_pointer:
    .word 0xfff
    .quad idt
.align 16
idt:
    .fill 96, 1, 0
    .word handler, 8, 0x8e00, 0, 0, 0, 0, 0
    .fill 112, 1, 0
    .word page_fault, 8, 0x8e00, 0, 0, 0, 0, 0
"""


@pytest.mark.parametrize("mmu", MMUS)
def test_a_guest_goes_through_the_modes(mmu: dict[str, bool]) -> None:
    machine = SvmMachine(16 << 20, **mmu)
    marks: list[int] = []
    machine.on_port(0x10, write=lambda port, size, value: marks.append(value))
    machine.write(0x1000, asm(BOOT, 64, 0x1000))
    machine.start_protected(0x1000)
    outcome = machine.run(seconds=20)
    assert (outcome.reason, marks) == ("hlt", [1, 2, 3, 5, 4, 3, 5, 6]), (
        machine.registers(),
        machine.history,
    )
    assert machine.get("r15") == 2
    assert machine.get("r14") == 2
    assert machine.get("r13") == 0x7FFF0000
