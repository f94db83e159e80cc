"""The benchmark command still measures what it says; how fast is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPARED = {
    ("decode", "rows/s"),
    ("capture", "rows/s"),
    ("end-to-end", "rows/s"),
    ("latency", "ms"),
    ("latency", "tx/s"),
    ("snapshot", "rows/s"),
    ("transaction", "MB"),
    ("transaction", "s"),
    ("updates", "rows/s"),
    ("accounting", "rows/s"),
    ("idle", "s"),
}
SMALL = ["--rows", "1000", "--rate", "50", "--seconds", "1", "--large", "2000", "--entries", "20000", "40000"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_measures_everything(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    ended = _benchmarks(*SMALL, "--json", str(file))
    told = json.loads(file.read_text("utf-8"))
    assert told["command"].startswith("python -m tests.benchmarks --rows 1000")
    figures = told["figures"]
    assert {(f["benchmark"], f["unit"]) for f in figures if f["ratio"] is not None} >= COMPARED
    for figure in figures:
        assert figure["what"] in ended
        assert figure["ours"] is None or figure["ours"] >= 0, figure
    assert [f["ours"] for f in figures if f["what"].endswith("entries in the journal")] == [1200, 1200]  # 800 inserts, 200 updates of two
    table = _benchmarks("table", str(file))
    assert all(figure["what"] in table for figure in figures if figure["goal"])
    assert told["commit"] in table


def _benchmarks(*told: str) -> str:
    ended = subprocess.run([sys.executable, "-m", "tests.benchmarks", *told], cwd=ROOT, capture_output=True, text=True, timeout=800)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
