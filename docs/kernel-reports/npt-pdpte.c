// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Walks of nested page tables in PAE format read the PDPTEs from memory each time, while the roots are those of the last
 * VMRUN: what one PDPTE leads to ends up in the shadow of another. See npt-pdpte.md.
 *
 * usage: npt-pdpte; kvm_amd npt=1
 */
#include "guest.h"

#define NPDPT 0x40000ull

static u64 read_l2(u64 address, const char *when)
{
	u64 value;

	set_regs(0, READ, 0, address, 0, 0);	/* vCPU 0 is in L2: OUT is not intercepted, it leaves to user space */
	value = finish_op(0) & 0xffffffff;
	printf("%-44s L2 reads %#llx at %#llx\n", when, (unsigned long long)value, (unsigned long long)address);
	return value;
}

/* L1 in PAE mode, with its memory at the same linear addresses. */
static void pae_mode(int id)
{
	struct kvm_sregs s;

	ioctl(vcpus[id].fd, KVM_GET_SREGS, &s);
	s.cs.l = 0;
	s.cs.db = 1;
	s.efer = 0x1000;
	s.cr4 = 0x20;
	s.cr3 = 0x1000;
	if (ioctl(vcpus[id].fd, KVM_SET_SREGS, &s))
		die("KVM_SET_SREGS");
}

int main(void)
{
	u64 value;

	setvbuf(stdout, NULL, _IONBF, 0);
	create_vm();
	add_slot(0, 0, 16 * M);
	next_table = 0x100000;
	*(u64 *)at(0x1000) = 0x2001;
	for (int i = 0; i < 8; i++)
		*(u64 *)at(0x2000 + 8 * i) = i * 2 * M | 0xe7;
	for (int id = 0; id < 2; id++) {
		create_vcpu(id, 0x110000);
		create_l2(id, 0x120000);
		*(u64 *)(vmcb(id) + 0xb0) = NPDPT;
		pae_mode(id);
	}
	*(u64 *)at(NPDPT) = *(u64 *)at(NPDPT + 8) = 0x41001;
	*(u64 *)at(0x41000) = 0x43067;
	*(u64 *)at(0x42000) = 0x44067;
	*(u64 *)at(0x41038) = *(u64 *)at(0x42038) = 0x45067;
	*(u64 *)at(0x45ff8) = CODE | 0x67;
	*(u64 *)at(0x43040) = 0x800067;
	*(u64 *)at(0x44040) = 0x910067;
	*(u64 *)at(0x44048) = 0x900067;
	*(u32 *)at(0x800000) = 0x1111;
	*(u32 *)at(0x900000) = 0x2222;
	*(u32 *)at(0x910000) = 0x3333;

	set_l2_regs(0, READ, 0, 0x8000, 0, 0);
	finish_op(0);
	read_l2(0x8000, "both PDPTEs lead to the same directory:");
	read_l2(0x40008000, "");
	do_op(1, WRITE32, NPDPT + 8, 0x42001);		/* L1, on the other vCPU: another directory in PDPTE 1 */
	read_l2(0x40009000, "L1 has changed PDPTE 1:");
	value = read_l2(0x8000, "the same address, by PDPTE 0:");
	printf(value == 0x1111 ? "as it should be\n" : "wrong: PDPTE 0 was not touched, it leads to 0x1111\n");
	return value != 0x1111;
}
