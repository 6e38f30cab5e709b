"""Speed of random guests with all checks on, and without: ops a second of each kind of MMU.

    python benchmarks/checks.py [--seconds N] [--json]

Needs the compiled modules. Processor time; the same guests with checks and without.
"""

import argparse
import itertools
import json
import sys
import time

import shadowmmu
from shadowmmu.check.random.fuzz import episode, grounds
from shadowmmu.check.random.ground import MMUS

OPS = 20_000


def rate(mmu: str, seconds: float, *, checked: bool) -> float:
    """Ops a second over guests of every mode, ordinary and hostile, for at least so long."""
    played, start = 0, time.process_time()
    kinds = len(list(itertools.takewhile(lambda ground: ground.seed == 1, grounds(1, mmus=(mmu,)))))
    for number, ground in enumerate(grounds(1, mmus=(mmu,)), 1):
        ops, failure = episode(ground, OPS, checked=checked)
        if failure is not None:
            sys.exit(f"benchmarks: {ground.mode} {mmu} {ground.profile} {ground.seed}: {failure.violation}")
        played += ops
        if number % kinds == 0 and time.process_time() - start >= seconds:
            return played / (time.process_time() - start)
    raise AssertionError("guests never end")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="at least so long each (5)")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    arguments = parser.parse_args()
    if not shadowmmu.native:
        sys.exit("benchmarks: needs the compiled modules (make build)")
    figures = {
        mmu: {
            "checked": rate(mmu, arguments.seconds, checked=True),
            "unchecked": rate(mmu, arguments.seconds, checked=False),
        }
        for mmu in MMUS
    }
    if arguments.json:
        print(json.dumps(figures, indent=2))
        return
    for mmu, values in figures.items():
        print(f"{mmu:8} {values['checked']:10,.0f} ops/s checked {values['unchecked']:10,.0f} unchecked")


if __name__ == "__main__":
    main()
