"""What the page asks the model, and what it gets: the very lines and the very page of the commands."""

import json
import subprocess
import sys

import pytest
from show.recorded import SCENARIOS

from shadowmmu.guest.scenario.language import WORDS
from shadowmmu.guest.scenario.module_params import param_value
from shadowmmu.guest.scenario.parser import load_scenario, parse_scenario
from shadowmmu.kvm.design.switches import PROFILES, SWITCHES, value_of
from shadowmmu.show.browser.assemble import page
from shadowmmu.show.history.timeline import timeline_of
from shadowmmu.show.playground.menus import completions, menus
from shadowmmu.show.playground.session import NAME, answer

TEXT = """\
title {title}
mode long4
slot 0 0x0 16M
alloc 0x2000
tramp 0x1000
map 0x1000 0x400000 0x800000 0x67 n=4
start cr3=0x1000
read 0x400000
"""
NOT_NEEDED = ("click", "rich", "unicorn", "iced_x86", "greenlet", "textual", "markdown_it", "numpy", "ctypes")


def asked(ask, text=TEXT, **settings):
    question = {
        "ask": ask,
        "text": text,
        "kernel": "",
        "vendor": "",
        "params": {},
        "designs": {},
        "tlb": False,
    }
    return json.loads(answer(json.dumps({**question, **settings})))


def text_of(lines):
    return "\n".join("".join(text for text, _ in line["spans"]) for line in lines)


def test_the_lines_are_those_that_run_prints(tmp_path):
    scenario = SCENARIOS / "b-unsync.txt"
    (tmp_path / f"{NAME}.txt").write_text(scenario.read_text())
    command = [sys.executable, "-m", "shadowmmu", "run", f"{NAME}.txt"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert text_of(asked("run", scenario.read_text())["lines"]) == printed.removesuffix("\n")


def test_the_page_is_that_of_show():
    text = (SCENARIOS / "n7-ncr3.txt").read_text()
    assert asked("run", text)["page"] == page(timeline_of(parse_scenario(text, path=NAME)))


def test_an_op_of_the_lines_has_its_number():
    lines = asked("run")["lines"]
    (op,) = (line["op"] for line in lines if any(role == "op" for _, role in line["spans"]))
    assert op == 0


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("mode long4\nslto 0 0 16M\n", 2, "did you mean `slot`?"),
        (TEXT + "write 0x400000 0xzz\n", 9, "is not a number"),
        (TEXT + "design reclaim_asks_age=yes\nmadvise 0x800000 4K 21\n", 10, "leave this op out"),
        (TEXT + "cleardirty 0 0 64\n\x1b\n", 10, "invisible"),
        ("", 1, "start"),
        (TEXT.replace("slot 0", "cap 9999 1\nslot 0"), 3, "KVM refuses"),
    ],
)
def test_a_wrong_line_is_named_by_its_number(text, line, says):
    error = asked("run", text).get("error", {"line": None, "text": ""})
    assert error["line"] == line
    assert says in error["text"]
    assert NAME not in error["text"]


def test_what_is_about_no_line_has_no_line():
    nested = load_scenario(SCENARIOS / "n7-ncr3.txt")
    error = asked("parse", (SCENARIOS / "n7-ncr3.txt").read_text(), vendor="intel")["error"]
    assert nested.vmcbs
    assert error["line"] is None
    assert error["text"].startswith("a guest that is a hypervisor")


def test_the_machine_is_that_of_the_menus():
    assert "kernel" not in asked("parse", kernel="7.3.4")
    assert "7.3.4" in asked("run", kernel="7.3.4")["page"]
    assert "kvm_intel.ept" in asked("run", vendor="intel", params={"kvm_intel.ept": "Y"})["page"]
    faults = [
        text_of(asked("run", designs={"prefetch_window": each})["lines"]) for each in ("off", "8_aligned")
    ]
    assert faults[0] != faults[1]


def test_the_check_says_what_check_says():
    assert asked("check")["found"] == 0
    lost = TEXT + "dirtylog on 0\nwrite 0x400000 1\ngetdirty 0\n"
    found = asked("check", lost, designs={"defect": "log_unflushed"})
    assert found["found"] > 0
    assert "not-logged" in text_of(found["lines"])


def test_a_host_without_frames_is_one_line():
    error = asked("run", TEXT.replace("16M", "16M\nslot 1 0x100000000 1024G"))["error"]
    assert "contiguous frames" in error["text"]


def test_the_model_is_imported_without_what_a_browser_does_not_have():
    code = (
        "import sys, shadowmmu.show.playground.session, shadowmmu.check.scenario\n"
        f"print([name for name in {NOT_NEEDED!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"SHADOWMMU_INTERPRETED": "1", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_the_menus_have_every_switch_kernel_and_parameter_with_values_that_can_be_set():
    offered = menus()
    listed = {each["name"]: each for group in offered["switches"] for each in group["switches"]}
    assert list(listed) and set(listed) == {switch.name for switch in SWITCHES}
    for name, each in listed.items():
        for value in each["values"]:
            value_of(name, value)
        assert each["default"] in each["values"]
    assert list(offered["kernels"]) == [profile.kernel for profile in PROFILES]
    for param in offered["params"]:
        assert all(param_value(param["name"], value) == value for value in param["values"])


def test_the_completion_has_every_word_of_the_language():
    assert {word["name"] for word in completions()["words"]} == set(WORDS)
