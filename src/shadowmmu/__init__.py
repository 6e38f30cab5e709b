"""An executable model of KVM's x86 shadow MMU.

`Vm` is the way in: a virtual machine with slots, vCPUs, guest page tables, traces and statistics.

`native` says whether the hot modules run compiled. The same .py files run interpreted, about 80 times
slower, when SHADOWMMU_INTERPRETED=1 is in the environment or when the package was installed without a
C compiler; SHADOWMMU_REQUIRE_NATIVE=1 turns the latter into an ImportError.
"""

from typing import TYPE_CHECKING

from shadowmmu._native import choose_mode

if TYPE_CHECKING:
    from shadowmmu.vm import (
        Access,
        Backing,
        ConfigurationError,
        DirtyRingFull,
        EndlessFaults,
        GuestFault,
        KvmRunError,
        Vm,
        VmExit,
    )

__all__ = [
    "Access",
    "Backing",
    "ConfigurationError",
    "DirtyRingFull",
    "EndlessFaults",
    "GuestFault",
    "KvmRunError",
    "Vm",
    "VmExit",
    "__version__",
    "native",
]

__version__ = "0.1.0"

native: bool = choose_mode()


def __getattr__(name: str) -> object:
    """Import the public classes at their first use, so that `import shadowmmu` stays fast."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from shadowmmu import vm

    globals().update({each: getattr(vm, each) for each in __all__ if hasattr(vm, each)})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
