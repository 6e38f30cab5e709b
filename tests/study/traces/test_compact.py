"""The compact form, and traces as processes of a guest."""

from array import array
from pathlib import Path

import pytest

from shadowmmu.guest.workload.kernel import Kind
from shadowmmu.study.catalogue import WORKLOADS, named
from shadowmmu.study.configuration import Configuration
from shadowmmu.study.costs import default_costs
from shadowmmu.study.measure import Measurement, measure
from shadowmmu.study.traces.accesses import FETCH, READ, WRITE, TraceError
from shadowmmu.study.traces.compact import as_parquet
from shadowmmu.study.traces.formats import load_trace, reduced
from shadowmmu.study.traces.pages import PageTrace
from shadowmmu.study.traces.process import areas_of, moved
from shadowmmu.study.workload import WorkloadError

pl = pytest.importorskip("polars")
RECORDED = [name for name in WORKLOADS if name.startswith("trace:")]


def trace(*rows: tuple[int, int, int]) -> PageTrace:
    kinds, pages, repeats = zip(*rows, strict=True)
    return PageTrace(array("B", kinds), array("Q", pages), array("Q", repeats))


SMALL = trace(
    (FETCH, 0x400, 7), (READ, 0x401, 1), (WRITE, 0x402, 3), (WRITE, 0x7FFFF0000, 1 << 33), (FETCH, 9, 1)
)


def run(path: Path, paging: str = "long4", **parameters: int) -> Measurement:
    configuration = Configuration(paging=paging, memory="32M")
    return measure(f"trace:{path}", configuration, default_costs(), parameters=parameters)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "small.parquet"
    path.write_bytes(as_parquet(SMALL))
    assert reduced(path) == ("compact", SMALL)
    assert dict(pl.read_parquet(path).schema) == {
        "kind": pl.Enum(["read", "write", "fetch"]), "page": pl.UInt64, "repeat": pl.UInt64,
    }  # fmt: skip


def test_what_cannot_be_used_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.parquet"

    def refused(data: bytes, says: str) -> None:
        path.write_bytes(data)
        with pytest.raises(TraceError, match=f"bad.parquet: {says}") as error:
            load_trace(path)
        assert "\n" not in str(error.value)

    def parquet(**columns: list[object]) -> bytes:
        pl.DataFrame(columns).write_parquet(path)
        return path.read_bytes()

    good = as_parquet(SMALL)
    refused(good[: len(good) // 2], "not a whole Parquet file")
    refused(parquet(kind=["read"], page=[1]), "no column repeat; a trace has kind, page, repeat")
    refused(parquet(kind=["jump"], page=[1], repeat=[1]), "the columns have other types")
    refused(parquet(kind=["read"], page=[-1], repeat=[1]), "the columns have other types")
    refused(parquet(kind=["read", None], page=[1, 2], repeat=[1, 1]), "column kind: a value is missing")
    refused(
        parquet(kind=["read"], page=[1 << 52], repeat=[1]), "row 0: page 0x10000000000000, repeat 1: a page m"
    )
    refused(parquet(kind=["read"], page=[1], repeat=[0]), "row 0: page 0x1, repeat 0")


def test_pages_that_are_written_are_private_and_others_of_a_file() -> None:
    found = areas_of(SMALL, "x")
    assert [(area.first, area.end, area.kind) for area in found] == [
        (9, 10, Kind.FILE),
        (0x400, 0x402, Kind.FILE),
        (0x402, 0x403, Kind.PRIVATE),
        (0x7FFFF0000, 0x7FFFF0001, Kind.PRIVATE),
    ]
    assert len({area.file for area in found if area.kind is Kind.FILE}) == 2


def test_pages_beyond_the_address_space_move_with_their_region() -> None:
    high = 0x7FFFF0000
    found = moved(
        trace((READ, 5, 1), (WRITE, high + 3, 1), (READ, high + 7, 1), (READ, high + 1024, 1)), 1 << 18
    )
    assert list(found.pages) == [5, 1024 + 3, 1024 + 7, 2048]
    with pytest.raises(TraceError, match="uses 3 regions of 4 MiB, and a process of this paging mode has 2"):
        moved(SMALL, 2048)


@pytest.mark.parametrize("paging", ["long4", "long5", "pae", "32"])
def test_a_trace_runs_in_a_guest_of_every_paging_mode(tmp_path: Path, paging: str) -> None:
    path = tmp_path / "small.parquet"
    path.write_bytes(as_parquet(SMALL))
    once, twice = run(path, paging), run(path, paging, runs=2)
    assert once.clean
    assert twice.clean
    assert once["instructions"] > SMALL.accesses
    assert twice["instructions"] > 2 * SMALL.accesses
    assert once["guest_exceptions"] == 5, "each page is mapped at its first access"


def test_the_reductions_cost_the_same_faults(tmp_path: Path) -> None:
    lines = [
        f"2 {0x400000 + n % 3 * 0x1000:x}\n{n % 2} {0x600000 + n // 5 % 80 * 0x1000:x}\n" for n in range(2000)
    ]
    path = tmp_path / "x.din"
    path.write_text("".join(lines))
    counters = []
    for exact in (False, True):
        compact = tmp_path / "x.parquet"
        compact.write_bytes(as_parquet(load_trace(path, exact=exact)))
        counters.append(run(compact))
    for name in ("instructions", "exits", "faults", "guest_exceptions", "sptes_made", "unused"):
        assert counters[0][name] == counters[1][name], name


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_program_is_small(name: str) -> None:
    path = named(name).body.args[0]
    assert path.stat().st_size < 100_000
    found = load_trace(path)
    assert found.accesses > 5 * len(found)
    assert set(found.kinds) == {READ, WRITE, FETCH}


def test_a_trace_that_is_missing_or_too_large_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        run(tmp_path / "none")
    path = tmp_path / "large.parquet"
    path.write_bytes(as_parquet(trace(*((WRITE, page, 1) for page in range(4_000)))))
    with pytest.raises(MemoryError, match="the guest has used all of its"):
        run(path)
    path.write_text("hello")
    with pytest.raises(WorkloadError, match="no trace that is known"):
        run(path)
