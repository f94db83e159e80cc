"""`python -m tests.fuzz binlog`, or pgoutput, with libFuzzer's arguments: goes on fuzzing, led by what inputs reach in plain Python.

Needs atheris. Reads out of bounds end it, too, with extensions that look out for them, and atheris' runtime for these loaded first:

    CC="gcc -fsanitize=address" LDSHARED="gcc -shared" python setup.py build_ext --inplace --force
    LD_PRELOAD=$(python -c "import atheris; print(atheris.path())")/asan_with_fuzzer.so PYTHONMALLOC=malloc \\
        ARROW_DEFAULT_MEMORY_POOL=system ASAN_OPTIONS=detect_leaks=0:detect_odr_violation=0 python -m tests.fuzz pgoutput
"""

from __future__ import annotations

import sys
from importlib import import_module

import atheris

name = sys.argv.pop(1)
with atheris.instrument_imports(include=["cdc.decode"]):
    program = import_module(f"tests.fuzz.{name}")
    forms = program.Forms()
    forms.check(next(program.seeds()))  # imports the kernel
atheris.Setup(sys.argv, lambda data: forms.check(data) and None)
atheris.Fuzz()
