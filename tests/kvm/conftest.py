"""Guests that nobody waits for."""

import pytest

from shadowmmu.guest.play import cpu

ENDLESS = 500
"""Attempts at one instruction after which a guest of these tests counts as busy with itself for ever.

Some random guests execute a page of zeros that is a page table, or fault on the way to each handler: the
thousands of exits to `cpu.ENDLESS` are all alike, and took longer than everything else that they do.
"""


@pytest.fixture(autouse=True)
def short_endless_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "ENDLESS", ENDLESS)
