// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * KVM_PRE_FAULT_MEMORY of a gpa that four levels of nested page tables do not reach maps it at the address modulo 2^48.
 * See prefault-wrap.md.
 *
 * usage: prefault-wrap; kvm_amd npt=1, four levels on the host
 */
#include "guest.h"

#define HIGH (1ull << 48)

struct pre_fault {
	u64 gpa, size, flags, padding[5];
};
#define PRE_FAULT_MEMORY _IOWR(KVMIO, 0xd5, struct pre_fault)

int main(void)
{
	struct pre_fault request = { .gpa = HIGH, .size = 4 * K };
	u64 value;
	int result;

	setvbuf(stdout, NULL, _IONBF, 0);
	create_vm();
	small_pages = 1;
	add_slot(0, 0, 16 * M);
	result = add_slot(1, HIGH, 1 * M);
	printf("slot at 2^48: %s\n", result ? strerror(errno) : "accepted");
	*(u32 *)at(0) = 0xaaaa;
	if (!result)
		*(u32 *)at(HIGH) = 0xbbbb;
	next_table = 0x2000;
	map(0x1000, 0x400000, 0, 1);
	create_vcpu(0, 0x1000);
	result = ioctl(vcpus[0].fd, PRE_FAULT_MEMORY, &request);
	printf("KVM_PRE_FAULT_MEMORY of 2^48: %s\n", result ? strerror(errno) : "done");
	value = do_op(0, READ, 0x400000, 0) & 0xffffffff;
	printf("gpa 0 has 0xaaaa; the guest reads %#llx\n", (unsigned long long)value);
	printf(value == 0xaaaa ? "as it should be\n" : "wrong: that is the page at 2^48\n");
	return value != 0xaaaa;
}
