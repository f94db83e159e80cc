"""The fuzzing of rows events: from events as they should be to ones that are changed anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.binlog import Forms, seeds

ROOT = Path(__file__).parents[2]
SECONDS = int(os.environ.get("LEDGERTAIL_TEST_FUZZ_SECONDS", "120"))
SEEDS = list(seeds())


@pytest.fixture(scope="module")
def forms() -> Forms:
    return Forms()


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"{seed[0]}-{seed[1]}")
def test_events_as_they_should_be_are_read(forms: Forms, seed: bytes) -> None:
    assert all(row.startswith("{'#op': ") for row in forms.check(seed))


@given(st.data())
def test_changed_events_are_refused_or_read(forms: Forms, data: st.DataObject) -> None:
    changed = bytearray(data.draw(st.sampled_from(SEEDS), "seed"))
    for _ in range(data.draw(st.integers(1, 4), "changes")):
        place = data.draw(st.integers(2, len(changed) - 1), "place")
        changed[place : place + data.draw(st.integers(0, 2), "gone")] = data.draw(st.binary(max_size=3), "instead")
    forms.check(bytes(changed))


@pytest.mark.slow
def test_fuzzing(tmp_path: Path) -> None:
    """As long as LEDGERTAIL_TEST_FUZZ_SECONDS, in a process of its own, which may crash."""
    pytest.importorskip("atheris", reason="pip install -e '.[fuzz]'")
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(SEEDS):
        (corpus / str(number)).write_bytes(seed)
    options = [f"-max_total_time={SECONDS}", "-max_len=4096", f"-artifact_prefix={tmp_path}/"]
    command = [sys.executable, "-m", "tests.fuzz", "binlog", *options, str(corpus)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SECONDS + 300)
    assert ended.returncode == 0, ended.stderr[-4000:]
