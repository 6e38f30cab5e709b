"""Why the MMU's state is what it is: every change of an entry, a shadow page or a root, each flush request
and each zap, with the kernel functions that led to it.
"""
