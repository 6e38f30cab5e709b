/* The tests of one paging mode; compiled for both halves of the program.
 *
 * Each is named after the mechanism of KVM's shadow MMU that it needs. It checks what a processor without a
 * hypervisor would do, and prints what KVM's counters (a device of the model's, at port 0x5c0) say it took.
 */
#include "tour.h"

#define P 1u
#define W 2u
#define U 4u
#define A 0x20u
#define D 0x40u
#define PS 0x80u
#define G 0x100u
#define NX (1ull << 63)

#define CR0_WP 0x10000u
#define CR4_SMEP (1u << 20)
#define CR4_SMAP (1u << 21)

#define PAGE 4096u
#define PAGES 64 /* of the window */
#define APIC 0xfee00000u
#define APIC_VERSION (APIC + 0x30)
#define INT_CODE (0xcdu | SYSCALL_VECTOR << 8) /* int $SYSCALL_VECTOR */
#define COM1 0x3f8
#define COUNTERS 0x5c0

enum {
    EXITS = 1, PF_TAKEN, PF_FIXED, PF_EMULATE, PF_SPURIOUS, PF_GUEST, INVLPG, MMIO_EXITS, INSN_EMULATION,
    SHADOW_ZAPPED, PTE_WRITE, FLOODED, UNSYNC, PAGES_4K, PAGES_2M, PAGES_1G, COUNTERS_END,
};
static const char *const counter_names[] = {
    [EXITS] = "exits", [PF_TAKEN] = "pf_taken", [PF_FIXED] = "pf_fixed", [PF_EMULATE] = "pf_emulate",
    [PF_SPURIOUS] = "pf_spurious", [PF_GUEST] = "pf_guest", [INVLPG] = "invlpg", [MMIO_EXITS] = "mmio_exits",
    [INSN_EMULATION] = "insn_emulation", [SHADOW_ZAPPED] = "mmu_shadow_zapped", [PTE_WRITE] = "mmu_pte_write",
    [FLOODED] = "mmu_flooded", [UNSYNC] = "mmu_unsync", [PAGES_4K] = "pages_4k", [PAGES_2M] = "pages_2m",
    [PAGES_1G] = "pages_1g",
};

struct mode mode;
extern unsigned long user_entry;

/* ---- printing ---- */

void print(const char *text)
{
    for (; *text; text++) {
        while (!(inb(COM1 + 5) & 0x20))
            ;
        outb(COM1, *text);
    }
}

void print_number(u64 value)
{
    char digits[12], *end = digits + 11;
    u32 rest = value;
    *end = 0;
    do
        *--end = '0' + rest % 10;
    while (rest /= 10);
    print(end);
}

void print_hex(u64 value)
{
    int shift = 60;
    print("0x");
    while (shift && !(value >> shift & 15))
        shift -= 4;
    for (; shift >= 0; shift -= 4) {
        char digit[2] = {"0123456789abcdef"[value >> shift & 15], 0};
        print(digit);
    }
}

void quit(u32 status)
{
    if (status)
        outl(0xf4, status);
    for (const char *text = "Shutdown"; *text; text++)
        outb(0x8900, *text);
    __asm__ volatile("outw %0, %1" : : "a"((u16)0x2000), "Nd"((u16)0x604));
    for (;;)
        __asm__ volatile("cli; hlt");
}

static void check(int holds, const char *what)
{
    shared->checks++;
    if (holds)
        return;
    shared->failures++;
    print("  FAIL ");
    print(what);
    print(": trap ");
    print_hex(last_trap.vector);
    print(" error ");
    print_hex(last_trap.error);
    print(" address ");
    print_hex(last_trap.address);
    print(" value ");
    print_hex(probe_value);
    print("\n");
}

/* ---- traps ---- */

static u32 in_probe;

void on_trap(u32 vector, u32 error, unsigned long address, unsigned long ip)
{
    if (!in_probe) {
        print("unexpected trap ");
        print_number(vector);
        print(" error ");
        print_hex(error);
        print(" address ");
        print_hex(address);
        print(" ip ");
        print_hex(ip);
        print("\n");
        quit(2);
    }
    if (vector == SYSCALL_VECTOR)
        return;
    last_trap.vector = vector;
    last_trap.error = error;
    last_trap.address = address;
}

static void access(u32 kind, u64 address)
{
    in_probe = 1;
    probe(kind, address);
    in_probe = 0;
}

static u32 read_word(u64 address)
{
    probe_value = 0;
    access(READ, address);
    return last_trap.vector == NONE ? (u32)probe_value : ~0u;
}

static void write_word(u64 address, u32 value)
{
    probe_value = value;
    access(WRITE, address);
}

static int done(void)
{
    return last_trap.vector == NONE;
}

static int faulted(u64 address, u32 error)
{
    return last_trap.vector == 14 && last_trap.error == error && last_trap.address == address;
}

/* ---- page tables ---- */

static int has_nx(void)
{
    return mode.entry_size == 8;
}

static u64 get_entry(u32 table, u32 index)
{
    if (mode.entry_size == 4)
        return ((volatile u32 *)(unsigned long)table)[index];
    return ((volatile u64 *)(unsigned long)table)[index];
}

static void set_entry(u32 table, u32 index, u64 value)
{
    if (mode.entry_size == 4)
        ((volatile u32 *)(unsigned long)table)[index] = value;
    else
        ((volatile u64 *)(unsigned long)table)[index] = value;
}

static u32 index_of(u64 address, u32 level)
{
    u32 shift = 12 + mode.bits * (level - 1);
    u32 bits = mode.levels == 3 && level == 3 ? 2 : mode.bits;
    return address >> shift & ((1u << bits) - 1);
}

static u32 new_table(void)
{
    u32 table = shared->next_table;
    if (table < POOL || table >= POOL_END)
        table = POOL;
    shared->next_table = table + PAGE;
    for (u32 i = 0; i < PAGE / 4; i++)
        ((volatile u32 *)(unsigned long)table)[i] = 0;
    return table;
}

static u64 link_flags(u32 level)
{
    return mode.levels == 3 && level == 3 ? P : P | W | U;
}

/* The table with the entry of `level` for an address, made if need be. */
static u32 table_for(u32 root, u64 address, u32 level)
{
    u32 table = root;
    for (u32 at = mode.levels; at > level; at--) {
        u32 index = index_of(address, at);
        u64 entry = get_entry(table, index);
        if (!(entry & P)) {
            entry = new_table() | link_flags(at);
            set_entry(table, index, entry);
        }
        table = entry & 0xfffff000;
    }
    return table;
}

static u64 large_size(void)
{
    return 1ull << (12 + mode.bits);
}

/* Tables that map the program's memory and the APIC where they are, for the supervisor. */
u32 new_root(void)
{
    u32 root;
    shared->next_table = POOL;
    root = new_table();
    for (u64 at = 0; at < MEMORY_END; at += large_size())
        set_entry(table_for(root, at, 2), index_of(at, 2), at | P | W | PS);
    set_entry(table_for(root, APIC, 2), index_of(APIC, 2), (APIC & ~(large_size() - 1)) | P | W | PS);
    table_for(root, mode.window, 1);
    return root;
}

static u32 root, table; /* the root, and the last-level table of the window */

static u64 window(u32 page)
{
    return mode.window + (u64)page * PAGE;
}

static u32 frame(u32 number)
{
    return FRAMES + number * PAGE;
}

static void set_page(u32 page, u64 entry)
{
    set_entry(table, index_of(window(page), 1), entry);
}

static u64 page_entry(u32 page)
{
    return get_entry(table, index_of(window(page), 1));
}

static void map(u32 page, u64 entry)
{
    set_page(page, entry);
    invlpg(window(page));
}

static volatile u32 *word(u32 address)
{
    return (volatile u32 *)(unsigned long)address;
}

static void flush(void)
{
    write_cr3(read_cr3());
}

/* ---- the tests ---- */

static void test_map(void)
{
    for (u32 i = 0; i < PAGES; i++) {
        *word(frame(i)) = 0x1000 + i;
        map(i, frame(i) | P | W);
    }
    for (u32 i = 0; i < PAGES; i++) {
        check(read_word(window(i)) == 0x1000 + i, "a mapped page is read");
        write_word(window(i), 0x2000 + i);
        check(*word(frame(i)) == 0x2000 + i, "a mapped page is written");
    }
    map(1, 0);
    read_word(window(1));
    check(faulted(window(1), 0), "a page that is not present is read");
    write_word(window(1), 1);
    check(faulted(window(1), 2), "a page that is not present is written");
}

static void test_accessed_dirty(void)
{
    map(0, frame(0) | P | W);
    check(!(page_entry(0) & (A | D)), "a new entry is neither accessed nor dirty");
    read_word(window(0));
    check((page_entry(0) & (A | D)) == A, "a read sets A only");
    write_word(window(0), 1);
    check((page_entry(0) & (A | D)) == (A | D), "a write sets D");
    map(0, frame(0) | P | W | A);
    read_word(window(0));
    check((page_entry(0) & D) == 0, "D stays clear");
    write_word(window(0), 1);
    check((page_entry(0) & D) != 0, "a write sets D again");
}

static void test_write_protection(void)
{
    map(0, frame(0) | P | U);
    *word(frame(0)) = 7;
    write_word(window(0), 8);
    check(faulted(window(0), 3), "a read-only page is written");
    write_cr0(read_cr0() & ~(unsigned long)CR0_WP);
    write_word(window(0), 9);
    check(done() && *word(frame(0)) == 9, "with WP=0 the supervisor may write a read-only page");
    check((page_entry(0) & D) != 0, "that sets D");
    probe_value = 10;
    access(WRITE | USER, window(0));
    check(faulted(window(0), 7) && *word(frame(0)) == 9, "with WP=0 the user may not");
    access(READ | USER, window(0));
    check(done() && (u32)probe_value == 9, "the user may read it");
    write_cr0(read_cr0() | CR0_WP);
    write_word(window(0), 11);
    check(faulted(window(0), 3), "with WP=1 it is protected again");
}

static void test_user(void)
{
    map(0, frame(0) | P | W);
    access(READ | USER, window(0));
    check(faulted(window(0), 5), "the user reads a page of the supervisor's");
    access(WRITE | USER, window(0));
    check(faulted(window(0), 7), "the user writes it");
    map(0, frame(0) | P | W | U);
    *word(frame(0)) = 3;
    access(READ | USER, window(0));
    check(done() && (u32)probe_value == 3, "the user reads a page of its own");
    probe_value = 4;
    access(WRITE | USER, window(0));
    check(done() && *word(frame(0)) == 4, "the user writes it");
}

static void test_execute(void)
{
    u32 fetch = has_nx() ? 0x10 : 0;
    *word(frame(0)) = INT_CODE;
    map(0, frame(0) | P);
    access(EXECUTE, window(0));
    check(done(), "the supervisor executes its page");
    access(EXECUTE | USER, window(0));
    check(faulted(window(0), 5 | fetch), "the user executes it");
    map(0, frame(0) | P | U);
    access(EXECUTE | USER, window(0));
    check(done(), "the user executes its own");
    if (!has_nx())
        return;
    map(0, frame(0) | P | U | NX);
    access(EXECUTE, window(0));
    check(faulted(window(0), 0x11), "the supervisor executes an NX page");
    access(EXECUTE | USER, window(0));
    check(faulted(window(0), 0x15), "the user executes an NX page");
    check(read_word(window(0)) == INT_CODE, "an NX page is read");
}

static void test_smep_smap(void)
{
    u32 regs[4];
    cpuid(0, regs);
    if (regs[0] < 7)
        return;
    cpuid(7, regs);
    *word(frame(0)) = INT_CODE;
    map(0, frame(0) | P | W | U);
    if (regs[1] >> 7 & 1) {
        write_cr4(read_cr4() | CR4_SMEP);
        access(EXECUTE, window(0));
        check(faulted(window(0), 0x11), "with SMEP the supervisor executes the user's page");
        access(EXECUTE | USER, window(0));
        check(done(), "with SMEP the user executes it");
        write_cr4(read_cr4() & ~(unsigned long)CR4_SMEP);
    }
    if (regs[1] >> 20 & 1) {
        write_cr4(read_cr4() | CR4_SMAP);
        read_word(window(0));
        check(faulted(window(0), 1), "with SMAP the supervisor reads the user's page");
        write_word(window(0), 1);
        check(faulted(window(0), 3), "with SMAP the supervisor writes it");
        __asm__ volatile(".byte 0x0f, 0x01, 0xcb"); /* stac */
        check(read_word(window(0)) == INT_CODE, "with AC set it may read");
        __asm__ volatile(".byte 0x0f, 0x01, 0xca"); /* clac */
        write_cr4(read_cr4() & ~(unsigned long)CR4_SMAP);
    }
    check(read_word(window(0)) == INT_CODE, "without them it may read");
}

static void test_unsync(void)
{
    for (u32 i = 0; i < 200; i++) {
        u32 page = i % 8, target = i * 7 % PAGES;
        *word(frame(target)) = i;
        map(page, frame(target) | P | W);
        check(read_word(window(page)) == i, "a remapped page is the new one after INVLPG");
    }
    for (u32 i = 0; i < 50; i++) {
        for (u32 page = 0; page < 4; page++) {
            *word(frame(8 + (i + page) % 8)) = i * 4 + page;
            set_page(page, frame(8 + (i + page) % 8) | P | W);
        }
        flush();
        for (u32 page = 0; page < 4; page++)
            check(read_word(window(page)) == i * 4 + page, "remapped pages are the new ones after MOV CR3");
    }
}

static void test_flooding(void)
{
    u32 old = table, moved = new_table();
    u32 parent = table_for(root, mode.window, 2), index = index_of(mode.window, 2);
    for (u32 i = 0; i < PAGES; i++) {
        *word(frame(i)) = i;
        set_entry(moved, i, frame(i) | P | W | A);
    }
    set_entry(parent, index, moved | P | W | U);
    flush();
    table = moved;
    check(read_word(window(3)) == 3, "a page of the new table is read");
    set_entry(parent, index, old | P | W | U);
    flush();
    table = old;
    for (u32 i = 0; i < PAGE / 4; i++)
        *word(moved + 4 * i) = i * 3;
    u32 wrong = 0;
    for (u32 i = 0; i < PAGE / 4; i++)
        wrong += *word(moved + 4 * i) != i * 3;
    check(!wrong, "a former page table is plain memory");
}

static void test_huge_pages(void)
{
    u64 size = large_size(), base = mode.window + size;
    u32 parent = table_for(root, base, 2), index = index_of(base, 2), small = new_table();
    for (u32 at = 0; at < size; at += PAGE)
        *word(HUGE + at) = at + 1;
    set_entry(parent, index, HUGE | P | W | PS);
    invlpg(base);
    u32 wrong = 0;
    for (u32 at = 0; at < size; at += 0x11000)
        wrong += read_word(base + at) != at + 1;
    check(!wrong, "a large page is read");
    check((get_entry(parent, index) & (A | D)) == A, "that sets A of its entry");
    write_word(base + 0x5000, 99);
    check(*word(HUGE + 0x5000) == 99 && (get_entry(parent, index) & D), "it is written, which sets D");
    for (u32 i = 0; i < size / PAGE; i++)
        set_entry(small, i, (HUGE + (i ^ 1) * PAGE) | P | W);
    set_entry(parent, index, small | P | W);
    invlpg(base);
    check(read_word(base + 0x2000) == 0x3001, "it is split into small pages, in another order");
    set_entry(parent, index, HUGE | P | PS);
    flush();
    check(read_word(base + 0x2000) == 0x2001, "and large again");
    write_word(base, 1);
    check(faulted(base, 3), "but read-only");
    if (mode.levels >= 4) {
        u32 regs[4];
        cpuid(0x80000001, regs);
        if (regs[3] >> 26 & 1) {
            u64 giant = (mode.window + (1ull << 30)) & ~((1ull << 30) - 1);
            set_entry(table_for(root, giant, 3), index_of(giant, 3), P | W | PS);
            invlpg(giant);
            check(read_word(giant + HUGE + 0x7000) == 0x7001, "a page of 1 GiB is read");
            set_entry(table_for(root, giant, 3), index_of(giant, 3), 0);
            invlpg(giant);
        }
    }
    set_entry(parent, index, 0);
    invlpg(base);
}

static void test_shared_table(void)
{
    u64 other = mode.window + 4 * large_size();
    u32 parent = table_for(root, other, 2), index = index_of(other, 2);
    set_entry(parent, index, table | P | U);
    map(0, frame(0) | P | W | U);
    flush();
    *word(frame(0)) = 5;
    check(read_word(other) == 5, "a table is used twice");
    write_word(other, 6);
    check(faulted(other, 3), "the way through the read-only link is read-only");
    write_word(window(0), 6);
    check(done() && read_word(other) == 6, "the other way is not");
    map(0, frame(1) | P | W | U);
    invlpg(other);
    *word(frame(1)) = 8;
    check(read_word(other) == 8 && read_word(window(0)) == 8, "a change is seen both ways");
    set_entry(parent, index, 0);
    flush();
}

static void test_own_table(void)
{
    set_page(10, table | P | W);
    invlpg(window(10));
    u64 own = window(10) + index_of(window(11), 1) * mode.entry_size;
    *word(frame(2)) = 22;
    *word(frame(3)) = 33;
    map(11, frame(2) | P | W);
    check(read_word(window(11)) == 22, "a page is read");
    write_word(own, frame(3) | P | W);
    invlpg(window(11));
    check(read_word(window(11)) == 33, "its entry is changed through the table's own mapping");
    check((read_word(own) & ~(A | D)) == (frame(3) | P | W), "and read through it");
    map(10, 0);
}

static void test_mmio(void)
{
    u32 version = *word(APIC_VERSION);
    map(0, APIC | P | W);
    for (u32 i = 0; i < 4; i++)
        check(read_word(window(0) + 0x30) == version && version != ~0u, "the APIC's version is read");
    write_word(window(0) + 0x80, 0x20);
    check(*word(APIC + 0x80) == 0x20, "its task priority is written");
    write_word(window(0) + 0x80, 0);
    map(0, APIC | P);
    write_word(window(0) + 0x80, 0x30);
    check(faulted(window(0) + 0x80, 3), "a device's page can be read-only, too");
    access(READ | USER, window(0) + 0x30);
    check(faulted(window(0) + 0x30, 5), "and the supervisor's");
    map(0, frame(0) | P | W);
    *word(frame(0) + 0x30) = 77;
    check(read_word(window(0) + 0x30) == 77, "memory takes the place of a device");
}

static void test_reserved_bits(void)
{
    u64 bad = 1ull << 51;
    if (mode.entry_size == 4)
        return;
    map(0, frame(0) | P | W | U | bad);
    read_word(window(0));
    check(faulted(window(0), 9), "an entry with a reserved bit is read");
    access(WRITE | USER, window(0));
    check(faulted(window(0), 15), "and written by the user");
    map(0, frame(0) | P | W);
    check(done() || read_word(window(0)) != ~0u, "without it, it works");
}

static void test_address_spaces(void)
{
    enum { SPACES = 12 };
    u32 roots[SPACES], tables[SPACES], home = root, home_table = table;
    for (u32 i = 0; i < SPACES; i++) {
        roots[i] = new_table();
        for (u32 at = 0; at < (mode.levels == 3 ? 4 : PAGE / mode.entry_size); at++)
            set_entry(roots[i], at, get_entry(home, at));
        u32 top = index_of(mode.window, mode.levels);
        set_entry(roots[i], top, 0);
        tables[i] = table_for(roots[i], mode.window, 1);
        *word(frame(i)) = 100 + i;
        set_entry(tables[i], index_of(mode.window, 1), frame(i) | P | W);
    }
    for (u32 round = 0; round < 8; round++) {
        for (u32 i = 0; i < SPACES; i++) {
            write_cr3(roots[i]);
            check(read_word(window(0)) == 100 + i + round, "each address space has its own page");
            write_word(window(0), 101 + i + round);
        }
    }
    write_cr3(home);
    root = home;
    table = home_table;
    *word(frame(20)) = 20;
    *word(frame(21)) = 21;
    map(20, frame(20) | P | W | G);
    check(read_word(window(20)) == 20, "a global page is read");
    map(20, frame(21) | P | W | G);
    check(read_word(window(20)) == 21, "INVLPG is for global pages, too");
    map(20, 0);
}

static void test_code(void)
{
    *word(frame(0)) = INT_CODE;
    map(0, frame(0) | P);
    access(EXECUTE, window(0));
    check(done(), "code is executed");
    *word(frame(0)) = 0x0b0f; /* ud2 */
    access(EXECUTE, window(0));
    check(last_trap.vector == 6, "changed code is another");
    *word(frame(1)) = INT_CODE;
    map(0, frame(1) | P);
    access(EXECUTE, window(0));
    check(done(), "code on another page is executed");
}

static void test_interrupt(void)
{
    u32 before = interrupts;
    *word(APIC + 0xf0) = 0x1ff;
    __asm__ volatile("sti; nop");
    *word(APIC + 0x300) = 0x40000 | IPI_VECTOR;
    for (u32 i = 0; i < 1000 && interrupts == before; i++)
        *word(APIC + 0x30);
    __asm__ volatile("cli");
    check(interrupts == before + 1, "an interrupt to oneself arrives");
}

/* Random changes of the window's entries and random accesses, against a copy of the entries. */
static void test_random(void)
{
    static u64 entries[PAGES];
    static u32 values[PAGES];
    u32 seed = 12345 + mode.levels;
    for (u32 i = 0; i < PAGES; i++) {
        entries[i] = 0;
        values[i] = i;
        *word(frame(i)) = i;
        map(i, 0);
    }
    for (u32 i = 0; i < 3000; i++) {
        seed = seed * 1103515245 + 12345;
        u32 random = seed >> 8, page = random % PAGES, what = random >> 8 & 7;
        if (what < 3) {
            u32 flags = (random >> 11 & 7) | (random >> 14 & 1 ? P : 0);
            entries[page] = frame(random >> 16 & (PAGES - 1)) | flags;
            if (has_nx() && random >> 15 & 1)
                entries[page] |= NX;
            map(page, entries[page]);
            continue;
        }
        u32 user = what & 1 ? USER : 0, write = what & 2 ? 1 : 0;
        u64 entry = entries[page];
        u32 target = ((u32)entry - FRAMES) / PAGE, error = write << 1 | (user ? 4 : 0);
        int allowed = entry & P && (!user || entry & U) && (!write || entry & W);
        probe_value = i;
        access(write | user, window(page));
        if (!allowed) {
            check(faulted(window(page), error | (entry & P)), "a random access faults");
            continue;
        }
        if (write)
            values[target % PAGES] = i;
        check(done() && (write || (u32)probe_value == values[target % PAGES]), "a random access is served");
    }
    u32 wrong = 0;
    for (u32 i = 0; i < PAGES; i++)
        wrong += *word(frame(i)) != values[i];
    check(!wrong, "all random writes arrived");
    for (u32 i = 0; i < PAGES; i++)
        map(i, 0);
}

/* ---- the tour ---- */

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
    {"mapping pages", test_map},
    {"Accessed and Dirty", test_accessed_dirty},
    {"write protection, WP=0", test_write_protection},
    {"user and supervisor", test_user},
    {"execution, NX", test_execute},
    {"SMEP and SMAP", test_smep_smap},
    {"unsync page tables", test_unsync},
    {"write flooding", test_flooding},
    {"huge pages", test_huge_pages},
    {"one table, two ways", test_shared_table},
    {"a table that maps itself", test_own_table},
    {"MMIO", test_mmio},
    {"reserved bits", test_reserved_bits},
    {"address spaces", test_address_spaces},
    {"code that changes", test_code},
    {"interrupts", test_interrupt},
    {"random accesses", test_random},
};

static void read_counters(u32 *values)
{
    for (u32 i = 1; i < COUNTERS_END; i++) {
        outl(COUNTERS, i);
        values[i] = inl(COUNTERS);
    }
}

void tour(u32 with_root)
{
    outb(0x21, 0xff); /* the interrupt controllers that nobody uses */
    outb(0xa1, 0xff);
    u32 before[COUNTERS_END], after[COUNTERS_END];
    print(mode.name);
    print("\n");
    root = with_root;
    table = table_for(root, mode.window, 1);
    u64 stub = mode.window + 3 * large_size();
    set_entry(table_for(root, stub, 1), index_of(stub, 1), (u32)(unsigned long)user_stub | P | U);
    user_entry = stub;
    flush();
    for (u32 i = 0; i < sizeof tests / sizeof *tests; i++) {
        u32 failures = shared->failures, checks = shared->checks;
        if (shared->has_counters)
            read_counters(before);
        tests[i].run();
        if (shared->has_counters)
            read_counters(after);
        if (checks == shared->checks)
            continue;
        print(failures == shared->failures ? "  ok    " : "  WRONG ");
        print(tests[i].name);
        const char *separator = ": ";
        for (u32 at = 1; shared->has_counters && at < COUNTERS_END; at++) {
            if (at >= UNSYNC ? !after[at] : after[at] == before[at])
                continue;
            print(separator);
            print(counter_names[at]);
            print(" ");
            print_number(at >= UNSYNC ? after[at] : after[at] - before[at]);
            separator = ", ";
        }
        print("\n");
    }
}
