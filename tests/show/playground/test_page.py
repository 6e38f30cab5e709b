"""The playground operated as a person would, from the disk: the model runs in the browser."""

import re

import pytest
from click.testing import CliRunner
from show.accessibility import AA, NAMELESS, WORST_CONTRAST
from show.playground.conftest import Playground

from shadowmmu.cli.commands import cli
from shadowmmu.show.playground.lessons import lessons

MOST_SECONDS = 20
"""Processor time from opening the page to the answer; 8 on an idle machine, on a busy one more."""
HEAD = """\
title {title}
mode long4
slot 0 0x0 16M
alloc 0x2000
tramp 0x1000
map 0x1000 0x400000 0x800000 0x67 n=64
start cr3=0x1000
nop
"""
THIRTY = HEAD.format(title="thirty ops") + "".join(
    f"read {0x400000 + (n << 12):#x}\n" for n in range(0, 58, 2)
)


def printed(text, tmp_path, *options):
    """What `run` prints of a scenario."""
    path = tmp_path / "scenario.txt"
    path.write_text(text)
    return CliRunner().invoke(cli, ["run", *options, str(path)]).output.removesuffix("\n")


def test_thirty_ops_are_answered_soon_after_the_page_was_opened(chromium, built, tmp_path):
    page = Playground(chromium, built)
    page.write(THIRTY)
    page.status("Ready")
    assert page.run().removesuffix("\n") == printed(THIRTY, tmp_path)
    assert page.seconds() < MOST_SECONDS
    page.close()


def test_a_scenario_is_typed_a_word_completed_and_run_by_keys_alone(playground, tmp_path):
    playground.write("")
    page = playground.page
    page.focus("#editor")
    page.keyboard.type(HEAD.format(title="typed"))
    page.keyboard.type("re")
    assert page.locator("#completions li").all_text_contents()[0].startswith("read")
    assert page.get_attribute("#editor", "aria-activedescendant") == "completion-0"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.keyboard.type("0x400000")
    text = HEAD.format(title="typed") + "read 0x400000"
    assert page.input_value("#editor") == text
    assert playground.run().removesuffix("\n") == printed(text, tmp_path)


def test_escape_closes_the_completion_and_control_space_opens_it(playground):
    playground.write(HEAD.format(title="x"))
    page = playground.page
    page.focus("#editor")
    page.keyboard.press("Control+End")
    page.keyboard.press("Control+Space")
    assert page.locator("#completions li").count() > 30
    page.keyboard.press("Escape")
    assert page.is_hidden("#completions")
    assert page.get_attribute("#editor", "aria-activedescendant") is None


@pytest.mark.parametrize(
    ("text", "offered"),
    [
        ("mo", ["mode"]),
        ("mode lon", ["long4", "long5"]),
        ("slot 0 0 16M hu", ["huge2m", "huge1g"]),
        ("design write_fl", ["write_flooding="]),
        ("design write_flooding=o", ["write_flooding=off"]),
        ("param kvm_a", ["kvm_amd"]),
        ("param kvm_amd n", ["npt="]),
        ("npt ", ["map", "pt"]),
        ("npt map 0 0 0 7 st", ["stride="]),
        ("start\nuwr", ["uwrite"]),
        ("start\n@1 l2wr", ["l2write"]),
        ("start\nmeanwhile 1 @1 invl", ["invlpg"]),
        ("start\nmo", ["movslot", "modparam"]),
        ("start\nw", ["write", "wrmsr", "watch"]),
        ("start\nread 0x1 s", ["size="]),
        ("slot # hu", []),
        ("nowhere x", []),
    ],
)
def test_what_is_offered_is_what_may_stand_there(playground, text, offered):
    options = playground.page.evaluate("(text) => completionsAt(text, text.length).options", text)
    assert [option["text"] for option in options] == offered


def test_the_page_tables_are_stepped_through(playground):
    playground.write(HEAD.format(title="steps") + "read 0x400000\n")
    playground.run()
    page = playground.page
    page.click("#tab-tables")
    tables = playground.tables()
    tables.locator("#ops").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    assert "page fault at 400000" in tables.locator("#op").inner_text()
    page.click("#tab-output")
    page.click("#output button.op >> nth=0")
    tables.locator("#where", has_text="op 0 ").wait_for()
    assert page.is_visible("#panel-tables")


def test_running_again_stays_at_the_op(playground):
    playground.write(HEAD.format(title="again") + "read 0x400000\n")
    playground.run()
    playground.page.evaluate("stepTo(1)")
    playground.tables().locator("#where", has_text="op 1 ").wait_for()
    playground.run()
    playground.tables().locator("#where", has_text="op 1 ").wait_for()
    playground.tables().locator("#slider").focus()
    playground.page.evaluate("say('')")
    playground.page.keyboard.press("Control+Enter")
    playground.status("Played")


def test_a_lesson_is_opened_and_its_task_shows_what_it_says(playground):
    page = playground.page
    lesson = next(each for each in lessons() if each.name.startswith("11-"))
    page.select_option("#lesson", lesson.name)
    assert page.input_value("#editor") == lesson.scenario
    assert "A processor keeps translations" in page.inner_text("#lesson-text")
    page.evaluate("say('')")
    page.click("#do-task")
    playground.status("found")
    assert "not-logged" in page.inner_text("#checks")
    assert "defect=log_unflushed" in page.inner_text("#machine-summary")


def test_a_switch_is_found_and_changed(playground, tmp_path):
    text = HEAD.format(title="switch") + "read 0x400000\nread 0x401000\n"
    playground.write(text)
    before = playground.run()
    page = playground.page
    page.click("#machine-summary")
    page.fill("#find", "prefetch_window")
    assert page.locator(".switch:visible").count() >= 1
    page.select_option("#switch-prefetch_window", "off")
    page.select_option("#kernel", "7.3.4")
    assert page.inner_text("#machine-summary") == "Machine: 7.3.4 prefetch_window=off"
    after = playground.run()
    assert after != before
    options = ("--design", "prefetch_window=off", "--kernel", "7.3.4")
    assert after.removesuffix("\n") == printed(text, tmp_path, *options)
    page.click("#reset")
    page.fill("#find", "")
    page.click("#machine-summary")
    assert playground.run() == before


def test_a_wrong_line_is_shown_at_its_place_while_it_is_written(playground):
    playground.write("mode long4\n")
    page = playground.page
    page.focus("#editor")
    page.keyboard.press("Control+End")
    page.keyboard.type("raed 0x1")
    page.locator("#problem", has_text="Line 2: ").wait_for()
    assert "unknown word `raed`" in page.inner_text("#problem")
    assert page.inner_text("#gutter .wrong").strip().endswith("2")
    assert page.is_visible("#wrong-line")
    assert page.get_attribute("#editor", "aria-invalid") == "true"
    for _ in "raed 0x1":
        page.keyboard.press("Backspace")
    assert page.inner_text("#problem") == ""
    assert page.is_hidden("#wrong-line")


def test_an_error_of_the_run_leaves_what_was_there(playground):
    playground.write(HEAD.format(title="kept"))
    before = playground.run()
    playground.write(HEAD.format(title="kept") + "design reclaim_asks_age=yes\nmadvise 0x800000 4K 21\n")
    assert playground.run() == before
    assert playground.page.inner_text("#problem").startswith("Line 10: ")


def test_an_address_shares_scenario_and_machine(playground):
    text = HEAD.format(title="shared \u2603") + "read 0x400000\n"
    playground.write(text)
    page = playground.page
    page.evaluate("change({designs: {unsync: 'never'}, vendor: 'intel'})")
    page.click("#share")
    page.locator("#shared").wait_for()
    address = page.input_value("#address")
    playground.write("")
    page.evaluate("(hash) => { location.hash = hash; }", "lesson=03-prefetch")
    page.locator("#lesson-text", has_text="An exit is expensive").wait_for()
    page.evaluate("(hash) => { location.hash = hash; }", address.partition("#")[2])
    page.locator("#machine-summary", has_text="intel unsync=never").wait_for()
    assert page.input_value("#editor") == text


def test_what_was_written_is_not_lost_when_a_lesson_is_opened(playground):
    page = playground.page
    page.select_option("#lesson", lessons()[2].name)
    page.focus("#editor")
    page.keyboard.press("Control+End")
    page.keyboard.type("read 0x409000\n")
    page.evaluate("change({kernel: '7.3.4'})")
    written = page.input_value("#editor")
    page.select_option("#lesson", lessons()[3].name)
    assert page.input_value("#editor") == lessons()[3].scenario
    assert page.inner_text("#machine-summary") == "Machine: as the scenario says"
    page.select_option("#lesson", "own")
    assert page.input_value("#editor") == written
    assert page.inner_text("#machine-summary") == "Machine: 7.3.4"


@pytest.mark.parametrize("place", ["s=%%%", "s=", "lesson=nowhere", "x", "s=eyJ0ZXh0Ijoi"])
def test_addresses_that_share_nothing_open_the_first_lesson(playground, place):
    playground.page.evaluate(
        "(place) => { history.replaceState(null, '', '#' + place); return readAddress(); }", place
    )
    assert playground.page.input_value("#lesson") == lessons()[0].name


def test_settings_of_an_address_are_those_of_the_menus(playground):
    cleaned = playground.page.evaluate(
        "cleaned({kernel: 'x', vendor: 'z80', params: {a: 'b', 'kvm.tdp_mmu': 'N'}, designs: {unsync: 7, "
        "write_flooding: 'off'}, tlb: 'yes'})"
    )
    assert cleaned == {
        "kernel": "",
        "vendor": "",
        "params": {"kvm.tdp_mmu": "N"},
        "designs": {"write_flooding": "off"},
        "tlb": False,
    }


def test_what_a_scenario_says_cannot_become_markup(playground):
    hostile = "</script><img src=x onerror=alert(1)><script>alert(2)</script>"
    playground.write(HEAD.format(title=hostile))
    assert hostile in playground.run()
    assert hostile in playground.tables().locator("#name").inner_text()
    assert playground.page.locator("#output img, #output script").count() == 0


def test_what_runs_is_stopped_and_the_model_is_there_again(playground):
    playground.write(HEAD.format(title="long") + "read 0x400000\n" * 3000)
    page = playground.page
    page.focus("#editor")
    page.keyboard.press("Control+Enter")
    playground.status("Playing")
    page.click("#stop")
    playground.status("Ready")
    playground.write(HEAD.format(title="short"))
    assert "short" in playground.run()


def test_all_is_reached_by_keys_in_order_and_left_again(playground):
    page = playground.page
    page.evaluate(
        "closeCompletions(); document.activeElement.blur(); document.querySelector('.skip').focus();"
    )
    reached = []
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
    wanted = ["lesson", "do-task", "lesson-text", "run", "check", "share", "machine-summary", "editor"]
    places = [reached.index(name) for name in wanted]
    assert places == sorted(places)
    assert any(name.startswith("tab-") for name in reached)
    assert page.evaluate(NAMELESS) == []


def test_tabs_are_chosen_by_arrows(playground):
    page = playground.page
    page.click("#tab-tables")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#panel-output")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert page.is_visible("#panel-tables")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_of_aa(playground, scheme):
    playground.write(HEAD.format(title="contrast") + "read 0x500000\nslot 0 0x0 8M\nread 0x400000\nreed\n")
    page = playground.page
    page.emulate_media(color_scheme=scheme)
    page.evaluate("document.getElementById('machine').open = true")
    page.evaluate("showProblem({line: 3, text: 'x'})")
    for tab in ("tables", "output", "checks"):
        page.click(f"#tab-{tab}")
        assert page.evaluate(WORST_CONTRAST) >= AA
    page.evaluate("document.getElementById('machine').open = false")
    page.click("#tab-tables")


@pytest.mark.parametrize("width", [700, 1000, 1400])
def test_nothing_is_wider_than_the_window(playground, width):
    page = playground.page
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.set_viewport_size({"width": 1400, "height": 900})


def test_a_browser_that_cannot_run_the_model_says_so_and_what_to_do(chromium, built):
    page = Playground(chromium, built)
    page.page.evaluate(
        "stopModel(); given.worker = 'self.onmessage = () => postMessage({failed: \"no WebAssembly\"})'"
    )
    page.page.evaluate("stopModel()")
    page.status("python3 -m http.server")
    assert re.search(r"no WebAssembly", page.page.inner_text("#status"))
    assert page.page.is_disabled("#run")
    page.close()
