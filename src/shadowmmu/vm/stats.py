"""KVM's statistics, as attributes and as a mapping."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

__all__ = ["Stats"]


class Stats(Mapping[str, int]):
    """KVM's statistics by name (`struct kvm_vm_stat`, `struct kvm_vcpu_stat`); live until `snapshot()`.

    `stats.pf_fixed` is `stats["pf_fixed"]`. `diff` says what has changed since a snapshot.
    """

    __slots__ = ("_read",)

    def __init__(self, read: Callable[[], dict[str, int]]) -> None:
        self._read = read

    def __getattr__(self, name: str) -> int:
        try:
            return self._read()[name]
        except KeyError:
            raise AttributeError(f"KVM has no statistic {name!r}; there are {', '.join(self)}") from None

    def __getitem__(self, name: str) -> int:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self]

    def snapshot(self) -> Stats:
        """Return the statistics as they are now; they change no more."""
        held = self._read()
        return Stats(lambda: held)

    def diff(self, before: Mapping[str, int]) -> dict[str, int]:
        """Return what has changed since `before`, a snapshot: name to difference."""
        now = self._read()
        return {
            name: value - before.get(name, 0) for name, value in now.items() if value != before.get(name, 0)
        }

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value:,}" for name, value in self._read().items() if value)
        return f"<Stats {shown or 'all 0'}>"
