"""The published journal: exactly once whatever is killed, and small whatever is published."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest

from cdc.errors import ConfigError, StoreError, StoreUnavailable
from sinks import ducklake
from sinks.duckdb import DuckDBSink, open_read_only
from sinks.ducklake import Publisher, PublishResult
from tests.contract.lake import read
from tests.contract.samples import LOG, committed, postings

WEEK = timedelta(days=7)
BATCHES = 12
# Publishes in steps of one batch. With a number it kills itself at that one of its calls to the store, of which a step has three.
CHILD = """
    import os, signal, sys
    from datetime import timedelta
    from sinks import ducklake
    from sinks.duckdb import open_read_only
    path, url, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
    class Reader:
        calls = 0
        def __init__(self):
            self._connection = open_read_only(path)
        def __enter__(self):
            return self
        def __exit__(self, *fault):
            self._connection.close()
        def execute(self, *arguments):
            Reader.calls += 1
            if Reader.calls == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return self._connection.execute(*arguments)
    ducklake.STEP_LINES = 1
    publisher = ducklake.Publisher(Reader, url, timedelta(0))
    print("ready", flush=True)
    print(publisher.publish_once().batch_seq, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.duckdb"


@pytest.fixture
def sink(path: Path) -> Iterator[DuckDBSink]:
    opened = DuckDBSink(path, 256 << 20)
    opened.prepare([])
    for n in range(BATCHES):
        add(opened, n)
    yield opened
    opened.close()


def add(sink: DuckDBSink, n: int) -> None:
    """A batch of three entries, six lines; every fourth has none."""
    with committed(sink) as transaction:
        if n % 4 != 3:
            transaction.apply(postings([(3 * n + i, Decimal(n)) for i in range(3)]))
        transaction.apply(LOG)


ALL_ENTRIES = "SELECT CAST(entry_id AS VARCHAR), kind, row_key, batch_seq, batch_row FROM ledger.entries ORDER BY ALL"
ALL_LINES = "SELECT CAST(entry_id AS VARCHAR), line_no, account, debit, credit, dims, batch_seq FROM ledger.lines ORDER BY ALL"


def assert_equal(folder: Path, reader: duckdb.DuckDBPyConnection) -> None:
    for sql in (ALL_ENTRIES, ALL_LINES):
        stored = reader.execute(sql).fetchall()
        assert read(folder, sql) == stored
        assert stored


def run(path: Path, folder: Path, at: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", textwrap.dedent(CHILD), str(path), f"ducklake://{folder}", str(at)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_publishes_what_is_new(sink: DuckDBSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "it's a lake"
    publisher = Publisher(sink.reader, f"ducklake://{folder}", WEEK)
    assert publisher.publish_once() == PublishResult(12, 27, 54)
    assert publisher.publish_once() == PublishResult(12, 0, 0)
    monkeypatch.setattr(ducklake, "STEP_LINES", 7)
    for n in range(12, 20):
        add(sink, n)
    assert Publisher(sink.reader, f"ducklake://{folder}", WEEK).publish_once() == PublishResult(20, 18, 36)
    with sink.reader() as reader:
        assert_equal(folder, reader)
        stored = reader.execute("SELECT hash FROM ledger.batches WHERE batch_seq = 20").fetchall()[0][0]
    assert read(folder, "SELECT batch_seq, hash FROM ledger.published") == [(20, stored)]


def test_an_empty_store_is_published_as_nothing(tmp_path: Path, path: Path) -> None:
    sink = DuckDBSink(path, 256 << 20)
    sink.prepare([])
    assert Publisher(sink.reader, f"ducklake://{tmp_path}/lake", WEEK).publish_once() == PublishResult(0, 0, 0)
    sink.close()


def test_killed_at_every_step_publishes_once(sink: DuckDBSink, path: Path, tmp_path: Path) -> None:
    sink.close()
    folder = tmp_path / "lake"
    for at in (1, 2, 3, 4, 6):  # calls 1 to 4: the check of the lake's last batch, then a step's log, entries, lines
        with run(path, folder, at) as process:
            process.wait()
        assert process.returncode == -signal.SIGKILL
    with open_read_only(path) as reader:
        published = read(folder, "SELECT batch_seq FROM ledger.published")[0][0]
        assert isinstance(published, int) and 0 < published < BATCHES
        assert Publisher(lambda: open_read_only(path), f"ducklake://{folder}", WEEK).publish_once().batch_seq == BATCHES
        assert_equal(folder, reader)


def test_killed_at_random_publishes_once(sink: DuckDBSink, path: Path, tmp_path: Path) -> None:
    sink.close()
    folder = tmp_path / "lake"
    delay, kills = 0.02, 0
    for _ in range(12):
        with run(path, folder, 0) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            timer = threading.Timer(delay, process.kill)
            timer.start()
            process.wait()
            timer.cancel()
        if process.returncode == 0:
            break
        delay, kills = delay * 2, kills + 1
    assert process.returncode == 0
    assert kills > 2
    with open_read_only(path) as reader:
        assert_equal(folder, reader)


def test_two_publishers_do_not_double(sink: DuckDBSink, path: Path, tmp_path: Path) -> None:
    sink.close()
    folder = tmp_path / "lake"
    processes = [run(path, folder, 0) for _ in range(3)]
    for process in processes:
        process.communicate()
    assert 0 in [process.returncode for process in processes]
    with open_read_only(path) as reader:
        assert_equal(folder, reader)


def test_a_publisher_waits_for_nobody(sink: DuckDBSink, tmp_path: Path) -> None:
    publisher = Publisher(sink.reader, f"ducklake://{tmp_path}/lake", WEEK)
    with publisher._lock(), pytest.raises(StoreUnavailable) as caught:
        Publisher(sink.reader, f"ducklake://{tmp_path}/lake", WEEK).publish_once()
    assert caught.value.code == "store.lake_busy"
    assert publisher.publish_once().batch_seq == BATCHES


def test_tidying_keeps_all_rows_and_few_files(sink: DuckDBSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ducklake, "STEP_LINES", 1)
    folder = tmp_path / "lake"
    publisher = Publisher(sink.reader, f"ducklake://{folder}", timedelta(0))
    for n in range(12, 20):
        add(sink, n)
        publisher.publish_once()
    snapshots = len(read(folder, "SELECT snapshot_id FROM ducklake_snapshots('lake')"))
    publisher.maintain()
    with sink.reader() as reader:
        assert_equal(folder, reader)
    assert len(read(folder, "SELECT snapshot_id FROM ducklake_snapshots('lake')")) < snapshots
    assert len(list((folder / "data").rglob("*.parquet"))) <= 4
    add(sink, 20)
    publisher.publish_once()
    with sink.reader() as reader:
        assert_equal(folder, reader)


def test_snapshots_are_kept_as_long_as_told(sink: DuckDBSink, tmp_path: Path) -> None:
    folder = tmp_path / "lake"
    publisher = Publisher(sink.reader, f"ducklake://{folder}", WEEK)
    publisher.publish_once()
    before = read(folder, "SELECT max(snapshot_id) FROM ducklake_snapshots('lake')")[0][0]
    add(sink, 12)
    publisher.publish_once()
    publisher.maintain()
    assert read(folder, f"SELECT count(*) FROM ledger.entries AT (VERSION => {before})") == [(27,)]
    assert read(folder, "SELECT count(*) FROM ledger.entries") == [(30,)]


def test_a_lake_of_another_store_is_refused(sink: DuckDBSink, tmp_path: Path) -> None:
    url = f"ducklake://{tmp_path}/lake"
    Publisher(sink.reader, url, WEEK).publish_once()
    other = DuckDBSink(tmp_path / "other.duckdb", 256 << 20)
    other.prepare([])
    for n in range(20):
        add(other, n + 1)
    with pytest.raises(StoreError) as caught:
        Publisher(other.reader, url, WEEK).publish_once()
    assert caught.value.code == "store.lake_diverged"
    other.close()


def test_what_can_not_be_used(sink: DuckDBSink, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in ("ducklake://relative/lake", "s3://bucket/lake", str(tmp_path)):
        with pytest.raises(ConfigError) as caught:
            Publisher(sink.reader, url, WEEK)
        assert caught.value.code == "store.lake_url"
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as folder:
        Publisher(sink.reader, f"ducklake://{tmp_path}/file/lake", WEEK).publish_once()
    assert folder.value.code == "store.lake_folder"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError) as missing:
        Publisher(sink.reader, f"ducklake://{tmp_path}/lake", WEEK)
    assert "ledgertail[publish]" in missing.value.hint


def test_nothing_is_left_open(sink: DuckDBSink, tmp_path: Path) -> None:
    publisher = Publisher(sink.reader, f"ducklake://{tmp_path}/lake", WEEK)
    publisher.publish_once()
    opened = {str(link.readlink()) for link in Path(f"/proc/{os.getpid()}/fd").iterdir() if link.is_symlink()}
    assert not [name for name in opened if "/lake/" in name]
