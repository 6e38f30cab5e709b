"""The TDP MMU: one tree of tables per role, without reverse maps, changed by compare-and-exchange.

Faults change it with mmu_lock held for reading; whoever removes a table freezes its entries, so that a fault
that is still in it fails and starts again.
"""
