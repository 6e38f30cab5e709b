"""The README says what the commands do: every command and example in it is run and compared with the text.

docs/examples.py says how an example reads. What is not run is listed here, with the reason.
"""

import contextlib
import io
import re
import shlex

import pytest
from click.testing import CliRunner
from docs.examples import ROOT, check_example, differs

from shadowmmu.cli.commands import cli

README = (ROOT / "README.md").read_text()
NOT_RUN = {
    "make run": "sets up a virtual environment",
    "make test": "runs this test, too",
    "make build": "compiles for minutes",
    "pip install .": "installs",
    ".venv/bin/python benchmarks/run.py": "measures for minutes",
    "shadowmmu run tests/guest/pc/guests/matrix.flat -- 4": "1.6 million cases",
    "shadowmmu check": "minutes without an argument; with PROGRAM and with a scenario it is run elsewhere",
    "shadowmmu fuzz": "runs for a time of its own; tests/cli/test_fuzz.py",
    "shadowmmu race": "lists; with a case it is run below",
    "shadowmmu museum": "lists; with a name it is run below",
    "shadowmmu designs": "lists",
    "shadowmmu run": "the tour needs the extra `guest`; tests/cli/test_program.py",
    "shadowmmu run PROGRAM": "stands for the examples below",
    "shadowmmu check PROGRAM": "tests/cli/test_program.py",
}
EXAMPLES = re.findall(r"^```\n\$ (shadowmmu [^\n]*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
INLINE = re.findall(r"`((?:shadowmmu|make|pip install|\.venv/[^` ]+)(?: [^`]*)?)`", README.replace("\n", " "))
SYNOPSES = re.findall(r"^    (shadowmmu \w+)(.*)\n((?:      .*\n)*)", README, re.MULTILINE)


@pytest.mark.parametrize(("line", "example"), EXAMPLES, ids=[line for line, _ in EXAMPLES])
def test_an_example_is_what_the_command_shows(line, example):
    check_example(line, example)


def test_the_comparison_finds_differences():
    shown = "a\nb\n1.5 s\nc\nd\n"
    assert differs("a\nb\n2.0 s\n...\nd\n", shown) is None
    assert differs("...\nc\n...\n", shown) is None
    for wrong in ("b\n...\n", "a\n...\n2 ms\n...\n", "a\nb\n1 s\nc\n", "a\n...\nd\nc\n"):
        assert differs(wrong, shown) is not None


def test_there_are_examples():
    assert len(EXAMPLES) >= 4
    assert len(PYTHON) == 1


def test_the_python_example_prints_what_its_remarks_say():
    (code,) = PYTHON
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    remarks = re.findall(r"^ *print\(.*\)  # (.*)$", code, re.MULTILINE)
    lines = printed.getvalue().splitlines()
    for remark in remarks:
        said = remark if remark.startswith(("kvm_", "nothing")) else remark.partition(": ")[0]
        start = said.partition("...")[0].strip()
        assert any(line.startswith(start) for line in lines), remark
    assert len(remarks) == code.count("print(")


def test_the_walk_is_what_the_python_example_prints():
    (code,) = PYTHON
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})
    (walk,) = re.findall(r"^```\n(gva .*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert walk in printed.getvalue()


@pytest.mark.parametrize("paging", re.findall(r'"([^"]+)"', re.search(r"# or (.*?);", README)[1]))
def test_the_python_example_works_in_the_other_modes(paging):
    (code,) = PYTHON
    start = code.partition("table =")[0].replace('"long4"', repr(paging))
    if paging == "nopaging":
        start = "\n".join(line for line in start.split("\n") if "vm.map" not in line)
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(start, "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize("command", sorted(set(INLINE)))
def test_a_command_in_the_text_works(command):
    if command in NOT_RUN:
        return
    words = shlex.split(command)
    if words[0] != "shadowmmu" or any(word.isupper() and word.isalpha() for word in words):
        pytest.fail(f"`{command}` is neither run nor in NOT_RUN")
    for word in words[1:]:
        if "/" in word:
            assert list(ROOT.glob(word.replace("{mmio-sync,npt-pdpte}", "*"))), word
    assert CliRunner().invoke(cli, [*words[1:2], "--help"]).exit_code == 0


def test_what_is_not_run_is_in_the_text():
    """The list has nothing that the README has not."""
    lines = {" ".join(line.split()) for line in README.splitlines()}
    for command in NOT_RUN:
        assert command in INLINE or any(line.startswith(command) for line in lines), command


@pytest.mark.parametrize(("command", "rest", "options"), SYNOPSES, ids=[command for command, *_ in SYNOPSES])
def test_a_synopsis_has_the_options_that_there_are(command, rest, options):
    result = CliRunner().invoke(cli, [command.split()[1], "--help"])
    assert result.exit_code == 0
    for option in set(re.findall(r"--[a-z][a-z-]+", rest + options)):
        assert option in result.output, option


def test_paths_in_the_text_are_there():
    for path in re.findall(r"`((?:src|tests|scenarios|benchmarks|kvm)/[\w./-]+)`", README):
        there = ROOT / "src" / "shadowmmu" / path if path.startswith("kvm/") else ROOT / path
        assert there.exists(), path


def test_numbers_of_checks_cases_and_recordings():
    from shadowmmu.check.audit.audit import PREDICATES

    assert f"asks {len(PREDICATES)} predicates" in README
    recordings = len(list((ROOT / "tests" / "conformance" / "recordings").rglob("*.jsonl")))
    assert recordings >= int(re.search(r"of the tests' (\d+) recordings", README)[1])
    pytest.importorskip("greenlet")
    from shadowmmu.check.race.catalogue import cases

    assert f"{len(cases())} small programs" in README
