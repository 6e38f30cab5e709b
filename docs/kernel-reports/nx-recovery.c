// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * NX huge page recovery takes pages of the TDP MMU off their list but subtracts them from the shadow MMU's count: the
 * share that a pass takes does not shrink with the list. See nx-recovery.md.
 *
 * usage: nx-recovery; kvm nx_huge_pages=force, kvm_amd npt=1 or kvm_intel ept=1
 */
#include "guest.h"

#define HUGE 0x40000000ull
#define PAGES 16

static void parameter(const char *name, const char *value)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/module/kvm/parameters/%s", name);
	f = fopen(path, "w");
	if (!f || fprintf(f, "%s\n", value) < 0 || fclose(f))
		die("%s", path);
}

/* Execute in each huge page: each is split. Then watch the number of splits until it is 0. */
static int passes(int expected)
{
	u64 splits, seen;
	int count = 0;

	for (int i = 0; i < PAGES; i++)
		do_op(0, CALL, HUGE + i * 2 * M, 0);
	seen = stat_of(vm, "nx_lpage_splits");
	printf("splits: %llu", (unsigned long long)seen);
	parameter("nx_huge_pages_recovery_ratio", "2");
	for (u64 end = now_us() + 8000000; seen && now_us() < end; usleep(5000)) {
		splits = stat_of(vm, "nx_lpage_splits");
		if (splits == seen)
			continue;
		printf(" -> %llu", (unsigned long long)splits);
		seen = splits;
		count++;
	}
	parameter("nx_huge_pages_recovery_ratio", "0");
	printf("; %d passes, a half each time are %d\n", count, expected);
	return count;
}

int main(void)
{
	int wrong = 0;

	setvbuf(stdout, NULL, _IONBF, 0);
	create_vm();
	if (add_slot(0, 0, 16 * M) || add_slot(1, HUGE, PAGES * 2 * M))
		die("memory");
	next_table = 0x2000;
	for (int i = 0; i < PAGES; i++) {
		map(0x1000, HUGE + i * 2 * M, HUGE + i * 2 * M, 2);
		*(u8 *)at(HUGE + i * 2 * M) = 0xc3;	/* ret */
	}
	create_vcpu(0, 0x1000);
	parameter("nx_huge_pages_recovery_ratio", "0");
	parameter("nx_huge_pages_recovery_period_ms", "300");
	for (int i = 0; i < 2; i++)
		wrong |= passes(5) != 5;
	printf(wrong ? "wrong: a pass takes more than its share\n" : "as it should be\n");
	return wrong;
}
