"""Speed of traces of programs in a guest: accesses a second, and changes of the page a second.

    python benchmarks/traces.py [TRACE ...] [--json]

Needs the compiled modules and the extra `shadowmmu[traces]`. Guests of 4-level paging, with shadow paging and
with nested paging, a TLB of 64 + 1536 entries; best of three. Without TRACE the recorded programs that come
with the package.
"""

import argparse
import json
import sys
from pathlib import Path

import shadowmmu
from shadowmmu.study.catalogue import WORKLOADS, named
from shadowmmu.study.configuration import Configuration
from shadowmmu.study.costs import default_costs
from shadowmmu.study.measure import measure
from shadowmmu.study.traces.formats import load_trace

REPEATS = 3


def speed(name: str, npt: int) -> dict[str, float]:
    """Accesses and changes of the page a second, of a workload that is a trace."""
    configuration = Configuration(params={"kvm_amd.npt": npt})
    measured = [measure(name, configuration, default_costs()) for _ in range(REPEATS)]
    trace = load_trace(named(name).body.args[0])
    wall = min(one.wall for one in measured)
    return {"accesses": trace.accesses / wall, "changes": len(trace) / wall}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("traces", nargs="*", type=Path, metavar="TRACE", help="file of a trace")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    if not shadowmmu.native:
        sys.exit("benchmarks: needs the compiled modules (make build)")
    names = [f"trace:{path}" for path in arguments.traces]
    names = names or [name for name in WORKLOADS if name.startswith("trace:")]
    figures = {name: {kind: speed(name, npt) for npt, kind in enumerate(("shadow", "npt"))} for name in names}
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for name, kinds in figures.items():
        for kind, rates in kinds.items():
            print(
                f"{name} {kind:6} {rates['accesses']:13,.0f} accesses/s {rates['changes']:12,.0f} changes/s"
            )


if __name__ == "__main__":
    main()
