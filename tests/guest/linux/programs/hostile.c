/* Makes system calls at random, each number of children with a seed of its own, from one number to another. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define CALLS 100
#define PATIENCE 300

static const short left_out[] = {
    SYS_fork, SYS_vfork, SYS_clone, SYS_clone3, SYS_exit, SYS_exit_group, SYS_kill, SYS_tkill, SYS_tgkill,
    SYS_pause, SYS_rt_sigsuspend, SYS_alarm, SYS_setitimer,
};
static unsigned long seed;
static char *memory;

static unsigned long next(void)
{
    seed = seed * 6364136223846793005UL + 1442695040888963407UL;
    return seed >> 20;
}

static unsigned long argument(void)
{
    switch (next() % 14) {
    case 0: return next() % 8;
    case 1: return -(next() % 200);
    case 2: return (unsigned long)memory + next() % 8192;
    case 3: return (unsigned long)memory + 8192 - next() % 64;
    case 4: return 1UL << next() % 64;
    case 5: return (1UL << next() % 64) - 1;
    case 6: return next() * next();
    case 7: return 0;
    case 8: return (unsigned long)"/tmp/../dev/null";
    case 9: return 4096 * (next() % 16);
    case 10: return (unsigned long)memory & -4096;
    case 11: return 3 + next() % 8;
    case 12: return next() % 4096;
    default: return 0xffffffff80000000UL | next();
    }
}

static int allowed(long number)
{
    for (unsigned i = 0; i < sizeof left_out / sizeof *left_out; i++)
        if (number == left_out[i])
            return 0;
    return 1;
}

static void play(void)
{
    struct itimerval soon = {{0, 0}, {0, 30000}};
    int ends[2], fd = open("hostile", O_RDWR | O_CREAT, 0644);
    memory = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 8192; i++)
        memory[i] = next() % 3 ? 0 : next();
    pipe(ends);
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    eventfd(0, 0);
    epoll_create1(0);
    open(".", O_RDONLY);
    write(fd, memory, 8192);
    mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    setitimer(ITIMER_REAL, &soon, 0);
    for (int i = 0; i < CALLS; i++) {
        long number = next() % 8 ? next() % 335 : 424 + next() % 28;
        if (allowed(number))
            syscall(number, argument(), argument(), argument(), argument(), argument(), argument());
    }
    _exit(0);
}

int main(int count, char **arguments)
{
    for (int number = atoi(arguments[1]); number < atoi(arguments[2]); number++) {
        int left = PATIENCE;
        pid_t child = fork();
        if (!child) {
            seed = number * 7919 + 13;
            close(0);
            close(1);
            close(2);
            play();
        }
        while (left-- && !waitpid(child, 0, WNOHANG))
            usleep(1000);
        if (left < 0) {
            kill(child, SIGKILL);
            waitpid(child, 0, 0);
        }
    }
    write(1, "done\n", 5);
    return count - 3;
}
