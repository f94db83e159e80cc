"""What a kernel takes from Cython, where Cython is not installed: it is only needed to compile.

The names mean nothing to the interpreter, and types stand in annotations only, which it does not read. What they mean to the compiler:
https://cython.readthedocs.io/en/latest/src/tutorial/pure.html
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)

compiled = False
nogil = nullcontext()


def cfunc(function: F) -> F:
    """A function that only its module calls."""
    return function


def exceptval(*_: object, **__: object) -> Callable[[F], F]:
    """What such a function gives when it raises."""
    return cfunc


with_gil = cfunc


def cclass(kind: C) -> C:
    """A class whose attributes its module reads directly."""
    return kind


final = cclass
