/* Ends as programs should not. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>

static void nothing(int number)
{
    (void)number;
}

static int deep(int level)
{
    volatile char block[1024];
    block[0] = (char)level;
    return deep(level + 1) + block[0];
}

int main(int count, char **arguments)
{
    const char *way = count > 1 ? arguments[1] : "";
    if (!strcmp(way, "handled")) {
        signal(SIGSEGV, nothing);
        *(volatile int *)8 = 1;
    } else if (!strcmp(way, "overflow")) {
        return deep(0);
    } else if (!strcmp(way, "memory")) {
        for (char *block; (block = malloc(1 << 20));)
            memset(block, 1, 1 << 20);
    } else if (!strcmp(way, "no-stack")) {
        signal(SIGSEGV, nothing);
        __asm__ volatile("xor %esp, %esp; push %rax");
    } else if (!strcmp(way, "wild")) {
        __asm__ volatile("mov $0x4000000000000000, %rax; jmp *%rax");
    } else if (!strcmp(way, "stopped")) {
        raise(SIGSTOP);
    } else if (!strcmp(way, "spin")) {
        for (;;)
            ;
    }
    return 0;
}
