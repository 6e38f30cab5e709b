"""Events: records of tracepoints that fired, and the declaration of a tracepoint.

An event is declared by a class derived from Event: a line of its docstring for each field, the fields with
their kinds (fields.py), `ftrace`, the text that the kernel prints (text.py), and `recorded`, what a recording
of the lab has of it (trace/recorded_events.py). A Tracepoint gives it the kernel's name and makes it a method
of the Tracer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, ParamSpec, Self, dataclass_transform, overload

from .fields import SHOWN
from .text import Template

if TYPE_CHECKING:
    from .tracer import Tracer

Fields = ParamSpec("Fields")


@dataclass_transform(frozen_default=True)
class EventType(type):
    """Makes of annotations the fields of a record; one with a value has it as its default."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> EventType:
        annotations: dict[str, str] = namespace.get("__annotations__", {})
        own = {field: kind for field, kind in annotations.items() if not kind.startswith("ClassVar")}
        base = bases[0] if bases else None
        defaults = {field: namespace.pop(field) for field in own if field in namespace}
        namespace["__slots__"] = tuple(own) if base else ("task",)
        namespace["fields"] = {**getattr(base, "fields", {}), **own} if base else {}
        namespace["defaults"] = {**getattr(base, "defaults", {}), **defaults}
        if base:
            namespace["__init__"] = _first_init
        return super().__new__(cls, name, bases, namespace)


def _first_init(self: Event, *values: Any, **named: Any) -> None:
    """Make the class's constructor when it is first needed: making all at import would be slow."""
    kind = type(self)
    names = {f"_{field}": kind.defaults[field] for field in kind.defaults}
    setters = {f"_set_{field}": getattr(kind, field).__set__ for field in ("task", *kind.fields)}
    arguments = ", ".join(f"{field}=_{field}" if field in kind.defaults else field for field in kind.fields)
    body = "; ".join(f"_set_{field}(self, {field})" for field in kind.fields)
    made: dict[str, Any] = {}
    exec(f"def __init__(self, {arguments}): _set_task(self, ''); {body}", {**names, **setters}, made)
    kind.__init__ = made["__init__"]  # type: ignore[method-assign]
    kind.__init__(self, *values, **named)


class Event(metaclass=EventType):
    """A tracepoint that fired: an immutable record of integers.

    `task` is the kernel thread in which it fired, empty for the task that runs the VM.
    """

    name: ClassVar[str]
    """The kernel's name of the tracepoint."""
    ftrace: ClassVar[str]
    """Template of the text that the kernel prints."""
    recorded: ClassVar[str] = ""
    """What a recording of the lab has of it; empty: recordings do not hold the event."""
    fields: ClassVar[Mapping[str, str]]
    """Field -> kind, in order."""
    defaults: ClassVar[Mapping[str, Any]]
    """Values of the fields that may be left out."""
    task: ClassVar[str]

    def text(self) -> str:
        """Return the body of the kernel's line for it, after `name: `."""
        return _template(type(self)).show(self)

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the event with this text. Raises ValueError if the tracepoint cannot print it."""
        shown = _template(cls).read(text)
        if shown is None:
            raise ValueError(f"{text!r} is not a text of {cls.name}")
        return cls.assemble(shown)

    @classmethod
    def assemble(cls, shown: Mapping[str, Any]) -> Self:
        """Return the event of which these fields and properties are known. Raises ValueError."""
        return cls(**{field: value for field, value in shown.items() if field in cls.fields})

    def by(self, task: str) -> Self:
        """Return the event as one of another task."""
        other = type(self)(*self.values())
        object.__setattr__(other, "task", task)
        return other

    def values(self) -> tuple[Any, ...]:
        """Return the fields in order."""
        return tuple([getattr(self, field) for field in self.fields])

    def shown(self, field: str) -> str:
        """Return a field as repr shows it."""
        return SHOWN[self.fields[field]](getattr(self, field))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event) or type(self) is not type(other):
            return NotImplemented
        return self.task == other.task and self.values() == other.values()

    def __hash__(self) -> int:
        return hash((type(self), self.task, self.values()))

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(f'{field}={self.shown(field)}' for field in self.fields)})"

    def __str__(self) -> str:
        return f"{self.name}: {self.text()}"


_templates: dict[EventType, Template] = {}


def _template(kind: EventType) -> Template:
    template = _templates.get(kind)
    if template is None:
        template = _templates[kind] = Template(kind.ftrace)  # type: ignore[attr-defined]
    return template


class Tracepoint(Generic[Fields]):
    """A tracepoint under the kernel's name, which its place in a class gives it.

    As an attribute of a Tracer it is the function that fires it.

    Attributes:
        make: Makes its event: the event's class, or a function of it that copies what must not change later.
        others: What makes it where the switch of that name is set; their events derive from `event`.
        event: The event's class.
        kernels: Releases of the modelled kernels that have it; empty: all.
        name: The kernel's name of the tracepoint.
    """

    def __init__(
        self, make: Callable[Fields, Event], *, kernels: str = "", **others: Callable[Fields, Event]
    ) -> None:
        """`kernels`: the releases of the modelled kernels that have it, if it is not all."""
        self.make = make
        self.others = others
        self.event = _made_by(make)
        self.kernels = kernels.split()
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name
        for kind in self.forms:
            kind.name = name

    @property
    def forms(self) -> list[type[Event]]:
        """Return the classes of its events: `event`, and those of kernels in which it shows other things."""
        return [self.event, *map(_made_by, self.others.values())]

    def make_of(self, design: object) -> Callable[Fields, Event]:
        """Return what makes the event on a VM of that design."""
        made = [make for switch, make in self.others.items() if getattr(design, switch)]
        return made[0] if made else self.make

    @overload
    def __get__(self, tracer: None, owner: type) -> Tracepoint[Fields]: ...
    @overload
    def __get__(self, tracer: Tracer, owner: type) -> Callable[Fields, None]: ...
    def __get__(self, tracer: Tracer | None, owner: type) -> Tracepoint[Fields] | Callable[Fields, None]:
        return self if tracer is None else tracer.wire(self)

    @property
    def meaning(self) -> str:
        """When it fires."""
        return _paragraph(self.event)

    def lines(self) -> dict[str, str]:
        """Return field -> what it means, in order."""
        meanings: dict[str, str] = {}
        for kind in reversed(self.event.__mro__):
            meanings |= _FIELD_LINE.findall(kind.__doc__ or "")
        return {field: meanings.get(field, "") for field in self.event.fields}


def _made_by(make: Callable[..., Event]) -> type[Event]:
    """Return the class whose events a function makes: the class itself, or one whose class method it is."""
    kind: Any = getattr(make, "__self__", make)
    made: type[Event] = kind
    return made


_FIELD_LINE = re.compile(r"^ {4}(\w+) {2,}(\S.*)$", re.MULTILINE)


def _paragraph(kind: type) -> str:
    return " ".join((kind.__doc__ or "").partition("\n\n")[0].split())
