"""Every example of the documentation is run: commands with their output, and Python with what it prints."""

import contextlib
import io
import re
import shlex

import click
import pytest
from docs.examples import ROOT, check_example

from shadowmmu.cli.commands import cli

PAGES = sorted((ROOT / "docs").rglob("*.md"))
TEXTS = {str(page.relative_to(ROOT / "docs")): page.read_text() for page in PAGES}
CONSOLE = [
    (page, line, example)
    for page, text in TEXTS.items()
    for line, example in re.findall(r"^```console\n\$ ([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]
PYTHON = [
    (page, code)
    for page, text in TEXTS.items()
    for code in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
]
MENTIONED = sorted(
    {
        line.strip()
        for text in TEXTS.values()
        for line in [
            *re.findall(r"^ {4}(shadowmmu .*)$", text, re.MULTILINE),
            *re.findall(r"`(shadowmmu [^`\n]+)`", text),
        ]
    }
)
"""Commands in the text, without their output: too long to run, or without anything to show."""
STANDS_FOR = re.compile(r"\b[A-Z]{3,}\b")


def test_there_are_examples():
    assert len(CONSOLE) > 15
    assert len(PYTHON) > 3


def test_every_block_of_a_console_is_one_command():
    for page, text in TEXTS.items():
        blocks = text.count("```console\n")
        assert blocks == sum(found == page for found, *_ in CONSOLE), page


@pytest.mark.parametrize(
    ("page", "line", "example"), CONSOLE, ids=[f"{page}: {line}" for page, line, _ in CONSOLE]
)
def test_a_command_prints_what_the_page_shows(page, line, example):
    if ".flat" in line or "busybox" in line:
        pytest.importorskip("unicorn")
        pytest.importorskip("iced_x86")
    check_example(line, example)


@pytest.mark.parametrize(("page", "code"), PYTHON, ids=[page for page, _ in PYTHON])
def test_a_python_example_prints_what_its_remarks_say(page, code):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, page, "exec"), {"__name__": "example"})
    remarks = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    assert remarks, "it prints nothing"
    assert printed.getvalue().splitlines() == remarks


@pytest.mark.parametrize("line", MENTIONED)
def test_a_command_in_the_text_has_options_and_files_that_there_are(line):
    words = shlex.split(line.removesuffix(" \\").partition(") \\")[0])
    words = words[1 : words.index("--")] if "--" in words else words[1:]
    command = cli.get_command(click.Context(cli), words[0])
    if words[0] in ("COMMAND", "--help", "--version"):
        return
    if isinstance(command, click.Group):
        command = command.get_command(click.Context(command), words[1]) if words[1:] else command
    assert command is not None, line
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words[1:]:
        if word.startswith("--"):
            assert word in options | {"--help"}, word
        elif word.startswith(("scenarios/", "tests/", "docs/", "src/")) and not STANDS_FOR.search(word):
            assert (ROOT / word.rstrip(")")).exists(), word


def test_paths_in_the_text_are_there():
    for page, text in TEXTS.items():
        for path in re.findall(r"`((?:src|tests|scenarios|benchmarks|docs)/[\w./-]+)`", text):
            assert (ROOT / path).exists(), f"{page}: {path}"
        if page in ("architecture.md",):
            for path in re.findall(r"`((?:kvm|guest|spte|pages|memory|fault|host)/[\w./]+\.py)`", text):
                package = ROOT / "src" / "shadowmmu"
                assert (package / path).exists() or (package / "kvm" / path).exists(), path


def test_scenarios_of_the_mails_are_there():
    for page, text in TEXTS.items():
        for name in re.findall(r"`(\d{3}-[\w-]+\.txt)`", text):
            assert (ROOT / "scenarios" / "mails" / name).exists(), f"{page}: {name}"
    named = {name for text in TEXTS.values() for name in re.findall(r"\b\d{3}-[\w-]+\.txt", text)}
    there = {path.name for path in (ROOT / "scenarios" / "mails").glob("*.txt")}
    assert named == there
