// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * An MMIO SPTE has room for a gfn of the host's MAXPHYADDR only. With shadow paging a guest with more bits that reads a
 * device above that reaches another one. See mmio-maxphyaddr.md.
 *
 * usage: mmio-maxphyaddr; kvm_amd npt=0 or kvm_intel ept=0, on a host with less than 52 bits
 */
#include "guest.h"

int main(void)
{
	static const u64 gpas[] = { 0x20000005000, 0x1000000006000, 0x4000000007000 };
	int wrong = 0;

	setvbuf(stdout, NULL, _IONBF, 0);
	create_vm();
	add_slot(0, 0, 16 * M);
	next_table = 0x2000;
	for (int i = 0; i < 3; i++)
		map(0x1000, 0x700000 + i * 0x1000, gpas[i], 1);
	cpuid = calloc(1, sizeof(*cpuid) + 256 * sizeof(cpuid->entries[0]));
	cpuid->nent = 256;
	if (ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid))
		die("KVM_GET_SUPPORTED_CPUID");
	for (u32 i = 0; i < cpuid->nent; i++)
		if (cpuid->entries[i].function == 0x80000008) {
			printf("MAXPHYADDR: host %u, guest 52\n", cpuid->entries[i].eax & 0xff);
			cpuid->entries[i].eax = (cpuid->entries[i].eax & ~0xffu) | 52;
		}
	create_vcpu(0, 0x1000);
	for (int turn = 0; turn < 3; turn++)
		for (int i = 0; i < 3; i++) {
			do_op(0, turn < 2 ? READ : WRITE, 0x700000 + i * 0x1000, 1);
			printf("%s gpa %#llx: MMIO at %#llx\n", turn < 2 ? "read of" : "write to", (unsigned long long)gpas[i],
			       (unsigned long long)mmio_gpa);
			wrong |= mmio_gpa != gpas[i];
		}
	printf(wrong ? "wrong: another device\n" : "as it should be\n");
	return wrong;
}
