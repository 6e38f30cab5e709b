"""The pages of studies: each has a stored result, which is what a study gives today."""

import json
import re
import sys
from dataclasses import replace

import pytest
from docs.examples import ROOT

from shadowmmu.study.costs import default_costs
from shadowmmu.study.stored import StoredError, as_data, results_of
from shadowmmu.study.studies import STUDIES
from shadowmmu.study.study import run_study, verdict_of

DOCS = ROOT / "docs"
RENEW = 'make studies NAMES="{}"'
CHEAP = ("003-prefetch-window", "backward")


def data_of(name: str):
    path = DOCS / "studies" / "results" / f"{name}.json"
    assert path.exists(), RENEW.format(name)
    return json.loads(path.read_text())


@pytest.mark.parametrize("name", STUDIES)
def test_each_study_has_a_page_and_a_result(name: str) -> None:
    assert (DOCS / "studies" / f"{name}.md").read_text() == f"% generated: study {name}\n", RENEW.format(name)
    try:
        results = results_of(STUDIES[name], data_of(name))
    except StoredError as error:
        pytest.fail(f"{error}: {RENEW.format(name)}")
    assert verdict_of(results) == data_of(name)["verdict"], RENEW.format(name)


def test_there_are_no_pages_of_other_studies() -> None:
    folder = DOCS / "studies"
    assert {path.stem for path in folder.glob("*.md")} - {"index"} == set(STUDIES)
    assert {path.stem for path in folder.glob("results/*.json")} == set(STUDIES)


def test_a_stored_result_is_that_of_a_run_now() -> None:
    name, case = CHEAP
    chosen = STUDIES[name]
    stored = results_of(chosen, data_of(name))
    alone = replace(chosen, cases=tuple(one for one in chosen.cases if one.label == case))
    for _, alternative, measured in run_study(alone, default_costs()):
        (kept,) = stored.of(case, alternative.label)
        assert kept.counters == measured.counters, RENEW.format(name)
        assert kept.estimate == measured.estimate
        assert kept.parameters == measured.parameters


def test_data_of_another_version_are_refused() -> None:
    name, _ = CHEAP
    data = data_of(name)
    assert as_data(results_of(STUDIES[name], data)) == data
    del data["measurements"][0]["faults"]
    with pytest.raises(
        StoredError, match="003-prefetch-window: no 'faults' of forward with 8_aligned, seed 0"
    ):
        results_of(STUDIES[name], data)


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    from pages import studies, study

    yield studies, study
    for name in [name for name, module in sys.modules.items() if "docs/_ext" in str(module)]:
        del sys.modules[name]


def test_the_page_has_question_verdict_picture_and_values(pages) -> None:
    pytest.importorskip("matplotlib")
    name, case = CHEAP
    page = pages[1].page(name)
    results = results_of(STUDIES[name], data_of(name))
    assert page.startswith(f"# {STUDIES[name].question}")
    assert "<svg" in page
    assert "Avi Kivity's advice" in page
    assert f"| {results.shown(case, 'off', 'faults')} |" in page


def test_mails_and_index_have_the_answers(pages) -> None:
    studies, _ = pages
    index = studies.page()
    for name, study in STUDIES.items():
        link = f"[{study.question}](../studies/{name}.md)"
        assert link in index
        if re.match(r"\d{3}-", name):
            assert link in studies.page(name[:3])
    for mail in DOCS.glob("mails/[0-9]*.md"):
        assert mail.read_text().endswith(f"% generated: studies {mail.stem}\n")
    assert studies.page("999").startswith("No study yet")


def test_the_pictures_of_the_readme_are_of_the_stored_results() -> None:
    named = re.findall(r"docs/_static/studies/([\w-]+)\.svg", (ROOT / "README.md").read_text())
    assert len(named) == 2
    for name in named:
        study = STUDIES[name]
        results = results_of(study, data_of(name))
        picture = (DOCS / "_static" / "studies" / f"{name}.svg").read_text()
        for case in study.cases:
            for one in study.alternatives:
                assert f">{results.shown(case.label, one.label, study.plotted)}<" in picture, RENEW.format(
                    name
                )
