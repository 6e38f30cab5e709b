/* Record locks, locks of open file descriptions and flock between processes; with arguments, of one file only:
   FILE and what to do with it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

static int fd, ends[2], back[2];

static int ask(int file, int command, int type, long start, long length)
{
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    int done = fcntl(file, command, &lock);
    if (done)
        return -errno;
    if (command != F_GETLK && command != F_OFD_GETLK)
        return 0;
    if (lock.l_type == F_UNLCK)
        printf("    free\n");
    else
        printf("    %s %ld %ld whence %d, of the parent %d\n", lock.l_type == F_WRLCK ? "write" : "read",
               (long)lock.l_start, (long)lock.l_len, lock.l_whence, lock.l_pid == getppid());
    return 0;
}

/* What another process finds in each part of the file. */
static void map(const char *text)
{
    printf("%s\n", text);
    fflush(stdout);
    if (!fork()) {
        for (long start = 0; start < 100; start += 10)
            ask(fd, F_GETLK, F_WRLCK, start, 10);
        ask(fd, F_GETLK, F_RDLCK, 0, 0);
        ask(fd, F_GETLK, F_WRLCK, 1000000, 1);
        fflush(stdout);
        _exit(0);
    }
    wait(0);
}

static void say(int to)
{
    write(to, "x", 1);
}

static void hear(int from)
{
    char c;
    read(from, &c, 1);
}

static void handler(int signal)
{
}

static void splits_and_merges(void)
{
    printf("set %d\n", ask(fd, F_SETLK, F_WRLCK, 10, 50));
    map("one lock");
    printf("middle to read %d\n", ask(fd, F_SETLK, F_RDLCK, 20, 20));
    map("three locks");
    printf("hole %d\n", ask(fd, F_SETLK, F_UNLCK, 25, 10));
    map("with a hole");
    printf("over all %d\n", ask(fd, F_SETLK, F_RDLCK, 0, 0));
    map("one to the end");
    printf("tail off %d\n", ask(fd, F_SETLK, F_UNLCK, 50, 0));
    printf("touching %d\n", ask(fd, F_SETLK, F_RDLCK, 50, 10));
    map("merged");
    struct flock back_wards = {.l_type = F_WRLCK, .l_whence = SEEK_END, .l_start = 0, .l_len = -10};
    printf("from the end %d\n", fcntl(fd, F_SETLK, &back_wards));
    map("ten before the end");
    printf("bad %d %d %d\n", ask(fd, F_SETLK, 7, 0, 1), ask(fd, F_SETLK, F_RDLCK, -1, 1), ask(77, F_SETLK, 0, 0, 1));
    int other = open("locked", O_RDONLY), third = open("locked", O_WRONLY);
    printf("modes %d %d\n", ask(other, F_SETLK, F_WRLCK, 0, 1), ask(third, F_SETLK, F_RDLCK, 0, 1));
    close(third);
    map("after one of its descriptors was closed");
    close(other);
}

static void between_processes(void)
{
    ask(fd, F_SETLK, F_WRLCK, 0, 10);
    fflush(stdout);
    if (!fork()) {
        printf("child: not inherited %d\n", ask(fd, F_SETLK, F_WRLCK, 0, 10));
        printf("child: own %d\n", ask(fd, F_SETLK, F_WRLCK, 10, 10));
        fflush(stdout);
        say(ends[1]);
        int got = ask(fd, F_SETLKW, F_WRLCK, 0, 10);
        printf("child: waited %d\n", got);
        fflush(stdout);
        _exit(0);
    }
    hear(ends[0]);
    printf("parent: child's %d\n", ask(fd, F_SETLK, F_RDLCK, 15, 1));
    printf("parent: deadlock %d\n", (usleep(300000), ask(fd, F_SETLKW, F_WRLCK, 10, 10)));
    fflush(stdout);
    ask(fd, F_SETLK, F_UNLCK, 0, 0);
    wait(0);
    printf("parent: after its death %d\n", ask(fd, F_SETLK, F_WRLCK, 0, 0));
    fflush(stdout);
    if (!fork()) {
        struct sigaction action = {.sa_handler = handler};
        sigaction(SIGALRM, &action, 0);
        ualarm(20000, 0);
        printf("child: interrupted %d\n", ask(fd, F_SETLKW, F_RDLCK, 0, 0));
        fflush(stdout);
        _exit(0);
    }
    wait(0);
    ask(fd, F_SETLK, F_RDLCK, 0, 0);
    fflush(stdout);
    if (!fork()) {
        printf("child: shared %d exclusive %d\n", ask(fd, F_SETLK, F_RDLCK, 3, 5), ask(fd, F_SETLK, F_WRLCK, 3, 5));
        fflush(stdout);
        _exit(0);
    }
    wait(0);
    ask(fd, F_SETLK, F_UNLCK, 0, 0);
}

static void descriptions(void)
{
    int other = open("locked", O_RDWR), same = dup(fd);
    printf("ofd %d\n", ask(fd, F_OFD_SETLK, F_WRLCK, 0, 10));
    printf("ofd other %d same %d\n", ask(other, F_OFD_SETLK, F_WRLCK, 5, 10), ask(same, F_OFD_SETLK, F_WRLCK, 5, 10));
    printf("posix against ofd %d\n", ask(other, F_SETLK, F_RDLCK, 0, 5));
    printf("posix beside ofd %d, ofd against posix %d\n", ask(fd, F_SETLK, F_WRLCK, 50, 5),
           ask(other, F_OFD_SETLK, F_RDLCK, 52, 1));
    ask(fd, F_SETLK, F_UNLCK, 0, 0);
    ask(other, F_OFD_GETLK, F_WRLCK, 0, 0);
    close(fd);
    printf("ofd still %d\n", ask(other, F_OFD_SETLK, F_WRLCK, 0, 0));
    close(same);
    printf("ofd at last %d\n", ask(other, F_OFD_SETLK, F_WRLCK, 0, 0));
    ask(other, F_OFD_SETLK, F_UNLCK, 0, 0);
    fd = other;
}

static int flocked(int file, int operation)
{
    return flock(file, operation) ? -errno : 0;
}

static void whole_files(void)
{
    int other = open("locked", O_RDONLY), same = dup(fd);
    printf("flock %d\n", flocked(fd, LOCK_EX));
    printf("other %d same %d\n", flocked(other, LOCK_EX | LOCK_NB), flocked(same, LOCK_EX | LOCK_NB));
    printf("shared %d bad %d\n", flocked(other, LOCK_SH | LOCK_NB), flocked(other, 64));
    fflush(stdout);
    if (!fork()) {
        close(same);
        printf("child: inherited %d\n", flocked(fd, LOCK_EX | LOCK_NB));
        int own = open("locked", O_RDWR);
        say(ends[1]);
        close(fd);
        printf("child: waited %d\n", flocked(own, LOCK_SH));
        fflush(stdout);
        _exit(0);
    }
    hear(ends[0]);
    usleep(20000);
    printf("down %d\n", flocked(fd, LOCK_SH));
    fflush(stdout);
    wait(0);
    printf("both shared %d, up %d\n", flocked(other, LOCK_SH | LOCK_NB), flocked(fd, LOCK_EX | LOCK_NB));
    printf("unlocked %d, up %d\n", flocked(other, LOCK_UN), flocked(fd, LOCK_EX | LOCK_NB));
    close(fd);
    printf("dup keeps it %d\n", flocked(other, LOCK_EX | LOCK_NB));
    close(same);
    printf("closed %d\n", flocked(other, LOCK_EX | LOCK_NB));
}

static int single(char **arguments)
{
    fd = open(arguments[1], O_RDWR);
    printf("record %d\n", ask(fd, F_SETLK, F_WRLCK, 0, 10));
    printf("flock %d\n", flocked(fd, LOCK_EX | LOCK_NB));
    fflush(stdout);
    if (!strcmp(arguments[2], "hold"))
        hear(0);
    return 0;
}

int main(int count, char **arguments)
{
    if (count > 2)
        return single(arguments);
    pipe(ends);
    fd = open("locked", O_RDWR | O_CREAT | O_TRUNC, 0644);
    ftruncate(fd, 100);
    splits_and_merges();
    between_processes();
    descriptions();
    whole_files();
    return 0;
}
