"""The classes that hold KVM's state, field by field."""

from __future__ import annotations

from attributes import attributes, summary
from marked import code, definitions, sentence
from shadowmmu.kvm.state.fault import PageFault
from shadowmmu.kvm.state.memslots import MemSlot
from shadowmmu.kvm.state.mmu import KvmMmu
from shadowmmu.kvm.state.shadow_page import ShadowPage
from shadowmmu.kvm.state.vcpu import Vcpu
from shadowmmu.kvm.state.vm import Kvm, Parameters

_CLASSES = (Kvm, Parameters, Vcpu, KvmMmu, ShadowPage, MemSlot, PageFault)


def page() -> str:
    """Return the classes with their fields."""
    return "\n\n".join(_class(kind) for kind in _CLASSES)


def _class(kind: type) -> str:
    paragraphs = summary(kind).split("\n\n")
    fields = definitions((code(name), sentence(text)) for name, text in attributes(kind).items())
    return "\n\n".join([f"(state-{kind.__name__})=\n## {kind.__name__}", *map(sentence, paragraphs), fields])
