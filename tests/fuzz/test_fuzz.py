"""The fuzzing of what a server sends: from what is as it should be to what is changed anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import binlog, pgoutput

ROOT = Path(__file__).parents[2]
SECONDS = int(os.environ.get("LEDGERTAIL_TEST_FUZZ_SECONDS", "120"))
PROGRAMS = {"binlog": binlog, "pgoutput": pgoutput}


@pytest.fixture(scope="module", params=PROGRAMS.values(), ids=PROGRAMS)
def program(request: pytest.FixtureRequest) -> ModuleType:
    """Its `seeds` are as they should be; its `Forms` read them with both forms of the kernel."""
    made: ModuleType = request.param
    return made


@pytest.fixture(scope="module")
def forms(program: ModuleType) -> Any:
    return program.Forms()


def test_what_is_as_it_should_be_is_read(program: ModuleType, forms: Any) -> None:
    for seed in program.seeds():
        assert forms.check(seed)[0].startswith("{"), seed


@given(st.data())
def test_what_is_changed_is_refused_or_read(program: ModuleType, forms: Any, data: st.DataObject) -> None:
    changed = bytearray(data.draw(st.sampled_from(list(program.seeds())), "seed"))
    for _ in range(data.draw(st.integers(1, 4), "changes")):
        place = data.draw(st.integers(0, len(changed) - 1), "place")
        changed[place : place + data.draw(st.integers(0, 2), "gone")] = data.draw(st.binary(max_size=3), "instead")
    forms.check(bytes(changed))


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_fuzzing(name: str, tmp_path: Path) -> None:
    """As long as LEDGERTAIL_TEST_FUZZ_SECONDS, in a process of its own, which may crash."""
    pytest.importorskip("atheris", reason="pip install -e '.[fuzz]'")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(PROGRAMS[name].seeds()):
        (corpus / str(number)).write_bytes(seed)
    options = [f"-max_total_time={SECONDS}", "-max_len=8192", f"-artifact_prefix={tmp_path}/"]
    command = [sys.executable, "-m", "tests.fuzz", name, *options, str(corpus)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + 300)
    assert ended.returncode == 0, ended.stderr[-4000:]
