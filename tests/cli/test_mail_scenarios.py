"""The commands of scenarios/mails/README.md: each ends with the sentence there; every switch has one."""

import re
import shlex
from pathlib import Path

import pytest

from shadowmmu.kvm.design.switches import SWITCHES, switch_named

FOLDER = Path(__file__).parents[2] / "scenarios" / "mails"
README = (FOLDER / "README.md").read_text()
CHECKS = re.findall(r"^shadowmmu (check .*)$", README, re.MULTILINE)
COMMANDS = re.findall(r"^shadowmmu (diff .*)\n(?:shadowmmu check .*\n)?```\n\n> (.*)$", README, re.MULTILINE)
"""Each with the sentence that ends its output."""


@pytest.mark.parametrize(("command", "sentence"), COMMANDS, ids=lambda text: text.split()[-1])
def test_the_sides_differ_as_the_sentence_says(invoke, monkeypatch, command, sentence):
    monkeypatch.chdir(FOLDER.parents[1])
    result = invoke(*shlex.split(command))
    assert result.exit_code == 0, result.output
    assert " ".join(result.output.rstrip("\n").split("\n\n")[-1].split()) == sentence
    assert "No difference" not in sentence


@pytest.mark.parametrize("command", CHECKS, ids=lambda command: command.split()[-1])
def test_an_unsafe_side_is_found_and_no_other(invoke, monkeypatch, command):
    monkeypatch.chdir(FOLDER.parents[1])
    found = invoke(*shlex.split(command))
    assert found.exit_code == 1
    assert "wrong-frame: " in found.output
    (value,) = re.findall(r"split_flush=(\w+)", command)
    assert value in switch_named("split_flush").unsafe
    for safe in ("stable", "always"):
        fine = invoke(*shlex.split(command.replace(f"split_flush={value}", f"split_flush={safe}")))
        assert fine.exit_code == 0, fine.output


def test_each_unsafe_rule_of_a_split_is_shown():
    shown = {value for command in CHECKS for value in re.findall(r"split_flush=(\w+)", command)}
    assert shown == set(switch_named("split_flush").unsafe)


def test_halves_of_sptes_are_read_only_without_the_count(command):
    pytest.importorskip("greenlet")
    cases = re.findall(r"^shadowmmu race (\w+)$", README, re.MULTILINE)
    assert len(cases) == 3
    for case in cases:
        shown = command("race", case)
        assert shown.returncode == 0
        assert "all protections: no bad outcome" in shown.stdout
        assert "bad: " in shown.stdout


def test_every_scenario_has_a_command():
    assert len(COMMANDS) == README.count("\nshadowmmu diff ")
    named = {Path(word).name for command, _ in COMMANDS for word in command.split() if "/" in word}
    assert named == {path.name for path in FOLDER.glob("*.txt")}


def test_every_switch_of_a_mail_is_in_a_scenario():
    texts = "".join(path.read_text() for path in FOLDER.iterdir())
    missing = {switch.name for switch in SWITCHES if switch.mail and switch.name not in texts}
    assert missing == set()
