/* Three processes: one calculates, one reads, one maps and unmaps. The last one causes a storm of syncs. */
typedef unsigned long word;
enum { WRITE = 1, MMAP = 9, MUNMAP = 11, FORK = 57, EXIT = 60, WAIT4 = 61, PRCTL = 157 };
enum { PAGE = 4096, PAGES = 40, ROUNDS = 12, SET_NAME = 15, READ_WRITE = 3, ANONYMOUS = 0x22 };
#define PLACE ((char *)0x10000000)

char table[16 * PAGE];
volatile word result;

static word call(word number, word a, word b, word c, word d, word e, word f)
{
    word value;
    register word r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(value) : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return value;
}

__attribute__((noinline)) void calculate(void)
{
    for (word n = 1; n < 100000; n++)
        result = result * 31 + n;
}

__attribute__((noinline)) void read_table(void)
{
    for (word at = 0; at < sizeof table; at += PAGE)
        result += table[at];
}

__attribute__((noinline)) void touch(char *place)
{
    for (word at = 0; at < PAGES * PAGE; at += PAGE)
        place[at] = 1;
}

__attribute__((noinline)) void storm(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        touch((char *)call(MMAP, (word)PLACE, PAGES * PAGE, READ_WRITE, ANONYMOUS, -1, 0));
        call(MUNMAP, (word)PLACE, PAGES * PAGE, 0, 0, 0, 0);
    }
}

static void start(const char *name, void (*work)(void))
{
    if (call(FORK, 0, 0, 0, 0, 0, 0) == 0) {
        call(PRCTL, SET_NAME, (word)name, 0, 0, 0, 0);
        work();
        call(EXIT, 0, 0, 0, 0, 0, 0);
    }
}

void _start(void)
{
    start("calculator", calculate);
    start("reader", read_table);
    start("mapper", storm);
    while ((long)call(WAIT4, -1, 0, 0, 0, 0, 0) > 0)
        ;
    call(WRITE, 1, (word) "done\n", 5, 0, 0, 0);
    call(EXIT, 0, 0, 0, 0, 0, 0);
}
