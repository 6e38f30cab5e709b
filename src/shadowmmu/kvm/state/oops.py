"""Where the kernel itself breaks: BUG(), or a memory access of KVM's that is out of bounds."""


class KernelOops(RuntimeError):
    """KVM meets what it cannot survive; the text says what and where. The VM does not go on."""
