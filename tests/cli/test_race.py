"""`shadowmmu race`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def race(command: Command) -> Command:
    """The command as its own process: it starts itself anew if the model is compiled."""
    return lambda *args: command("race", *args)


def test_without_arguments_it_lists_the_cases(race: Command) -> None:
    shown = race()
    assert shown.returncode == 0
    assert shown.stdout.startswith("R1     fast page fault: ")
    assert len(shown.stdout.splitlines()) > 50


def test_a_case_both_ways(race: Command) -> None:
    shown = race("R3")
    assert shown.returncode == 0
    assert "all protections: no bad outcome\n" in shown.stdout
    assert "without flush_on_mmu_writable: bad: the guest wrote a shadowed table" in shown.stdout
    assert "CPU 1: dirty log" in shown.stdout
    assert " schedules, " in shown.stdout


def test_json_save_and_replay(race: Command, tmp_path: Path) -> None:
    file = tmp_path / "schedule"
    report = json.loads(race("R37b", "--without", "clear_spte_count", "--save", file, "--json").stdout)
    assert (report["interrupted"], report["missing"]) == (False, [])
    found = report["results"]
    assert len(found) == 1
    assert found[0]["as_expected"]
    assert found[0]["bad"]["outcome"].startswith("read 0x11110001")
    again = race("--replay", file)
    assert again.returncode == 0
    assert "read low: 0x11110001" in again.stdout
    assert again.stdout.endswith("read 0x11110001: a present SPTE that never was\n")


def test_the_models_own_code(race: Command) -> None:
    found: list[dict[str, Any]] = json.loads(race("R5m", "--json").stdout)["results"]
    assert [(entry["without"], entry["as_expected"]) for entry in found] == [
        ([], True),
        (["mark_after_cmpxchg"], True),
    ]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["R99"], "no race case 'R99'"),
        (["R1", "--without", "luck"], "R1 has no protection 'luck'; it has direct_only"),
        (["R1", "R2", "--without", "luck"], "--without is for one case"),
        (["--replay", "nowhere"], "nowhere: No such file"),
        (["R1", "--random", "5", "--pct", "5"], "--random and --pct exclude each other"),
        (["R1", "--all"], "--all and names of cases exclude each other"),
        (["R1", "--bound", "-1"], "--bound"),
        (["--save", "x", "--bound", "1", "--without", "y"], "--without, --bound, --save: this needs a CASE"),
        (["--no-tso"], "--tso: this needs a CASE"),
        (["R1", "--seed", "3"], "--seed: only --random and --pct have a seed"),
        (["R1", "--random", "3", "--bound", "1"], "--bound: --random and --pct have no bound"),
        (["--replay", "x", "--tso"], "--tso: --replay runs one schedule"),
        (
            ["R37b", "--without", "clear_spte_count", "--save", "-", "--json"],
            "--json prints on standard output",
        ),
        (
            ["R37b", "--without", "clear_spte_count", "--save", "/dev/full"],
            "/dev/full: cannot write: No space",
        ),
    ],
)
def test_bad_input(race: Command, arguments: list[str], complaint: str) -> None:
    shown = race(*arguments)
    assert shown.returncode == 2
    assert complaint in shown.stderr
    assert "Traceback" not in shown.stderr


def test_a_schedule_on_standard_output_is_alone_there(race: Command, tmp_path: Path) -> None:
    saved = race("R37b", "--without", "clear_spte_count", "--save", "-")
    assert saved.stdout.startswith("# shadowmmu race: a schedule\n")
    file = tmp_path / "schedule"
    file.write_text(saved.stdout)
    assert race("--replay", file).returncode == 0


def test_an_interruption_is_status_130_and_json_has_what_is_missing(tmp_path: Path) -> None:
    """At the second case, while the first is complete."""
    code = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import shadowmmu.check.race.explore as module
original, runs = module.explore, []
def explore(*args):
    runs.append(args)
    if len(runs) == 3:
        raise KeyboardInterrupt
    return original(*args)
module.explore = explore
sys.argv[1:] = ["race", "R37b", "R3", "--json"]
from shadowmmu.cli.main import main
main()
"""
    interpreted = {"SHADOWMMU_INTERPRETED": "1", "SHADOWMMU_REQUIRE_NATIVE": ""}  # as `race` runs in any case
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **interpreted}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stderr.endswith("shadowmmu: interrupted\n")
    report = json.loads(done.stdout)
    assert report["interrupted"]
    assert [row["case"] for row in report["results"]] == ["R37b", "R37b"]
    assert report["missing"][0] == {"case": "R37b", "without": ["count_before_set"]}
    assert {row["case"] for row in report["missing"]} == {"R37b", "R3"}


def test_without_greenlet_it_says_how_to_add_it(command: Command) -> None:
    code = "import sys; sys.modules['greenlet'] = None; from shadowmmu.cli.main import main; main()"
    for arguments in ([], ["R1"]):
        shown = subprocess.run(
            [sys.executable, "-c", code, "race", *arguments],
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(Path(__file__).parents[2] / "src"), "SHADOWMMU_INTERPRETED": "1"},
        )
        assert shown.returncode == 2
        assert "pip install 'shadowmmu[race]'" in shown.stderr
