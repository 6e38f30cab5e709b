// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * 7.3: an eager split of a nested guest's huge page into a direct page that was there before does not flush, although an
 * SPTE of that page is neither writable nor MMU-writable. A page table of L1 that is shadowed before the ioctl's flush
 * is written through a TLB, and KVM does not see it. See split-flush.md.
 *
 * usage: split-flush alias|control [clear|log-on [ROUNDS [HUGE_PAGES]]]; kvm_amd npt=1
 *        control: the table was no table before
 */
#include "late-flush.h"

#define L1_PD 0x7f0000000000ull	/* L1's window on the nested directory that SEEN is in */

static int control, log_on;

static void prepare(void)
{
	u64 pde = *entry(NROOT, SEEN, 2);

	do_op(0, WRITE, L1_PD + 8, pde);
	log_dirty_pages(1, 0);
	*(u64 *)at(TABLE) = OLD;
	zap_all();
	op(0, CALL, ALIAS + 0x9000, 0);		/* a huge SPTE of the second mapping; read-only, as it is executed */
	if (!control) {
		op(0, READ, SEEN, 0);			/* the table is in use: that SPTE loses W and MMU-writable */
		do_op(0, WRITE, L1_PD + 8, pde);	/* L1 writes the PDE: the table is in use no more */
	}
	for (int i = 1; i < huge_pages; i++)
		op(0, READ, HUGE + i * 2 * M, 0);
	op(0, READ, FLAGS_GVA, 0);
	op(1, WRITE, TABLE, OLD);		/* a huge SPTE of the first mapping, writable */
	op(1, READ, FLAGS_GVA, 0);
	if (!log_on)
		log_dirty_pages(1, 1);
}

static void act(void)
{
	if (log_on)
		log_dirty_pages(1, 1);
	else
		clear_dirty_log(1);
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IONBF, 0);
	if (argc < 2)
		die("usage: split-flush alias|control [clear|log-on [ROUNDS [HUGE_PAGES]]]");
	nested = 1;
	control = !strcmp(argv[1], "control");
	log_on = argc > 2 && !strcmp(argv[2], "log-on");
	if (argc > 4)
		huge_pages = atoi(argv[4]);
	build();
	if (!log_on)
		enable_cap(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, 3);
	map(NROOT, ALIAS, HUGE, 2);
	map(ROOT, L1_PD, (u64)((u8 *)entry(NROOT, SEEN, 2) - slots[0].at) & ~0xfffull, 1);
	*(u8 *)at(HUGE + 0x9000) = 0xc3;	/* ret */
	return rounds_of(argv[1], argc > 3 ? atoi(argv[3]) : 100, prepare, act);
}
