"""Damaged programs are refused in one line, or end as programs do."""

import os
import random
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from guest.linux.running import model

from shadowmmu.guest.linux.elf import NotExecutable, parse
from shadowmmu.guest.linux.frames import OutOfMemory
from shadowmmu.guest.linux.guest import LinuxGuest
from shadowmmu.guest.linux.layout import PAGE, STACK_BOTTOM
from shadowmmu.guest.pc.pc import Limits
from shadowmmu.guest.svm.machine import SvmMachine

ENTRY, HEADERS, COUNT = 24, 32, 56
TYPE, FLAGS, OFFSET, ADDRESS, FILE_SIZE, MEMORY_SIZE, ALIGNMENT = 0, 4, 8, 16, 32, 40, 48
EXTREME = (
    0,
    1,
    7,
    0xFFF,
    0x1000,
    1 << 31,
    1 << 46,
    (1 << 47) - 1,
    1 << 47,
    1 << 63,
    (1 << 64) - 4096,
    (1 << 64) - 1,
)
MEMORY = 64 << 20


def put(data: bytearray, place: int, value: int, size: int = 8) -> None:
    data[place : place + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")


def loads(data: bytes) -> list[int]:
    """Where the headers of the segments to load are."""
    first, count = struct.unpack_from("<Q", data, HEADERS)[0], struct.unpack_from("<H", data, COUNT)[0]
    places = [first + 56 * number for number in range(count)]
    return [place for place in places if data[place] == 1]


@pytest.fixture(scope="module")
def program(request: pytest.FixtureRequest) -> bytes:
    return request.getfixturevalue("compiled")("hello").read_bytes()


@pytest.mark.parametrize(
    ("header", "value", "message"),
    [
        (ENTRY, 0xFFFFFFFFFFFFF000, "it begins at 0xfffffffffffff000, which is in no segment with code"),
        (ENTRY, 0, "it begins at 0x0, which is in no segment with code"),
        (HEADERS, 1 << 63, "truncated"),
        (HEADERS, (1 << 64) - 56, "truncated"),
    ],
)
def test_a_bad_header_is_refused(
    program: bytes, header: int, value: int, message: str, tmp_path: Path
) -> None:
    data = bytearray(program)
    put(data, header, value)
    refused(bytes(data), message, tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (MEMORY_SIZE, STACK_BOTTOM, "where no program can be"),
        (ADDRESS, (1 << 64) - PAGE, "where no program can be"),
        (MEMORY_SIZE, 1 << 63, "where no program can be"),
        (FILE_SIZE, 1 << 60, "truncated"),
        (OFFSET, (1 << 64) - PAGE, "truncated"),
        (ADDRESS, 0x400001, "not aligned as in the file"),
        (MEMORY_SIZE, 0x500000, "overlap or are not in order"),
        (FLAGS, 4, "in no segment with code"),
    ],
)
def test_a_bad_segment_is_refused(
    program: bytes, field: int, value: int, message: str, tmp_path: Path
) -> None:
    data = bytearray(program)
    for place in loads(program) if field == FLAGS else loads(program)[:1]:
        put(data, place + field, value, 4 if field == FLAGS else 8)
    refused(bytes(data), message, tmp_path)


def refused(data: bytes, message: str, folder: Path) -> None:
    with pytest.raises(NotExecutable, match=message):
        parse(data)
    path = folder / "damaged"
    path.write_bytes(data)
    found = model(path, folder=folder)
    assert (found.output, found.status) == (b"", 2)
    assert message in " ".join(found.told.split())
    assert "Traceback" not in found.told


@pytest.mark.parametrize("value", EXTREME)
def test_the_alignment_does_not_matter(program: bytes, value: int) -> None:
    data = bytearray(program)
    for place in loads(program):
        put(data, place + ALIGNMENT, value)
    assert parse(bytes(data)) == parse(program)


@pytest.mark.parametrize("seed", range(8))
def test_a_damaged_program_does_no_harm(
    compiled: Callable[[str], Path], seed: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    choose = random.Random(seed)
    original = compiled("hello").read_bytes()
    headers = [0, *loads(original)]
    for _ in range(15):
        data = bytearray(original)
        for _ in range(choose.randrange(1, 4)):
            place = choose.choice(headers) + choose.choice((TYPE, FLAGS, *range(8, 64, 8)))
            put(data, place, choose.choice((*EXTREME, choose.getrandbits(64))), choose.choice((1, 2, 4, 8)))
        path = tmp_path / "damaged"
        path.write_bytes(data[: choose.choice((len(data), len(data), choose.randrange(len(data))))])
        play(path, tmp_path)


def play(path: Path, folder: Path) -> None:
    """Run a program for a moment."""
    guest = LinuxGuest(SvmMachine([(0, MEMORY)]), root=folder, warn=lambda text: None)
    try:
        guest.load(path, ["damaged"])
    except (NotExecutable, OSError, OutOfMemory) as error:
        guest.kernel.close()
        assert "\n" not in str(error)
        return
    ending = guest.run(Limits(seconds=0.3))
    assert ending.reason in ("exit", "seconds", "endless faults"), ending
    assert os.path.exists(path)
