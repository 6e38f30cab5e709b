import json
import re

import pytest


@pytest.fixture
def scenario(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return small("read 0x400000", "write 0x401000 7")


def test_a_scenario_becomes_a_page_named_like_it(invoke, scenario, tmp_path):
    result = invoke("show", scenario)
    assert result.exit_code == 0
    assert "small.html: 0.1 MB; open it in a browser" in result.output
    text = (tmp_path / "small.html").read_text()
    assert text.startswith("<!doctype html>")
    assert "write 0x401000 7" in text


def test_a_recording_becomes_a_page_where_it_is_wanted(invoke, fixtures, tmp_path):
    target = tmp_path / "page.html"
    assert invoke("show", fixtures.recordings / "b-unsync.jsonl", "-o", target).exit_code == 0
    assert "recorded" in target.read_text()


def test_a_page_goes_to_standard_output_alone(invoke, scenario):
    assert invoke("show", scenario, "-o", "-").output.endswith("</html>\n")


def test_a_recording_cannot_be_played_on_another_machine(invoke, fixtures):
    result = invoke("show", fixtures.recordings / "b-unsync.jsonl", "--kernel", "6.1")
    assert "a recording shows what happened; give its scenario" in result.output


def test_a_broken_recording_is_one_line(invoke, tmp_path):
    path = tmp_path / "broken.jsonl"
    path.write_text("{}\n")
    result = invoke("show", path)
    assert f"{path}:1: this is not the header of a recording" in result.output


def test_a_page_is_not_written_over_its_input(invoke, scenario):
    before = scenario.read_text()
    result = invoke("show", scenario, "-o", scenario)
    assert "would overwrite the input" in result.output
    assert scenario.read_text() == before


def test_the_terminal_is_said_to_be_missing(invoke, scenario):
    assert "--tui needs a terminal" in invoke("show", "--tui", scenario).output


def test_without_textual_the_extra_is_named(invoke, scenario, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "textual", None)
    monkeypatch.setitem(sys.modules, "textual.app", None)
    monkeypatch.delitem(sys.modules, "shadowmmu.show.tui.app", raising=False)
    assert "pip install 'shadowmmu[tui]'" in invoke("show", "--tui", scenario).output


@pytest.mark.parametrize("name", ["recordings/b-unsync.jsonl", "scenarios/b-unsync.txt"])
def test_the_page_has_reasons_unless_they_are_left_out(invoke, fixtures, tmp_path, name):
    file = fixtures.recordings.parent / name
    pages = {}
    for option in ([], ["--no-reasons"]):
        target = tmp_path / f"page{len(option)}.html"
        assert invoke("show", file, "-o", target, *option).exit_code == 0
        pages[len(option)] = json.loads(re.search(r'id="data">(.*?)</script>', target.read_text(), re.S)[1])
    assert any("fetch" in sentence for sentence in pages[0]["reasons"])
    assert pages[1]["reasons"] == []
    assert not any("why" in op for op in pages[1]["ops"])


def test_an_exhibit_of_the_museum_becomes_a_page_with_lanes(invoke, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = invoke("show", "museum:cr3_unsynced")
    assert result.exit_code == 0
    assert "museum-cr3_unsynced.html" in result.output
    assert "stale-translation" in (tmp_path / "museum-cr3_unsynced.html").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["museum:cr3_unsync"], "no defect 'cr3_unsync'; did you mean 'cr3_unsynced'?"),
        (
            ["museum:cr3_unsynced", "--kernel", "6.1.176"],
            "--kernel: museum:cr3_unsynced has a machine of its own",
        ),
        (
            ["museum:cr3_unsynced", "--no-reasons"],
            "--no-reasons: museum:cr3_unsynced has a machine of its own",
        ),
        (["museum:cr3_unsynced", "--tui"], "--tui shows histories; museum:cr3_unsynced becomes a page"),
        (["race:R37b", "--tui"], "--tui shows histories; race:R37b becomes a page"),
    ],
)
def test_what_lanes_cannot_do_is_refused(invoke, words, says):
    result = invoke("show", *words)
    assert result.exit_code in (1, 2)
    assert says in result.output


def test_races_and_kept_schedules_become_pages_with_lanes(command, tmp_path):
    pytest.importorskip("greenlet")
    kept, page = tmp_path / "s.txt", tmp_path / "page.html"
    command("race", "R37b", "--without", "clear_spte_count", "--save", kept)
    for what in ("race:R37b", kept):
        done = command("show", what, "-o", page)
        assert (done.returncode, done.stderr) == (0, "")
        assert "a present SPTE that never was" in page.read_text()
    several = command("show", "race:R37", "-o", page)
    assert several.returncode == 2
    assert "name one: race:R37a, race:R37b" in several.stderr
    assert "no race case 'R99'" in command("show", "race:R99", "-o", page).stderr
