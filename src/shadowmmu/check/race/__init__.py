"""Races: an explorer of the orders in which vCPUs and the host reach shared memory and locks.

case        what a program is: threads, protections that can be taken away, outcomes that must not be
cases/      the programs, one class each
catalogue   all of them, by name
engine      runs the threads of one program, one step at a time, in a given order
memory      shared variables, locks, RCU, store buffers
model       the model's own code as threads: its memory and locks made visible
search      which orders are run: all (with partial-order reduction), with few preemptions, random, PCT
explore     a case with and without its protections; schedules as files
diagram     a schedule as columns, one a thread
"""
