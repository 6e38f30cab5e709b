"""The TDP MMU: one tree of tables per role, without reverse maps, changed by compare-and-exchange.

Faults change it with mmu_lock held for reading. Code that removes a table freezes its SPTEs, so that a fault
that is still in the table fails and starts again.
"""
