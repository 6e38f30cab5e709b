/* A small kit for test programs in 64-bit mode: console, exceptions, page tables. */
#ifndef KIT_H
#define KIT_H

#define CODE64 0x08
#define DATA 0x10
#define CODE32 0x18
#define USER_DATA 0x23
#define USER_CODE 0x2b
#define TSS_SELECTOR 0x30
#define MSR_EFER 0xc0000080
#define BACK_VECTOR 0x20 /* INT n of user code that goes back to its caller */

#ifndef __ASSEMBLER__

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define P 1ull
#define W 2ull
#define U 4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define G 0x100ull
#define NX (1ull << 63)

#define CR0_MP 2ull
#define CR0_EM 4ull
#define CR0_TS 8ull
#define CR0_AM (1ull << 18)
#define CR0_WP (1ull << 16)
#define CR4_TSD 4ull
#define CR4_DE 8ull
#define CR4_PGE 0x80ull
#define CR4_UMIP (1ull << 11)
#define CR4_LA57 (1ull << 12)
#define CR4_PCIDE (1ull << 17)
#define CR4_SMEP (1ull << 20)
#define CR4_SMAP (1ull << 21)
#define CR4_PKE (1ull << 22)
#define EFER_NX (1ull << 11)

/* What a trap pushed, and the registers. */
struct frame {
    u64 r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
    u64 vector, error, rip, cs, rflags, rsp, ss;
};

extern void (*handlers[256])(struct frame *);
extern volatile u32 last_vector, last_error;
extern volatile u64 last_address;
extern volatile u32 *boot;
extern u64 user_stack;
extern u8 vectors[], boot_stack_top[], ist_stack_top[];
extern u64 gdt[], idt[], level4[], level5[];

/* Run `code` at CPL 3 until INT BACK_VECTOR or an exception, which is in last_vector (0xffff: none). */
u64 at_user(void (*code)(void), u64 rdi);
/* An access or instruction that may fault: continues at `guarded`'s end; last_vector tells. */
void switch_levels(void);
void on_trap(struct frame *frame);

void print(const char *text);
void print_hex(u64 value);
void print_number(u64 value);
void check(int good, const char *what);
void quit(u32 status);
extern u32 checks, failures;
u64 new_page(void);
u64 *entry_of(u64 address, int level, int make);

#define GUARDED(code, ...)                                                                     \
    do {                                                                                       \
        last_vector = 0xffff;                                                                  \
        __asm__ volatile("lea 1f(%%rip), %%r15; mov %%r15, resume; " code "; 1: movq $0, resume" \
                         __VA_ARGS__);                                                         \
    } while (0)
extern volatile u64 resume;

static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outw(u16 port, u16 value) { __asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port)); }
static inline void outl(u16 port, u32 value) { __asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port)); }
static inline u8 inb(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
static inline u32 inl(u16 port)
{
    u32 value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}
#define DEFINE_CR(n)                                                                          \
    static inline u64 read_cr##n(void)                                                        \
    {                                                                                         \
        u64 value;                                                                            \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(value) : : "memory");                    \
        return value;                                                                         \
    }                                                                                         \
    static inline void write_cr##n(u64 value)                                                 \
    {                                                                                         \
        __asm__ volatile("mov %0, %%cr" #n : : "r"(value) : "memory");                        \
    }
DEFINE_CR(0)
DEFINE_CR(2)
DEFINE_CR(3)
DEFINE_CR(4)
DEFINE_CR(8)
static inline void invlpg(u64 address) { __asm__ volatile("invlpg (%0)" : : "r"(address) : "memory"); }
static inline u64 rdmsr(u32 index)
{
    u32 low, high;
    __asm__ volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return (u64)high << 32 | low;
}
static inline void wrmsr(u32 index, u64 value)
{
    __asm__ volatile("wrmsr" : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "memory");
}
/* The vector of the exception that it causes, or 0xffff. */
static inline u32 try_rdmsr(u32 index, u64 *value)
{
    u32 low = 0, high = 0;
    GUARDED("rdmsr", : "=a"(low), "=d"(high) : "c"(index) : "r15", "memory");
    *value = (u64)high << 32 | low;
    return last_vector;
}
static inline u32 try_wrmsr(u32 index, u64 value)
{
    GUARDED("wrmsr", : : "c"(index), "a"((u32)value), "d"((u32)(value >> 32)) : "r15", "memory");
    return last_vector;
}
static inline u32 try_cr0(u64 value)
{
    GUARDED("mov %0, %%cr0", : : "r"(value) : "r15", "memory");
    return last_vector;
}
static inline u32 try_cr3(u64 value)
{
    GUARDED("mov %0, %%cr3", : : "r"(value) : "r15", "memory");
    return last_vector;
}
static inline u32 try_cr4(u64 value)
{
    GUARDED("mov %0, %%cr4", : : "r"(value) : "r15", "memory");
    return last_vector;
}
static inline void cpuid(u32 leaf, u32 subleaf, u32 *regs)
{
    __asm__ volatile("cpuid" : "=a"(regs[0]), "=b"(regs[1]), "=c"(regs[2]), "=d"(regs[3]) : "a"(leaf), "c"(subleaf));
}
static inline u64 rdtsc(void)
{
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (u64)high << 32 | low;
}

#endif
#endif
