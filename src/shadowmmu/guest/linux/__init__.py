"""Static Linux programs as guests: a small kernel of ours, its page tables in guest memory.

What a kernel does with page tables is done by code that runs on the vCPU (entry.py): every store to a table,
INVLPG and MOV to CR3 is the guest's own, so that KVM sees what it sees of a real kernel. What it decides is
Python: processes, memory areas, files, signals. It is called for SYSCALL and for exceptions of user mode.
"""
