/* Processes, their ends, signals, timers and threads. Prints what it sees. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static int deep(int level)
{
    volatile char block[1024];
    block[0] = (char)level;
    return deep(level + 1) + block[0];
}

static void die(int way)
{
    volatile int zero = 0;
    switch (way) {
    case 0: *(volatile int *)8 = 0; break;
    case 1: abort();
    case 2: _exit(1 / zero);
    case 3: __builtin_trap();
    case 4: __asm__ volatile("hlt"); break;
    case 5: __asm__ volatile("int3"); break;
    case 6: __asm__ volatile(".byte 0xcd, 3"); break;
    case 7: __asm__ volatile("int $0x77"); break;
    case 8: deep(0); break;
    case 9: raise(SIGTERM); break;
    case 10: kill(getpid(), SIGKILL); break;
    case 11: __asm__ volatile("mov %%cr3, %%rax" ::: "rax"); break;
    case 12: _exit(33);
    }
    _exit(99);
}

static void ends(void)
{
    for (int way = 0; way <= 12; way++) {
        int status;
        pid_t child = fork();
        if (!child)
            die(way);
        waitpid(child, &status, 0);
        printf("end %d: status %d, signal %d\n", way, WEXITSTATUS(status), WTERMSIG(status));
    }
    siginfo_t info;
    if (!fork())
        _exit(5);
    waitid(P_ALL, 0, &info, WEXITED | WNOWAIT);
    printf("waitid: %d %d\n", info.si_code, info.si_status);
    waitid(P_ALL, 0, &info, WEXITED);
    printf("again: %d\n", info.si_status);
    int nobody = wait(0);
    printf("nobody: %d %s\n", nobody, strerror(errno));
}

static void skip(int number, siginfo_t *info, void *context)
{
    ucontext_t *user = context;
    printf("signal %d code %d trap %lld\n", number, info->si_code, user->uc_mcontext.gregs[REG_TRAPNO]);
    if (number == SIGILL)
        user->uc_mcontext.gregs[REG_RIP] += 2;
    user->uc_mcontext.gregs[REG_RAX] = 99;
}

static volatile int alarms;

static void count(int number)
{
    (void)number;
    alarms++;
}

static void signals(void)
{
    struct sigaction action = {.sa_sigaction = skip, .sa_flags = SA_SIGINFO};
    long rax = 1;
    double half = 1.5;
    sigaction(SIGILL, &action, 0);
    sigaction(SIGTRAP, &action, 0);
    __asm__ volatile("ud2" : "+a"(rax));
    printf("after ud2: %ld %g\n", rax, half * 3);
    rax = 1;
    __asm__ volatile("int3" : "+a"(rax));
    printf("after int3: %ld\n", rax);
    signal(SIGALRM, count);
    struct itimerval each = {{0, 10000}, {0, 10000}}, none = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &each, 0);
    while (alarms < 2)
        ;
    setitimer(ITIMER_REAL, &none, 0);
    printf("alarms in a loop without system calls\n");
    signal(SIGPIPE, SIG_IGN);
    int ends[2];
    printf("pipe: %d\n", pipe(ends));
    close(ends[0]);
    int written = write(ends[1], "a", 1);
    printf("nobody reads: %d %s\n", written, strerror(errno));
    written = write(1, (void *)8, 4);
    printf("bad address: %d %s\n", written, strerror(errno));
    struct timespec before, after, pause = {0, 20000000};
    clock_gettime(CLOCK_MONOTONIC, &before);
    nanosleep(&pause, 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    long slept = (after.tv_sec - before.tv_sec) * 1000000000L + after.tv_nsec - before.tv_nsec;
    printf("slept long enough: %d\n", slept >= 20000000);
    char random[16] = {0}, zeroes[16] = {0};
    printf("random: %zd", getrandom(random, 16, 0));
    printf(" %d\n", !!memcmp(random, zeroes, 16));
    long unknown = syscall(999);
    printf("unknown: %ld %s\n", unknown, strerror(errno));
}

static int counter, finished;
static volatile int turn;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static __thread int own = 7;

static void *work(void *argument)
{
    for (int i = 0; i < 500; i++) {
        pthread_mutex_lock(&mutex);
        counter++;
        pthread_mutex_unlock(&mutex);
        if (i % 100 == 0)
            sched_yield();
    }
    own += (int)(long)argument;
    pthread_mutex_lock(&mutex);
    finished++;
    pthread_cond_signal(&changed);
    pthread_mutex_unlock(&mutex);
    return (void *)(long)own;
}

static void *spin(void *argument)
{
    while (turn != 1)
        ;
    turn = 2;
    return argument;
}

static void threads(void)
{
    pthread_t all[8], spinner;
    void *result;
    long sum = 0;
    for (long i = 0; i < 8; i++)
        pthread_create(&all[i], 0, work, (void *)i);
    pthread_mutex_lock(&mutex);
    while (finished < 8)
        pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < 8; i++) {
        pthread_join(all[i], &result);
        sum += (long)result;
    }
    printf("threads: %d %ld %d\n", counter, sum, own);
    pthread_create(&spinner, 0, spin, 0);
    turn = 1;
    while (turn != 2)
        ;
    pthread_join(spinner, 0);
    printf("threads that wait without system calls\n");
    sem_t *semaphore = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    sem_init(semaphore, 1, 0);
    if (!fork()) {
        sem_post(semaphore);
        _exit(0);
    }
    printf("semaphore: %d\n", sem_wait(semaphore));
    wait(0);
}

static void events(void)
{
    char data[8] = {0};
    int pair[2], ends[2], event = eventfd(0, 0), epoll = epoll_create1(0);
    printf("socketpair: %d\n", socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    printf("write: %zd\n", write(pair[0], "hi", 2));
    printf("read: %zd %s\n", read(pair[1], data, sizeof data), data);
    unsigned long value = 3;
    printf("eventfd: %zd\n", write(event, &value, 8));
    printf("read: %zd", read(event, &value, 8));
    printf(" %lu\n", value);
    struct epoll_event one = {EPOLLIN, {.u64 = 0x123456789a}}, found;
    pipe(ends);
    epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &one);
    printf("epoll: %d\n", epoll_wait(epoll, &found, 1, 0));
    if (!fork()) {
        write(ends[1], "a", 1);
        _exit(0);
    }
    printf("epoll: %d", epoll_wait(epoll, &found, 1, -1));
    printf(" %lx\n", (long)found.data.u64);
    wait(0);
    int failed = epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &one);
    printf("twice: %d %s\n", failed, strerror(errno));
}

int main(void)
{
    setvbuf(stdout, 0, _IONBF, 0);
    ends();
    signals();
    threads();
    events();
    return 4;
}
