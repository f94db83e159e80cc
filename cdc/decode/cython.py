"""What a kernel takes from Cython, where Cython is not installed: it is only needed to compile.

The names mean nothing to the interpreter. What they mean to the compiler: https://cython.readthedocs.io/en/latest/src/tutorial/pure.html
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

T = TypeVar("T")

compiled = False


def declare(kind: object = None, value: Any = None, **names: object) -> Any:
    """A variable of a C type."""
    return value


def cfunc(function: T) -> T:
    """A function that only its module calls."""
    return function


final = cclass = with_gil = cfunc


class _NoGIL(nullcontext[None]):
    def __call__(self, function: T) -> T:
        return function


nogil = _NoGIL()


def exceptval(value: object = None, *, check: bool) -> Callable[[T], T]:
    """What a function returns when it raises."""
    return cfunc


# Types, as arguments; in annotations they are not looked at.
bint = int = longlong = ulonglong = Py_ssize_t = None  # noqa: A001
