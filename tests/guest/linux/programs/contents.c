/* What is in files: buffers of no bytes, flags that fcntl sets, mappings beyond a file's end, vectors at a place. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static sigjmp_buf back;

static void fault(int signal, siginfo_t *info, void *context)
{
    printf("  signal %d code %d\n", signal, info->si_code);
    siglongjmp(back, 1);
}

static void touch(const char *what, volatile char *place, int write)
{
    printf("%s\n", what);
    if (sigsetjmp(back, 1))
        return;
    if (write)
        *place = 'w';
    printf("  %d\n", *place);
}

static long once(long result)
{
    return result < 0 ? -errno : result;
}

#define ONCE(call) printf("%s: %ld\n", #call, once(call))

static void nothing(void)
{
    static const struct iovec none[2] = {{"ab", 2}, {0, 0}}, only[1] = {{(void *)8, 0}};
    char data[4] = "xy";
    struct iovec into[2] = {{(void *)8, 0}, {data, 2}};
    int fd = open("nothing", O_RDWR | O_CREAT, 0644), ends[2];
    pipe(ends);
    ONCE(write(fd, 0, 0));
    ONCE(write(fd, (void *)8, 0));
    ONCE(writev(fd, none, 2));
    ONCE(writev(fd, only, 1));
    ONCE(writev(ends[1], none, 2));
    ONCE(read(fd, 0, 0));
    ONCE(pread(fd, 0, 0, 0));
    ONCE(pwrite(fd, 0, 0, 0));
    ONCE(lseek(fd, 0, SEEK_SET));
    ONCE(readv(fd, into, 2));
    ONCE(read(ends[0], data, 2));
    ONCE(read(ends[0], data, 0));
    ONCE(getrandom_nothing());
    ONCE(pwritev(fd, none, 2, 10));
    ONCE(preadv(fd, into, 2, 10));
    ONCE(pwritev(fd, none, 2, -1));
    ONCE(preadv2(fd, into, 2, -1, 0));
    ONCE(pwritev2(fd, none, 2, 4, 0));
    ONCE(lseek(fd, 0, SEEK_CUR));
    ONCE(preadv(ends[0], into, 2, 0));
    ONCE(write(fd, (void *)8, 1));
    ONCE(write(99, 0, 0));
    close(fd);
}

int getrandom_nothing(void)
{
    return syscall(SYS_getrandom, 0, 0, 0);
}

static void show(const char *name)
{
    char data[100] = "";
    int fd = open(name, O_RDONLY);
    read(fd, data, 99);
    printf("%s contains %s\n", name, data);
    close(fd);
}

static void flags(void)
{
    int fd = open("flags", O_RDWR | O_CREAT | O_TRUNC, 0644), same = dup(fd);
    write(fd, "0123456789", 10);
    lseek(fd, 0, SEEK_SET);
    ONCE(fcntl(fd, F_GETFL));
    ONCE(fcntl(fd, F_SETFL, O_APPEND));
    ONCE(write(same, "end", 3));
    ONCE(fcntl(same, F_GETFL));
    ONCE(fcntl(same, F_SETFL, O_NONBLOCK | O_WRONLY | O_CREAT));
    ONCE(fcntl(fd, F_GETFL));
    lseek(fd, 2, SEEK_SET);
    ONCE(write(fd, "ab", 2));
    ONCE(fcntl(fd, F_SETFL, O_NOATIME | O_APPEND));
    ONCE(fcntl(fd, F_GETFL));
    ONCE(pwrite(fd, "p", 1, 0));
    show("flags");
    int again = open("/proc/self/fd/3", O_WRONLY | O_APPEND), ends[2];
    printf("again %d\n", again >= 0);
    close(again);
    pipe2(ends, O_NONBLOCK);
    ONCE(read(ends[0], &again, 1));
    ONCE(fcntl(ends[0], F_SETFL, 0));
    write(ends[1], "z", 1);
    ONCE(read(ends[0], &again, 1));
    ONCE(fcntl(99, F_GETFL));
    close(fd);
    close(same);
}

static void beyond(int kind, const char *name)
{
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    char data[8] = "";
    ftruncate(fd, 3 * 4096 + 100);
    pwrite(fd, "last", 4, 3 * 4096);
    char *memory = mmap(0, 6 * 4096, PROT_READ | PROT_WRITE, kind, fd, 0);
    touch("in the file", memory + 3 * 4096, 0);
    touch("in its last page", memory + 3 * 4096 + 200, 1);
    touch("beyond", memory + 4 * 4096, 0);
    touch("written beyond", memory + 5 * 4096, 1);
    ONCE(write(1, memory + 5 * 4096, 1));
    memory[4096] = 'k';
    ONCE(ftruncate(fd, 4096));
    touch("cut off", memory + 4096, 0);
    touch("written where it was cut off", memory + 2 * 4096, 1);
    ONCE(read(open(name, O_RDONLY), memory + 2 * 4096, 1));
    ONCE(ftruncate(fd, 3 * 4096));
    touch("grown again", memory + 4096, 0);
    touch("written where it grew", memory + 2 * 4096, 1);
    pread(fd, data, 1, 2 * 4096);
    printf("in the file %d\n", kind == MAP_SHARED ? data[0] : 0);
    close(open(name, O_WRONLY | O_TRUNC));
    touch("emptied", memory, 0);
    ONCE(truncate(name, 8192));
    touch("longer by name", memory + 4096, 0);
    ONCE(truncate(name, 4096));
    touch("shorter by name", memory + 4096, 0);
    munmap(memory, 6 * 4096);
    close(fd);
}

/* Buffers whose second page cannot be touched: what has no room is not lost. */
static void partly(void)
{
    char *memory = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct iovec vectors[2] = {{memory + 4094, 2}, {memory + 4096, 5}};
    int ends[2], pair[2], fd = open("partly", O_RDWR | O_CREAT | O_TRUNC, 0644);
    memset(memory, 'a', 8192);
    mprotect(memory + 4096, 4096, PROT_NONE);
    pipe(ends);
    socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
    write(ends[1], "0123456789", 10);
    ONCE(read(ends[0], memory + 4092, 10));
    ONCE(read(ends[0], memory, 10));
    memset(memory, 'b', 4096);
    ONCE(write(fd, memory + 4090, 100));
    ONCE(write(fd, memory + 4096, 10));
    ONCE(pread(fd, memory + 4093, 6, 0));
    ONCE(lseek(fd, 0, SEEK_SET));
    ONCE(read(fd, memory + 4094, 5));
    ONCE(read(fd, memory + 4096, 5));
    ONCE(lseek(fd, 0, SEEK_CUR));
    ONCE(writev(fd, vectors, 2));
    ONCE(lseek(fd, 0, SEEK_SET));
    ONCE(readv(fd, vectors, 2));
    ONCE(lseek(fd, 0, SEEK_CUR));
    write(ends[1], "xyz", 3);
    ONCE(read(ends[0], memory + 4096, 3));
    ONCE(read(ends[0], memory, 3));
    write(pair[1], "abcdef", 6);
    ONCE(read(pair[0], memory + 4094, 6));
    ONCE(recv(pair[0], memory, 6, MSG_DONTWAIT));
    printf("%.6s\n", memory);
}

int main(void)
{
    struct sigaction action = {.sa_sigaction = fault, .sa_flags = SA_SIGINFO};
    setbuf(stdout, 0);
    sigaction(SIGBUS, &action, 0);
    sigaction(SIGSEGV, &action, 0);
    nothing();
    flags();
    partly();
    beyond(MAP_SHARED, "shared");
    beyond(MAP_PRIVATE, "private");
    return 0;
}
