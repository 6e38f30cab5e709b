/* Pairs of sockets, timerfd, signalfd, alone and with poll and epoll. */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static long once(long result)
{
    return result < 0 ? -errno : result;
}

#define SHOW(call) printf("%s: %ld\n", #call, once(call))

static int ready(int fd, int milliseconds)
{
    struct pollfd one = {fd, POLLIN};
    return poll(&one, 1, milliseconds) > 0 ? one.revents : 0;
}

static void sockets(int kind)
{
    int ends[2], value, status;
    socklen_t length = sizeof value;
    char data[100] = "", more[4] = "";
    struct iovec out[2] = {{"vec", 3}, {"tors", 4}}, in[2] = {{more, 3}, {data, 50}};
    struct msghdr message = {.msg_iov = out, .msg_iovlen = 2};
    struct sockaddr_storage name;
    SHOW(socketpair(AF_UNIX, kind, 0, ends));
    SHOW(send(ends[0], "hello", 5, 0));
    SHOW(recv(ends[1], data, 3, MSG_PEEK));
    printf("%s\n", data);
    SHOW(recv(ends[1], data, 100, 0));
    printf("%s\n", data);
    SHOW(recv(ends[1], data, 100, MSG_DONTWAIT));
    SHOW(sendmsg(ends[0], &message, MSG_NOSIGNAL));
    message.msg_iov = in;
    message.msg_flags = 77;
    SHOW(recvmsg(ends[1], &message, 0));
    printf("%.3s %.4s flags %d\n", more, data, message.msg_flags);
    SHOW(write(ends[1], "by write", 8));
    SHOW(read(ends[0], data, 3));
    SHOW(recvfrom(ends[0], data, 3, MSG_DONTWAIT, (void *)&name, &length));
    length = sizeof value;
    SHOW(getsockopt(ends[0], SOL_SOCKET, SO_TYPE, &value, &length));
    printf("type %d length %d\n", value, (int)length);
    length = sizeof name;
    SHOW(getsockname(ends[0], (void *)&name, &length));
    printf("family %d length %d\n", name.ss_family, (int)length);
    fflush(stdout);
    if (!fork()) {
        usleep(10000);
        send(ends[0], "late", 4, 0);
        _exit(0);
    }
    SHOW(ready(ends[1], 5000));
    SHOW(recv(ends[1], data, 100, 0));
    wait(&status);
    SHOW(shutdown(ends[0], SHUT_WR));
    if ((kind & 15) != SOCK_DGRAM)
        SHOW(recv(ends[1], data, 100, 0));
    SHOW(send(ends[0], "x", 1, MSG_NOSIGNAL));
    close(ends[0]);
    SHOW(send(ends[1], "x", 1, MSG_NOSIGNAL));
    close(ends[1]);
    SHOW(send(1, "x", 1, 0));
    SHOW(send(99, "x", 1, 0));
}

static void much(void)
{
    static char data[1 << 20];
    int ends[2];
    socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    fflush(stdout);
    if (!fork()) {
        close(ends[0]);
        for (int i = 0; i < (int)sizeof data; i++)
            data[i] = i * 7;
        _exit(send(ends[1], data, sizeof data, 0) != sizeof data);
    }
    close(ends[1]);
    unsigned long sum = 0, total = 0;
    for (long got; (got = recv(ends[0], data, sizeof data, 0)) > 0; total += got)
        for (long i = 0; i < got; i++)
            sum = sum * 31 + data[i];
    int status;
    wait(&status);
    printf("received %lu sum %lu status %d\n", total, sum, status);
    close(ends[0]);
}

static void timers(void)
{
    struct itimerspec time = {{0, 3000000}, {0, 3000000}}, left;
    struct epoll_event event = {EPOLLIN};
    uint64_t count = 0;
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC), epoll = epoll_create1(0);
    SHOW(timerfd_settime(fd, 0, &time, &left));
    printf("before %ld %ld\n", (long)left.it_value.tv_sec, (long)left.it_value.tv_nsec);
    SHOW(read(fd, &count, 8));
    printf("at least once %d\n", count >= 1);
    SHOW(timerfd_gettime(fd, &left));
    printf("each %ld\n", (long)left.it_interval.tv_nsec);
    SHOW(ready(fd, 5000));
    SHOW(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    SHOW(epoll_wait(epoll, &event, 1, 5000));
    memset(&time, 0, sizeof time);
    SHOW(timerfd_settime(fd, 0, &time, 0));
    SHOW(ready(fd, 10));
    SHOW(read(fd, &count, 4));
    SHOW(timerfd_create(99, 0));
    SHOW(timerfd_settime(1, 0, &time, 0));
    SHOW(read(timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK), &count, 8));
}

static void signals(void)
{
    struct signalfd_siginfo info[3];
    union sigval value = {.sival_int = 12};
    struct epoll_event event = {EPOLLIN};
    sigset_t set;
    int status, epoll = epoll_create1(0);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, 0);
    raise(SIGUSR1);
    int fd = signalfd(-1, &set, 0);
    SHOW(ready(fd, 0));
    SHOW(read(fd, info, 100));
    SHOW(read(fd, info, sizeof info));
    printf("signal %u code %d\n", info->ssi_signo, info->ssi_code);
    SHOW(ready(fd, 0));
    SHOW(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
    SHOW(epoll_wait(epoll, &event, 1, 0));
    sigqueue(getpid(), SIGUSR1, value);
    SHOW(epoll_wait(epoll, &event, 1, 0));
    SHOW(read(fd, info, sizeof *info));
    printf("signal %u code %d value %d mine %d\n", info->ssi_signo, info->ssi_code, info->ssi_int,
           info->ssi_pid == getpid());
    fflush(stdout);
    pid_t child = fork();
    if (!child) {
        usleep(10000);
        _exit(3);
    }
    SHOW(read(fd, info, sizeof info));
    printf("signal %u code %d status %d from the child %d\n", info->ssi_signo, info->ssi_code, info->ssi_status,
           info->ssi_pid == (unsigned)child);
    wait(&status);
    sigdelset(&set, SIGCHLD);
    printf("the same %d\n", signalfd(fd, &set, 0) == fd);
    SHOW(read(signalfd(-1, &set, SFD_NONBLOCK), info, sizeof info));
    SHOW(signalfd(1, &set, 0));
}

int main(void)
{
    setbuf(stdout, 0);
    sockets(SOCK_STREAM);
    sockets(SOCK_SEQPACKET);
    sockets(SOCK_DGRAM | SOCK_CLOEXEC);
    much();
    timers();
    signals();
    return 0;
}
