"""The state of a VM: VM, vCPUs, MMU contexts, shadow pages, memslots, statistics."""
