"""`shadowmmu fuzz`: what it prints, writes and refuses."""

import json
from itertools import islice
from pathlib import Path

import pytest
from click.testing import CliRunner

from shadowmmu.check.checker import Violation
from shadowmmu.check.random import fuzz as checks
from shadowmmu.check.random.ground import Ground
from shadowmmu.cli.commands import cli


def invoke(*words: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["fuzz", *words])
    return result.exit_code, result.output


def test_a_short_run(tmp_path: Path) -> None:
    status, output = invoke(
        "--seconds",
        "0.001",
        "--seed",
        "1",
        "--mode",
        "32",
        "--mmu",
        "tdp",
        "--ops",
        "50",
        "--out",
        str(tmp_path),
    )
    assert status == 0
    assert output.startswith("seed 1: 1 guests, ")
    assert "tdp" in output
    assert not list(tmp_path.iterdir())


def test_json(tmp_path: Path) -> None:
    status, output = invoke(
        "--seconds", "0.001", "--seed", "1", "--ops", "50", "--json", "--out", str(tmp_path)
    )
    report = json.loads(output)
    assert status == 0
    assert (report["seed"], report["guests"], report["found"]) == (1, 1, [])


def test_a_failure_becomes_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def episode(ground: Ground, ops: int, **options: object) -> tuple[int, checks.Failure]:
        violation = Violation("coherence", "made-up", "something", 3, "nop", shows=("guest", "shadow"))
        return 7, checks.Failure(ground, ["nop"], 7, violation)

    monkeypatch.setattr(checks, "episode", episode)
    status, output = invoke("--seed", "1", "--mode", "32", "--mmu", "shadow", "--out", str(tmp_path))
    assert status == 1
    (path,) = tmp_path.iterdir()
    assert path.name == "made-up-32-shadow-ordinary-1.txt"
    assert str(path) in output
    assert path.read_text().startswith("# made-up: something\n")


@pytest.mark.parametrize(
    "words",
    [
        ["--design", "nothing=1"],
        ["--design", "x"],
        ["--mode", "16"],
        ["--kernel", "5.4"],
        *(["--seconds", text] for text in ("-1", "0", "nan", "inf", "1e300", "soon")),
        ["--mode", "nopaging", "--mmu", "nested"],
        ["--vendor", "intel", "--mmu", "nested"],
        ["--unchecked", "--failures", "2"],
        ["--out", "-"],
    ],
)
def test_bad_input(words: list[str]) -> None:
    status, output = invoke(*words)
    assert status in (1, 2)
    assert output.splitlines()[-1].startswith("Error: ")


def test_what_the_kinds_lack_is_said() -> None:
    assert (
        "only a guest with paging, on AMD, can be a hypervisor"
        in invoke("--mode=nopaging", "--mmu=nested")[1]
    )


def test_guests_on_intel() -> None:
    guests = list(islice(checks.grounds(1, ("long4",), profiles=("ordinary",), vendor="intel"), 3))
    assert [guest.mmu for guest in guests] == ["shadow", "tdp", "direct"]
    for guest in guests:
        assert "vendor intel" in guest.setup
        nested_paging = any(line.startswith("param kvm_intel ept=1") for line in guest.setup)
        assert nested_paging == (guest.mmu != "shadow")
        assert checks.check_lines([*guest.setup, "nop"]) is None


def test_an_interruption_is_status_130_and_says_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def episode(ground: Ground, ops: int, **options: object) -> tuple[int, checks.Failure]:
        raise KeyboardInterrupt

    monkeypatch.setattr(checks, "episode", episode)
    status, output = invoke("--json", "--out", str(tmp_path))
    report = json.loads(output.splitlines()[0])
    assert status != 0
    assert report["interrupted"]
    assert report["seconds_left"] == 60.0
