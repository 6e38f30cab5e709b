/* The kit's start in 64-bit mode: 4 GiB identity-mapped by 2 MiB pages for user and supervisor, GDT, IDT, TSS. */
#include "kit.h"

    .section .header, "a"
    .long 0x1badb002, 0, -0x1badb002

    .text
    .code32
    .globl _start
_start:
    mov %ebx, boot
    mov $boot_stack_top, %esp
    lgdtl gdt_pointer
    mov $DATA, %eax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %fs
    mov %ax, %gs
    mov %ax, %ss
    mov $level4, %eax
    lea 7(%eax), %edx
    mov %edx, level5
    lea level3 + 7, %edx
    mov %edx, level4
    mov $level2 + 7, %edx
    xor %ecx, %ecx
1:  mov %edx, level3(, %ecx, 8)
    add $0x1000, %edx
    inc %ecx
    cmp $4, %ecx
    jne 1b
    mov $0x87, %edx
    xor %ecx, %ecx
2:  mov %edx, level2(, %ecx, 8)
    add $0x200000, %edx
    inc %ecx
    cmp $2048, %ecx
    jne 2b
    mov $0x620, %ecx
    mov %ecx, %cr4
    mov %eax, %cr3
    mov $MSR_EFER, %ecx
    rdmsr
    or $0x901, %eax
    wrmsr
    mov $0x80010013, %eax
    mov %eax, %cr0
    ljmpl $CODE64, $start64
    .code64
start64:
    lea tss, %rax
    mov $gdt + TSS_SELECTOR, %edi
    movw $103, (%rdi)
    mov %ax, 2(%rdi)
    shr $16, %rax
    mov %al, 4(%rdi)
    movb $0x89, 5(%rdi)
    mov %ah, 7(%rdi)
    mov $TSS_SELECTOR, %eax
    ltr %ax
    mov $vectors, %eax
    mov $idt, %edi
    xor %ecx, %ecx
3:  mov %ax, (%rdi)
    movw $CODE64, 2(%rdi)
    movw $0x8e00, 4(%rdi)
    cmp $BACK_VECTOR, %ecx
    jne 4f
    movw $0xee00, 4(%rdi)
4:  mov %eax, %edx
    shr $16, %edx
    mov %dx, 6(%rdi)
    add $16, %eax
    add $16, %rdi
    inc %ecx
    cmp $256, %ecx
    jne 3b
    lidt idt_pointer
    call main
    mov %eax, %edi
    call quit

/* Long mode off and on again, with CR4.LA57 the other way round. */
    .globl switch_levels
switch_levels:
    push %rbx
    ljmpl *to32
    .code32
half:
    mov %cr0, %eax
    btr $31, %eax
    mov %eax, %cr0
    mov %cr4, %ecx
    btc $12, %ecx
    mov %ecx, %cr4
    mov $level4, %edx
    bt $12, %ecx
    jnc 1f
    mov $level5, %edx
1:  mov %edx, %cr3
    bts $31, %eax
    mov %eax, %cr0
    ljmpl $CODE64, $1f
    .code64
1:  pop %rbx
    ret

/* at_user(code, rdi): RAX of the code */
    .globl at_user
at_user:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, kernel_stack
    movl $0xffff, last_vector
    mov $5f, %eax
    mov %rax, resume
    mov %rdi, %rax
    mov %rsi, %rdi
    pushq $USER_DATA
    push user_stack
    pushq $0x2
    pushq $USER_CODE
    push %rax
    iretq
5:  mov kernel_stack, %rsp
    movq $0, resume
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    .balign 16
    .globl vectors
vectors:
    .set n, 0
    .rept 256
    .balign 16
    .if n != 8 && (n < 10 || n > 14) && n != 17 && n != 21
    pushq $0
    .endif
    pushq $n
    jmp common
    .set n, n + 1
    .endr
common:
    push %rax
    push %rbx
    push %rcx
    push %rdx
    push %rsi
    push %rdi
    push %rbp
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, %rdi
    mov %rsp, %rbp
    and $-16, %rsp
    call on_trap
    mov %rbp, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rbp
    pop %rdi
    pop %rsi
    pop %rdx
    pop %rcx
    pop %rbx
    pop %rax
    add $16, %rsp
    iretq

    .data
    .balign 16
    .globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
    .quad 0, 0
gdt_pointer:
    .word . - gdt - 1
    .quad gdt
idt_pointer:
    .word 4095
    .quad idt
to32:
    .long half
    .word CODE32
    .balign 8
    .globl resume, tss, user_stack
resume: .quad 0
user_stack: .quad user_stack_top
kernel_stack: .quad 0
tss:
    .long 0
    .quad trap_stack_top, 0, 0, 0
    .quad ist_stack_top, 0, 0, 0, 0, 0, 0, 0
    .word 0, 104
    .globl boot
boot: .quad 0

    .bss
    .balign 4096
    .globl level4, level5, idt
level5: .skip 4096
level4: .skip 4096
level3: .skip 4096
level2: .skip 16384
idt: .skip 4096
    .skip 16384
    .globl boot_stack_top, ist_stack_top
boot_stack_top:
    .skip 8192
trap_stack_top:
    .skip 8192
ist_stack_top:
    .skip 8192
user_stack_top:
    .section .note.GNU-stack, "", @progbits
