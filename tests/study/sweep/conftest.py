"""A sweep that takes no time."""

from pathlib import Path

import pytest

TEXT = """
seeds = {seeds}
columns = ["faults", "seconds"]

[machine]
memory = "64M"

[[designs]]
prefetch_window = ["off", "8_aligned"]

[[workloads]]
name = "random"
pages = 32
reads = {reads}
"""


@pytest.fixture
def small(tmp_path: Path):
    """Write a sweep of two designs and so many seeds."""

    def write(seeds: int = 3, reads: int = 16) -> Path:
        path = tmp_path / "small.toml"
        path.write_text(TEXT.format(seeds=seeds, reads=reads))
        return path

    return write
