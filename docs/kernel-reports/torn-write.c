// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A 4-byte write across two 8-byte entries of a shadowed page directory is taken for a write to the first one: the
 * second entry's SPTE stays, whatever the guest flushes. See torn-write.md.
 *
 * usage: torn-write; kvm_amd npt=0 or kvm_intel ept=0
 */
#include "guest.h"

#define FIRST 0x400000ull
#define SECOND 0x600000ull
#define WINDOW 0x40000000ull

int main(void)
{
	u64 *pde, value, physical;

	setvbuf(stdout, NULL, _IONBF, 0);
	create_vm();
	add_slot(0, 0, 16 * M);
	next_table = 0x2000;
	map(0x1000, FIRST, 0x800000, 1);
	map(0x1000, SECOND, 0x801000, 1);
	pde = entry(0x1000, SECOND, 2);
	physical = (u8 *)pde - slots[0].at;
	map(0x1000, WINDOW, physical & ~0xfffull, 1);
	*(u64 *)at(0xf000) = 0x802067;			/* another leaf table, at 0xf000 */
	*(u32 *)at(0x800000) = 0x1111;
	*(u32 *)at(0x801000) = 0x2222;
	*(u32 *)at(0x802000) = 0x3333;
	create_vcpu(0, 0x1000);
	do_op(0, READ, FIRST, 0);
	printf("second entry %#llx: reads %#llx\n", (unsigned long long)*pde,
	       (unsigned long long)do_op(0, READ, SECOND, 0) & 0xffffffff);
	/* Bits 63:48 of the first entry stay 0, bits 15:0 of the second one lead to the other table. */
	do_op(0, WRITE32, WINDOW + (physical & 0xfff) - 2, 0xf067u << 16);
	do_op(0, INVLPG, SECOND, 0);
	do_op(0, MOV_CR3, 0x1000, 0);
	value = do_op(0, READ, SECOND, 0) & 0xffffffff;
	printf("second entry %#llx after INVLPG and MOV to CR3: reads %#llx\n", (unsigned long long)*pde,
	       (unsigned long long)value);
	printf(value == 0x3333 ? "as it should be\n" : "wrong: the table at 0xf000 has the page with 0x3333\n");
	return value != 0x3333;
}
