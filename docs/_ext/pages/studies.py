"""What the mails ask, and the answer: the verdicts of the studies from their stored results."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from marked import prose
from shadowmmu.study.studies import STUDIES
from shadowmmu.study.study import Study, verdict_of
from stored_studies import stored

_MAILS = Path(__file__).parents[2] / "mails"


def page(mail: str = "") -> str:
    """Return the answers that studies give to a mail, by its number; without one, to all of them."""
    if mail:
        found = [study for study in STUDIES.values() if mail_of(study) == mail]
        return _answers(found) if found else "No study yet: its scenarios show what each side does."
    ordered = sorted(STUDIES.values(), key=lambda study: (mail_of(study) or "x", study.name))
    parts = [
        f"## {_heading(number)}\n\n{_answers(list(group))}" for number, group in groupby(ordered, key=mail_of)
    ]
    return "\n\n".join(parts)


def mail_of(study: Study) -> str:
    """Return the number of the mail that a study answers, or ""."""
    found = re.match(r"\d{3}(?=-)", study.name)
    return found[0] if found else ""


def _heading(mail: str) -> str:
    if not mail:
        return "Beyond the mails"
    title = (_MAILS / f"{mail}.md").read_text().split("\n", 1)[0].removeprefix("# ")
    return f"[{title}](../mails/{mail}.md)"


def _answers(studies: list[Study]) -> str:
    return "\n\n".join(
        f"**[{prose(study.question)}](../studies/{study.name}.md)** {prose(verdict_of(stored(study)))}"
        for study in studies
    )
