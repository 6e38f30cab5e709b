"""`--help` of every command is a manual page, and its examples work."""

import os
import shlex
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from launcher import decoded, launcher

from shadowmmu.cli.commands import cli
from shadowmmu.cli.manual import manuals

ROOT = Path(__file__).parents[2]
COMMANDS = {
    context.command_path: command for command, context in manuals(click.Context(cli, info_name="shadowmmu"))
}
EXAMPLES = {line: command for command in COMMANDS.values() for line in command.examples}
NOT_RUN = {
    "shadowmmu fuzz --seconds 600": "ten minutes",
    "shadowmmu run --npt ./busybox -- sh -c 'ls | sort'": "tests/test_readme.py runs busybox",
    "shadowmmu museum --run rmap_left --seconds 60 --out found": "tests/cli/test_museum.py searches",
    "shadowmmu show --tui tests/conformance/recordings/b-unsync.jsonl": "tests/show/tui operates it",
    "shadowmmu playground -o playground": "tests/show/playground builds it, where npm is",
    "shadowmmu playground -o playground --pyodide package": "tests/show/playground, too",
    "shadowmmu study 003-prefetch-window": "tests/study runs a smaller one, and all of them small",
    "shadowmmu study 002-zap-all --plot zap.png --html zap.html": "maps 4 GiB; tests/study draws small ones",
    "shadowmmu sweep docs/examples/windows.toml": "leaves results in docs; run by the how-to without",
    "shadowmmu sweep docs/examples/windows.toml --scheduler tcp://10.0.0.1:8786": "tests/study/sweep",
    "shadowmmu workload record -o sort.parquet -- sort words.txt": "tests/cli/test_workload.py records",
    "shadowmmu workload convert sort.din.xz sort.parquet": "tests/cli/test_workload.py converts",
    "shadowmmu workload run sort.parquet --paging pae": "tests/cli/test_workload.py runs one",
    "shadowmmu race --replay s.txt": "run below, with the example that writes the file",
}
BECAUSE_OF = {
    "shadowmmu check scenarios/museum/rmap_left.txt": 1,
    "shadowmmu compare tests/conformance/recordings/b-unsync.jsonl --design invlpg_zaps=yes": 1,
}
"""Exit statuses of examples that show how a command reports something; all others end with 0."""


def run(line, folder):
    """Run an example in a folder that looks like the repository."""
    for name in ("docs", "scenarios", "tests"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    words = shlex.split(line)
    assert words[0] == "shadowmmu"
    return decoded(launcher().run(words[1:], cwd=folder, env=os.environ, timeout=300))


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_has_the_sections_of_a_manual_page(path):
    command = COMMANDS[path]
    text = CliRunner().invoke(cli, [*path.split()[1:], "--help"], terminal_width=80).output
    for section in ("Usage:", "Options:", "Exit status:", "Examples:"):
        assert f"{section}" in text
    for line in command.examples:
        assert line in text


@pytest.mark.parametrize("command", COMMANDS.values(), ids=list(COMMANDS))
def test_every_option_says_what_it_does(command):
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.opts
            assert parameter.help.endswith((".", ")")), parameter.help


@pytest.mark.parametrize("line", [line for line in EXAMPLES if line not in NOT_RUN])
def test_an_example_of_the_help_works(line, tmp_path):
    if line.startswith("shadowmmu race"):
        pytest.importorskip("greenlet")
    done = run(line, tmp_path)
    assert done.returncode == BECAUSE_OF.get(line, 0), done.stdout + done.stderr
    if "--save s.txt" in line:
        replayed = run("shadowmmu race --replay s.txt", tmp_path)
        assert replayed.returncode == 0
        assert "CPU 1" in replayed.stdout


def test_what_is_not_run_is_an_example():
    assert set(EXAMPLES) >= set(NOT_RUN)
    assert set(EXAMPLES) >= set(BECAUSE_OF)


def test_the_language_is_shown_by_run(tmp_path):
    shown = run("shadowmmu run --help-language", tmp_path)
    assert shown.returncode == 0
    assert "cmpxchg GVA NEW EXPECTED [size=N]" in shown.stdout
