"""Compiles the kernels, `cdc/decode/<kind>/kernel.py`, each into the extension `_kernel` beside it; cdc/decode/kernels.py says which runs.

What is compiled is a copy that knows the digest of its source. Where there is no Cython or no compiler, Ledgertail is installed
without extensions.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

from setuptools import Extension, setup

try:
    from Cython.Build import cythonize
except ImportError:
    cythonize = None

COPIES = Path("build") / "kernels"


def extension(source: Path) -> Extension:
    """The extension of a kernel, not compiled yet."""
    copy = COPIES / source.with_name("_kernel.py")
    copy.parent.mkdir(parents=True, exist_ok=True)
    content = source.read_bytes()
    copy.write_bytes(content + f'\nSOURCE_DIGEST = "{sha256(content).hexdigest()}"\n'.encode())
    return Extension(".".join(source.with_name("_kernel").parts), [str(copy)])


kernels = sorted(Path("cdc/decode").glob("*/kernel.py"))
extensions = cythonize([extension(source) for source in kernels], language_level=3) if cythonize else []
for made in extensions:
    made.optional = True  # cythonize forgets it of those it is given
setup(ext_modules=extensions)
