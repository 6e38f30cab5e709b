/* The 32-bit half: no paging, two levels, PAE; then the 64-bit half with four and five levels. */
#include "tour.h"

#define CR0_PG 0x80000000u
#define CR0_WP 0x10000u
#define CR4_PSE 0x10u
#define CR4_PAE 0x20u
#define CR4_PGE 0x80u
#define CR4_LA57 0x1000u
#define EFER 0xc0000080u
#define EFER_NX 0x800u
#define COUNTERS 0x5c0
#define COUNTERS_ARE_THERE 0x534d4d55u

void enter64(u32 root, u32 cr4);

static const struct mode modes[] = {
    {"32-bit paging, 2 levels", 2, 10, 4, 0x40000000},
    {"PAE, 3 levels", 3, 9, 8, 0x40000000},
    {"64-bit, 4 levels", 4, 9, 8, 0x2a8040000000},
    {"64-bit, 5 levels", 5, 9, 8, 0x2a804040000000},
};

static int has_la57(void)
{
    u32 regs[4];
    cpuid(0, regs);
    if (regs[0] < 7)
        return 0;
    cpuid(7, regs);
    return regs[2] >> 16 & 1;
}

static void unpaged(void)
{
    volatile u32 *word = (u32 *)FRAMES;
    print("no paging\n");
    *word = 0x12345678;
    shared->checks++;
    if (*word != 0x12345678) {
        shared->failures++;
        print("  FAIL memory does not keep what is written\n");
    }
}

static void run32(const struct mode *new_mode, u32 cr4)
{
    u32 cr0 = read_cr0();
    mode = *new_mode;
    u32 root = new_root();
    write_cr4(cr4);
    write_cr3(root);
    write_cr0(cr0 | CR0_PG | CR0_WP);
    tour(root);
    write_cr0(cr0);
    write_cr4(0);
}

void main(void)
{
    shared->checks = shared->failures = 0;
    outl(COUNTERS, 0);
    shared->has_counters = inl(COUNTERS) == COUNTERS_ARE_THERE;
    load_tables();
    print("A tour of the shadow MMU\n");
    unpaged();
    run32(&modes[0], CR4_PSE | CR4_PGE);
    wrmsr(EFER, rdmsr(EFER) | EFER_NX);
    run32(&modes[1], CR4_PAE | CR4_PGE);
    wrmsr(EFER, rdmsr(EFER) & ~(u64)EFER_NX);
    for (u32 n = 2; n < 4; n++) {
        if (n == 3 && !has_la57()) {
            print("no five-level paging on this processor\n");
            break;
        }
        mode = modes[n];
        u32 root = new_root();
        *(volatile u32 *)(SHARED + 0x100) = root;
        *(volatile u32 *)(SHARED + 0x104) = n;
        enter64(root, CR4_PGE | (n == 3 ? CR4_LA57 : 0));
    }
    print_number(shared->checks);
    if (shared->failures) {
        print(" checks, FAILED: ");
        print_number(shared->failures);
        print("\n");
        quit(1);
    }
    print(" checks, all as they should be\n");
    quit(0);
}
