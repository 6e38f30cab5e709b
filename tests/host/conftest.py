"""An address space, and a notifier that writes down what it is called for."""

import pytest
from host.listener import Listener

from shadowmmu.host.address_space import AddressSpace
from shadowmmu.host.memory import Arena


@pytest.fixture
def space() -> AddressSpace:
    return AddressSpace(Arena(1 << 36))


@pytest.fixture
def listener(space: AddressSpace) -> Listener:
    listener = Listener()
    space.notifiers.append(listener)
    return listener
