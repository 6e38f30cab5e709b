/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A guest on /dev/kvm in a few lines: memory slots, 4-level page tables, vCPUs in 64-bit mode that carry out one
 * instruction at a time, and (AMD) a guest of the guest. There is no operating system: do_op() points RIP at an
 * instruction followed by OUT and runs until that exits.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef uint64_t u64;
typedef uint32_t u32;
typedef uint8_t u8;

#define K 1024ull
#define M (1024 * K)
#define P_W_U 0x7ull		/* present, writable, user */
#define LARGE 0x80ull
#define CODE 0xfff000ull	/* gpa and linear address of the instructions */
#define VMCB(cpu) (0xff0000ull + (cpu) * 0x4000)	/* and the host save area after it */
#define EXIT_PORT 0x10

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf(" (%s)\n", strerror(errno));
	exit(2);
}

static inline u64 now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

static inline void pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof(set), &set);
}

/* -- the machine ----------------------------------------------------------------------------------------------- */

static int kvm, vm;
static int small_pages;	/* no huge pages for the slots to come */
static struct { u64 gpa, size; u32 flags; u8 *at; } slots[8];

static void create_vm(void)
{
	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		die("/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	if (vm < 0)
		die("KVM_CREATE_VM");
	ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000);
}

/* Where the host has a guest physical address. */
static void *at(u64 gpa)
{
	for (int i = 0; i < 8; i++)
		if (slots[i].at && gpa - slots[i].gpa < slots[i].size)
			return slots[i].at + (gpa - slots[i].gpa);
	die("no memory at %#llx", (unsigned long long)gpa);
}

/* Tell KVM of a slot as it is in slots[]; returns 0 or -1. */
static int set_slot(int id)
{
	struct kvm_userspace_memory_region region = {
		.slot = id, .flags = slots[id].flags, .guest_phys_addr = slots[id].gpa,
		.memory_size = slots[id].size, .userspace_addr = (u64)slots[id].at,
	};

	return ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
}

/* Memory at a guest physical address, aligned to 2 MiB in the host and, if there, of huge pages. */
static int add_slot(int id, u64 gpa, u64 size)
{
	u8 *p = mmap(NULL, size + 2 * M, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (p == MAP_FAILED)
		die("mmap");
	p = (u8 *)(((u64)p + 2 * M - 1) & ~(2 * M - 1));
	madvise(p, size, small_pages ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
	memset(p, 0, size);
	slots[id].gpa = gpa;
	slots[id].size = size;
	slots[id].at = p;
	return set_slot(id);
}

static inline void log_dirty_pages(int id, int on)
{
	slots[id].flags = on ? KVM_MEM_LOG_DIRTY_PAGES : 0;
	if (set_slot(id))
		die("logging of slot %d", id);
}

static inline void clear_dirty_log(int id)
{
	static u8 ones[1 << 16];
	struct kvm_clear_dirty_log clear = { .slot = id, .num_pages = slots[id].size >> 12, .dirty_bitmap = ones };

	memset(ones, 0xff, sizeof(ones));
	if (ioctl(vm, KVM_CLEAR_DIRTY_LOG, &clear))
		die("KVM_CLEAR_DIRTY_LOG");
}

static inline void enable_cap(u32 cap, u64 arg)
{
	struct kvm_enable_cap enable = { .cap = cap, .args = { arg } };

	if (ioctl(vm, KVM_ENABLE_CAP, &enable))
		die("KVM_ENABLE_CAP %u", cap);
}

/* A statistic of the VM or a vCPU (KVM_GET_STATS_FD). */
static inline u64 stat_of(int fd, const char *name)
{
	struct kvm_stats_header head;
	int stats = ioctl(fd, KVM_GET_STATS_FD, NULL);

	if (pread(stats, &head, sizeof(head), 0) != sizeof(head))
		die("no statistics");
	for (u32 i = 0; i < head.num_desc; i++) {
		u8 raw[sizeof(struct kvm_stats_desc) + 256];
		struct kvm_stats_desc *desc = (void *)raw;
		u64 value = 0;
		size_t size = sizeof(*desc) + head.name_size;

		if (pread(stats, raw, size, head.desc_offset + i * size) != (ssize_t)size)
			break;
		if (strcmp(desc->name, name))
			continue;
		if (pread(stats, &value, sizeof(value), head.data_offset + desc->offset) != sizeof(value))
			break;
		close(stats);
		return value;
	}
	die("no statistic %s", name);
}

/* -- page tables in guest memory ------------------------------------------------------------------------------- */

static u64 next_table;		/* where the next table comes from */

static u64 *entry(u64 root, u64 gva, int level)
{
	u64 table = root;

	for (int l = 4;; l--) {
		u64 *e = (u64 *)at(table) + (gva >> (3 + 9 * l) & 511);

		if (l == level)
			return e;
		if (!(*e & 1)) {
			*e = next_table | P_W_U;
			next_table += 0x1000;
		}
		table = *e & 0xffffffffff000;
	}
}

static void map(u64 root, u64 gva, u64 gpa, int level)
{
	*entry(root, gva, level) = gpa | 0x67 | (level > 1 ? LARGE : 0);
}

/* -- vCPUs ----------------------------------------------------------------------------------------------------- */

static struct { int fd; struct kvm_run *run; } vcpus[4];
static struct kvm_cpuid2 *cpuid;

enum op { READ, WRITE, WRITE32, READ_FLAG, INVLPG, MOV_CR3, CALL, SPIN, VMRUN, L2_READ, L2_WRITE, L2_READ_FLAG, L2_CALL, L2_EXIT, OPS };
static const struct { int size; u8 code[30]; } insns[OPS] = {
	[READ] = { 5, { 0x48, 0x8b, 0x07, 0xe7, EXIT_PORT } },		/* mov (%rdi), %rax; out */
	[WRITE] = { 5, { 0x48, 0x89, 0x37, 0xe7, EXIT_PORT } },		/* mov %rsi, (%rdi); out */
	[WRITE32] = { 4, { 0x89, 0x37, 0xe7, EXIT_PORT } },
	[READ_FLAG] = { 10, { 0x8b, 0x07, 0xc7, 0x06, 1, 0, 0, 0, 0xe7, EXIT_PORT } },	/* read, set (%rsi); out */
	[INVLPG] = { 5, { 0x0f, 0x01, 0x3f, 0xe7, EXIT_PORT } },
	[MOV_CR3] = { 5, { 0x0f, 0x22, 0xdf, 0xe7, EXIT_PORT } },	/* mov %rdi, %cr3; out */
	[CALL] = { 4, { 0xff, 0xd7, 0xe7, EXIT_PORT } },		/* call *%rdi; out */
	/*
	 * Write %eax to (%edi) and count at 4(%esi) until 0(%esi) is set; then write %ebx to (%edi) once, say so at
	 * 8(%esi) and spin. The same bytes in 32 and in 64 bits, where the upper halves are 0.
	 */
	[SPIN] = { 23, { 0x89, 0x07, 0xff, 0x46, 0x04, 0x83, 0x3e, 0x00, 0x74, 0xf6, 0x89, 0x1f,
		0xc7, 0x46, 0x08, 1, 0, 0, 0, 0xf3, 0x90, 0xeb, 0xfc } },
	[VMRUN] = { 5, { 0x0f, 0x01, 0xd8, 0xe7, EXIT_PORT } },
	/* of L2, 32-bit: they end with vmmcall */
	[L2_READ] = { 5, { 0x8b, 0x07, 0x0f, 0x01, 0xd9 } },
	[L2_WRITE] = { 5, { 0x89, 0x37, 0x0f, 0x01, 0xd9 } },
	[L2_READ_FLAG] = { 11, { 0x8b, 0x07, 0xc7, 0x06, 1, 0, 0, 0, 0x0f, 0x01, 0xd9 } },
	[L2_CALL] = { 5, { 0xff, 0xd7, 0x0f, 0x01, 0xd9 } },
	[L2_EXIT] = { 3, { 0x0f, 0x01, 0xd9 } },
};

static void create_vcpu(int id, u64 cr3)
{
	struct kvm_segment code = { .selector = 8, .limit = ~0u, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
	struct kvm_segment data = { .selector = 16, .limit = ~0u, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
	struct kvm_sregs s;

	vcpus[id].fd = ioctl(vm, KVM_CREATE_VCPU, id);
	if (vcpus[id].fd < 0)
		die("KVM_CREATE_VCPU");
	vcpus[id].run = mmap(NULL, ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), PROT_READ | PROT_WRITE, MAP_SHARED,
			     vcpus[id].fd, 0);
	if (!cpuid) {
		cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(cpuid->entries[0]));
		cpuid->nent = 256;
		if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid))
			die("KVM_GET_SUPPORTED_CPUID");
	}
	if (ioctl(vcpus[id].fd, KVM_SET_CPUID2, cpuid))
		die("KVM_SET_CPUID2");
	ioctl(vcpus[id].fd, KVM_GET_SREGS, &s);
	s.cs = code;
	s.ds = s.es = s.ss = data;
	s.cr0 = 0x80010033;
	s.cr4 = 0x20;
	s.efer = 0xd00;
	s.cr3 = cr3;
	if (ioctl(vcpus[id].fd, KVM_SET_SREGS, &s))
		die("KVM_SET_SREGS");
	for (int i = 0; i < OPS; i++)
		memcpy((u8 *)at(CODE) + 32 * i, insns[i].code, insns[i].size);
	map(cr3, CODE, CODE, 1);
}

static void set_regs(int id, enum op op, u64 rax, u64 rdi, u64 rsi, u64 rbx)
{
	struct kvm_regs r = { .rip = CODE + 32 * op, .rflags = 2, .rax = rax, .rdi = rdi, .rsi = rsi, .rbx = rbx,
			      .rsp = CODE + 0xff0 };

	if (ioctl(vcpus[id].fd, KVM_SET_REGS, &r))
		die("KVM_SET_REGS");
}

static u64 mmio_gpa;		/* of the last access that left as MMIO; ~0 if the last op had none */

/* Run a vCPU until its op is done; reads of devices get 0xdddddddd. Returns RAX. */
static u64 finish_op(int id)
{
	struct kvm_run *run = vcpus[id].run;
	struct kvm_regs r;

	mmio_gpa = ~0ull;
	for (;;) {
		if (ioctl(vcpus[id].fd, KVM_RUN, 0)) {
			if (errno == EINTR)
				continue;
			die("KVM_RUN of vCPU %d", id);
		}
		if (run->exit_reason == KVM_EXIT_IO)
			break;
		if (run->exit_reason != KVM_EXIT_MMIO)
			die("vCPU %d leaves with reason %u, %#x", id, run->exit_reason, run->internal.suberror);
		mmio_gpa = run->mmio.phys_addr;
		if (!run->mmio.is_write)
			memset(run->mmio.data, 0xdd, 8);
	}
	ioctl(vcpus[id].fd, KVM_GET_REGS, &r);
	return r.rax;
}

static inline u64 do_op(int id, enum op op, u64 rdi, u64 rsi)
{
	set_regs(id, op, 0, rdi, rsi, 0);
	return finish_op(id);
}

/* -- a guest of the guest (SVM): 32 bits, no paging of its own, nested tables at ncr3 ---------------------------- */

static u8 *vmcb(int id)
{
	return at(VMCB(id));
}

static void set_segment(u8 *where, uint16_t selector, uint16_t attributes)
{
	*(uint16_t *)where = selector;
	*(uint16_t *)(where + 2) = attributes;
	*(u32 *)(where + 4) = ~0u;
	*(u64 *)(where + 8) = 0;
}

/* Prepare the VMCB of a vCPU; AMD's manual, volume 2, appendix B has the offsets. */
static inline void create_l2(int id, u64 ncr3)
{
	struct { struct kvm_msrs head; struct kvm_msr_entry entry; } msrs = {
		.head.nmsrs = 1, .entry = { .index = 0xc0010117, .data = VMCB(id) + 0x1000 },
	};
	struct kvm_sregs s;
	u8 *v = vmcb(id);

	memset(v, 0, 0x1000);
	*(u32 *)(v + 0x10) = 3;			/* intercept VMRUN and VMMCALL */
	*(u32 *)(v + 0x58) = 1;			/* ASID */
	*(u64 *)(v + 0x90) = 1;			/* nested paging */
	*(u64 *)(v + 0xb0) = ncr3;
	set_segment(v + 0x410, 8, 0xc9b);	/* CS */
	for (int i = 0; i < 6; i++)
		if (i != 1)
			set_segment(v + 0x400 + 16 * i, 16, 0xc93);
	set_segment(v + 0x490, 24, 0x8b);	/* TR */
	*(u64 *)(v + 0x4d0) = 0x1000;		/* EFER.SVME */
	*(u64 *)(v + 0x558) = 0x11;		/* CR0.PE */
	*(u64 *)(v + 0x560) = 0x400;
	*(u64 *)(v + 0x568) = 0xffff0ff0;
	*(u64 *)(v + 0x668) = 0x0007040600070406;
	ioctl(vcpus[id].fd, KVM_GET_SREGS, &s);
	s.efer |= 0x1000;
	if (ioctl(vcpus[id].fd, KVM_SET_SREGS, &s))
		die("KVM_SET_SREGS with EFER.SVME");
	if (ioctl(vcpus[id].fd, KVM_SET_MSRS, &msrs) != 1)
		die("VM_HSAVE_PA");
	map(ncr3, CODE, CODE, 1);
}

/* Have the next KVM_RUN of a vCPU do VMRUN, and L2 the op. */
static inline void set_l2_regs(int id, enum op op, u64 rax, u64 rdi, u64 rsi, u64 rbx)
{
	u8 *v = vmcb(id);

	*(u64 *)(v + 0x570) = 2;
	*(u64 *)(v + 0x578) = CODE + 32 * op;
	*(u64 *)(v + 0x5d8) = CODE + 0xff0;
	*(u64 *)(v + 0x5f8) = rax;
	set_regs(id, VMRUN, VMCB(id), rdi, rsi, rbx);
}

/* Finish what set_l2_regs() began. Returns L2's EAX. */
static inline u32 finish_l2_op(int id)
{
	u8 *v = vmcb(id);

	finish_op(id);
	if (*(u64 *)(v + 0x70) != 0x81)
		die("L2 leaves with %#llx, %#llx, %#llx", (unsigned long long)*(u64 *)(v + 0x70),
		    (unsigned long long)*(u64 *)(v + 0x78), (unsigned long long)*(u64 *)(v + 0x80));
	return *(u64 *)(v + 0x5f8);
}

static inline u32 do_l2_op(int id, enum op op, u64 rdi, u64 rsi)
{
	set_l2_regs(id, op, 0, rdi, rsi, 0);
	return finish_l2_op(id);
}
