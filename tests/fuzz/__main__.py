"""`python -m tests.fuzz binlog [libFuzzer's arguments]`: goes on fuzzing, led by what inputs reach in plain Python. Needs atheris."""

from __future__ import annotations

import sys
from importlib import import_module

import atheris

name = sys.argv.pop(1)
with atheris.instrument_imports(include=["cdc.decode"]):
    forms = import_module(f"tests.fuzz.{name}").Forms()
atheris.Setup(sys.argv, lambda data: forms.check(data) and None)
atheris.Fuzz()
