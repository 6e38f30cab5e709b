/* Where a multiboot loader starts the program, and the way to 64-bit mode and back. */
#include "tour.h"

    .section .start, "ax"
    .balign 4
    .long 0x1badb002, 0, -0x1badb002

    .globl _start
_start:
    mov $stack_top, %esp
    cld
    call main
1:  cli
    hlt
    jmp 1b

    .text
/* void enter64(u32 root, u32 cr4): run the 64-bit half with these tables; cr4 on top of PAE. */
    .globl enter64
enter64:
    mov 4(%esp), %eax
    mov 8(%esp), %edx
    push %ebx
    push %ebp
    push %esi
    push %edi
    mov %esp, saved_sp
    mov %eax, %cr3
    or $0x20, %edx
    mov %edx, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or $0x900, %eax         /* LME, NXE */
    wrmsr
    mov %cr0, %eax
    or $0x80010000, %eax    /* PG, WP */
    mov %eax, %cr0
    lgdt gdt64_pointer
    ljmp $KERNEL_CODE, $IMAGE64

/* The 64-bit half comes back to here, in 32-bit compatibility mode; the linker script has the address. */
    .section .leave64, "ax"
    .globl leave64
leave64:
    mov $KERNEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov saved_sp, %esp
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $0xc0000080, %ecx
    rdmsr
    and $~0x900, %eax
    wrmsr
    xor %eax, %eax
    mov %eax, %cr4
    call load_tables
    pop %edi
    pop %esi
    pop %ebp
    pop %ebx
    ret

    .data
    .balign 8
gdt64:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0, 0, 0x00cf9b000000ffff
gdt64_pointer:
    .word 47
    .long gdt64
saved_sp:
    .long 0

    .section .image64, "a"
    .incbin IMAGE64_FILE

    .bss
    .balign 16
    .skip STACK_SIZE
stack_top:
