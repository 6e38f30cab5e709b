/* What the start-up code of test programs does on a PC: 32 bits, long mode, APICs, fw_cfg, MSRs, exceptions.
 *
 * Each step that goes wrong ends the program with the step's number as status; the last one is 42.
 * Built with: gcc -m64, then objcopy -O elf32-i386.
 */
    .macro step n
    movl $\n, current_step
    .endm

    .section .text
    .balign 4
    .long 0x1badb002, 0, -0x1badb002

    .code32
    .globl _start
_start:
    mov %ebx, boot_info
    mov $stack_top, %esp
    mov $percpu, %eax           /* GS base before long mode */
    xor %edx, %edx
    mov $0xc0000101, %ecx
    wrmsr
    lgdtl gdt_pointer
    mov $0x10, %eax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %fs
    mov %ax, %ss
    xor %eax, %eax
    mov %eax, %cr4
    /* 4 GiB identity by 2 MiB pages, user-accessible, global */
    movl $level3 + 7, level4
    mov $level2 + 7, %eax
    mov $4, %ecx
    mov $level3, %edi
1:  mov %eax, (%edi)
    add $0x1000, %eax
    add $8, %edi
    loop 1b
    mov $0x1e7, %eax
    mov $2048, %ecx
    mov $level2, %edi
2:  mov %eax, (%edi)
    movl $0, 4(%edi)
    add $0x200000, %eax
    add $8, %edi
    loop 2b
    mov %cr4, %eax
    bts $5, %eax
    mov %eax, %cr4
    mov $level4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    bts $8, %eax
    wrmsr
    mov %cr0, %eax
    bts $0, %eax
    bts $31, %eax
    mov %eax, %cr0
    ljmpl $8, $start64

    .code64
start64:
    mov $tss, %eax              /* TSS descriptor, IDT */
    mov %ax, tss_descriptor + 2
    shr $16, %eax
    mov %al, tss_descriptor + 4
    mov %ah, tss_descriptor + 7
    mov $0x30, %eax
    ltr %ax
    mov $idt, %edi
    xor %ecx, %ecx
3:  lea stubs(, %rcx, 8), %rax
    mov %ax, (%rdi)
    movw $8, 2(%rdi)
    movw $0x8e00, 4(%rdi)
    shr $16, %rax
    mov %ax, 6(%rdi)
    movq $0, 8(%rdi)
    add $16, %rdi
    inc %ecx
    cmp $64, %ecx
    jb 3b
    movw $0xee00, idt + 0x20 * 16 + 4
    lidt idt_pointer

    step 1                      /* the percpu area */
    mov %gs:0, %eax
    cmp $0x1234, %eax
    jne fail

    step 2                      /* the APIC, off and on */
    mov $0x1b, %ecx
    rdmsr
    test $0x100, %eax           /* bootstrap processor */
    jz fail
    and $~0xc00, %eax
    wrmsr
    or $0x800, %eax
    wrmsr
    rdmsr
    test $0x800, %eax
    jz fail
    mov $0xff, %al
    outb %al, $0x21
    outb %al, $0xa1
    mov $0xfee00000, %ebx
    movl $0x1ff, 0xf0(%rbx)
    mov 0xf0(%rbx), %eax
    cmp $0x1ff, %eax
    jne fail
    mov 0x20(%rbx), %eax        /* ID */
    shr $24, %eax
    jnz fail
    mov 0x30(%rbx), %eax        /* version */
    cmp $0x14, %al
    jne fail

    step 3                      /* fw_cfg: signature, CPUs, memory */
    mov $0x510, %edx
    mov $0, %eax
    outw %ax, %dx
    inc %edx
    inb %dx, %al
    cmp $'Q', %al
    jne fail
    dec %edx
    mov $5, %eax
    outw %ax, %dx
    inc %edx
    inb %dx, %al
    mov %al, %cl
    inb %dx, %al
    cmp $1, %cl
    jne fail
    dec %edx
    mov $3, %eax
    outl %eax, %dx
    inc %edx
    xor %ebp, %ebp
    xor %ecx, %ecx
4:  xor %eax, %eax
    inb %dx, %al
    shl %cl, %rax
    or %rax, %rbp
    add $8, %ecx
    cmp $64, %ecx
    jb 4b
    mov boot_info, %esi         /* mem_upper says the same */
    mov 8(%rsi), %eax
    shl $10, %rax
    add $0x100000, %rax
    cmp %rax, %rbp
    jne fail

    step 4                      /* INIT and SIPI to all others: there are none */
    movl $0, 0x310(%rbx)
    movl $0xc4500, 0x300(%rbx)
    movl $0xc4600, 0x300(%rbx)
5:  mov 0x300(%rbx), %eax
    test $0x1000, %eax
    jnz 5b

    step 5                      /* CPUID, TSC, descriptor tables */
    xor %eax, %eax
    cpuid
    cmp $1, %eax
    jb fail
    mov $1, %eax
    xor %ecx, %ecx
    cpuid
    shr $24, %ebx
    jnz fail
    mov $0xfee00000, %ebx
    rdtsc
    mov %eax, %esi
    rdtsc
    cmp %eax, %esi
    je fail
    sgdt scratch
    cmpw $gdt_end - gdt - 1, scratch
    jne fail
    sidt scratch
    cmpl $idt, scratch + 2
    jne fail
    str %eax
    cmp $0x30, %ax
    jne fail
    sldt %eax

    step 6                      /* MTRRs, PAT; an MSR that there is not is #GP */
    mov $0xfe, %ecx
    rdmsr
    mov $0x277, %ecx
    rdmsr
    mov $0x2ff, %ecx
    rdmsr
    mov $0x12345678, %ecx
    movq $6f, recover
    rdmsr
    jmp fail
6:  cmpl $13, last_vector
    jne fail

    step 7                      /* a CR4 bit that there is not is #GP */
    mov %cr4, %rax
    bts $31, %rax
    movq $7f, recover
    mov %rax, %cr4
    jmp fail
7:  cmpl $13, last_vector
    jne fail

    step 8                      /* #PF with its address; WP; invlpg */
    mov %cr0, %rax
    bts $16, %rax
    mov %rax, %cr0
    mov $0x600000, %edi
    andl $~2, level2 + 3 * 8
    invlpg (%rdi)
    movq $8f, recover
    movl $1, (%rdi)
    jmp fail
8:  cmpl $14, last_vector
    jne fail
    cmpl $3, last_error
    jne fail
    mov %cr2, %rax
    cmp $0x600000, %eax
    jne fail
    orl $2, level2 + 3 * 8
    movl $1, (%rdi)

    step 9                      /* the user's mode, and back by INT 0x20 */
    movq $9f, recover
    push $0x23
    push $user_stack
    push $2
    push $0x1b
    push $user
    iretq
user:
    mov $77, %eax
    int $0x20
9:  cmpl $0x20, last_vector
    jne fail

    step 10                     /* an IPI to oneself */
    movq $10f, recover
    sti
    movl $0x40030, 0x300(%rbx)
    nop
    nop
    mov $1000000, %ecx
1:  pause
    loop 1b
    jmp fail
10: cmpl $0x30, last_vector
    jne fail
    movl $0, 0xb0(%rbx)

    step 11                     /* the APIC's timer wakes from HLT */
    movq $11f, recover
    movl $0x31, 0x320(%rbx)
    movl $0xb, 0x3e0(%rbx)
    movl $1000000, 0x380(%rbx)
    sti
1:  hlt
    jmp 1b
11: cmpl $0x31, last_vector
    jne fail
    movl $0, 0xb0(%rbx)

    step 12                     /* the I/O APIC: version, a line of the test device */
    mov $0xfec00000, %esi
    movl $1, (%rsi)
    mov 0x10(%rsi), %eax
    cmp $0x11, %al
    jne fail
    movl $0x18, (%rsi)          /* pin 4 */
    movl $0x32, 0x10(%rsi)
    movq $12f, recover
    sti
    mov $0x2004, %edx
    mov $1, %eax
    outl %eax, %dx
    mov $1000000, %ecx
1:  pause
    loop 1b
    jmp fail
12: cmpl $0x32, last_vector
    jne fail
    movl $0, 0xb0(%rbx)

    step 13                     /* unknown ports, PCI, the test device's memory and port */
    mov $0x1230, %edx
    inl %dx, %eax
    cmp $-1, %eax
    jne fail
    mov $0xcf8, %edx
    mov $0x80000000, %eax
    outl %eax, %dx
    mov $0xcfc, %edx
    inl %dx, %eax
    cmp $-1, %eax
    jne fail
    mov $0xff000000, %edi
    movq $0x12345678, (%rdi)
    cmpb $0x56, 1(%rdi)
    jne fail
    mov $0xe0, %edx
    mov $0xabcd, %eax
    outw %ax, %dx
    inw %dx, %ax
    cmp $0xabcd, %ax
    jne fail
    outb %al, $0x80
    mov $0x70, %edx
    mov $0x0d, %al
    outb %al, %dx
    inc %edx
    inb %dx, %al
    test $0x80, %al
    jz fail

    step 42
fail:
    mov current_step, %eax
    mov $0xf4, %edx
    outl %eax, %dx
1:  hlt
    jmp 1b

/* ---- exceptions: what they were, then on at `recover` ---- */

    .balign 8
stubs:
    .set vector, 0
    .rept 64
    .balign 8
    push $vector
    jmp caught
    .set vector, vector + 1
    .endr
    .balign 8
caught:
    pop last_vector
    mov (%rsp), %rax
    mov %rax, last_error
    cmpq $0, recover
    je unexpected
    mov recover, %rax
    movq $0, recover
    mov $stack_top, %rsp
    jmp *%rax
unexpected:
    mov last_vector, %eax
    add $64, %eax
    mov %eax, current_step
    jmp fail

    .data
    .balign 16
gdt:
    .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff, 0
tss_descriptor:
    .quad 0x0000890000000067, 0
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 64 * 16 - 1
    .quad idt
    .balign 16
tss:
    .long 0
    .quad trap_stack, 0, 0
    .skip 76, 0
percpu:
    .long 0x1234
current_step:
    .quad 0
boot_info:
    .quad 0
recover:
    .quad 0
last_vector:
    .quad 0
last_error:
    .quad 0
scratch:
    .quad 0, 0

    .bss
    .balign 4096
level4:
    .skip 4096
level3:
    .skip 4096
level2:
    .skip 4 * 4096
idt:
    .skip 4096
    .skip 4096
trap_stack:
    .skip 4096
stack_top:
    .skip 4096
user_stack:
