"""The audit as tests use it: whatever it finds is a failure."""

from collections.abc import Iterable

from shadowmmu.check.checker import Violation


def expect_nothing(found: Iterable[Violation]) -> None:
    """Fail with the text of the violations, if there are any."""
    text = "\n".join(violation.text() for violation in found)
    assert not text, text
