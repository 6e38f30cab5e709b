"""Timelines for Perfetto and chrome://tracing: who did what when, on a simulated clock."""
