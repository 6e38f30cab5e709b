"""Alternatives of the MMU's design side by side: workloads, costs, measurements and verdicts."""
