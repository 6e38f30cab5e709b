/* The 64-bit half's entry, at IMAGE64: called through enter64, it returns to leave64. */
#include "tour.h"

    .section .start, "ax"
    .globl _start
_start:
    mov $KERNEL_DATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov $stack_top, %rsp
    call main64
    pushq $CODE32
    pushq $LEAVE64
    lretq

    .bss
    .balign 16
    .skip STACK_SIZE
stack_top:
