/* What mmap and its kin do, and the signals of accesses that are not allowed. Prints what it sees. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE 4096
#define ANONYMOUS (MAP_PRIVATE | MAP_ANONYMOUS)
#define RW (PROT_READ | PROT_WRITE)

static sigjmp_buf jump;
static volatile siginfo_t seen;
static volatile long error_code, on_alternate;
static char alternate[65536];

static void handler(int number, siginfo_t *info, void *context)
{
    char here;
    seen = *info;
    error_code = ((ucontext_t *)context)->uc_mcontext.gregs[REG_ERR] & 7;
    on_alternate = &here >= alternate && &here < alternate + sizeof alternate;
    siglongjmp(jump, number);
}

/* signal, si_code, whether si_addr is right, error code; 0 if the access was allowed */
static int touch(volatile char *address, int write)
{
    int number = sigsetjmp(jump, 1);
    if (number)
        return number * 10000 + seen.si_code * 100 + (seen.si_addr == (void *)address) * 10 + error_code;
    if (write)
        *address = 1;
    else
        (void)*address;
    return 0;
}

static int call(void *code)
{
    int number = sigsetjmp(jump, 1);
    return number ? -number * 100 - seen.si_code : ((int (*)(void))code)();
}

static int deep(int level)
{
    volatile char block[1024];
    block[0] = (char)level;
    return deep(level + 1) + block[0];
}

static void show(const char *what, long value)
{
    printf("%s: %ld\n", what, value);
}

static void failed(const char *what, int failure)
{
    printf("%s: %s\n", what, failure ? strerror(errno) : "no error");
}

static void protection(char *p)
{
    show("written", touch(p, 1));
    show("read-only", mprotect(p, PAGE, PROT_READ));
    show("read", touch(p, 0));
    show("write", touch(p, 1));
    show("on the other stack", on_alternate);
    show("none", mprotect(p + PAGE, PAGE, PROT_NONE));
    show("read", touch(p + PAGE, 0));
    show("write", touch(p + PAGE, 1));
    show("again", mprotect(p, 2 * PAGE, RW));
    show("write", touch(p, 1) + touch(p + PAGE, 1));
    show("unmapped", munmap(p + 4 * PAGE, 2 * PAGE));
    show("below", touch(p + 3 * PAGE, 1));
    show("in", touch(p + 4 * PAGE, 0));
    show("above", touch(p + 6 * PAGE, 0));
    failed("mprotect over a hole", mprotect(p, 16 * PAGE, PROT_READ));
    show("below it", touch(p, 1));
    show("above it", touch(p + 6 * PAGE, 1));
    mprotect(p, 4 * PAGE, RW);
    show("null", touch((char *)0, 0));
    show("not canonical", touch((char *)0x800000000000, 0) / 10000);
    show("the kernel", touch((char *)0xffffffff81000000, 0) / 10000);
}

static void moving(char *p)
{
    char *q = mremap(p + 6 * PAGE, 2 * PAGE, 4 * PAGE, MREMAP_MAYMOVE);
    printf("moved: %d %d %d\n", q[0], q[PAGE], q[3 * PAGE]);
    show("shrunk", mremap(q, 4 * PAGE, PAGE, 0) == q);
    show("behind", touch(q + PAGE, 0));
    failed("mremap to nothing", mremap(q, PAGE, 0, 0) == MAP_FAILED);
    p[0] = 5;
    show("madvise", madvise(p, PAGE, MADV_DONTNEED));
    show("zero again", p[0]);
    failed("madvise of a hole", madvise(p + 4 * PAGE, PAGE, MADV_DONTNEED));
    failed("unknown advice", madvise(p, PAGE, 12345));
    show("fixed", mmap(p, PAGE, PROT_READ, MAP_FIXED | ANONYMOUS, -1, 0) == p);
    show("write", touch(p, 1));
    failed("not replaced", mmap(p, PAGE, PROT_READ, MAP_FIXED_NOREPLACE | ANONYMOUS, -1, 0) == MAP_FAILED);
    failed("no length", mmap(0, 0, PROT_READ, ANONYMOUS, -1, 0) == MAP_FAILED);
    char *huge = mmap(0, 1UL << 40, RW, ANONYMOUS | MAP_NORESERVE, -1, 0);
    huge[1UL << 39] = 1;
    show("sparse", munmap(huge, 1UL << 40));
}

static void files(void)
{
    static char data[2 * PAGE];
    int fd = open("file", O_RDWR | O_CREAT | O_TRUNC, 0644), status;
    memset(data, 'x', sizeof data);
    show("file", write(fd, data, PAGE + 100));
    char *own = mmap(0, 4 * PAGE, RW, MAP_PRIVATE, fd, 0);
    printf("private: %c %c %d\n", own[0], own[PAGE + 99], own[PAGE + 100]);
    show("beyond the end", touch(own + 2 * PAGE, 0));
    own[0] = 'y';
    pread(fd, data, 1, 0);
    printf("copied: %c %c\n", own[0], data[0]);
    char *both = mmap(0, 2 * PAGE, RW, MAP_SHARED, fd, 0);
    if (both == MAP_FAILED) {
        failed("shared", 1);
        return;
    }
    both[1] = 'z';
    pread(fd, data, 2, 0);
    printf("mapped, read: %c\n", data[1]);
    pwrite(fd, "w", 1, 2);
    printf("written, mapped: %c\n", both[2]);
    if (!fork()) {
        both[PAGE] = 'c';
        _exit(0);
    }
    wait(&status);
    printf("by a child: %c\n", both[PAGE]);
    both[3] = 'q';
    show("beyond its end", touch(both + 2 * PAGE - 1, 1) && msync(both, 2 * PAGE, MS_SYNC));
    show("unmapped", munmap(both, 2 * PAGE));
    pread(fd, data, 4, 0);
    printf("in the file: %.4s\n", data);
    int reader = open("file", O_RDONLY);
    failed("shared, read-only", mmap(0, PAGE, RW, MAP_SHARED, reader, 0) == MAP_FAILED);
    char *view = mmap(0, PAGE, PROT_READ, MAP_SHARED, reader, 0);
    printf("view: %.4s\n", view);
    failed("made writable", mprotect(view, PAGE, RW));
}

static void code(void)
{
    unsigned char answer[] = {0xb8, 42, 0, 0, 0, 0xc3};
    char *page = mmap(0, PAGE, RW, ANONYMOUS, -1, 0);
    memcpy(page, answer, sizeof answer);
    show("not executable", call(page));
    mprotect(page, PAGE, PROT_READ | PROT_EXEC);
    show("executable", call(page));
    mprotect(page, PAGE, RW | PROT_EXEC);
    page[1] = 43;
    show("changed by itself", call(page));
}

static void copies(char *p)
{
    int status;
    char *shared = mmap(0, PAGE, RW, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    shared[0] = 1;
    p[PAGE] = 7;
    if (!fork()) {
        shared[0] = 2;
        p[PAGE] = 77;
        if (!fork()) {
            shared[1] = p[PAGE];
            p[PAGE] = 78;
            _exit(0);
        }
        wait(&status);
        _exit(p[PAGE]);
    }
    wait(&status);
    printf("after fork: %d %d %d %d\n", WEXITSTATUS(status), shared[0], shared[1], p[PAGE]);
    int number = sigsetjmp(jump, 1);
    if (!number)
        deep(0);
    printf("stack overflow: %d %d %ld\n", number, seen.si_code, on_alternate);
}

int main(void)
{
    stack_t stack = {.ss_sp = alternate, .ss_size = sizeof alternate};
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    setvbuf(stdout, 0, _IONBF, 0);
    show("sigaltstack", sigaltstack(&stack, 0));
    sigaction(SIGSEGV, &action, 0);
    sigaction(SIGBUS, &action, 0);
    char *p = mmap(0, 16 * PAGE, RW, ANONYMOUS, -1, 0);
    for (int page = 0; page < 16; page++)
        p[page * PAGE] = page;
    protection(p);
    moving(p);
    files();
    code();
    copies(p);
    void *big = malloc(32 << 20);
    memset(big, 1, 32 << 20);
    free(big);
    return 3;
}
