#include "kit.h"

void (*handlers[256])(struct frame *);
volatile u32 last_vector, last_error;
volatile u64 last_address;
u32 checks, failures;
extern u8 image_end[];
static u64 next_page;

void print(const char *text)
{
    while (*text)
        outb(0x3f8, *text++);
}

void print_hex(u64 value)
{
    print("0x");
    for (int shift = 60; shift >= 0; shift -= 4)
        if (value >> shift || !shift)
            outb(0x3f8, "0123456789abcdef"[value >> shift & 15]);
}

void print_number(u64 value)
{
    if (value >= 10)
        print_number(value / 10);
    outb(0x3f8, '0' + value % 10);
}

void check(int good, const char *what)
{
    checks++;
    if (good)
        return;
    failures++;
    print("FAIL: ");
    print(what);
    print("\n");
}

void quit(u32 status)
{
    outl(0xf4, status);
    for (;;)
        __asm__ volatile("hlt");
}

void on_trap(struct frame *frame)
{
    if (handlers[frame->vector]) {
        handlers[frame->vector](frame);
        return;
    }
    last_vector = frame->vector;
    last_error = frame->error;
    last_address = read_cr2();
    if (frame->vector == BACK_VECTOR && frame->cs & 3)
        last_vector = 0xffff;
    if (!resume) {
        print("unexpected exception ");
        print_number(frame->vector);
        print(" at ");
        print_hex(frame->rip);
        print(" error ");
        print_hex(frame->error);
        print(" cr2 ");
        print_hex(last_address);
        print("\n");
        quit(126);
    }
    frame->rip = resume;
    frame->cs = CODE64;
    frame->ss = DATA;
    frame->rflags &= ~0x40100ull; /* AC, TF */
}

u64 new_page(void)
{
    if (!next_page)
        next_page = ((u64)image_end + 0xfff) & ~0xfffull;
    u64 *page = (u64 *)next_page;
    for (int i = 0; i < 512; i++)
        page[i] = 0;
    next_page += 0x1000;
    return (u64)page;
}

u64 *entry_of(u64 address, int level, int make)
{
    u64 *table = (u64 *)(read_cr3() & ~0xfffull);
    for (int at = read_cr4() & CR4_LA57 ? 5 : 4;; at--) {
        u64 *entry = table + (address >> (3 + 9 * at) & 511);
        if (at == level)
            return entry;
        if (!(*entry & P)) {
            if (!make)
                return 0;
            *entry = new_page() | P | W | U;
        }
        table = (u64 *)(*entry & 0xffffffffff000ull);
    }
}
