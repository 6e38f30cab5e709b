"""Malformed scenarios and recordings: one short line each, whatever is wrong, and never a traceback."""

import json
import random
import time
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from shadowmmu.cli.commands import cli

CONFORMANCE = Path(__file__).parents[1] / "conformance"
SCENARIOS = [
    CONFORMANCE / "scenarios" / f"{name}.txt"
    for name in ("e-nonpae", "n1-basic-tdp0", "b-unsync", "m-access", "tdp1-a-map4")
]
RECORDINGS = [
    CONFORMANCE / "recordings" / f"{name}.jsonl"
    for name in ("e-nonpae", "n10-mmio", "f-pae", "m-access", "tdp1-a-map4", "k6.1/b-unsync")
]
SLOWEST = 20.0
LONGEST = 500
VALUES: list[Any] = [
    None, True, False, 0, -1, 1, 1.5, float("inf"), float("nan"), "", "x", "0x", "zz", "-1", "a/b",
    "../..", "\0", "\x1b[2J", "\ud800", "\u202e", [], {}, [[]], [1], {"x": 1}, {"setup": "slot"},
    10**30, -(10**30), 1 << 63, 1 << 64, "0x" + "f" * 100, "9" * 5000, "S1", "sps:S1", "sps:S1:sptes:0",
    "vcpus:0:root", "@1 nop", "read", "meanwhile 1", {"set": {"a:b": 1}}, {"set": {}, "del": ["sps"]},
    {"set": {}, "del": 1}, {"outcome": 5}, {"outcome": "exception"}, {"e": "kvm_exit"},
    {"e": "kvm_mmu_pagetable_walk"}, [{"e": "kvm_exit"}], [{"e": 1}], [["0x0"]], [[1, 2, 3]],
]  # fmt: skip
WORDS = [
    "", "x", "0x", "-1", "99999999999999999999", "9" * 5000, "0x" + "f" * 300, "0", "1", "4K", "1T",
    "=", "a=b", "size=0", "size=3", "n=0", "n=99999999", "level=9", "@0", "@9", "@", "meanwhile",
    "start", "end", "nested", "npt", "map", "slot", "\x1b[2J", "\ufeff", "\0", "%", '"', "\\", "é", "😀",
    "x" * 100_000, "stride=0", "0xffffffffffffffff", "0xfffffffff000", "l2read", "uread", "cr3", "-",
]  # fmt: skip


def _run(words: list[str]) -> str:
    """Run a command that must end well, or with status 1 or 2 and one short line; return what it said."""
    begun = time.monotonic()
    result = CliRunner().invoke(cli, words)
    text = result.output
    error = result.exception
    if error is not None and not isinstance(error, SystemExit | OSError | click.ClickException):
        raise error
    assert result.exit_code in (0, 1, 2)
    assert "Traceback" not in text
    assert "\x1b" not in text
    assert "the model failed" not in text
    if text.startswith("Error: "):
        assert len(text) < LONGEST + len(words[-1])
        assert text.count("\n") == 1
    assert time.monotonic() - begun < SLOWEST
    return text


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """All members of objects and lists: the container and the key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, held in items:
        yield value, key
        yield from _places(held)


def _mutated_recording(text: str, rng: random.Random) -> str:
    """A recording with one or two values changed, removed or moved, or its text damaged."""
    lines = text.splitlines()[: rng.choice((4, 8, 1000))]
    number = rng.choice((0, 0, 1, 2, rng.randrange(len(lines))))
    number = min(number, len(lines) - 1)
    kind = rng.randrange(10)
    if kind == 0:
        at = rng.randrange(len(lines[number]))
        lines[number] = lines[number][:at] + rng.choice(
            ["", "\x00", '"', "}", "9" * 5000, "[" * 5000, "\x1b"]
        )
    elif kind == 1:
        del lines[number]
    elif kind == 2:
        lines.insert(number, rng.choice(lines))
    else:
        row = json.loads(lines[number])
        for _ in range(rng.choice((1, 1, 1, 3))):
            places = list(_places(row))
            if not places:
                break
            shallow = [place for place in places if place[0] is row]
            held, key = rng.choice(shallow if rng.random() < 0.3 and shallow else places)
            if kind == 3 and isinstance(held, dict):
                del held[key]
            elif kind == 4 and isinstance(held, dict):
                held[rng.choice(["x", "", "set", "del", "\x1b", "value", "cr2"])] = held.pop(key)
            else:
                held[key] = deepcopy(rng.choice(VALUES))
        lines[number] = json.dumps(row)
    return "\n".join(lines) + rng.choice(["\n", ""])


def _mutated_scenario(text: str, rng: random.Random) -> str:
    """A scenario with some words changed, lines moved or repeated."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 5))):
        number = rng.randrange(len(lines))
        words = lines[number].split(" ")
        at = rng.randrange(len(words))
        kind = rng.randrange(8)
        if kind == 0:
            del lines[number]
            lines = lines or [""]
        elif kind == 1:
            lines.insert(rng.randrange(len(lines)), lines[number])
        elif kind == 2:
            words.insert(at, rng.choice(WORDS))
            lines[number] = " ".join(words)
        elif kind == 3:
            other = rng.choice(lines).split(" ")
            words[at] = rng.choice(other)
            lines[number] = " ".join(words)
        else:
            words[at] = rng.choice(WORDS)
            lines[number] = " ".join(words)
    return "\n".join(lines)


@pytest.mark.parametrize("seed", range(150))
def test_recordings(tmp_path, seed):
    rng = random.Random(seed)
    path = tmp_path / "r.jsonl"
    mutated = _mutated_recording(rng.choice(RECORDINGS).read_text(), rng)
    path.write_bytes(mutated.encode(errors="surrogatepass"))
    _run(["compare", "-j", "1", *rng.choice([[], ["--json"]]), str(path)])


@pytest.mark.parametrize("seed", range(150))
def test_scenarios(tmp_path, seed):
    rng = random.Random(seed)
    path = tmp_path / "s.txt"
    path.write_text(_mutated_scenario(rng.choice(SCENARIOS).read_text(), rng))
    command = rng.choice(["run", "check"])
    _run([command, *rng.choice([[], ["--json"]]), str(path)])
