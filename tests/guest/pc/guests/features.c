/* What test programs ask a processor for: PCIDs, INVPCID, SMAP, UMIP, APICs, timers, MSRs, task state, exceptions. */
#include "kit.h"

#define VECTOR 14
#define ACCESS 0x123400000000ull
#define MSR_X2(r) (0x800 + ((r) >> 4))

static volatile u32 count, order[8];

static void counted(struct frame *frame)
{
    if (count < 8)
        order[count] = frame->vector;
    count++;
}

static void eoi_apic(struct frame *frame)
{
    counted(frame);
    *(volatile u32 *)0xfee000b0 = 0;
}

static void nmi_twice(struct frame *frame)
{
    counted(frame);
    if (count == 1) {
        *(volatile u32 *)0xfee00300 = 0x40400; /* another one waits for IRET */
        __asm__ volatile("nop; nop");
        check(count == 1, "an NMI in an NMI's handler");
    }
}

static void eoi_x2(struct frame *frame)
{
    counted(frame);
    wrmsr(MSR_X2(0xb0), 0);
}

static void eoi_pic(struct frame *frame)
{
    counted(frame);
    if (frame->vector >= 0x38)
        outb(0xa0, 0x20);
    outb(0x20, 0x20);
}

static void wait(u32 wanted)
{
    u64 end = rdtsc() + 2000000000ull;
    while (count < wanted && rdtsc() < end)
        __asm__ volatile("sti; nop; nop; cli");
}

/* -- address spaces ------------------------------------------------------------------------------------- */

static u32 try_invpcid(u64 type, u64 pcid, u64 address)
{
    struct {
        u64 pcid, address;
    } operand = {pcid, address};
    GUARDED("invpcid %0, %1", : : "m"(operand), "r"(type) : "r15", "memory");
    return last_vector;
}

static u64 first(void) { return *(volatile u64 *)ACCESS; }

static void test_pcid(void)
{
    u32 regs[4];
    cpuid(1, 0, regs);
    check(regs[2] >> 17 & 1, "PCID in CPUID");
    cpuid(7, 0, regs);
    check(regs[1] >> 10 & 1, "INVPCID in CPUID");
    u64 cr3 = read_cr3(), cr4 = read_cr4();
    write_cr3(cr3 | 8);
    check(try_cr4(cr4 | CR4_PCIDE) == 13, "CR4.PCIDE with a PCID in CR3");
    write_cr3(cr3);
    check(try_cr3(cr3 | 1ull << 63) == 13, "CR3 bit 63 without PCIDE");
    for (u32 type = 0; type < 2; type++)
        check(try_invpcid(type, 1, 0) == 13, "INVPCID of a PCID without PCIDE");
    check(try_invpcid(2, 0, 0) == 0xffff, "INVPCID without PCIDE");
    check(try_cr4(cr4 | CR4_PCIDE) == 0xffff, "CR4.PCIDE");
    check(try_cr0(read_cr0() & ~(1ull << 31)) == 13, "paging off with PCIDE");
    check(try_invpcid(4, 0, 0) == 13, "INVPCID type 4");
    check(try_invpcid(~0ull, 0, 0) == 13, "INVPCID type -1");
    check(try_invpcid(0, 0x1000, 0) == 13, "INVPCID of PCID 0x1000");
    check(try_invpcid(0, 0, 1ull << 63) == 13, "INVPCID of a non-canonical address");
    check(try_invpcid(1, 0, 1ull << 63) == 0xffff, "INVPCID type 1 ignores the address");
    u64 *a = (u64 *)new_page(), *b = (u64 *)new_page(), *entry = entry_of(ACCESS, 1, 1);
    *a = 0xaaaa;
    *b = 0xbbbb;
    for (u32 type = 0; type < 4; type++) {
        *entry = (u64)a | P | W | (type == 2 ? G : 0);
        write_cr4(read_cr4() | CR4_PGE);
        write_cr3(cr3 | 5);
        check(first() == 0xaaaa, "the first page");
        *entry = (u64)b | P | W;
        check(try_invpcid(type, 5, ACCESS) == 0xffff, "INVPCID");
        check(first() == 0xbbbb, "INVPCID flushes");
        write_cr3(cr3 | 6);
        check(first() == 0xbbbb, "another PCID");
        *entry = (u64)a | P | W;
        write_cr3(cr3 | 5 | 1ull << 63);
        check(try_invpcid(type, 6, ACCESS) == 0xffff, "INVPCID of another PCID");
        write_cr3(cr3 | 6 | 1ull << 63);
        check(first() == 0xaaaa, "INVPCID flushes another PCID");
        write_cr3(cr3 | 5);
        check(first() == 0xaaaa, "CR3 flushes");
        *entry = (u64)b | P | W;
        write_cr3(cr3 | 5);
        check(first() == 0xbbbb, "CR3 flushes again");
    }
    check((read_cr3() & 0xfff) == 5, "CR3 reads back");
    check(!(read_cr3() >> 63), "bit 63 of CR3 reads 0");
    write_cr3(cr3);
    write_cr4(cr4);
    *entry = 0;
    invlpg(ACCESS);
}

static u64 page_of_user;

static void test_smap(void)
{
    u64 cr4 = read_cr4();
    u64 *page = (u64 *)new_page();
    *entry_of(ACCESS, 1, 1) = (u64)page | P | W | U;
    page_of_user = ACCESS;
    for (u32 i = 0; i < 8; i++) { /* the program's own pages are the supervisor's */
        *entry_of(0x400000ull + 0x200000 * i, 2, 0) &= ~U;
        invlpg(0x400000ull + 0x200000 * i);
    }
    for (u32 wp = 0; wp < 2; wp++) {
        write_cr0(wp ? read_cr0() | CR0_WP : read_cr0() & ~CR0_WP);
        write_cr4(cr4 | CR4_SMAP);
        GUARDED("clac; mov (%0), %%rax", : : "r"(ACCESS) : "rax", "r15", "memory");
        check(last_vector == 14 && last_error == 1, "SMAP: a read");
        GUARDED("clac; mov %%rax, (%0)", : : "r"(ACCESS) : "rax", "r15", "memory");
        check(last_vector == 14 && last_error == 3, "SMAP: a write");
        GUARDED("stac; mov (%0), %%rax; mov %%rax, (%0); clac", : : "r"(ACCESS) : "rax", "r15", "memory");
        check(last_vector == 0xffff, "SMAP: AC lets it");
        GUARDED("stac; addq $1, (%0); clac", : : "r"(ACCESS) : "rax", "r15", "memory");
        check(last_vector == 0xffff && *page == wp + 1, "SMAP: AC lets it modify");
        write_cr4(cr4);
        GUARDED("mov (%0), %%rax", : : "r"(ACCESS) : "rax", "r15", "memory");
        check(last_vector == 0xffff, "no SMAP");
    }
    for (u32 i = 0; i < 8; i++) {
        *entry_of(0x400000ull + 0x200000 * i, 2, 0) |= U;
        invlpg(0x400000ull + 0x200000 * i);
    }
}

/* -- UMIP ----------------------------------------------------------------------------------------------- */

void user_sgdt(void), user_smsw(void), user_str(void), user_cli(void);
__asm__(".text\n"
        "user_sgdt: sgdt -64(%rsp); int $0x20\n"
        "user_smsw: smsw %rax; int $0x20\n"
        "user_str: str %rax; int $0x20\n"
        "user_cli: cli; int $0x20\n"
        "user_end: nop\n");

static void test_umip(void)
{
    u32 regs[4];
    cpuid(7, 0, regs);
    check(regs[2] >> 2 & 1, "UMIP in CPUID");
    at_user(user_sgdt, 0);
    check(last_vector == 0xffff, "SGDT at CPL 3");
    check(at_user(user_str, 0) == TSS_SELECTOR, "STR at CPL 3");
    check(try_cr4(read_cr4() | CR4_UMIP) == 0xffff, "CR4.UMIP");
    at_user(user_sgdt, 0);
    check(last_vector == 13 && !last_error, "SGDT with UMIP");
    at_user(user_smsw, 0);
    check(last_vector == 13 && !last_error, "SMSW with UMIP");
    at_user(user_str, 0);
    check(last_vector == 13 && !last_error, "STR with UMIP");
    struct __attribute__((packed)) {
        u16 limit;
        u64 base;
    } table = {0, 0};
    __asm__ volatile("sgdt %0" : "=m"(table));
    check(table.base == (u64)gdt && table.limit == 63, "SGDT at CPL 0 with UMIP");
    u64 task = 0, machine = 0;
    __asm__ volatile("str %0" : "=r"(task));
    __asm__ volatile("smsw %0" : "=r"(machine));
    check(task == TSS_SELECTOR && (machine & 1), "STR and SMSW at CPL 0 with UMIP");
    write_cr4(read_cr4() & ~CR4_UMIP);
    at_user(user_cli, 0);
    check(last_vector == 13, "CLI at CPL 3");
}

/* -- interrupts ----------------------------------------------------------------------------------------- */

static void test_apic(void)
{
    volatile u32 *apic = (volatile u32 *)0xfee00000;
    handlers[0x41] = handlers[0x51] = handlers[0x61] = eoi_apic;
    apic[0xf0 / 4] = 0x1ff;
    count = 0;
    apic[0x310 / 4] = 0;
    apic[0x300 / 4] = 0x4041; /* IF is off: they wait */
    apic[0x300 / 4] = 0x4051;
    check(apic[0x220 / 4] == (1u << 1 | 1u << 17), "IRR while IF is off");
    check(count == 0, "no interrupt while IF is off");
    wait(2);
    check(count == 2 && order[0] == 0x51 && order[1] == 0x41, "the higher priority first");
    count = 0;
    apic[0x300 / 4] = 0x4051;
    write_cr8(5);
    check(apic[0x80 / 4] == 0x50, "CR8 is the TPR");
    __asm__ volatile("sti; nop; nop; cli");
    check(count == 0, "CR8 holds it");
    write_cr8(0);
    __asm__ volatile("sti; nop; nop; cli");
    check(count == 1, "CR8 lets it");
    handlers[2] = nmi_twice;
    count = 0;
    apic[0x300 / 4] = 0x40400;
    __asm__ volatile("nop; nop");
    check(count == 2 && order[0] == 2 && order[1] == 2, "two NMIs");
    count = 0;
    apic[0x3e0 / 4] = 0xb;
    apic[0x320 / 4] = 0x61;
    apic[0x380 / 4] = 1000000;
    check(apic[0x390 / 4] <= 1000000, "the timer counts");
    __asm__ volatile("sti; hlt; cli");
    check(count == 1, "HLT until the timer");
    apic[0x320 / 4] = 0x20061;
    apic[0x380 / 4] = 1000000;
    wait(4);
    check(count >= 4, "the timer comes again");
    apic[0x380 / 4] = 0;
    u32 regs[4];
    cpuid(1, 0, regs);
    check(regs[2] >> 24 & 1, "TSC deadline in CPUID");
    apic[0x320 / 4] = 0x40061;
    __asm__ volatile("sti; nop; nop; cli"); /* the old timer may have fired once more */
    count = 0;
    u64 start = rdtsc();
    wrmsr(0x6e0, start + 50000000);
    check(rdmsr(0x6e0) == start + 50000000, "the deadline");
    wait(1);
    check(count == 1 && rdtsc() >= start + 50000000, "the deadline comes");
    check(rdmsr(0x6e0) == 0, "and is gone");
    apic[0x320 / 4] = 0x10000;
}

static void test_x2apic(void)
{
    u32 regs[4];
    u64 value, base = rdmsr(0x1b);
    cpuid(1, 0, regs);
    check(regs[2] >> 21 & 1, "x2APIC in CPUID");
    check(try_rdmsr(MSR_X2(0x20), &value) == 13, "x2APIC MSRs in xAPIC mode");
    check(try_wrmsr(0x1b, (base & ~0xc00ull) | 0x400) == 13, "x2APIC without APIC");
    check(try_wrmsr(0x1b, base | 0x400) == 0xffff, "x2APIC mode");
    check(try_wrmsr(0x1b, base) == 13, "from x2APIC to xAPIC");
    check(*(volatile u32 *)0xfee00030 == ~0u, "no memory in x2APIC mode");
    check(try_rdmsr(MSR_X2(0x30), &value) == 0xffff && (value & 0xff) == 0x14, "the version");
    check(try_wrmsr(MSR_X2(0xf0), 0x1ff) == 0xffff, "SVR");
    check(try_rdmsr(MSR_X2(0xe0), &value) == 13, "no DFR");
    check(try_rdmsr(MSR_X2(0x310), &value) == 13, "no second ICR");
    check(try_rdmsr(MSR_X2(0xb0), &value) == 13, "EOI cannot be read");
    check(try_wrmsr(MSR_X2(0xb0), 1ull << 32) == 13, "EOI has 32 bits");
    check(try_wrmsr(MSR_X2(0x20), 1) == 13, "the ID cannot be written");
    check(try_wrmsr(MSR_X2(0x80), 0x100) == 0xffff && rdmsr(MSR_X2(0x80)) == 0, "TPR bits are ignored");
    check(try_wrmsr(MSR_X2(0xf0), 0x3ff) == 0xffff, "SVR's focus bit");
    check(try_wrmsr(MSR_X2(0x350), 0x200ff) == 0xffff && rdmsr(MSR_X2(0x350)) == 0xff, "LINT0 is masked");
    check(try_wrmsr(MSR_X2(0x350), 0x10700) == 0xffff, "LINT0 as before");
    handlers[0x41] = handlers[0x51] = eoi_x2;
    count = 0;
    wrmsr(MSR_X2(0x3f0), 0x41);
    wrmsr(MSR_X2(0x300), 0x40051);
    wrmsr(MSR_X2(0x300), (u64)rdmsr(MSR_X2(0x20)) << 32 | 0x51);
    wait(2);
    check(count == 2 && order[0] == 0x51, "IPIs to itself");
    check(try_wrmsr(0x1b, base & ~0xc00ull) == 0xffff, "off");
    cpuid(1, 0, regs);
    check(!(regs[3] >> 9 & 1), "no APIC in CPUID when it is off");
    check(try_wrmsr(0x1b, base) == 0xffff, "xAPIC again");
    *(volatile u32 *)0xfee000f0 = 0x1ff;
}

static void test_pic_and_pit(void)
{
    static const u8 words[][2] = {{0x20, 0x11}, {0x21, 0x30}, {0x21, 4}, {0x21, 1}, {0xa0, 0x11},
                                  {0xa1, 0x38}, {0xa1, 2},    {0xa1, 1}, {0x21, 0xff}, {0xa1, 0xff}};
    for (u32 i = 0; i < sizeof words / 2; i++)
        outb(words[i][0], words[i][1]);
    check(inb(0x21) == 0xff && inb(0xa1) == 0xff, "masks");
    handlers[0x30] = handlers[0x34] = handlers[0x3a] = eoi_pic;
    count = 0;
    outb(0x21, 0xee & ~4);
    outb(0x43, 0x34);
    outb(0x40, 0xa9); /* 1 ms */
    outb(0x40, 0x04);
    wait(3);
    check(count >= 3 && order[0] == 0x30, "the timer interrupts");
    outb(0x21, 0xef & ~4);
    outb(0xa1, 0xfb);
    count = 0;
    outb(0x2000 + 4, 1);
    outb(0x2000 + 4, 0);
    outb(0x2000 + 10, 1);
    outb(0x2000 + 10, 0);
    wait(2);
    check(count == 2 && order[0] == 0x3a && order[1] == 0x34, "lines of both PICs");
    for (u32 i = 0; i < 3; i++) { /* the interrupt comes before the next instruction */
        u32 seen;
        count = 0;
        __asm__ volatile("sti; nop; out %%al, %%dx; mov %1, %0; cli" : "=r"(seen) : "m"(count), "a"(1), "d"(0x2004));
        check(seen == 1, "an interrupt behind OUT");
        outb(0x2000 + 4, 0);
    }
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
}

/* -- MSRs, ports, instructions ---------------------------------------------------------------------------- */

static void test_msrs(void)
{
    static const u32 canonical[] = {0xc0000100, 0xc0000102, 0xc0000082, 0xc0000083};
    u64 value, before;
    for (u32 i = 0; i < sizeof canonical / 4; i++) {
        before = rdmsr(canonical[i]);
        check(try_wrmsr(canonical[i], 0xffff888012345678ull) == 0xffff, "an address");
        check(rdmsr(canonical[i]) == 0xffff888012345678ull, "an address is kept");
        check(try_wrmsr(canonical[i], 1ull << 62) == 13, "no address");
        wrmsr(canonical[i], before);
    }
    check(try_rdmsr(0x12345678, &value) == 13, "an MSR that there is not");
    check(try_wrmsr(0x12345678, 0) == 13, "writing it");
    check(try_rdmsr(0x277, &value) == 0xffff, "PAT");
    check(try_wrmsr(0x277, 2) == 13, "a bad PAT");
    check(try_wrmsr(MSR_EFER, 1ull << 60) == 13, "a bad EFER");
    wrmsr(0x10, 0x1000000000);
    check(rdtsc() >= 0x1000000000 && rdtsc() < 0x1800000000, "the TSC is written");
    wrmsr(0x3b, rdmsr(0x3b) + 0x1000000000);
    check(rdtsc() >= 0x2000000000, "TSC_ADJUST");
    check(inb(0x3456) == 0xff && inl(0x3456) == ~0u, "a port that there is not");
    check(try_cr4(read_cr4() | 1ull << 30) == 13, "a bad CR4");
    check(try_cr4(read_cr4() ^ CR4_LA57) == 13, "LA57 in long mode");
    check(try_cr4(read_cr4() & ~0x20ull) == 13, "PAE off in long mode");
    check(try_cr0(read_cr0() & ~1ull) == 13, "PG without PE");
    check(try_cr0(read_cr0() | 1ull << 29) == 13, "NW without CD");
    check(try_cr3(1ull << 62) == 13, "a bad CR3");
}

static void test_instructions(void)
{
    u32 regs[4], structured[4];
    cpuid(1, 0, regs);
    cpuid(7, 0, structured);
#define EXPECT(code, there) \
    do { \
        GUARDED(code, : : "r"(&count) : "rax", "rcx", "rdx", "r15", "memory"); \
        check(last_vector == ((there) ? 0xffff : 6), code); \
    } while (0)
    EXPECT("clflush (%0)", regs[3] >> 19 & 1);
    EXPECT("clflushopt (%0)", structured[1] >> 23 & 1);
    EXPECT("clwb (%0)", structured[1] >> 24 & 1);
    EXPECT("sfence", regs[3] >> 25 & 1);
    EXPECT("lfence", regs[3] >> 26 & 1);
    EXPECT("mfence", regs[3] >> 26 & 1);
    EXPECT("rdtscp", 1);
    EXPECT("xgetbv", regs[2] >> 27 & 1);
    EXPECT("popcnt %0, %%rax", regs[2] >> 23 & 1);
    EXPECT("movbe (%0), %%rax", regs[2] >> 22 & 1);
    EXPECT("rdrand %%rax", regs[2] >> 30 & 1);
    EXPECT("ud2", 0);
    u64 value[2] __attribute__((aligned(16))) = {1, 2}, low = 1, high = 2;
    __asm__ volatile("lock cmpxchg16b %0" : "+m"(value), "+a"(low), "+d"(high) : "b"(3ull), "c"(4ull));
    check(value[0] == 3 && value[1] == 4, "CMPXCHG16B");
    /* an exception in the middle of one, with a stack of its own */
    u8 *gate = (u8 *)idt + 16 * VECTOR;
    gate[4] = 1;
    GUARDED("movq $0, (%0)", : : "r"(0x7f0000000000ull) : "r15", "memory");
    check(last_vector == 14 && last_error == 2 && last_address == 0x7f0000000000ull, "#PF on a stack of its own");
    gate[4] = 0;
    GUARDED("movq $0, (%0)", : : "r"(1ull << 62) : "r15", "memory");
    check(last_vector == 13 && !last_error, "#GP for an address");
    GUARDED("xor %%edx, %%edx; xor %%ecx, %%ecx; div %%ecx", : : : "rax", "rdx", "rcx", "r15", "memory");
    check(last_vector == 0, "#DE");
    GUARDED("int3", : : : "r15", "memory");
    check(last_vector == 3, "INT3");
    GUARDED("pushfq; orl $0x100, (%%rsp); popfq; nop; nop", : : : "r15", "memory");
    check(last_vector == 1, "#DB of single steps");
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~1ull);
    GUARDED("syscall", : : : "rcx", "r11", "r15", "memory");
    check(last_vector == 6, "#UD of SYSCALL without EFER.SCE");
    write_cr0(read_cr0() | CR0_TS);
    GUARDED("fninit", : : : "r15", "memory");
    check(last_vector == 7, "#NM");
    __asm__ volatile("clts");
}

int main(void)
{
    static void (*const tests[])(void) = {test_pcid,   test_smap, test_umip,        test_apic,
                                          test_x2apic, test_msrs, test_pic_and_pit, test_instructions};
    for (u32 i = 0; i < sizeof tests / sizeof *tests; i++)
        tests[i]();
    if (!(read_cr4() & CR4_LA57)) {
        u32 regs[4];
        cpuid(7, 0, regs);
        if (regs[2] >> 16 & 1) {
            switch_levels();
            test_pcid();
            test_smap();
        }
    }
    print_number(checks);
    print(" checks, ");
    print_number(failures);
    print(" failed\n");
    return failures ? 1 : 0;
}
