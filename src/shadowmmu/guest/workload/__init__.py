"""Workloads: a small guest kernel with processes, and what they do to memory."""
