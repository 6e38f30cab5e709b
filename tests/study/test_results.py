"""Studies from Python: names, data frames, tables, pictures, seeds, processes."""

import subprocess
import sys
from pathlib import Path

import pytest

import shadowmmu.study as package
from shadowmmu.study import Configuration, Results, measure, study
from shadowmmu.study.costs import default_costs
from shadowmmu.study.study import Alternative, Case, Study, run_study
from shadowmmu.study.table import as_rows

SMALL = Configuration(memory="64M")
CHOSEN = Study(
    name="windows",
    question="Is <off> better?",
    about="A & B.",
    cases=(Case("random", "random", {"pages": 64, "reads": 40}),),
    alternatives=(
        Alternative("aligned", SMALL),
        Alternative("off", SMALL.with_design(prefetch_window="off"), unsafe="it is a test"),
    ),
    columns=("faults", "seconds"),
    plotted="faults",
    verdict=lambda found: f"{found.value('random', 'off', 'faults'):.0f} faults.",
)


@pytest.fixture(scope="module")
def results() -> Results:
    return run_study(CHOSEN, default_costs(), seeds=(0, 1, 2))


def test_the_names_are_functions_whatever_was_imported_before() -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(package.__file__).parents[2])!r})\n"
        "import shadowmmu.study.measure, shadowmmu.study.study\n"
        "from shadowmmu.study import measure, study\n"
        "assert callable(measure) and callable(study)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_study_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(package.STUDIES, "windows", CHOSEN)
    assert study("windows", seeds=(3,)).value("random", "aligned", "faults") > 0
    with pytest.raises(KeyError, match="no study 'nonsense'; there are: "):
        study("nonsense")


def test_the_plain_machine_and_costs_need_not_be_named() -> None:
    assert measure("sequential", parameters={"pages": 16})["faults"] == 2


def test_means_have_intervals_over_seeds(results: Results) -> None:
    width = results.half_width("random", "off", "faults")
    assert width is not None
    assert width > 0
    mean = results.value("random", "off", "faults")
    assert results.shown("random", "off", "faults") == f"{mean:.0f} ± {width:.0f}"
    alone = run_study(CHOSEN, default_costs())
    assert alone.half_width("random", "off", "faults") is None
    assert "±" not in alone.shown("random", "off", "faults")


def test_a_data_frame_has_a_row_for_each_measurement(results: Results) -> None:
    for library in ("polars", "pandas"):
        try:
            frame = getattr(results, f"to_{library}")()
        except ImportError as error:
            assert str(error) == f"Results.to_{library}() needs {library}: pip install {library}"
        else:
            assert list(frame["faults"]) == [row["faults"] for row in as_rows(results)]
            assert len(frame) == 6


def test_a_notebook_shows_tables(results: Results) -> None:
    shown = results._repr_html_()
    assert "Is &lt;off&gt; better? random" in shown
    assert results.shown("random", "off", "faults") in shown
    assert repr(results) == "<Results of windows: 6 measurements>"


def test_the_picture_has_the_intervals(results: Results) -> None:
    pytest.importorskip("matplotlib")
    (axes,) = results.plot().axes
    assert results.shown("random", "off", "faults") in [text.get_text() for text in axes.texts]


def test_processes_give_the_same_results(results: Results) -> None:
    seen: list[tuple[int, int]] = []
    again = run_study(
        CHOSEN, default_costs(), seeds=(0, 1, 2), jobs=2, progress=lambda done, of: seen.append((done, of))
    )
    counters = [[measured.counters for _, _, measured in one] for one in (results, again)]
    assert counters[0] == counters[1]
    assert seen == [(done, 6) for done in range(7)]
