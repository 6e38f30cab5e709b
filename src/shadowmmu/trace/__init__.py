"""Recordings and the kernel's trace file: what is kept of the events and states of a VM."""
