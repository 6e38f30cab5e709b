import json
from pathlib import Path

import pytest

from shadowmmu.study import published
from shadowmmu.study.configuration import Configuration
from shadowmmu.study.published import Figure
from shadowmmu.study.studies import STUDIES
from shadowmmu.study.study import Alternative, Case, Study

SMALLEST = "small"


@pytest.fixture
def small(monkeypatch) -> Study:
    """A study that takes no time."""
    machine = Configuration(memory="64M")
    study = Study(
        name=SMALLEST,
        question="Does unsync pay?",
        about="It is small.",
        cases=(Case("fork storm", "fork-storm", {"pages": 16, "forks": 1, "touched": 4}),),
        alternatives=tuple(Alternative(one, machine.with_design(unsync=one)) for one in ("leaf", "never")),
        columns=("exits", "seconds"),
        plotted="exits",
        verdict=lambda found: f"{found.value('fork storm', 'never', 'exits'):.0f} exits without.",
    )
    monkeypatch.setitem(STUDIES, SMALLEST, study)
    return study


def test_all_studies_are_listed_with_their_questions(invoke):
    listed = invoke("study").output.splitlines()
    assert [line.split()[0] for line in listed] == [*STUDIES, "published"]
    assert all(line.endswith("?") for line in listed)
    assert set(json.loads(invoke("study", "--json").output)) == set(STUDIES)


def test_a_study_ends_with_its_verdict_and_writes_what_is_asked(invoke, small: Study, tmp_path: Path):
    table, page = tmp_path / "all.csv", tmp_path / "page.html"
    done = invoke("study", SMALLEST, "--csv", str(table), "--html", str(page))
    assert done.exit_code == 0, done.output
    assert done.output.startswith(small.question)
    assert done.output.rstrip().endswith(" exits without.")
    assert len(table.read_text().splitlines()) == 3
    assert "<svg" in page.read_text()


@pytest.mark.usefixtures("small")
def test_costs_can_be_printed_edited_and_given(invoke, tmp_path: Path):
    path = tmp_path / "costs.toml"
    path.write_text(invoke("study", "--print-costs").output.replace("cycles = 1500\n", "cycles = 2400\n", 1))
    as_they_are = json.loads(invoke("study", SMALLEST, "--json").output)
    dearer = json.loads(invoke("study", SMALLEST, "--json", "--costs", str(path)).output)
    for before, after in zip(as_they_are["measurements"], dearer["measurements"], strict=True):
        assert after["exits"] == before["exits"]
        assert after["seconds"] - before["seconds"] == pytest.approx(before["exits"] * 900 / 3e9)


def test_published_figures_stand_beside_ours(invoke, monkeypatch):
    figure = Figure("of two", "a mail", "exits", (3, 2), lambda costs: (6, 4), "nothing")
    monkeypatch.setattr(published, "FIGURES", (figure,))
    shown = invoke("study", "published").output
    assert "published  3 : 2 (1.5)   a mail" in shown
    assert "ours       6 : 4 (1.5)" in shown
    assert "Of 1 figures 1 have the same direction, 1 are within 25%." in shown
    (row,) = json.loads(invoke("study", "published", "--json").output)
    assert (row["published"], row["ours"], row["close"]) == ([3, 2], [6, 4], True)


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["published", "--seed", "1"], "published takes no option but --costs and --json"),
        (["nonsense"], "no study 'nonsense'; there are: "),
        (["002-unsync", "--plot", "x.gif"], "--plot x.gif: name a file that ends with .png, .svg, .pdf"),
        (["002-unsync", "--costs", "none.toml"], "none.toml: No such file or directory"),
        (["002-unsync", "--csv", "x", "--html", "x"], "--csv x is the same file as --html; name another"),
    ],
)
def test_what_cannot_be_is_one_line(command, args: list[str], says: str):
    refused = command("study", *args)
    assert refused.returncode == 2
    assert says in refused.stderr
    assert "Traceback" not in refused.stderr
