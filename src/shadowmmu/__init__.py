"""An executable model of KVM's x86 shadow MMU.

`native` says whether the hot modules run compiled. The same .py files run interpreted, about 80 times
slower, when SHADOWMMU_INTERPRETED=1 is in the environment or when the package was installed without a
C compiler; SHADOWMMU_REQUIRE_NATIVE=1 turns the latter into an ImportError.
"""

from typing import TYPE_CHECKING

from shadowmmu._native import choose_mode

if TYPE_CHECKING:
    from shadowmmu.vm import Vm

__all__ = ["Vm", "__version__", "native"]

__version__ = "0.1.0"

native: bool = choose_mode()


def __getattr__(name: str) -> object:
    """Import `Vm` at its first use, so that `import shadowmmu` stays fast."""
    if name == "Vm":
        from shadowmmu.vm import Vm

        globals()["Vm"] = Vm
        return Vm
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
