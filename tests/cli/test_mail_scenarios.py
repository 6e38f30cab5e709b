"""The commands of scenarios/mails/README.md: each shows a difference, and every switch of a mail has one."""

import re
import shlex
from pathlib import Path

import pytest

from shadowmmu.kvm.switches import SWITCHES

FOLDER = Path(__file__).parents[2] / "scenarios" / "mails"
README = (FOLDER / "README.md").read_text()
SIDE = r"<\(shadowmmu (run .*?)\)"
COMMANDS = re.findall(rf"^diff {SIDE} \\\n +{SIDE}$", README, re.MULTILINE)


@pytest.mark.parametrize(("one", "other"), COMMANDS, ids=lambda side: side.split()[-1])
def test_the_sides_differ(invoke, monkeypatch, one, other):
    """Also below the header of a recording, which names the design."""
    monkeypatch.chdir(FOLDER.parents[1])
    outputs = []
    for side in (one, other):
        result = invoke(*shlex.split(side))
        assert result.exit_code == 0, result.output
        outputs.append(result.output.splitlines()["--json" in side :])
    assert outputs[0] != outputs[1]


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
    assert len(COMMANDS) == README.count("diff <(")
    named = {Path(word).name for sides in COMMANDS for side in sides for word in side.split() if "/" in word}
    assert named == {path.name for path in FOLDER.glob("*.txt")}


def test_every_switch_of_a_mail_is_in_a_scenario():
    texts = "".join(path.read_text() for path in FOLDER.iterdir())
    missing = {switch.name for switch in SWITCHES if switch.mail and switch.name not in texts}
    assert missing == set()
