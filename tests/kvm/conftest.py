"""Guests of these tests do not keep everybody waiting."""

import pytest
from kvm.random_scenarios import ENDLESS

from shadowmmu.guest.play import cpu


@pytest.fixture(autouse=True)
def short_endless_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "ENDLESS", ENDLESS)
