/* A tour of the shadow MMU: what the parts of the program share. */
#ifndef TOUR_H
#define TOUR_H

/* Physical addresses. */
#define IMAGE64 0x200000  /* the 64-bit half of the program */
#define SHARED 0x7000     /* struct shared */
#define POOL 0x400000     /* page tables, from here upwards */
#define POOL_END 0x600000
#define FRAMES 0x600000   /* pages that are mapped and remapped */
#define HUGE 0x800000     /* 4 MiB for large pages */
#define MEMORY_END 0x1000000

#define KERNEL_CODE 0x08
#define KERNEL_DATA 0x10
#define USER_CODE 0x1b
#define USER_DATA 0x23
#define CODE32 0x28
#define TSS 0x30

#define SYSCALL_VECTOR 0x80
#define IPI_VECTOR 0x41

#define STACK_SIZE 8192

#ifndef __ASSEMBLER__

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

/* A format of page tables. */
struct mode {
    const char *name;
    u32 levels, bits, entry_size;
    u64 window; /* where pages are mapped and remapped */
};

/* What both halves of the program know; at SHARED. */
struct shared {
    u32 next_table;
    u32 checks, failures;
    u32 has_counters;
};

#define shared ((volatile struct shared *)SHARED)

/* The last trap; vector is NONE if the probe was not stopped by one. */
#define NONE 0xffffffffu
struct trap {
    u32 vector;
    u32 error;
    u64 address;
};

enum { READ, WRITE, EXECUTE, USER = 4 };

extern volatile struct trap last_trap;
extern volatile u32 interrupts;
extern u64 probe_value;
void probe(u32 kind, unsigned long address); /* an access that may be stopped by a trap */
void load_tables(void);                      /* GDT, IDT and TSS of this half */
extern u8 user_stub[], landing[];
void on_trap(u32 vector, u32 error, unsigned long address, unsigned long ip);

extern struct mode mode;
void print(const char *text);
void print_number(u64 value);
void print_hex(u64 value);
void quit(u32 status);
u32 new_root(void);
void tour(u32 root);

static inline void outb(u16 port, u8 value) { __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port)); }
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
    static inline unsigned long read_cr##n(void)                                              \
    {                                                                                         \
        unsigned long value;                                                                  \
        __asm__ volatile("mov %%cr" #n ", %0" : "=r"(value) : : "memory");                    \
        return value;                                                                         \
    }                                                                                         \
    static inline void write_cr##n(unsigned long value)                                       \
    {                                                                                         \
        __asm__ volatile("mov %0, %%cr" #n : : "r"(value) : "memory");                        \
    }
DEFINE_CR(0)
DEFINE_CR(3)
DEFINE_CR(4)

static inline void invlpg(unsigned long address) { __asm__ volatile("invlpg (%0)" : : "r"(address) : "memory"); }
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
static inline void cpuid(u32 leaf, u32 *regs)
{
    __asm__ volatile("cpuid" : "=a"(regs[0]), "=b"(regs[1]), "=c"(regs[2]), "=d"(regs[3]) : "a"(leaf), "c"(0));
}

#endif
#endif
