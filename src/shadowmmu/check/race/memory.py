"""What threads of a program share: variables, locks, RCU. Each use of them is one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .engine import Execution, Op

__all__ = ["Lock", "Rcu", "Shared", "shown"]


def shown(value: Any) -> str:
    """Return a value as diagrams have it."""
    if isinstance(value, str):
        return f"[{value}]" if not value or " " in value else value
    if value is None or isinstance(value, bool) or not isinstance(value, int):
        return str(value)
    return str(value) if -10 < value < 10 else f"{value:#x}"


class Shared:
    """Shared variables as attributes: `s.spte` is a load, `s.spte = 1` a store.

    Give them their first values by keyword.
    """

    def __init__(self, execution: Execution, **values: Any) -> None:
        self.__dict__["_execution"] = execution
        self.__dict__["_values"] = dict(values)

    def __getattr__(self, name: str) -> Any:
        execution: Execution = self.__dict__["_execution"]
        values: dict[str, Any] = self.__dict__["_values"]
        if name not in values:
            raise AttributeError(name)
        value = execution.load(name, lambda: values[name], f"read {name}")
        execution.say(f": {shown(value)}")
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        execution: Execution = self.__dict__["_execution"]
        values: dict[str, Any] = self.__dict__["_values"]
        if name not in values:
            raise AttributeError(name)
        execution.store(name, lambda: values.__setitem__(name, value), value, f"{name} = {shown(value)}")

    def update(self, name: str, change: Callable[[Any], Any], text: str) -> Any:
        """Change the variable in one step, as a locked operation. Return its former value."""
        self._execution.atomic(text, ((name, True),))
        old = self._values[name]
        self._values[name] = change(old)
        self._execution.say(f" (was {shown(old)})")
        return old

    def xchg(self, name: str, new: Any) -> Any:
        return self.update(name, lambda _: new, f"xchg {name}, {shown(new)}")

    def cmpxchg(self, name: str, old: Any, new: Any) -> bool:
        """Set the variable to `new` if it is `old`. Return whether it was."""
        text = f"cmpxchg {name}, {shown(old)} -> {shown(new)}"
        return bool(self.update(name, lambda seen: new if seen == old else seen, text) == old)

    def add(self, name: str, delta: int) -> int:
        """Add atomically. Return the former value."""
        return int(self.update(name, lambda seen: seen + delta, f"{name} += {delta}"))

    def step(
        self,
        names: str,
        text: str,
        change: Callable[[dict[str, Any]], Any],
        ready: Callable[[dict[str, Any]], bool] | None = None,
    ) -> Any:
        """Run as one step what the processor, or a short stretch of code under a spinlock, does.

        It may read and write the named variables, and waits until `ready`. What `change`, which is given all
        values, returns.
        """
        accesses = tuple((name, True) for name in names.split())
        self._execution.atomic(text, accesses, None if ready is None else lambda: ready(self._values))
        return change(self._values)

    def wait(self, condition: Callable[[dict[str, Any]], bool], names: str, text: str) -> None:
        """Block until a condition on the named variables holds; it is given all values."""
        accesses = tuple((name, False) for name in names.split())
        self._execution.atomic(text, accesses, lambda: condition(self._values))

    def peek(self, name: str) -> Any:
        """Return the value in memory, at the end of a run."""
        return self._values[name]


class Lock:
    """A lock: `with lock:` or `with lock.write():` alone, `with lock.read():` with other readers.

    Without `held` taking it does nothing: the protection is removed.
    """

    def __init__(self, execution: Execution, name: str, *, held: bool = True) -> None:
        self.execution = execution
        self.name = name
        self.real = held
        self.readers: list[int] = []
        self.writer: int | None = None

    def acquire(self, *, write: bool) -> None:
        if not self.real or self.execution.current is None:
            return
        text = f"{'' if write else 'read_'}lock {self.name}"
        self.execution.atomic(text, ((self.name, write),), lambda: self._free(write=write))
        number = self.execution.current.number
        if write:
            self.writer = number
        else:
            self.readers.append(number)

    def _free(self, *, write: bool) -> bool:
        return self.writer is None and not (write and self.readers)

    def release(self) -> None:
        actor = self.execution.current
        if not self.real or actor is None:
            return
        if self.writer == actor.number:
            self.execution.store(
                self.name, lambda: setattr(self, "writer", None), None, f"unlock {self.name}", release=True
            )
        else:
            self.execution.stop(Op(f"read_unlock {self.name}", ((self.name, False),), None, True))
            if actor.number in self.readers:
                self.readers.remove(actor.number)

    def held(self) -> bool:
        """Return whether the running thread has it."""
        actor = self.execution.current
        return actor is not None and (self.writer == actor.number or actor.number in self.readers)

    @contextmanager
    def write(self) -> Iterator[None]:
        self.acquire(write=True)
        yield
        self.release()

    @contextmanager
    def read(self) -> Iterator[None]:
        self.acquire(write=False)
        yield
        self.release()

    def __enter__(self) -> None:
        self.acquire(write=True)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.release()


class Rcu:
    """Read-copy-update, or sleepable RCU: synchronize() waits for those who were reading when it began."""

    def __init__(self, execution: Execution, name: str = "rcu", *, held: bool = True) -> None:
        self.execution = execution
        self.name = name
        self.real = held
        self.sections = 0
        self.reading: dict[int, int] = {}

    @contextmanager
    def read(self) -> Iterator[None]:
        actor = self.execution.current
        if actor is None or not self.real:
            yield
            return
        self.execution.stop(Op(f"{self.name}_read_lock", ((self.name, False),)))
        self.sections += 1
        self.reading[actor.number] = self.sections
        yield
        self.execution.stop(Op(f"{self.name}_read_unlock", ((self.name, False),), None, True))
        self.reading.pop(actor.number, None)

    def synchronize(self) -> None:
        """Block until all present readers are done."""
        if self.execution.current is None or not self.real:
            return
        self.execution.stop(Op(f"synchronize_{self.name} begins", ((self.name, True),)))
        waiting = dict(self.reading)
        self.execution.atomic(
            f"synchronize_{self.name} ends",
            ((self.name, True),),
            lambda: all(self.reading.get(number) != section for number, section in waiting.items()),
        )
