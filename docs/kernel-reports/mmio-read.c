// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A vCPU's record of its last MMIO access by linear address serves writes, but no reads: every emulated read of a
 * device walks the guest's page tables. See mmio-read.md.
 *
 * usage: mmio-read; kvm_amd npt=0 or kvm_intel ept=0
 */
#include "guest.h"

#define GVA 0x400000ull
#define DEVICE 0xd0000000ull
#define EVENTS "/sys/kernel/tracing/events/kvmmmu/kvm_mmu_pagetable_walk/enable"
#define TRACE "/sys/kernel/tracing/trace"
#define OPS_TIMED 2000

static void put(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_TRUNC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		die("%s", path);
	close(fd);
}

/* Walks of the guest's tables for the device's address in 100 accesses, as the tracepoint has them. */
static int walks(enum op op)
{
	char line[512];
	int n = 0;
	FILE *f;

	put(TRACE, "");
	put(EVENTS, "1");
	for (int i = 0; i < 100; i++)
		do_op(0, op, GVA, 1);
	put(EVENTS, "0");
	f = fopen(TRACE, "r");
	while (fgets(line, sizeof(line), f))
		n += strstr(line, "kvm_mmu_pagetable_walk: addr 400000 ") != NULL;
	fclose(f);
	return n;
}

static double microseconds(enum op op)
{
	u64 start = now_us();

	for (int i = 0; i < OPS_TIMED; i++)
		do_op(0, op, GVA, 1);
	return (double)(now_us() - start) / OPS_TIMED;
}

int main(void)
{
	u64 read_at, write_at;
	int read_walks, write_walks;

	setvbuf(stdout, NULL, _IONBF, 0);
	create_vm();
	add_slot(0, 0, 16 * M);
	next_table = 0x2000;
	map(0x1000, GVA, DEVICE, 1);
	create_vcpu(0, 0x1000);
	do_op(0, READ, GVA, 0);
	do_op(0, READ, GVA, 0);
	read_walks = walks(READ);
	write_walks = walks(WRITE);
	printf("walks of the guest's tables in 100 accesses: %d for reads, %d for writes\n", read_walks, write_walks);
	printf("microseconds an access: %.2f for reads, %.2f for writes\n", microseconds(READ), microseconds(WRITE));
	do_op(0, READ, GVA, 0);
	map(0x1000, GVA, DEVICE + 0x1000, 1);		/* unseen by KVM, and the guest does not flush */
	do_op(0, READ, GVA, 0);
	read_at = mmio_gpa;
	do_op(0, WRITE, GVA, 1);
	write_at = mmio_gpa;
	printf("after the entry was changed without a flush: a read is at %#llx, a write at %#llx\n",
	       (unsigned long long)read_at, (unsigned long long)write_at);
	return read_walks != write_walks;
}
