"""The playground's lessons, as text."""

from __future__ import annotations

import re

from shadowmmu.show.playground.lessons import Lesson, lessons


def page() -> str:
    """Return all lessons."""
    return "\n\n".join(map(_lesson, lessons()))


def _lesson(lesson: Lesson) -> str:
    """Return a lesson below the page's own heading, without the comments for the tests."""
    text = re.sub(r"^<!-- .* -->\n+", "", lesson.text, flags=re.MULTILINE)
    return f"(lesson-{lesson.name})=\n" + re.sub(r"^#", "##", text, flags=re.MULTILINE)
