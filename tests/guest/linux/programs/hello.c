/* The least: output, memory, a child, and with a second argument death by a signal. */
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(int count, char **arguments)
{
    int shared = 1, status;
    char *memory = malloc(3 << 20);
    memory[2 << 20] = 5;
    printf("%s %d %s\n", arguments[0], count, arguments[1]);
    fflush(stdout);
    if (!fork()) {
        shared = 2;
        memory[2 << 20] = 6;
        _exit(shared + memory[2 << 20]);
    }
    wait(&status);
    printf("%d %d %d\n", shared, memory[2 << 20], WEXITSTATUS(status));
    if (count > 2)
        *(volatile int *)8 = 1;
    return 7;
}
