"""How long mmu_lock is held: by what is made and zapped between two places where long work drops it."""

from __future__ import annotations

from ..kvm.state.vm import Kvm
from .costs import Costs

__all__ = ["LockHolds"]


class LockHolds:
    """Follows mmu_lock while the host's work on a guest is done (`with`), each such work from its start.

    A hold ends wherever the work lets others in (cond_resched_rwlock_write), and at its end. What was done in
    it is counted in SPTEs and shadow pages made and zapped, and comes to seconds by the costs. `contended`:
    others wait for the lock all the time, so that walks of the TDP MMU drop it whenever they can.

    Attributes:
        seconds: Length of each hold.
    """

    def __init__(self, kvm: Kvm, costs: Costs, *, contended: bool) -> None:
        self._kvm = kvm
        self._costs = costs
        self._contended = contended
        self.seconds: list[float] = []
        self._last = self._work()

    def _work(self) -> dict[str, int]:
        tally = self._kvm.tally
        return {
            "sptes_made": tally.leaves_made,
            "shadow_pages_made": self._kvm.stat.mmu_cache_miss + tally.tdp_tables_made,
            "sptes_zapped": tally.leaves_zapped,
            "shadow_pages_zapped": self._kvm.stat.mmu_shadow_zapped + tally.tdp_tables_zapped,
        }

    def _drop(self) -> None:
        now = self._work()
        done = {name: now[name] - self._last[name] for name in now}
        self._last = now
        if any(done.values()):
            self.seconds.append(self._costs.estimate(done).seconds)

    def __enter__(self) -> LockHolds:
        self._kvm.meanwhile = self._drop
        self._kvm.need_resched = self._contended
        self._last = self._work()
        return self

    def __exit__(self, *raised: object) -> None:
        self._kvm.meanwhile = None
        self._kvm.need_resched = False
        self._drop()

    def forget(self) -> None:
        """Forget the holds so far, which only prepared what is measured."""
        self.seconds.clear()

    @property
    def longest(self) -> float:
        """Return the seconds of the longest hold; 0 if there was none."""
        return max(self.seconds, default=0.0)

    def percentile(self, percent: float) -> float:
        """Return the seconds that so many percent of the holds do not exceed; 0 if there was none."""
        if not self.seconds:
            return 0.0
        ordered = sorted(self.seconds)
        return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]
