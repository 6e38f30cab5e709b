/* Makes the attempts of a file, a line each: what to do, a path, and prints which succeeded, with what was read. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define IS(word) (!strcmp(what, word))

static long wrote(int fd)
{
    long done = fd < 0 ? -1 : write(fd, "wrote", 5);
    if (fd >= 0)
        close(fd);
    return done;
}

static long mapped(const char *path)
{
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    char *memory = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    close(fd);
    if (memory == MAP_FAILED || mprotect(memory, 4096, PROT_READ | PROT_WRITE))
        return -1;
    memcpy(memory, "mapped", 6);
    return munmap(memory, 4096);
}

static long has_read(const char *path)
{
    char data[64];
    int fd = open(path, O_RDONLY | O_NONBLOCK);
    long size = fd < 0 ? -1 : pread(fd, data, sizeof data - 1, 0);
    if (size > 0)
        printf("%s: %.*s\n", path, (int)strnlen(data, size), data);
    if (fd >= 0)
        close(fd);
    return size;
}

static long by_directory(const char *path)
{
    int fd = open(path, O_PATH | O_DIRECTORY);
    long done = fd < 0 ? -1 : wrote(openat(fd, "new-at", O_WRONLY | O_CREAT, 0644));
    if (fd >= 0) {
        if (!unlinkat(fd, "kept", 0) || !mkdirat(fd, "new-dir-at", 0755) || !fchmodat(fd, "kept", 0777, 0))
            done = 1;
        close(fd);
    }
    return done;
}

static long attempt(const char *what, const char *path)
{
    static const struct timespec times[2] = {{1, 0}, {1, 0}};
    if (IS("read")) return has_read(path);
    if (IS("write")) return wrote(open(path, O_WRONLY | O_NONBLOCK));
    if (IS("create")) return wrote(open(path, O_RDWR | O_CREAT | O_NONBLOCK, 0644));
    if (IS("exclusive")) return wrote(open(path, O_WRONLY | O_CREAT | O_EXCL, 0644));
    if (IS("append")) return wrote(open(path, O_WRONLY | O_APPEND | O_NOFOLLOW | O_NONBLOCK));
    if (IS("empty")) return close(open(path, O_RDONLY | O_TRUNC | O_NONBLOCK));
    if (IS("temporary")) return close(open(path, O_RDWR | O_TMPFILE, 0600));
    if (IS("mapped")) return mapped(path);
    if (IS("at")) return by_directory(path);
    if (IS("unlink")) return unlink(path);
    if (IS("rmdir")) return rmdir(path);
    if (IS("mkdir")) return mkdir(path, 0755);
    if (IS("mknod")) return mknod(path, S_IFREG | 0644, 0);
    if (IS("fifo")) return mkfifo(path, 0644);
    if (IS("symlink")) return symlink("../..", path);
    if (IS("rename-from")) return rename(path, "taken");
    if (IS("rename-to")) return rename("given", path);
    if (IS("exchange")) return syscall(SYS_renameat2, AT_FDCWD, "given", AT_FDCWD, path, 2);
    if (IS("link-from")) return linkat(AT_FDCWD, path, AT_FDCWD, "second-name", AT_SYMLINK_FOLLOW);
    if (IS("link-to")) return link("given", path);
    if (IS("chmod")) return chmod(path, 0777);
    if (IS("chown")) return lchown(path, 1, 1);
    if (IS("truncate")) return truncate(path, 1);
    if (IS("times")) return utimensat(AT_FDCWD, path, times, 0);
    if (IS("link-times")) return utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW);
    if (IS("chdir")) {
        int here = open(".", O_PATH);
        long done = chdir(path) ? -1 : wrote(open("new-in", O_WRONLY | O_CREAT, 0644));
        fchdir(here);
        close(here);
        return done;
    }
    return -1;
}

int main(int count, char **arguments)
{
    static char line[8192];
    FILE *file = fopen(arguments[1], "r");
    for (int made = 0; fgets(line, sizeof line, file); made++) {
        char *path = strchr(line, ' ');
        line[strcspn(line, "\n")] = 0;
        *path++ = 0;
        close(open("given", O_RDWR | O_CREAT, 0644));
        if (attempt(line, path) >= 0)
            printf("%s %s\n", line, path);
        unlink("taken");
        unlink("second-name");
    }
    return count - 2;
}
