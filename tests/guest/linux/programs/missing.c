/* Asks for what is not supported, and says what it got. */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int main(int count, char **arguments)
{
    const char *way = count > 1 ? arguments[1] : "";
    int ends[2];
    unsigned word = 0;
    timer_t timer;
    long result = 0;
    if (pipe(ends))
        return 1;
    if (!strcmp(way, "pi"))
        result = syscall(SYS_futex, &word, FUTEX_LOCK_PI, 0, 0, 0, 0);
    else if (!strcmp(way, "splice"))
        result = syscall(SYS_splice, ends[0], 0, ends[1], 0, 1, 0);
    else if (!strcmp(way, "inotify"))
        result = syscall(SYS_inotify_init1, 0);
    else if (!strcmp(way, "shm"))
        result = syscall(SYS_shmget, 0, 4096, 0600);
    else if (!strcmp(way, "timer"))
        result = syscall(SYS_timer_create, 0, 0, &timer);
    else if (!strcmp(way, "int80"))
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(20) : "memory", "r8", "r9", "r10", "r11");
    printf("%ld %s\n", result, strerror(errno));
    return 3;
}
