import json
from pathlib import Path

import pytest

from shadowmmu.study.studies import STUDIES

SMALLEST = "002-unsync"


def test_all_studies_are_listed_with_their_questions(invoke):
    listed = invoke("study").output.splitlines()
    assert [line.split()[0] for line in listed] == list(STUDIES)
    assert all(line.endswith("?") for line in listed)
    assert set(json.loads(invoke("study", "--json").output)) == set(STUDIES)


def test_a_study_ends_with_its_verdict_and_writes_what_is_asked(invoke, tmp_path: Path):
    table, page = tmp_path / "all.csv", tmp_path / "page.html"
    done = invoke("study", SMALLEST, "--csv", str(table), "--html", str(page))
    assert done.exit_code == 0, done.output
    assert done.output.startswith(STUDIES[SMALLEST].question)
    assert done.output.rstrip().endswith("Letting leaf tables get out of sync pays.")
    study = STUDIES[SMALLEST]
    assert len(table.read_text().splitlines()) == 1 + len(study.cases) * len(study.alternatives)
    assert "<svg" in page.read_text()


def test_costs_can_be_printed_edited_and_given(invoke, tmp_path: Path):
    path = tmp_path / "costs.toml"
    path.write_text(invoke("study", "--print-costs").output.replace("cycles = 1500\n", "cycles = 2400\n", 1))
    as_they_are = json.loads(invoke("study", SMALLEST, "--json").output)
    dearer = json.loads(invoke("study", SMALLEST, "--json", "--costs", str(path)).output)
    for before, after in zip(as_they_are["measurements"], dearer["measurements"], strict=True):
        assert after["exits"] == before["exits"]
        assert after["seconds"] - before["seconds"] == pytest.approx(before["exits"] * 900 / 3e9)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["nonsense"], "no study 'nonsense'; there are: "),
        ([SMALLEST, "--plot", "x.gif"], "--plot x.gif: name a file that ends with .png, .svg, .pdf"),
        ([SMALLEST, "--costs", "none.toml"], "none.toml: No such file or directory"),
        ([SMALLEST, "--csv", "x", "--html", "x"], "--csv x is the same file as --html; name another"),
    ],
)
def test_what_cannot_be_is_one_line(command, args: list[str], says: str):
    refused = command("study", *args)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
