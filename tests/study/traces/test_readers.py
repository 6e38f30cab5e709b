"""Traces of every format: the accesses that were written are read, and bad ones are refused in one line."""

import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from shadowmmu.study.traces import text
from shadowmmu.study.traces.accesses import FETCH, READ, WRITE, TraceError
from shadowmmu.study.traces.formats import format_of, load_trace, reduced
from shadowmmu.study.traces.pages import PageTrace
from shadowmmu.study.traces.source import HEAD, opened

Access = tuple[int, int]


def some(count: int, seed: int = 0) -> list[Access]:
    """Instructions, each followed by a read or a write; few pages, so that some repeat."""
    rng = Random(seed)
    accesses = []
    for _ in range(count):
        accesses.append((FETCH, 0x400000 + rng.randrange(4) * 0x1000))
        accesses.append((rng.choice((READ, WRITE)), 0x7FF000000000 + rng.randrange(4) * 0x1000))
    return accesses


def pairs(accesses: list[Access]) -> list[tuple[int, int, int]]:
    return [
        (ip, kind, address) for (_, ip), (kind, address) in zip(accesses[::2], accesses[1::2], strict=True)
    ]


def lackey(accesses: list[Access]) -> bytes:
    names = {READ: " L", WRITE: " S", FETCH: "I "}
    lines = ["==7== Lackey, an example Valgrind tool", "==7== "]
    lines += [f"{names[kind]} {address:08x},1" for kind, address in accesses]
    return "\n".join([*lines, "==7== ", "==7== Exit code:       0", ""]).encode()


def din(accesses: list[Access]) -> bytes:
    return "".join(f"{kind} {address:x}\n" for kind, address in accesses).encode()


def pinatrace(accesses: list[Access]) -> bytes:
    lines = [f"0x{ip:x}: {'RW'[kind]} 0x{address:x}" for ip, kind, address in pairs(accesses)]
    return "\n".join([*lines, "#eof", ""]).encode()


def perf_mem(accesses: list[Access]) -> bytes:
    lines = ["# PID, TID, IP, ADDR, LOCAL WEIGHT, DSRC, SYMBOL"]
    lines += [
        f"   12    12 0x{ip:016x} 0x{address:016x}     7 0x{0x1A << 20 | 2 << kind:x} /bin/x:main + 1"
        for ip, kind, address in pairs(accesses)
    ]
    return "\n".join([*lines, ""]).encode()


def champsim(accesses: list[Access]) -> bytes:
    records = []
    for ip, kind, address in pairs(accesses):
        written, read = (address, 0) if kind == WRITE else (0, address)
        records.append(struct.pack("<Q8B6Q", ip, 0, 0, 1, 0, 2, 3, 0, 0, written, 0, read, 0, 0, 0))
    return b"".join(records)


FORMATS: dict[str, Callable[[list[Access]], bytes]] = {
    "lackey": lackey,
    "din": din,
    "pinatrace": pinatrace,
    "perf mem": perf_mem,
    "ChampSim": champsim,
}


def changes(accesses: list[Access], *, exact: bool = False) -> list[list[int]]:
    """The rows of a reduction, by its definition: [kind, page, repeat]."""
    rows: list[list[int]] = []
    for kind, address in accesses:
        same = [row for row in (rows[-1:] if exact else rows) if row[0] == kind][-1:]
        if same and same[0][1] == address >> 12:
            same[0][2] += 1
        else:
            rows.append([kind, address >> 12, 1])
    return rows


def rows(trace: PageTrace) -> list[list[int]]:
    return [list(row) for row in zip(trace.kinds, trace.pages, trace.repeats, strict=True)]


@pytest.fixture
def file(tmp_path: Path) -> Callable[[bytes], Path]:
    def write(data: bytes) -> Path:
        path = tmp_path / "trace"
        path.write_bytes(data)
        return path

    return write


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_recognized_and_read(file, name: str, exact: bool) -> None:
    accesses = some(200)
    found, trace = reduced(file(FORMATS[name](accesses)), exact=exact)
    assert found == name
    assert rows(trace) == changes(accesses, exact=exact)
    assert trace.accesses == len(accesses)


def zstd(data: bytes) -> bytes:
    compress = pytest.importorskip("zstandard").ZstdCompressor().compress
    return compress(data[:5000]) + compress(data[5000:])


COMPRESSIONS = {"gzip": gzip.compress, "xz": lzma.compress, "zstd": zstd}


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=list(COMPRESSIONS))
def test_compressed_traces_are_those_that_were_compressed(file, compress, monkeypatch) -> None:
    monkeypatch.setattr(text, "CHUNK", 1000)
    accesses = some(4000)
    data = din(accesses)
    assert len(data) > HEAD // 2
    assert rows(load_trace(file(compress(data)), exact=True)) == changes(accesses, exact=True)


@pytest.mark.parametrize("compress", COMPRESSIONS.values(), ids=list(COMPRESSIONS))
def test_compressed_traces_that_are_cut_off_or_damaged_are_refused(file, compress) -> None:
    data = compress(din(some(3000)))
    with pytest.raises(TraceError, match="trace: the compressed data end too early"):
        load_trace(file(data[: len(data) - 9]))
    with pytest.raises(TraceError, match=r"trace: the compressed data (are damaged|end too early)"):
        load_trace(file(data[:200] + bytes(100) + data[300:]))


def test_blocks_come_before_the_whole_file_was_read(file, monkeypatch) -> None:
    monkeypatch.setattr(text, "CHUNK", 1000)
    path = file(din(some(20_000)))
    with opened(path) as source:
        first = next(iter(format_of(source).blocks(source)))
        assert 0 < len(first) < 200
        assert len(source.rest()) > path.stat().st_size // 2


def test_an_access_across_pages_is_one_to_each(file) -> None:
    assert rows(load_trace(file(b" S 00000ffc,8\n S 00002ffc,4\n"))) == [
        [WRITE, 0, 1],
        [WRITE, 1, 1],
        [WRITE, 2, 1],
    ]


def test_a_modification_is_a_read_and_a_write(file) -> None:
    assert rows(load_trace(file(b" M 00001000,8\n"))) == [[READ, 1, 1], [WRITE, 1, 1]]


def test_a_last_line_without_an_end_is_read(file) -> None:
    assert load_trace(file(b"0 1000\n1 2000")).accesses == 2


BAD = {
    "text": (
        b"Hello\n",
        "trace: no trace that is known; there are: perf mem, lackey, pinatrace, din, ChampSim",
    ),
    "nothing": (b"", "trace: the trace is empty"),
    "perf.data": (b"PERFILE2" + bytes(100), "data of perf; print them with `perf mem -D report`"),
    "lackey and output": (
        lackey(some(1)) + b"hello\n",
        "trace:7: 'hello' is not a record of lackey; let valgrind write to a file of its own: --log",
    ),
    "lackey without accesses": (b"==7== a\n I 1\n", "no trace that is known"),
    "din": (
        din(some(1)) + b"7 100\n",
        "trace:3: '7 100' is not a record of din; a line is 0 .read., 1 .write.",
    ),
    "din, twice": (din(some(1)) + b"0 10\n8 100\n7 100\n", "trace:4: '8 100' is not a record of din"),
    "din, too long": (b"0 10\n0 11111111111111111\n", "trace:2: '0 1{17}' is not a record of din"),
    "pinatrace": (pinatrace(some(1)) + b"0x1: X 0x2\n", "trace:3: '0x1: X 0x2' is not a record of pinatrace"),
    "perf": (
        perf_mem(some(1)) + b"12 12 zz 0x1 7 0x2 x\n",
        "trace:3: not a sample with the columns PID, TID, IP",
    ),
    "perf, short": (perf_mem(some(1)) + b"12 12\n", "trace:3: not a sample with the columns"),
    "perf, columns": (
        b"# PID, TID, IP, SYMBOL\n",
        "trace:1: no column ADDR; print the samples with `perf mem",
    ),
    "ChampSim": (
        champsim(some(3)) + b"abc",
        "offset 0xc0: 3 bytes of a record of 64 are left; the trace is tru",
    ),
    "binary": (b"\0" * 640, "no trace that is known"),
    "only remarks": (b"#eof\n", "no trace that is known"),
}


@pytest.mark.parametrize(("data", "says"), BAD.values(), ids=list(BAD))
def test_what_is_no_trace_is_refused_with_its_place(file, data: bytes, says: str) -> None:
    with pytest.raises(TraceError, match=says) as refused:
        load_trace(file(data))
    assert "\n" not in str(refused.value)


def test_a_champsim_record_that_is_none_is_refused_with_its_offset(file) -> None:
    data = bytearray(champsim(some(2000)))
    data[64 * 1500 + 8] = 9
    with pytest.raises(TraceError, match="offset 0x17700: not a record of ChampSim"):
        load_trace(file(bytes(data)))


def test_a_line_without_end_is_refused(file, monkeypatch) -> None:
    monkeypatch.setattr(text, "CHUNK", 100)
    with pytest.raises(TraceError, match="trace:2: the line is longer than 100 bytes"):
        load_trace(file(b"0 10\n" + b"1" * 300))
