"""What happened, op by op: guest tables, shadow pages, roots, statistics and events, and walks through
them.
"""
