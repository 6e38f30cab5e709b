// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * KVM_CLEAR_DIRTY_LOG with KVM_DIRTY_LOG_INITIALLY_SET write-protects a huge SPTE, takes its MMU-writable bit too, and
 * flushes only after mmu_lock is dropped. A page table of the guest that is shadowed in between is written through a
 * TLB, and KVM does not see it. See clear-log.md.
 *
 * usage: clear-log shadow|shadow-alias|nested|nested-alias [ROUNDS [HUGE_PAGES]]
 *        shadow: load kvm_amd with npt=0 or kvm_intel with ept=0
 *        nested: kvm_amd npt=1, kvm eager_page_split=N
 */
#include "late-flush.h"

static int alias;

/* Huge SPTEs over all of slot 1, as no table there is in use; then logging, for which nothing is protected yet. */
static void prepare(void)
{
	log_dirty_pages(1, 0);
	*(u64 *)at(TABLE) = OLD;
	zap_all();
	for (int i = 1; i < huge_pages; i++)
		op(1, WRITE, HUGE + i * 2 * M, 1);
	if (alias)
		op(1, WRITE, ALIAS, 1);
	op(0, READ, FLAGS_GVA, 0);
	op(1, WRITE, TABLE, OLD);
	op(1, READ, FLAGS_GVA, 0);
	log_dirty_pages(1, 1);
}

static void clear(void)
{
	clear_dirty_log(1);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc < 2)
		die("usage: clear-log shadow|shadow-alias|nested|nested-alias [ROUNDS [HUGE_PAGES]]");
	nested = !strncmp(argv[1], "nested", 6);
	alias = strstr(argv[1], "alias") != NULL;
	if (argc > 3)
		huge_pages = atoi(argv[3]);
	build();
	enable_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3);
	if (alias)
		map(nested ? NROOT : ROOT, ALIAS, HUGE, 2);
	return rounds_of(argv[1], argc > 2 ? atoi(argv[2]) : 100, prepare, clear);
}
