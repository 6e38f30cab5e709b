"""How a VM's MMU behaves where kernels and designs differ: one object of switches (SWITCHES is the table)."""

from collections.abc import Mapping

from .switches import SWITCHES, profile_of, switch_named, value_of

MERGED_PREFETCH = (
    "prefetch_window",
    "prefetch_gpte_reads",
    "prefetch_host_lookups",
    "prefetch_above_level_1",
)
"""The switches of prefetching at a fault: with all at their defaults map/prefetch.py does it."""


class Design:
    """The switches of one VM: an attribute each, by the switch's name, whose value is that of the table.

    What runs often reads fields with a C type, which design.pxd declares; all other switches are ordinary
    attributes. merged_prefetch says that the switches of prefetching at a fault are at their defaults.
    """

    def __init__(self, values: Mapping[str, str] | None = None) -> None:
        """All defaults but `values`, switch name -> value name. Raises DesignError."""
        chosen = {switch.name: switch.default for switch in SWITCHES}
        for name, value in (values or {}).items():
            chosen[switch_named(name).name] = value
        for switch in SWITCHES:
            setattr(self, switch.name, switch.number_of(chosen[switch.name]))
        self.merged_prefetch = all(
            getattr(self, name) == value_of(name, switch_named(name).default) for name in MERGED_PREFETCH
        )

    def __getattr__(self, name: str) -> int:
        """Raise AttributeError: no switch has that name."""
        raise AttributeError(f"a design has no switch {name!r}")

    def value(self, name: str) -> str:
        """Return the name of a switch's value. Raises DesignError."""
        switch = switch_named(name)
        return switch.name_of(int(getattr(self, switch.name)))


def design_of(release: str, values: Mapping[str, str] | None = None) -> Design:
    """Return a kernel's switches, except for `values`, switch name -> value name. Raises DesignError."""
    return Design({**profile_of(release).values, **(values or {})})
