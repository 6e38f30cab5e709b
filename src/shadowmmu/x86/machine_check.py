"""Accesses that the tables send outside memory."""

__all__ = ["MachineCheck"]


class MachineCheck(IndexError):
    """The tables sent the processor to a physical address outside memory: the tables are wrong, not the
    access.
    """
