/* All combinations of bits in a PDE and a PTE, accesses to them, and control bits: each must end as the manual says.
 *
 * The first argument is the number of levels, the second takes every n-th case only, the third is the first case.
 */
#include "kit.h"

#define PAGE 0x123400000000ull
#define RSVD (1ull << 51)
#define WRITE 1
#define USER 2
#define FETCH 4

static const u64 pte_bits[] = {P, W, U, NX, A, D, RSVD};
static const u64 pde_bits[] = {P, W, U, NX, PS, A, D, RSVD};
static const u8 accesses[] = {0, WRITE, USER, USER | WRITE, FETCH, FETCH | USER};
#define CONTROLS 8 /* NX, WP, SMEP */

static u64 *tables[6]; /* the entry of each level */
static u64 frame, huge;
static u64 cases, faults;

static u64 combine(const u64 *bits, u32 count, u32 which)
{
    u64 value = 0;
    for (u32 i = 0; i < count; i++)
        if (which >> i & 1)
            value |= bits[i];
    return value;
}

static void set_controls(u32 which)
{
    u64 efer = rdmsr(MSR_EFER), cr0 = read_cr0(), cr4 = read_cr4();
    u64 new_efer = which & 1 ? efer | EFER_NX : efer & ~EFER_NX;
    u64 new_cr0 = which & 2 ? cr0 | CR0_WP : cr0 & ~CR0_WP;
    u64 new_cr4 = which & 4 ? cr4 | CR4_SMEP : cr4 & ~CR4_SMEP;
    if (new_efer != efer)
        wrmsr(MSR_EFER, new_efer);
    if (new_cr0 != cr0)
        write_cr0(new_cr0);
    if (new_cr4 != cr4) {
        /* the program itself runs in pages that users may execute */
        for (u32 i = 0; i < 4; i++) {
            u64 *code = entry_of(0x400000ull + 0x200000 * i, 2, 0);
            *code = which & 4 ? *code & ~U : *code | U;
            invlpg(0x400000ull + 0x200000 * i);
        }
        write_cr4(new_cr4);
    }
}

/* The error code, or -1 for none. */
static int expected(u64 pde, u64 pte, u32 access, u32 controls, int *marks_dirty, int *protection_only)
{
    int nx = controls & 1, wp = controls & 2, smep = controls & 4;
    int code = (access & WRITE ? 2 : 0) | (access & USER ? 4 : 0) | (access & FETCH && (nx || smep) ? 16 : 0);
    int large = !!(pde & PS);
    u64 all = large ? pde : pde & pte, any = large ? pde : pde | pte;
    *marks_dirty = !!(access & WRITE);
    *protection_only = 0;
    if (!(pde & P))
        return code;
    if (pde & RSVD || (pde & NX && !nx))
        return code | 9;
    if (!large) {
        if (!(pte & P))
            return code;
        if (pte & RSVD || (pte & NX && !nx))
            return code | 9;
    }
    *protection_only = 1;
    if (access & USER && !(all & U))
        return code | 1;
    if (access & WRITE && !(all & W) && (access & USER || wp))
        return code | 1;
    if (access & FETCH && (any & NX))
        return code | 1;
    if (access & FETCH && !(access & USER) && smep && all & U)
        return code | 1;
    return -1;
}

/* At CPL 3: RDI has the address. */
void user_read(void), user_write(void), user_call(void), user_end(void);
__asm__(".text\n"
        "user_read: mov (%rdi), %rax; int $0x20\n"
        "user_write: movabs $0xc3c3c3c3c3c3c3c3, %rax; mov %rax, (%rdi); int $0x20\n"
        "user_call: call *%rdi; int $0x20\n"
        "user_end: nop\n");

static u64 user_code;

static int touch(u32 access)
{
    u64 address = PAGE;
    switch (access) {
    case 0:
        GUARDED("mov (%0), %%rax", : : "r"(address) : "rax", "r15", "memory");
        break;
    case WRITE:
        GUARDED("mov %%rax, (%0)", : : "r"(address), "a"(0xc3c3c3c3c3c3c3c3ull) : "r15", "memory");
        break;
    case FETCH:
        GUARDED("mov %%rsp, %%r14; call *%0; 1: mov %%r14, %%rsp", : : "r"(address) : "r14", "r15", "memory");
        break;
    case USER:
        at_user((void (*)(void))(user_code + ((u64)user_read - (u64)user_read)), address);
        break;
    case USER | WRITE:
        at_user((void (*)(void))(user_code + ((u64)user_write - (u64)user_read)), address);
        break;
    default:
        at_user((void (*)(void))(user_code + ((u64)user_call - (u64)user_read)), address);
    }
    return last_vector == 0xffff ? -1 : last_vector == 14 ? (int)last_error : -2;
}

static void fail(u64 pde, u64 pte, u32 access, u32 controls, int want, int got)
{
    failures++;
    if (failures > 20)
        return;
    print("FAIL: pde ");
    print_hex(pde);
    print(" pte ");
    print_hex(pte);
    print(" access ");
    print_hex(access);
    print(" controls ");
    print_hex(controls);
    print(" error ");
    print_hex((u32)want);
    print(" found ");
    print_hex((u32)got);
    print(" pde ");
    print_hex(*tables[2]);
    print(" pte ");
    print_hex(*tables[1]);
    print("\n");
}

static void play(u32 pde_which, u32 pte_which, u32 access, u32 controls, u32 top)
{
    u64 pde_flags = combine(pde_bits, 8, pde_which), pte_flags = combine(pte_bits, 7, pte_which);
    u64 pte = pte_flags | frame;
    u64 pde = pde_flags | (pde_flags & PS ? huge : (u64)tables[1] & ~0xfffull);
    for (u32 level = 3; level <= top; level++)
        *(volatile u64 *)tables[level] = ((u64)tables[level - 1] & ~0xfffull) | P | W | U | A;
    *(volatile u64 *)tables[2] = pde;
    *(volatile u64 *)tables[1] = pte;
    invlpg(PAGE);
    int dirty, protection, want = expected(pde, pte, access, controls, &dirty, &protection);
    int got = touch(access);
    u64 pde_after = *(volatile u64 *)tables[2], pte_after = *(volatile u64 *)tables[1];
    u64 want_pde = pde, want_pte = pte;
    if (want == -1) {
        want_pde |= A;
        if (pde & PS)
            want_pde |= dirty ? D : 0;
        else
            want_pte |= A | (dirty ? D : 0);
    } else {
        faults++;
        if (pde & P) /* the processor may have been there */
            pde_after = (pde_after & ~A) | (pde & A);
        if (protection && !(pde & PS))
            pte_after = (pte_after & ~A) | (pte & A);
    }
    if (got != want || pde_after != want_pde || pte_after != want_pte ||
        (want != -1 && last_address != PAGE))
        fail(pde, pte, access, controls, want, got);
    cases++;
}

static u64 argument(const char **line, u64 otherwise)
{
    while (**line && **line != ' ')
        ++*line;
    while (**line == ' ')
        ++*line;
    u64 value = 0;
    const char *at = *line;
    while (*at >= '0' && *at <= '9')
        value = value * 10 + *at++ - '0';
    return at == *line ? otherwise : value;
}

int main(void)
{
    const char *line = (const char *)(u64)boot[4];
    u32 top = argument(&line, 4), every = argument(&line, 1), next = argument(&line, 0);
    if (top == 5)
        switch_levels();
    u32 now = 0;
    frame = 0x1000000;
    huge = 0x1200000;
    user_code = 0x1400000;
    user_stack = 0x1601000;
    *(volatile u64 *)frame = *(volatile u64 *)huge = 0xc3c3c3c3c3c3c3c3ull;
    for (u64 i = 0; i < (u64)user_end - (u64)user_read; i++)
        ((volatile u8 *)user_code)[i] = ((u8 *)user_read)[i];
    for (u32 level = 1; level <= top; level++)
        tables[level] = entry_of(PAGE, level, 1);
    for (u32 controls = 0; controls < CONTROLS; controls++) {
        set_controls(controls);
        for (u32 access = 0; access < sizeof accesses; access++)
            for (u32 pde = 0; pde < 256; pde++)
                for (u32 pte = 0; pte < 128; pte++)
                    if (now++ == next) {
                        play(pde, pte, accesses[access], controls, top);
                        next += every;
                    }
    }
    print_number(cases);
    print(" cases, ");
    print_number(faults);
    print(" faults, ");
    print_number(failures);
    print(" wrong\n");
    return failures ? 1 : 0;
}
