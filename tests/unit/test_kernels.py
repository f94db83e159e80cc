"""Which form of a kernel runs."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from types import ModuleType

import pytest

from cdc.decode import kernels
from cdc.decode.kernels import KINDS, VARIABLE, Form, kernel
from cdc.errors import ConfigError

Install = Callable[[str | ImportError], ModuleType]


@pytest.fixture(autouse=True, params=KINDS)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.delenv(VARIABLE, raising=False)
    kernel.cache_clear()
    yield request.param
    kernel.cache_clear()


@pytest.fixture
def install(kind: str, monkeypatch: pytest.MonkeyPatch) -> Install:
    """An extension with a digest, or one that fails to be imported."""

    def install(found: str | ImportError) -> ModuleType:
        extension = ModuleType("_kernel")
        extension.SOURCE_DIGEST = found  # type: ignore[attr-defined]

        def imported(name: str) -> ModuleType:
            if not name.endswith("._kernel"):
                return importlib.import_module(name)
            if isinstance(found, ImportError):
                raise found
            return extension

        monkeypatch.setattr(kernels, "import_module", imported)
        return extension

    return install


def digest(kind: str) -> str:
    return sha256(Path(str(kernels.plain(kind).__file__)).read_bytes()).hexdigest()


def test_one_that_fits_is_used(kind: str, install: Install) -> None:
    extension = install(digest(kind))
    assert kernel(kind) == kernels.Kernel(extension, Form.COMPILED)
    assert kernels.compiled(kind) is extension


@pytest.mark.parametrize(
    ("found", "form"),
    [
        (ModuleNotFoundError("none"), Form.MISSING),
        (ImportError("undefined symbol"), Form.STALE),
        ("0" * 64, Form.STALE),
    ],
    ids=["missing", "of another system", "of another source"],
)
def test_one_that_does_not_fit_is_not_used(
    kind: str, install: Install, monkeypatch: pytest.MonkeyPatch, found: str | ImportError, form: Form
) -> None:
    install(found)
    assert kernel(kind) == kernels.Kernel(kernels.plain(kind), form)
    assert kernels.compiled(kind) is None
    kernel.cache_clear()
    monkeypatch.setenv(VARIABLE, "compiled")
    with pytest.raises(ConfigError, match=f"demands the compiled kernel for '{kind}', but it is {form}"):
        kernel(kind)


def test_a_form_is_demanded(kind: str, install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    extension = install(digest(kind))
    monkeypatch.setenv(VARIABLE, "plain")
    assert kernel(kind) == kernels.Kernel(kernels.plain(kind), Form.PLAIN)
    kernel.cache_clear()
    monkeypatch.setenv(VARIABLE, "compiled")
    assert kernel(kind).module is extension
    kernel.cache_clear()
    monkeypatch.setenv(VARIABLE, "fast")
    with pytest.raises(ConfigError, match="LEDGERTAIL_KERNEL is 'fast'"):
        kernel(kind)


def test_the_source_runs_without_cython(kind: str) -> None:
    program = f"import sys; sys.modules['cython'] = None; from cdc.decode.{kind} import kernel; print(kernel.cython.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "cdc.decode.cython"
