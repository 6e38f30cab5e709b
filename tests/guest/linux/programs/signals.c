/* Signals that stop and continue, realtime signals that queue, what handlers learn; mutexes whose owner dies. */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static volatile int count;

static void told(int signal, siginfo_t *info, void *context)
{
    printf("signal %d code %d value %d\n", signal, info->si_code, info->si_code == SI_QUEUE ? info->si_int : 0);
    count++;
}

static void handle(int signal, int flags)
{
    struct sigaction action = {.sa_sigaction = told, .sa_flags = SA_SIGINFO | flags};
    sigaction(signal, &action, 0);
}

static void say(pid_t child, int options)
{
    int status = 0, number = waitpid(child, &status, options);
    if (number <= 0)
        printf("nothing %d %d\n", number, number < 0 ? errno : 0);
    else if (WIFSTOPPED(status))
        printf("stopped by %d\n", WSTOPSIG(status));
    else if (WIFCONTINUED(status))
        printf("continued\n");
    else if (WIFEXITED(status))
        printf("exited %d\n", WEXITSTATUS(status));
    else
        printf("killed by %d\n", WTERMSIG(status));
}

static void stopping(void)
{
    siginfo_t info;
    pid_t child = fork();
    if (!child) {
        for (;;)
            usleep(1000);
    }
    kill(child, SIGSTOP);
    say(child, WUNTRACED);
    say(child, WUNTRACED | WNOHANG);
    kill(child, SIGTERM);
    usleep(20000);
    say(child, WNOHANG | WUNTRACED | WCONTINUED);
    kill(child, SIGCONT);
    say(child, 0);
    child = fork();
    if (!child) {
        setpgid(0, 0);
        raise(SIGTSTP);
        raise(SIGSTOP);
        _exit(5);
    }
    say(child, WUNTRACED);
    kill(child, SIGCONT);
    memset(&info, 0, sizeof info);
    printf("waitid %d", waitid(P_PID, child, &info, WCONTINUED | WSTOPPED | WNOWAIT));
    printf(" code %d status %d\n", info.si_code, info.si_status);
    while (info.si_code != CLD_STOPPED)
        waitid(P_PID, child, &info, WSTOPPED);
    printf("code %d status %d\n", info.si_code, info.si_status);
    kill(child, SIGKILL);
    say(child, WUNTRACED);
    say(-1, WUNTRACED);
    say(-1, 0x10);
}

static void reporting(int flags)
{
    int ends[2];
    count = 0;
    pipe(ends);
    handle(SIGCHLD, flags | SA_RESTART);
    pid_t child = fork();
    if (!child) {
        raise(SIGSTOP);
        read(ends[0], &flags, 1);
        _exit(6);
    }
    say(child, WUNTRACED);
    kill(child, SIGCONT);
    while (!flags && count < 2)
        usleep(1000);
    write(ends[1], "x", 1);
    say(child, 0);
    signal(SIGCHLD, SIG_DFL);
    close(ends[0]);
    close(ends[1]);
}

static void queueing(void)
{
    union sigval value = {.sival_int = 42};
    sigset_t set, pending;
    siginfo_t info;
    struct timespec soon = {0, 1000000};
    count = 0;
    for (int number = SIGRTMIN + 1; number < SIGRTMIN + 4; number++)
        handle(number, 0);
    handle(SIGUSR1, 0);
    printf("queued %d\n", sigqueue(getpid(), SIGRTMIN + 1, value));
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, 0);
    for (int i = 0; i < 3; i++) {
        value.sival_int = i;
        sigqueue(getpid(), SIGRTMIN + 3, value);
        sigqueue(getpid(), SIGUSR1, value);
    }
    kill(getpid(), SIGRTMIN + 2);
    sigpending(&pending);
    printf("pending %d %d %d\n", sigismember(&pending, SIGRTMIN + 3), sigismember(&pending, SIGUSR1),
           sigismember(&pending, SIGUSR2));
    sigprocmask(SIG_UNBLOCK, &set, 0);
    printf("count %d\n", count);
    sigprocmask(SIG_BLOCK, &set, 0);
    value.sival_int = 7;
    sigqueue(getpid(), SIGRTMIN + 1, value);
    printf("waited for %d code %d", sigwaitinfo(&set, &info) == SIGRTMIN + 1, info.si_code);
    printf(" value %d from myself %d\n", info.si_int, info.si_pid == getpid());
    int got = sigtimedwait(&set, &info, &soon);
    printf("in time %d %d\n", got, errno);
    sigprocmask(SIG_UNBLOCK, &set, 0);
    got = sigqueue(99999999, SIGUSR1, value);
    printf("to nobody %d %d\n", got, errno);
}

static void alarms(void)
{
    struct itimerval timer = {{0, 2000}, {0, 2000}};
    handle(SIGALRM, 0);
    setitimer(ITIMER_REAL, &timer, 0);
    for (count = 0; count < 2;)
        pause();
    memset(&timer, 0, sizeof timer);
    setitimer(ITIMER_REAL, &timer, 0);
    printf("left %d", getitimer(ITIMER_REAL, &timer));
    printf(" %ld %ld\n", (long)timer.it_value.tv_sec, (long)timer.it_interval.tv_usec);
}

static void *lock(void *mutex)
{
    pthread_mutex_lock(mutex);
    return 0;
}

static void dying_owners(void)
{
    pthread_mutexattr_t attributes;
    pthread_t thread;
    pthread_mutex_t *mutex = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    volatile char *locked = (char *)mutex + 1000;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(mutex, &attributes);
    pthread_create(&thread, 0, lock, mutex);
    pthread_join(thread, 0);
    printf("a thread's: %s", strerror(pthread_mutex_lock(mutex)));
    printf(", %s\n", strerror(pthread_mutex_consistent(mutex)));
    pthread_mutex_unlock(mutex);
    if (!fork()) {
        pthread_mutex_lock(mutex);
        *locked = 1;
        usleep(20000);
        kill(getpid(), SIGKILL);
    }
    while (!*locked)
        usleep(1000);
    printf("a process': %s\n", strerror(pthread_mutex_lock(mutex)));
    pthread_mutex_consistent(mutex);
    pthread_mutex_unlock(mutex);
    wait(0);
    if (!fork()) {
        pthread_mutex_lock(mutex);
        execl("/proc/self/exe", "again", "nothing", NULL);
    }
    wait(0);
    printf("one's that called execve: %s\n", strerror(pthread_mutex_lock(mutex)));
}

int main(int arguments, char **names)
{
    if (arguments > 1 && !strcmp(names[1], "nothing"))
        return 0;
    setbuf(stdout, 0);
    stopping();
    reporting(0);
    reporting(SA_NOCLDSTOP);
    queueing();
    alarms();
    dying_owners();
    return 0;
}
