"""Points at which the kernel itself would break: BUG(), or an access of KVM's own that is out of bounds."""


class KernelOops(RuntimeError):
    """KVM hit a state that the kernel does not survive; the text says what and where. The VM must not be used
    again.
    """
