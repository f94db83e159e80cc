"""Which form of a kernel runs: compiled, or the same source as plain Python.

The kernel of a kind of log is `cdc/decode/<kind>/kernel.py`. setup.py compiles it into the extension `_kernel` beside it, where there is a
compiler, and puts the digest of the source into it: an extension that was built from another source is stale, and not used.
LEDGERTAIL_KERNEL=plain or =compiled demands one form.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from types import ModuleType

from cdc.errors import ConfigError

KINDS = ("mysql", "postgres")  # of logs that have one
VARIABLE = "LEDGERTAIL_KERNEL"


class Form(StrEnum):
    """How a kernel runs; all but the first are plain Python: as was asked for, without an extension, with one that can't be used."""

    COMPILED = "compiled"
    PLAIN = "plain"
    MISSING = "missing"
    STALE = "stale"


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel as it runs."""

    module: ModuleType
    form: Form


@cache
def kernel(kind: str) -> Kernel:
    """The kernel of a kind of log. Raises ConfigError when the form that LEDGERTAIL_KERNEL demands can't be had."""
    wanted = os.environ.get(VARIABLE) or None
    if wanted not in (None, Form.PLAIN, Form.COMPILED):
        raise ConfigError("decode.kernel_form", variable=VARIABLE, value=wanted)
    source = plain(kind)
    if wanted == Form.PLAIN:
        return Kernel(source, Form.PLAIN)
    extension, form = _extension(kind, source)
    if wanted == Form.COMPILED and form is not Form.COMPILED:
        raise ConfigError("decode.kernel_compiled", variable=VARIABLE, kind=kind, form=form)
    return Kernel(extension or source, form)


def plain(kind: str) -> ModuleType:
    """The kernel's source as it is."""
    return import_module(f"cdc.decode.{kind}.kernel")


def compiled(kind: str) -> ModuleType | None:
    """The kernel's extension; None if it is missing or stale."""
    return _extension(kind, plain(kind))[0]


def _extension(kind: str, source: ModuleType) -> tuple[ModuleType | None, Form]:
    try:
        extension = import_module(f"cdc.decode.{kind}._kernel")
    except ModuleNotFoundError:
        return None, Form.MISSING
    except ImportError:  # built for another interpreter or another system
        return None, Form.STALE
    assert source.__file__ is not None
    if sha256(Path(source.__file__).read_bytes()).hexdigest() != extension.SOURCE_DIGEST:
        return None, Form.STALE
    return extension, Form.COMPILED
