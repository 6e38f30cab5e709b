"""What becomes of an access that the tables send to where no memory is."""

__all__ = ["MachineCheck"]


class MachineCheck(IndexError):
    """The tables sent the processor to a physical address without memory: they are wrong, not the access."""
