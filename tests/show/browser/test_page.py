"""The page operated as a person would: slider, keys, address, deep links; what it shows is what Python
says.
"""

import pytest
from show.accessibility import AA, NAMELESS, WORST_CONTRAST
from show.recorded import recording

from shadowmmu.show.history.timeline import recorded_timeline
from shadowmmu.show.history.walk import translate
from shadowmmu.show.reasons.report import led_there, reason_text

SLOWEST_STEP = 0.05
"""Seconds of the browser's own time for a step."""


def key(opened, *names):
    for name in names:
        opened.page.keyboard.press(name)


def test_the_slider_the_buttons_and_the_keys_step_through_the_ops(opened):
    page = opened("b-unsync")
    assert "before the first op" in page.text("where")
    page.page.fill("#slider", "3")
    assert page.text("where").startswith("op 3 of 0 to 24")
    page.page.click("#next")
    assert page.text("where").startswith("op 4")
    page.page.click("body")
    key(page, "ArrowRight", "ArrowRight", "ArrowLeft")
    assert page.text("where").startswith("op 5")
    key(page, "End")
    assert page.text("where").startswith("op 24")
    assert page.page.is_disabled("#next")
    key(page, "Home")
    assert page.page.is_disabled("#previous")


def test_the_list_of_ops_is_operated_by_keys_alone(opened):
    page = opened("b-unsync")
    key(page, "o", "ArrowDown", "ArrowDown")
    assert page.text("where").startswith("op 1 ")
    assert page.text("op").startswith("1 read 0x401000")


def test_an_op_shows_its_result_changes_and_events(opened):
    page = opened("b-unsync", "#op=1")
    text = page.text("op")
    assert "Result: ok" in text
    assert "page fault at 401000" in text
    assert "made: " in text
    assert page.page.locator("#shadow .mark", has_text="new").count() == 3


def test_a_guest_entry_that_the_op_changed_is_marked_with_what_it_was(opened):
    moments = recorded_timeline(recording("b-unsync")).moments
    moment = next(moment for moment in moments if moment.changes)
    page = opened("b-unsync", f"#op={moment.op}")
    assert page.page.locator("#guest .changed", has_text="was ").count() >= len(moment.changes)


def test_an_address_is_walked_through_both_tables(opened):
    page = opened("b-unsync", "#op=1")
    key(page, "g")
    page.page.keyboard.type("0x400000")
    key(page, "Enter")
    walk = page.text("walk")
    assert "level 1 gpa 4000[0] = 0x800067" in walk
    assert "leads to gpa 0x800000" in walk
    assert "mapped by S" in walk
    assert "gva=0x400000" in page.page.url
    assert page.page.locator("#guest .on-walk").count() == 4
    assert page.page.locator("#shadow .on-walk").count() == 4


def test_what_is_no_address_is_said_beside_it(opened):
    page = opened("b-unsync")
    page.page.fill("#gva", "nonsense")
    page.page.press("#gva", "Enter")
    assert "Write a hexadecimal address" in page.text("gva-error")
    assert page.page.get_attribute("#gva", "aria-invalid") == "true"


def test_a_deep_link_leads_to_the_op_the_address_and_the_page(opened):
    page = opened("b-unsync", "#op=14&gva=0x400000&page=S1")
    assert page.text("where").startswith("op 14")
    assert page.page.input_value("#gva") == "0x400000"
    assert page.text("inspector").startswith("S1 level 4")
    page.page.evaluate("location.hash = '#op=2'")
    page.page.wait_for_function("document.getElementById('where').textContent.startsWith('op 2 ')")


@pytest.mark.parametrize("link", ["#op=999", "#op=x&gva=zz&vcpu=9.l2", "#page=S999&table=<b>", "#op=-7"])
def test_links_that_lead_nowhere_do_no_harm(opened, link):
    page = opened("b-unsync", link)
    assert page.text("where")


def test_a_shadow_page_and_its_table_are_shown_together(opened):
    page = opened("b-unsync", "#op=2")
    page.page.click("#pages .name >> text=S7")
    assert page.page.locator("#shadow .related").count() == 1
    assert page.page.locator("#guest .related").count() >= 1
    assert "KVM prints l1 8-byte q0 wux nxe ad" in page.text("inspector")
    page.page.click("#guest .name >> text=gpa 4000")
    assert "Guest table at gpa 0x4000" in page.text("inspector")


def test_an_entry_says_what_its_bits_mean(opened):
    page = opened("b-unsync", "#op=2")
    page.page.click("#shadow .entry >> text=gpa:800000")
    text = page.text("inspector")
    assert "leaf SPTE of level 1" in text
    assert "MMU-writable" in text


def test_brackets_lead_to_the_ops_that_change_what_is_selected(opened):
    page = opened("b-unsync", "#op=1&table=4000")
    key(page, "]")
    first = page.text("where")
    assert "guest entry at gpa 4" in page.text("op")
    key(page, "]", "[")
    assert page.text("where") == first


def test_a_nested_guest_has_walks_of_l1_and_of_l2(opened):
    page = opened("n7-ncr3", "#op=20&vcpu=0.l2&gva=0xf010d000")
    assert "leads to gpa 0xf010d000" in page.text("walk")
    page.page.select_option("#space", "0")
    assert "vcpu" not in page.page.url


def test_a_32_bit_guest_is_shown_below_its_pae_root(opened):
    page = opened("e-nonpae", "#op=1&gva=0x400000")
    assert "level 3 pae_root[0] = S1|" in page.text("walk")
    assert "part 1" in page.text("shadow")


@pytest.mark.parametrize(
    "name", ["b-unsync", "e-nonpae", "n7-ncr3", "fuzz-pae-2", "tdp1-a-map4", "x-npt-self", "t-nopaging"]
)
def test_walks_of_the_page_are_those_of_python(opened, name):
    """Every entry and every end of the walks of many addresses, after every third op."""
    timeline = recorded_timeline(recording(name))
    page = opened(name)
    asked = []
    for moment in timeline.moments[::3]:
        for vcpu, registers in moment.registers.items():
            for address in (
                0x400000,
                0x401008,
                0x48000000,
                0x7F0000000000,
                0xFFFFFFFF80000000,
                0xC0000000,
                0x10000,
            ):
                for l2 in (False, True) if registers.ncr3 is not None else (False,):
                    asked.append((moment, vcpu, address, l2))
    found = page.page.evaluate(
        """asked => asked.map(([op, vcpu, address, l2]) => {
            const both = translate(momentAt(op), vcpu, BigInt(address), l2);
            const said = (step) => step.decoded ? step.decoded.implies : null;
            return [both.guest, both.shadow].map((walk) => [walk.end, ...walk.steps.map((step) =>
                [step.level, step.table, step.index, step.value, said(step)])]);
        })""",
        [[moment.op, str(vcpu), str(address), l2] for moment, vcpu, address, l2 in asked],
    )
    for (moment, vcpu, address, l2), got in zip(asked, found, strict=True):
        both = translate(timeline, moment, vcpu, address, l2=l2)
        for walk, shown in zip((both.guest, both.shadow), got, strict=True):
            assert shown[0] == walk.end
            for step, (level, table, index, value, implies) in zip(walk.steps, shown[1:], strict=True):
                assert (step.level, step.table, step.index, step.value) == (level, table, index, value)
                if implies is not None:
                    assert implies == list(step.decoded.implies)
                else:
                    assert value in ("empty", "not recorded")


def test_a_step_takes_less_than_50_ms_of_the_processor(opened):
    page = opened("fuzz-long4-9", "#gva=0x400000")
    session = page.context.new_cdp_session(page.page)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})

    def seconds() -> float:
        metrics = session.send("Performance.getMetrics")["metrics"]
        return next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration")

    before = seconds()
    steps = page.page.evaluate(
        """async () => {
            for (let op = 0; op <= lastOp; op++) {
                go(op);
                await new Promise((shown) => requestAnimationFrame(shown));
            }
            return lastOp + 1;
        }"""
    )
    assert (seconds() - before) / steps < SLOWEST_STEP


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_the_contrast_of_aa(opened, scheme):
    page = opened("n7-ncr3", "#op=7&gva=0x20000&vcpu=0.l2", color_scheme=scheme)
    assert page.page.evaluate(WORST_CONTRAST) >= AA


@pytest.mark.parametrize("width", [800, 1280])
def test_nothing_is_wider_than_the_window(opened, width):
    page = opened("l-smp", "#op=20&gva=0x400000", viewport={"width": width, "height": 900})
    assert page.page.evaluate("document.documentElement.scrollWidth") <= width


def test_everything_that_can_be_clicked_can_be_reached_by_tab_and_has_a_name(opened):
    page = opened("b-unsync", "#op=2")
    assert page.page.evaluate(NAMELESS) == []
    key(page, "Tab", "Tab", "Tab")
    assert page.page.evaluate("document.activeElement.id") in ("slider", "next", "previous")


def test_an_op_says_why_each_thing_changed(opened, reasons_of_page):
    page = opened("b-unsync", "#op=1")
    shown = page.page.locator("#op .why").inner_text()
    of_op = [change for change in reasons_of_page("b-unsync") if change.op == 1]
    assert {"spte", "page"} <= {change.kind for change in of_op}
    for change in of_op:
        assert change.effect in shown
        assert f"because {reason_text(change)}" in shown
        assert led_there(change) in shown


@pytest.mark.parametrize("name", ["b-unsync", "n7-ncr3", "l-smp"])
def test_flushes_and_zaps_have_their_reasons_too(opened, reasons_of_page, name):
    page = opened(name)
    for kind in ("flush", "zap"):
        for change in [change for change in reasons_of_page(name) if change.kind == kind][:3]:
            page.page.evaluate("op => go(op)", change.op)
            shown = page.page.locator("#op .why").inner_text()
            assert change.effect in shown
            assert f"because {reason_text(change)}" in shown


def test_an_op_that_changed_nothing_has_no_reasons(opened, reasons_of_page):
    timeline = recorded_timeline(recording("b-unsync"))
    changed = {change.op for change in reasons_of_page("b-unsync")}
    quiet = next(moment.op for moment in timeline.moments if moment.op >= 0 and moment.op not in changed)
    assert opened("b-unsync", f"#op={quiet}").page.locator("#op .why").count() == 0


def test_many_changes_with_one_reason_are_folded(opened):
    page = opened("fuzz-long4-9")
    ops = page.page.evaluate(
        "data.ops.filter((op) => (op.why || []).some(([all]) => all.length > 8)).map(({op}) => op)"
    )
    assert ops
    page.page.evaluate("op => go(op)", ops[0])
    more = page.page.locator("#op .why summary").first
    assert more.inner_text().startswith("and ")
    more.click()
    assert page.page.locator("#op .why details[open] li").count() > 0
