"""Publishes the journal to a DuckLake, append-only and in large steps, where BI tools and other machines read it.

The lake is a folder: `catalog.sqlite`, in WAL mode so that readers never stall, and `data/`. Each step is one lake transaction that
appends the entries and lines of whole batches and moves the number in `ledger.published`; what is published is known from there
alone, so a step that was cut short has not happened and is taken again.
"""

from __future__ import annotations

import fcntl
import importlib.util
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb

from cdc.errors import ConfigError, StoreError, StoreUnavailable
from cdc.types import ENTRIES, LINES
from sinks.duckdb.faults import store_error
from sinks.duckdb.names import literal
from sinks.duckdb.tables import ENTRIES_COLUMNS, LINES_COLUMNS

STEP_LINES = 300_000  # a step holds whole batches and ends with the one that reaches this
BATCH_ROWS = 50_000
MAINTAIN_SECONDS = 3600.0
READER_GRACE = timedelta(hours=1)  # how long a reader may go on with files that are no longer of any snapshot
ORPHAN_AGE = timedelta(days=1)
_SCHEME = "ducklake://"
_EXTENSIONS = ("sqlite_scanner", "ducklake")
_TABLES = f"""
CREATE SCHEMA IF NOT EXISTS lake.ledger;
CREATE TABLE IF NOT EXISTS lake.ledger.entries ({ENTRIES_COLUMNS});
CREATE TABLE IF NOT EXISTS lake.ledger.lines ({LINES_COLUMNS});
CREATE TABLE IF NOT EXISTS lake.ledger.published (batch_seq BIGINT NOT NULL, hash VARCHAR NOT NULL, published_at TIMESTAMPTZ NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class PublishResult:
    """The last batch the lake now has, and how many entries and lines were added."""

    batch_seq: int
    entries: int
    lines: int


class Publisher:
    """Brings a lake up to the store. `store_reader` gives a new reading connection to the store, closed after use.

    Two publishers on one lake exclude each other by a lock on the folder, which a killed process loses.
    """

    def __init__(self, store_reader: Callable[[], duckdb.DuckDBPyConnection], url: str, keep: timedelta) -> None:
        """Raises ConfigError for a url that is none, and where the extensions' wheels are missing."""
        folder = Path(url.removeprefix(_SCHEME))
        if not url.startswith(_SCHEME) or not folder.is_absolute():
            raise ConfigError("store.lake_url", url=url)
        self._extensions = [_extension(name) for name in _EXTENSIONS]
        self._store_reader, self._folder, self._keep = store_reader, folder, keep
        self._maintained_at: float | None = None

    def publish_once(self) -> PublishResult:
        """Publish up to the store's last batch, and tidy the lake once an hour. On return it is durable.

        Raises StoreUnavailable while another publisher is at it, StoreError where the lake holds what the store never had.
        """
        with self._translated(), self._lock(), self._lake() as lake, self._store_reader() as store:
            start = self._published(lake, store)
            done = start
            while step := _next_step(store, done.batch_seq):
                _publish(lake, store, done.batch_seq, step)
                done = PublishResult(step.batch_seq, done.entries + step.entries, done.lines + step.lines)
            if self._maintained_at is None or time.monotonic() - self._maintained_at > MAINTAIN_SECONDS:
                self._tidy(lake)
            return done

    def maintain(self) -> None:
        """Merge small files, forget snapshots older than `keep` and delete the files only they had. Errors as in `publish_once`."""
        with self._translated(), self._lock(), self._lake() as lake:
            self._tidy(lake)

    def _tidy(self, lake: duckdb.DuckDBPyConnection) -> None:
        now = datetime.now(UTC)
        _call(lake, "ducklake_flush_inlined_data('lake')")
        _call(lake, "ducklake_rewrite_data_files('lake')")
        _call(lake, "ducklake_merge_adjacent_files('lake')")
        _call(lake, "ducklake_expire_snapshots('lake', older_than => $before)", now - self._keep)
        _call(lake, "ducklake_cleanup_old_files('lake', older_than => $before)", now - min(self._keep, READER_GRACE))
        _call(lake, "ducklake_delete_orphaned_files('lake', older_than => $before)", now - ORPHAN_AGE)
        self._maintained_at = time.monotonic()

    def _published(self, lake: duckdb.DuckDBPyConnection, store: duckdb.DuckDBPyConnection) -> PublishResult:
        """How far the lake is. Raises StoreError where its last batch is not the store's batch of that number."""
        row = lake.execute("SELECT batch_seq, hash FROM lake.ledger.published").fetchone()
        if row is None:
            lake.execute("INSERT INTO lake.ledger.published VALUES (0, '', now())")
            return PublishResult(0, 0, 0)
        if row[0]:
            stored = store.execute("SELECT hash FROM ledger.batches WHERE batch_seq = ?", [row[0]]).fetchone()
            if stored is None or stored[0] != row[1]:
                raise StoreError("store.lake_diverged", path=self._folder, batch=row[0])
        return PublishResult(row[0], 0, 0)

    @contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            (self._folder / "data").mkdir(parents=True, exist_ok=True)
            with (self._folder / "publish.lock").open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield
        except BlockingIOError as error:
            raise StoreUnavailable("store.lake_busy", path=self._folder) from error
        except OSError as error:
            raise StoreError("store.lake_folder", path=self._folder, detail=error) from error

    @contextmanager
    def _lake(self) -> Iterator[duckdb.DuckDBPyConnection]:
        catalog = self._folder / "catalog.sqlite"
        connection = sqlite3.connect(catalog)
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
        finally:
            connection.close()
        settings = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false", "preserve_insertion_order": "false"}
        lake = duckdb.connect(config={**settings, "extension_directory": str(self._folder / "extensions"), "memory_limit": "256MB"})
        try:
            for path in self._extensions:
                lake.execute(f"LOAD {literal(str(path))}")
            lake.execute("SET TimeZone = 'UTC'")
            lake.execute(f"ATTACH {literal(f'ducklake:sqlite:{catalog}')} AS lake (DATA_PATH {literal(f'{self._folder}/data/')})")
            lake.execute(_TABLES)
            yield lake
        finally:
            lake.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (duckdb.Error, sqlite3.Error) as error:
            if "database is locked" in str(error) or "Transaction conflict" in str(error):
                raise StoreUnavailable("store.lake_busy", path=self._folder) from error
            if isinstance(error, sqlite3.Error):
                raise StoreError("store.lake_folder", path=self._folder, detail=error) from error
            raise store_error(self._folder, error) from error


@dataclass(frozen=True, slots=True)
class _Step:
    """Batches to be published together: the last of them, its hash, and what they hold."""

    batch_seq: int
    hash: str
    entries: int
    lines: int


def _next_step(store: duckdb.DuckDBPyConnection, after: int) -> _Step | None:
    row = store.execute(
        """SELECT max(batch_seq), arg_max(hash, batch_seq), CAST(sum(entries) AS BIGINT), CAST(sum(lines) AS BIGINT) FROM (
            SELECT batch_seq, hash, entries, lines, sum(lines) OVER (ORDER BY batch_seq) - lines AS before
            FROM ledger.batches WHERE batch_seq > ?) WHERE before < ?""",
        [after, STEP_LINES],
    ).fetchone()
    return _Step(*row) if row and row[0] is not None else None


def _publish(lake: duckdb.DuckDBPyConnection, store: duckdb.DuckDBPyConnection, after: int, step: _Step) -> None:
    lake.execute("BEGIN TRANSACTION")
    added = [_append(lake, store, table, names, after, step) for table, names in (("entries", ENTRIES.names), ("lines", LINES.names))]
    assert added == [step.entries, step.lines], f"batches say {step}, the store has {added}"
    # An update, not one more row: of two transactions that both move the number one must fail.
    lake.execute("UPDATE lake.ledger.published SET batch_seq = ?, hash = ?, published_at = now()", [step.batch_seq, step.hash])
    lake.execute("COMMIT")


def _append(
    lake: duckdb.DuckDBPyConnection, store: duckdb.DuckDBPyConnection, table: str, names: list[str], after: int, step: _Step
) -> int:
    """Stream a table's rows of the step into the lake; how many there were."""
    columns = ", ".join([*names, "batch_seq", "batch_row"])
    chosen = f"SELECT {columns} FROM ledger.{table} WHERE batch_seq > ? AND batch_seq <= ?"
    lake.register("rows", store.execute(chosen, [after, step.batch_seq]).to_arrow_reader(BATCH_ROWS))
    try:
        added = lake.execute(f"INSERT INTO lake.ledger.{table} ({columns}) SELECT {columns} FROM rows").fetchone()
    finally:
        lake.unregister("rows")
    return int(added[0]) if added else 0


def _call(lake: duckdb.DuckDBPyConnection, function: str, before: datetime | None = None) -> None:
    # To Arrow, as DuckDB's Python client needs pytz to make Python values of the timestamps returned.
    moment = f"TIMESTAMPTZ {literal(before.isoformat())}" if before else ""
    lake.execute(f"CALL {function.replace('$before', moment)}").to_arrow_table()


def _extension(name: str) -> Path:
    """An extension's file in its wheel. Raises ConfigError where the wheel is missing or of another DuckDB."""
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    if spec is None or spec.origin is None:
        raise ConfigError("store.extension", name=name, version=duckdb.__version__)
    path = Path(spec.origin).parent / "extensions" / f"v{duckdb.__version__}" / f"{name}.duckdb_extension"
    if not path.is_file():
        raise ConfigError("store.extension", name=name, version=duckdb.__version__)
    return path
