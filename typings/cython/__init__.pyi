"""The part of Cython's pure-Python mode that the sources use, as a type checker should see it.

C integers are ints; their widths live in the .pxd files. Found before the installed `cython` module, which
has no annotations that a strict check accepts.
"""

import builtins
from collections.abc import Callable
from typing import Any, Final, TypeAlias, TypeVar

_T = TypeVar("_T")
_C = TypeVar("_C", bound=type)
_F = TypeVar("_F", bound=Callable[..., Any])

class _NoGil:
    def __call__(self, function: _F, /) -> _F: ...
    def __enter__(self) -> None: ...
    def __exit__(self, *exc: object) -> None: ...

char: TypeAlias = builtins.int
schar: TypeAlias = builtins.int
uchar: TypeAlias = builtins.int
short: TypeAlias = builtins.int
ushort: TypeAlias = builtins.int
int: TypeAlias = builtins.int
uint: TypeAlias = builtins.int
long: TypeAlias = builtins.int
ulong: TypeAlias = builtins.int
longlong: TypeAlias = builtins.int
ulonglong: TypeAlias = builtins.int
size_t: TypeAlias = builtins.int
Py_ssize_t: TypeAlias = builtins.int
bint: TypeAlias = builtins.bool
p_void: TypeAlias = Any
p_uint: TypeAlias = Any
p_ushort: TypeAlias = Any
double: TypeAlias = builtins.float

compiled: Final[bool]
nogil: Final[_NoGil]

def cclass(cls: _C, /) -> _C: ...
def final(decorated: _T, /) -> _T: ...
def cfunc(function: _F, /) -> _F: ...
def ccall(function: _F, /) -> _F: ...
def inline(function: _F, /) -> _F: ...
def exceptval(value: object = ..., *, check: bool = ...) -> Callable[[_F], _F]: ...
def locals(**types: object) -> Callable[[_F], _F]: ...
def returns(type_: object, /) -> Callable[[_F], _F]: ...
def declare(type_: type[_T], value: _T = ..., /) -> _T: ...
def cast(type_: Any, value: object, /) -> Any: ...
