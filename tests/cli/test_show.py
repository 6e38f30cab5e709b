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
