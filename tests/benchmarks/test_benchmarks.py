"""The benchmark command still measures what it says; how fast is no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPARED = {
    ("capture", "rows/s"),
    ("latency", "ms"),
    ("latency", "tx/s"),
    ("snapshot", "rows/s"),
    ("binlog", "rows/s"),
    ("decode", "rows/s"),
    ("accounting", "rows/s"),
}


@pytest.mark.slow
def test_the_command_measures_everything(tmp_path: Path) -> None:
    told = ["--rows", "1000", "--rate", "50", "--seconds", "1", "--json", str(tmp_path / "figures.json")]
    ended = subprocess.run([sys.executable, "-m", "tests.benchmarks", *told], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    figures = json.loads((tmp_path / "figures.json").read_text("utf-8"))["figures"]
    assert {(f["benchmark"], f["unit"]) for f in figures if f["ratio"] is not None} >= COMPARED
    for figure in figures:
        assert figure["what"] in ended.stdout
        assert figure["ours"] is None or figure["ours"] >= 0, figure
    (journal,) = [f["ours"] for f in figures if f["what"] == "entries in the journal"]
    assert journal == 1200  # 800 inserts, and 200 updates of two entries each
