"""One measurement: a workload on a configuration."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .catalogue import named
from .configuration import Configuration, build
from .costs import Costs, Estimate, default_costs
from .counters import difference
from .counting import counters_of
from .workload import WorkloadError

__all__ = ["Measurement", "measure"]


@dataclass(frozen=True, slots=True)
class Measurement:
    """What a workload came to.

    Attributes:
        workload: Its name.
        parameters: All its parameters.
        configuration: The machine.
        seed: Where chance began.
        counters: By name, see `COUNTERS`.
        estimate: Time of the MMU's work by the costs; the guest's own work is not in it.
        longest_hold: Seconds of the longest hold of mmu_lock.
        hold_p99: Seconds that 99 percent of the holds do not exceed.
        clean: The audit found nothing at the end; None if it did not look.
        wall: Seconds that the model took.
    """

    workload: str
    parameters: Mapping[str, int]
    configuration: Configuration
    seed: int
    counters: Mapping[str, int]
    estimate: Estimate
    longest_hold: float
    hold_p99: float
    clean: bool | None
    wall: float

    def __getitem__(self, name: str) -> float:
        """Return a counter by its name, or `seconds`, `longest_hold`, `hold_p99`. Raises KeyError."""
        match name:
            case "seconds":
                return self.estimate.seconds
            case "longest_hold" | "hold_p99":
                return float(getattr(self, name))
        return self.counters[name]

    def as_row(self) -> dict[str, Any]:
        """Return it as a flat row of a table."""
        configuration = self.configuration
        return {
            "workload": self.workload,
            **{f"{self.workload}.{name}": value for name, value in self.parameters.items()},
            "kernel": configuration.kernel,
            "vendor": configuration.vendor,
            "paging": configuration.paging,
            "vcpus": configuration.vcpus,
            "memory": configuration.memory,
            "backing": configuration.backing.name,
            "nested": configuration.nested,
            "direct_map": configuration.direct_map,
            "contended": configuration.contended,
            **{name: str(value) for name, value in configuration.params.items()},
            **dict(configuration.design),
            "seed": self.seed,
            **self.counters,
            "seconds": self.estimate.seconds,
            "seconds_low": self.estimate.low,
            "seconds_high": self.estimate.high,
            "longest_hold": self.longest_hold,
            "hold_p99": self.hold_p99,
            "clean": self.clean,
            "wall": self.wall,
        }


def measure(
    name: str,
    configuration: Configuration | None = None,
    costs: Costs | None = None,
    *,
    parameters: Mapping[str, int | str] | None = None,
    seed: int = 0,
    audited: bool = True,
) -> Measurement:
    """Run a workload, by its name, and count; on the plain machine and by the default costs unless given.

    audited: the audit looks at the end, which takes it about a millisecond a shadow page.

    Raises WorkloadError, ConfigurationError, OutOfFrames.
    """
    configuration = configuration or Configuration()
    costs = costs or default_costs()
    chosen = named(name)
    values = chosen.values(parameters or {})
    if chosen.nested and not configuration.nested:
        raise WorkloadError(f"workload {name} needs a guest that is a hypervisor: nested=True")
    guest = build(configuration, costs, seed)
    run = chosen.prepare(guest, values)
    guest.host.forget()
    before, start = counters_of(guest), time.perf_counter()
    run()
    wall = time.perf_counter() - start
    counters = difference(before, counters_of(guest))
    return Measurement(
        workload=name,
        parameters=values,
        configuration=configuration,
        seed=seed,
        counters=counters,
        estimate=costs.estimate({**counters, **_remote(counters, configuration)}),
        longest_hold=guest.host.longest,
        hold_p99=guest.host.percentile(99),
        clean=bool(guest.vm.check()) if audited else None,
        wall=wall,
    )


def _remote(counters: Mapping[str, int], configuration: Configuration) -> dict[str, float]:
    """Return the flushes requested of all vCPUs as often as there are vCPUs: each costs as much again."""
    return {"remote_flushes": counters["remote_flushes"] * configuration.vcpus}
