"""Short scenarios for tests."""

from shadowmmu.guest.scenario.ops import Op
from shadowmmu.guest.scenario.parser import parse_scenario
from shadowmmu.guest.scenario.scenario import Scenario

SETUP = """\
title test
mode {mode}
vcpus 2
slot 0 0x0 16M
slot 1 0x10000000 4M huge2m
alloc 0x2000
"""


def parse(*lines: str, mode: str = "long4", start: str = "start cr3=0x1000") -> Scenario:
    """A scenario whose line 8 is the first of `lines`."""
    return parse_scenario("\n".join([SETUP.format(mode=mode) + start, *lines]), path="x.txt")


def op(line: str, mode: str = "long4") -> Op:
    return parse(line, mode=mode).ops[0]


def setup(*lines: str, mode: str = "long4") -> Scenario:
    """A scenario whose line 7 is the first of `lines`."""
    return parse_scenario(SETUP.format(mode=mode) + "\n".join([*lines, "start cr3=0x1000"]), path="x.txt")
