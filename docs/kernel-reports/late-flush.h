/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What clear-log.c and split-flush.c have in common. KVM changes huge SPTEs for the dirty log, drops mmu_lock and flushes
 * TLBs later. In between vCPU 0 uses a guest page table that lies in one of the huge pages, so that KVM shadows it, and
 * vCPU 1, whose TLB still has the huge page writable, writes that table.
 *
 * CPU 0: the ioctl, and a thread of real-time priority that wakes up while mmu_lock is held. It runs once the lock is
 *        dropped (boot with preempt=full), for a moment: all that it does is to keep the ioctl from its flush.
 * CPU 1: vCPU 0
 * CPU 2: vCPU 1; host interrupts would have it leave the guest: nohz_full=2 isolcpus=2 rcu_nocbs=2 irqaffinity=0
 */
#include "guest.h"

#define ROOT 0x1000ull		/* of L1, or of the guest if there is no L2 */
#define NROOT 0x40000ull
#define HUGE 0x40000000ull	/* gpa of slot 1, which logs; L1 and L2 map it there too */
#define ALIAS 0x80000000ull	/* the first 2 MiB of it once more */
#define TABLE (HUGE + 0x8000)	/* becomes a page table */
#define SEEN 0xc0200000ull	/* what that table translates */
#define FLAGS_GVA 0xc0000000ull
#define FLAGS 0x802000ull	/* its gpa: [0] the table is in use, [1] writes of vCPU 1, [2] it has written NEW */
#define OLD 0x800067ull		/* entry 0 of the table: the page with 0x1111, */
#define NEW 0x801067ull		/* the page with 0x2222 */

static int nested, huge_pages = 64;
static volatile u32 *flags;
static volatile int go, stop;
static u64 delay_us, hold_us, wake_us, started, table_made;

static u64 op(int cpu, enum op op, u64 gva, u64 value)
{
	if (!nested)
		return do_op(cpu, op, gva, value) & 0xffffffff;
	return do_l2_op(cpu, op == READ ? L2_READ : op == CALL ? L2_CALL : L2_WRITE, gva, value);
}

static void build(void)
{
	u64 root;

	create_vm();
	if (add_slot(0, 0, 16 * M) || add_slot(1, HUGE, huge_pages * 2 * M))
		die("memory");
	next_table = 0x2000;
	for (int i = 0; i < huge_pages; i++)
		map(ROOT, HUGE + i * 2 * M, HUGE + i * 2 * M, 2);
	create_vcpu(0, ROOT);
	create_vcpu(1, ROOT);
	root = ROOT;
	if (nested) {
		root = NROOT;
		next_table = NROOT + 0x1000;
		for (int i = 0; i < huge_pages; i++)
			map(NROOT, HUGE + i * 2 * M, HUGE + i * 2 * M, 2);
		create_l2(0, NROOT);
		create_l2(1, NROOT);
	}
	map(root, FLAGS_GVA, FLAGS, 1);
	*entry(root, SEEN, 2) = TABLE | P_W_U;
	*(u64 *)at(0x800000) = 0x1111;
	*(u64 *)at(0x801000) = 0x2222;
	flags = at(FLAGS);
}

/* KVM forgets all shadow pages when a slot is deleted. */
static void zap_all(void)
{
	if (slots[7].at) {
		slots[7].size = 4 * K;
		set_slot(7);
	} else {
		add_slot(7, 0x30000000, 4 * K);
	}
	slots[7].size = 0;
	set_slot(7);
}

static void *vcpu_1(void *unused)
{
	pin(2);
	while (!stop)
		if (ioctl(vcpus[1].fd, KVM_RUN, 0) && errno != EINTR)
			die("vCPU 1");
	return unused;
}

static void *vcpu_0(void *unused)
{
	pin(1);
	while (!go)
		;
	while (now_us() < started + delay_us)
		;
	if (nested)
		finish_l2_op(0);
	else
		finish_op(0);
	table_made = now_us();
	return unused;
}

static void *real_time(void *unused)
{
	struct sched_param priority = { .sched_priority = 10 };
	u64 end;

	pin(0);
	if (sched_setscheduler(0, SCHED_FIFO, &priority))
		die("SCHED_FIFO");
	while (!go)
		usleep(100);
	end = started + wake_us;
	while (now_us() < end)
		usleep(end - now_us() > 150 ? end - now_us() - 100 : 1);
	end = now_us() + hold_us;
	while (now_us() < end)
		;
	return unused;
}

static void on_signal(int number __attribute__((unused)))
{
}

/*
 * vCPU 1 has the page of TABLE writable in its TLB, and slot 1 is ready for `act`: one round. Returns whether the guest
 * reads by the entry that it has overwritten.
 */
static int round_of(void (*act)(void), int *inside, u64 *length_us)
{
	pthread_t threads[3];
	u64 flushes, done, value;

	flags[0] = flags[1] = flags[2] = 0;
	go = stop = 0;
	if (nested) {
		set_l2_regs(1, SPIN, OLD, TABLE, FLAGS_GVA, NEW);
		set_l2_regs(0, L2_READ_FLAG, 0, SEEN, FLAGS_GVA, 0);
	} else {
		set_regs(1, SPIN, OLD, TABLE, FLAGS_GVA, NEW);
		set_regs(0, READ_FLAG, 0, SEEN, FLAGS_GVA, 0);
	}
	vcpus[1].run->immediate_exit = 0;
	pthread_create(&threads[0], NULL, vcpu_1, NULL);
	pthread_create(&threads[1], NULL, vcpu_0, NULL);
	pthread_create(&threads[2], NULL, real_time, NULL);
	for (u64 end = now_us() + 2000000; flags[1] < 1000 && now_us() < end;)
		usleep(200);
	if (flags[1] < 1000)
		die("vCPU 1 does not run");
	flushes = stat_of(vm, "remote_tlb_flush_requests");
	started = now_us();
	go = 1;
	act();
	done = now_us();
	pthread_join(threads[1], NULL);
	flushes = stat_of(vm, "remote_tlb_flush_requests") - flushes;
	for (u64 end = now_us() + 500000; !flags[2] && now_us() < end;)
		usleep(200);
	stop = 1;
	vcpus[1].run->immediate_exit = 1;
	pthread_kill(threads[0], SIGUSR1);
	pthread_join(threads[0], NULL);
	pthread_join(threads[2], NULL);
	vcpus[1].run->immediate_exit = 0;
	if (nested) {
		set_regs(1, L2_EXIT, 0, 0, 0, 0);
		finish_op(1);
	}
	*length_us = done - started > hold_us ? done - started - hold_us : done - started;
	*inside += table_made < done;

	/* The guest flushes; what it reads by now is what the entry in memory leads to: 0x2222. */
	if (nested)
		*(u8 *)(vmcb(0) + 0x5c) = 1;	/* TLB control: flush all */
	else
		do_op(0, INVLPG, SEEN, 0);
	value = op(0, READ, SEEN, 0);
	if (*(u64 *)at(TABLE) == NEW && value == 0x2222)
		return 0;
	printf("  the table was in use %llu us after the start, the ioctl returned after %llu us, flush requests: %llu; "
	       "the entry is %#llx, the guest reads %#llx\n", (unsigned long long)(table_made - started),
	       (unsigned long long)(done - started), (unsigned long long)flushes,
	       (unsigned long long)*(u64 *)at(TABLE), (unsigned long long)value);
	return 1;
}

/* Rounds, each after `prepare`. Returns the exit status. */
static int rounds_of(const char *name, int rounds, void (*prepare)(void), void (*act)(void))
{
	struct sigaction action = { .sa_handler = on_signal };
	int hits = 0, inside = 0;
	u64 length = 2000;

	sigaction(SIGUSR1, &action, NULL);
	pin(0);
	hold_us = 20000;
	for (int i = 0; i < rounds; i++) {
		prepare();
		delay_us = length / 20 + random() % (length / 2 + 1);
		wake_us = random() % (length + 1);
		hits += round_of(act, &inside, &length);
	}
	printf("%s: %d of %d rounds read by the old entry; in %d the table was in use before the ioctl returned\n", name, hits,
	       rounds, inside);
	return hits != 0;
}
