"""What an access can be, and what a guest or its hypervisor may get instead of an answer."""

from __future__ import annotations

from enum import IntEnum

from ..kvm.tracepoints.reasons import pferr_flags
from ..x86.bits import PF_VECTOR, PFERR_F, PFERR_P, PFERR_RSVD, PFERR_U, PFERR_W
from ..x86.svm import exit_reason

__all__ = ["Access", "GuestFault", "VmExit", "error_code_text"]

_NAMES = {1: "#DB", 3: "#BP", 6: "#UD", 8: "#DF", 13: "#GP", 14: "#PF", 17: "#AC"}


class Access(IntEnum):
    """The kind of an access, and at which privilege it is made: USER_* at CPL 3, the others at CPL 0."""

    READ = 0
    WRITE = 1
    FETCH = 2
    USER_READ = 4
    USER_WRITE = 5
    USER_FETCH = 6


def error_code_text(error_code: int) -> str:
    """Return what the error code of a #PF says, in words."""
    kind = "write" if error_code & PFERR_W else "fetch" if error_code & PFERR_F else "read"
    who = "user" if error_code & PFERR_U else "supervisor"
    if error_code & PFERR_RSVD:
        why = "a reserved bit is set in an entry"
    elif error_code & PFERR_P:
        why = "the page's rights forbid it"
    else:
        why = "nothing is mapped"
    return f"{who} {kind}, {why}"


class GuestFault(Exception):
    """The guest got an exception.

    `vector` is its number (14 for #PF) and `error_code` its error code, None if it has none. `address` is CR2
    for a #PF, otherwise the address of the access. A guest that cannot take its exception shuts down: that is
    vector 8 with `shutdown` set, and the vCPU can go no further.
    """

    def __init__(self, vector: int, error_code: int | None, address: int, *, shutdown: bool = False) -> None:
        self.vector = vector
        self.error_code = error_code
        self.address = address
        self.shutdown = shutdown
        super().__init__(self._text())

    def _text(self) -> str:
        if self.shutdown:
            return f"triple fault at {self.address:#x}: the vCPU has shut down"
        name = _NAMES.get(self.vector, f"exception {self.vector}")
        if self.error_code is None:
            return f"{name} at {self.address:#x}"
        if self.vector != PF_VECTOR:
            return f"{name} at {self.address:#x}, error code {self.error_code:#x}"
        flags = pferr_flags(self.error_code) or "no bits"
        return (
            f"{name} at {self.address:#x}: {error_code_text(self.error_code)} "
            f"(error code {self.error_code:#x}: {flags})"
        )


class VmExit(Exception):
    """L2 left to L1, as a #VMEXIT: `code` is SVM's exit code, `info1` and `info2` say more."""

    def __init__(self, code: int, info1: int, info2: int) -> None:
        super().__init__(f"#VMEXIT {exit_reason(code)} ({code:#x}), info1 {info1:#x}, info2 {info2:#x}")
        self.code = code
        self.info1 = info1
        self.info2 = info2
