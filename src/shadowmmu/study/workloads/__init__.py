"""The named workloads, by what they stress."""
