/* GDT, IDT, TSS, and the way into and out of traps; assembled for both halves of the program. */
#include "tour.h"

#ifdef __x86_64__
#define W 8
#define PTR .quad
#define AX %rax
#define BX %rbx
#define CX %rcx
#define DX %rdx
#define SP %rsp
#define BP %rbp
#define SI %rsi
#define DI %rdi
#define PUSH pushq
#define MOVI movq
#else
#define W 4
#define PTR .long
#define AX %eax
#define BX %ebx
#define CX %ecx
#define DX %edx
#define SP %esp
#define BP %ebp
#define SI %esi
#define DI %edi
#define PUSH pushl
#define MOVI movl
#endif

    .text

/* ---- tables ---- */

    .globl load_tables
load_tables:
    push BX
    /* the base of the TSS's descriptor */
    mov $tss, AX
    mov %ax, gdt + TSS + 2
    shr $16, AX
    mov %al, gdt + TSS + 4
    mov %ah, gdt + TSS + 7
    movb $0x89, gdt + TSS + 5
    lgdt gdt_pointer
    mov $KERNEL_DATA, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $TSS, %ax
    ltr %ax
    /* a gate for every stub: vectors 0 to 31, then the two interrupts */
    mov $idt, DI
    mov $stubs, SI
    xor %ecx, %ecx
1:  call set_gate
    add $16, SI
    inc %ecx
    cmp $32, %ecx
    jb 1b
    mov $IPI_VECTOR, %ecx
    call set_gate
    add $16, SI
    mov $SYSCALL_VECTOR, %ecx
    call set_gate
    lidt idt_pointer
    pop BX
    ret

/* Gate %ecx leads to SI; CPL 3 may use it if it is for system calls. */
set_gate:
    mov %ecx, %eax
#ifdef __x86_64__
    shl $4, %eax
#else
    shl $3, %eax
#endif
    add $idt, AX
    mov SI, BX
    mov %bx, (AX)
    shr $16, %ebx
    mov %bx, 6(AX)
    movw $KERNEL_CODE, 2(AX)
    movw $0x8e00, 4(AX)
    cmp $SYSCALL_VECTOR, %ecx
    jne 1f
    movw $0xee00, 4(AX)
1:  ret

/* ---- traps ---- */

    .macro stub vector, has_error
    .balign 16
    .if \has_error == 0
    PUSH $0
    .endif
    PUSH $\vector
    jmp trapped
    .endm

    .balign 16
stubs:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    stub \n, 0
    .endr
    stub 8, 1
    stub 9, 0
    .irp n, 10, 11, 12, 13, 14
    stub \n, 1
    .endr
    stub 15, 0
    stub 16, 0
    stub 17, 1
    .irp n, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    stub \n, 0
    .endr
    stub IPI_VECTOR, 0
    stub SYSCALL_VECTOR, 0

/* On the stack: vector, error code, IP. The IPI returns; everything else ends the probe that it stopped. */
trapped:
    PUSH AX
    mov $KERNEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    cmpl $IPI_VECTOR, W(SP)
    jne 1f
    incl interrupts
    mov $0xfee000b0, %eax   /* end of interrupt */
    movl $0, (AX)
    pop AX
    add $2*W, SP
#ifdef __x86_64__
    iretq
#else
    iret
#endif
1:  mov CX, probe_value     /* what a probe of the user's has read */
#ifdef __x86_64__
    mov 8(%rsp), %edi
    mov 16(%rsp), %esi
    mov %cr2, %rdx
    mov 24(%rsp), %rcx
    and $-16, %rsp
    call on_trap
#else
    mov 4(%esp), %eax
    mov 8(%esp), %ecx
    mov %cr2, %edx
    mov 12(%esp), %ebx
    push %ebx
    push %edx
    push %ecx
    push %eax
    call on_trap
#endif
    mov recover_sp, SP
    jmp probe_done

/* void probe(u32 kind, unsigned long address) */
    .globl probe
probe:
#ifndef __x86_64__
    mov 4(%esp), %eax
    mov 8(%esp), %edx
#else
    mov %edi, %eax
    mov %rsi, %rdx
#endif
    push BX
    push BP
    push SI
    push DI
#ifdef __x86_64__
    push %r12
    push %r13
    push %r14
    push %r15
#endif
    mov SP, recover_sp
    movl $NO_TRAP, last_trap
    mov probe_value, CX
    test $4, %eax
    jnz user
    cmp $1, %eax
    je 1f
    ja 2f
    mov (DX), %ecx
    mov CX, probe_value
    jmp probe_done
1:  mov %ecx, (DX)
    jmp probe_done
2:  jmp *DX

probe_done:
#ifdef __x86_64__
    pop %r15
    pop %r14
    pop %r13
    pop %r12
#endif
    pop DI
    pop SI
    pop BP
    pop BX
    ret

/* The same at CPL 3: the stub that does it is mapped for the user at user_entry. */
user:
    mov user_entry, BX
    and $3, %eax
    shl $4, %eax
    add AX, BX
    PUSH $USER_DATA
    PUSH $0
    PUSH $2
    PUSH $USER_CODE
    push BX
#ifdef __x86_64__
    iretq
#else
    mov $USER_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    iret
#endif

    .set NO_TRAP, 0xffffffff

/* A page of the user's: read, write, execute at DX; then one that only comes back. */
    .section .user, "ax"
    .balign 4096
    .globl user_stub
user_stub:
    mov (DX), %ecx
    int $SYSCALL_VECTOR
    .balign 16
    mov %ecx, (DX)
    int $SYSCALL_VECTOR
    .balign 16
    jmp *DX
    .balign 4096

    .data
    .balign 16
gdt:
    .quad 0
#ifdef __x86_64__
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00affb000000ffff
#else
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cffb000000ffff
#endif
    .quad 0x00cff3000000ffff
    .quad 0x00cf9b000000ffff
    .quad 0x0000890000000067
    .quad 0
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    PTR gdt
idt_pointer:
    .word 256 * 2 * W - 1
    PTR idt

    .balign 16
tss:
#ifdef __x86_64__
    .long 0
    .quad trap_stack, 0, 0
    .skip 76, 0
#else
    .long 0, trap_stack, KERNEL_DATA
    .skip 92, 0
#endif

    .globl last_trap, interrupts, probe_value, user_entry
    .balign 16
last_trap:
    .long 0, 0
    .quad 0
interrupts:
    .long 0, 0
probe_value:
    .quad 0
user_entry:
    .quad 0
recover_sp:
    .quad 0

    .bss
    .balign 16
idt:
    .skip 256 * 2 * W
    .skip STACK_SIZE
trap_stack:
