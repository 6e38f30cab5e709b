"""What can be asked of a program while it runs: where it is, whose addresses are used, what causes faults.

Nothing here has any part in a run that asks nothing.
"""
