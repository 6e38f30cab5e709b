// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A stale MMIO SPTE gets the current generation of the memory slots when its page is synced: the guest's accesses go to
 * a device where there is memory. See mmio-sync.md.
 *
 * usage: mmio-sync; kvm_amd npt=0 or kvm_intel ept=0
 */
#include "guest.h"

#define GVA 0x400000ull
#define GPA 0xd0001000ull
#define WINDOW 0x10000000ull	/* the guest's view of its own tables */

static u64 read_it(const char *when)
{
	u64 value = do_op(0, READ, GVA, 0) & 0xffffffff;

	printf("%-46s reads %#llx%s\n", when, (unsigned long long)value, mmio_gpa == ~0ull ? "" : " from user space (MMIO)");
	return value;
}

int main(void)
{
	u64 *leaf, value;

	setvbuf(stdout, NULL, _IONBF, 0);
	create_vm();
	add_slot(0, 0, 16 * M);
	next_table = 0x2000;
	map(0x1000, GVA, GPA, 1);
	map(0x1000, GVA + 0x1000, 0x800000, 1);
	leaf = entry(0x1000, GVA, 1);
	map(0x1000, WINDOW, ((u8 *)leaf - slots[0].at) & ~0xfffull, 1);
	create_vcpu(0, 0x1000);
	read_it("no slot:");
	do_op(0, READ, GVA + 0x1000, 0);
	add_slot(5, 0xd0000000, 64 * K);
	*(u32 *)at(GPA) = 0x5555;
	read_it("a slot with 0x5555:");
	slots[5].size = 0;
	set_slot(5);
	read_it("the slot is deleted:");
	slots[5].size = 64 * K;
	set_slot(5);
	/* The guest changes another entry of that table, and flushes. */
	do_op(0, WRITE, WINDOW + ((u64)leaf & 0xfff) + 16, 0x802067);
	do_op(0, MOV_CR3, 0x1000, 0);
	value = read_it("the slot is back, another entry was changed:");
	do_op(0, INVLPG, GVA, 0);
	value = read_it("after INVLPG:");
	printf(value == 0x5555 ? "as it should be\n" : "wrong: there is memory\n");
	return value != 0x5555;
}
