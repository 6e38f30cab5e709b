"""Malformed scenarios and recordings: one short line each, whatever is wrong, and never a traceback."""

import json
import random
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from shadowmmu.cli.commands import cli
from shadowmmu.guest.scenario import text

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
    for line in text.splitlines():
        if line.startswith(("Error: ", "shadowmmu: ")):
            assert len(line) < LONGEST + len(words[-1])
    if text.startswith("Error: "):
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


def _recording(tmp_path: Path, change: Callable[[list[Any]], Any]) -> Path:
    rows = [json.loads(line) for line in RECORDINGS[0].read_text().splitlines()]
    change(rows)
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda rows: rows[0].update(scenario="a/b"), "`a/b` cannot be the name of a scenario"),
        (lambda rows: rows[0].update(scenario=".."), "`..` cannot be the name of a scenario"),
        (lambda rows: rows[0].update(title="\x1b[2J"), "invisible character (U+001B)"),
        (lambda rows: rows[2].update(do="nop\x07"), "invisible character (U+0007)"),
        (lambda rows: rows[2].update(vcpu=1 << 70), "not JSON"),
        (lambda rows: rows[0]["setup"][-1].update(cr3="0x" + "f" * 40), "is malformed"),
        (lambda rows: rows[0]["setup"][1].update(gpa="0xffffffffffffff000"), "is malformed"),
    ],
)
def test_a_recording_is_refused(tmp_path, change, says):
    assert says in _run(["compare", str(_recording(tmp_path, change))])


def test_an_integer_of_5000_digits(tmp_path):
    path = tmp_path / "r.jsonl"
    path.write_text(RECORDINGS[0].read_text().replace('"op":3', f'"op":{"3" * 5000}'))
    assert "r.jsonl:6: this is not JSON" in _run(["compare", str(path)])


def test_a_word_of_10_megabytes_is_not_echoed(tmp_path):
    path = tmp_path / "s.txt"
    for start in ("x" * 10_000_000, f"mode {'x' * 10_000_000}", f"mode long4\nslot {'9' * 10_000_000} 0 1M"):
        path.write_text(start + "\nstart\n")
        assert "xxx..." in _run(["check", str(path)]) or "999..." in _run(["check", str(path)])


def test_a_byte_order_mark_is_skipped(tmp_path):
    path = tmp_path / "s.txt"
    path.write_text("\ufefftitle a\nmode nopaging\nslot 0 0x0 1M\nstart\nread 0x1000\n")
    assert "s: a (mode nopaging)" in _run(["run", str(path)])


@pytest.mark.parametrize(("word", "code"), [("\x1b[1m", "1B"), ("\u200b", "200B"), ("\x00", "00")])
@pytest.mark.parametrize("line", ["{}title a", "title {} a", "mode {}long4"])
def test_invisible_characters_are_named(tmp_path, line, word, code):
    path = tmp_path / "s.txt"
    path.write_text(f"mode long4\n{line.format(word)}\n")
    said = _run(["check", str(path)])
    assert f"s.txt:2: an invisible character (U+{code.zfill(4)}); remove it" in said or word == "\0"
    assert "\x1b" not in said


def test_an_endless_pipe_ends(monkeypatch, tmp_path):
    monkeypatch.setattr(text, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(text.read_file, "__kwdefaults__", {"most": 1 << 20})
    assert "cannot read: more than 1 MiB" in _run(["compare", "/dev/zero"])


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
