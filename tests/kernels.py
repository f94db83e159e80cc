"""Both forms of a kernel, for tests that hold for either."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cdc.decode.kernels import VARIABLE, Form, compiled, kernel

FORMS = (Form.PLAIN, Form.COMPILED)


@contextmanager
def demanded(kind: str, form: Form) -> Iterator[None]:
    """Decoders made meanwhile have this form of the kernel. Skips the test if there is no extension; in CI it fails."""
    if form is Form.COMPILED and compiled(kind) is None and not os.environ.get("CI"):
        pytest.skip("the kernel is not compiled: python setup.py build_ext --inplace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, form)
        kernel.cache_clear()
        yield
    kernel.cache_clear()
