"""The lessons say what is: their output is what the model prints, before the task and after it."""

import json

import pytest

from shadowmmu.show.playground.lessons import Lesson, lessons
from shadowmmu.show.playground.session import answer

AS_WRITTEN = {"kernel": "", "vendor": "", "params": {}, "designs": {}, "tlb": False}
LESSONS = lessons()


def printed(ask: str, text: str, settings: dict) -> list[str]:
    answered = json.loads(answer(json.dumps({"ask": ask, "text": text, **settings})))
    assert "error" not in answered, answered
    return ["".join(text for text, _ in line["spans"]).strip() for line in answered["lines"]]


def assert_in_order(block: str, lines: list[str]) -> None:
    """Every line of a lesson's output is printed, in this order; what stands between them may be left out."""
    left = iter(lines)
    for wanted in block.splitlines():
        assert any(ends_with(line, wanted) for line in left), wanted


def ends_with(line: str, wanted: str) -> bool:
    """A lesson may leave out an op's number."""
    return line == wanted or line.lstrip("0123456789 ") == wanted


def test_there_are_a_dozen_in_the_order_of_their_numbers():
    assert len(LESSONS) >= 12
    for number, lesson in enumerate(LESSONS, 1):
        assert lesson.name.startswith(f"{number:02}-")
        assert lesson.title.startswith(f"{number}. ")


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_its_output_is_what_the_scenario_prints(lesson: Lesson):
    assert lesson.before
    lines = printed("run", lesson.scenario, AS_WRITTEN)
    for block in lesson.before:
        assert_in_order(block, lines)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_what_the_task_shows_is_what_the_changed_scenario_prints(lesson: Lesson):
    assert lesson.after
    assert (lesson.changed, lesson.settings) != (lesson.scenario, AS_WRITTEN)
    lines = printed(lesson.asks, lesson.changed, lesson.settings)
    before = printed(lesson.asks, lesson.scenario, AS_WRITTEN)
    for block in lesson.after:
        assert_in_order(block, lines)
        with pytest.raises(AssertionError):  # else there were nothing to see
            assert_in_order(block, before)


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.name)
def test_without_its_task_nothing_is_wrong_with_a_lesson(lesson: Lesson):
    assert printed("check", lesson.scenario, AS_WRITTEN)[0].endswith("nothing found")


def test_the_write_that_lesson_11_says_is_lost_is_lost():
    lesson = next(each for each in LESSONS if each.name.startswith("11-"))
    lines = printed("run", lesson.changed, lesson.settings)
    assert "4 getdirty 1  ok dirty nothing" in lines


def test_a_lesson_that_changes_a_line_that_is_not_there_is_refused():
    text = "# x\n```text\nnop\n```\n## Try\n<!-- replace: hlt => nop -->\n"
    with pytest.raises(ValueError, match="'hlt' must be exactly one line"):
        _ = Lesson("x", text).changed


def test_the_text_of_a_lesson_is_harmless_markup_without_the_scenario():
    lesson = Lesson("x", "# 1. X\n\ntext <b>\n\n```text\nnop\n```\n\n## Try\n\n<!-- set: tlb -->\n`a`\n")
    assert lesson.html() == "<p>text &lt;b&gt;</p>\n<h3>Try</h3>\n<p><code>a</code></p>\n"
