"""A store in a dict: applies batches by the rules of cdc/types.py, and can be asked for what a source would be resumed with."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import psycopg
import pyarrow as pa
import pymysql
from psycopg import sql

from cdc import build
from cdc.config import SourceConfig
from cdc.protocols import Source
from cdc.sources.postgres.catalog import split
from cdc.types import ABSENT, OLD, OP, ORDINAL, TXN, Checkpoint, MicroBatch, Resume, SnapshotProgress, TableChanges, TableSchema
from tests.servers.mysql import identifier
from tests.servers.mysql import rows as mysql_rows

PATIENCE_SECONDS = 60
STORE_ID = "0123456789abcdef0123456789abcdef"

Row = tuple[Any, ...]


class Twin:
    """Mirrors and staged copies as {key: [(row, snapshot number), ...]}; a table without key has its whole row as key."""

    def __init__(self, source: str = "shop") -> None:
        self.source = source
        self.checkpoint: Checkpoint | None = None
        self.snapshots: dict[str, SnapshotProgress] = {}
        self.schemas: dict[str, TableSchema] = {}
        self.mirrors: dict[str, dict[Row, list[tuple[Row, int]]]] = {}
        self.staged: dict[str, dict[Row, list[tuple[Row, int]]]] = {}
        self.gone: dict[Row, list[tuple[Row, int]]] = {}  # what the last delete took: a change of key needs it
        self.ops: Counter[str] = Counter()
        self.pending: list[MicroBatch] = []
        self.sources: list[Source] = []
        self.reached: Callable[[str, str], bool] = str.__eq__

    def close(self) -> None:
        """Close every source that was opened for it."""
        for source in self.sources:
            source.close()

    def resume(self) -> Resume:
        return Resume(STORE_ID, self.checkpoint, dict(self.snapshots), dict(self.schemas))

    def want(self, *tables: str) -> None:
        """What `ledgertail snapshot` does: copy these tables anew."""
        for table in tables:
            self.snapshots[table] = replace(self.snapshots[table], state="wanted")

    def apply(self, batch: MicroBatch) -> None:
        """Take a batch; parts of a transaction wait for its end."""
        self.pending.append(batch)
        if batch.whole:
            batches, self.pending = self.pending, []
            for part in batches:
                self._apply(part)
            self._advance(batch)

    def done(self, table: str) -> bool:
        """Whether the mirror is the table."""
        return table in self.snapshots and self.snapshots[table].state == "done"

    def rows(self, table: str) -> list[Row]:
        """The mirror's rows, in order."""
        return sorted((row for rows in self.mirrors.get(table, {}).values() for row, _ in rows), key=repr)

    def _advance(self, batch: MicroBatch) -> None:
        old = self.checkpoint
        assert old is None or self.reached(batch.position, old.position), "progress never moves backward"
        self.checkpoint = Checkpoint(batch.source, batch.position, old.epoch + 1 if old else 1, batch.identity)

    def _apply(self, batch: MicroBatch) -> None:
        for changes in batch.changes:
            assert set(changes.rows.column("#txn").to_pylist()) <= set(range(batch.transactions.num_rows))
        if batch.snapshot is not None:
            self._stage(batch, batch.snapshot)
            return
        order = []
        for table, changes in ((changes.schema.table, changes) for changes in batch.changes):
            staged = table in batch.staged
            assert staged or table in self.mirrors, f"{table} is streamed before it was copied"
            target = self.staged[table] if staged else self.mirrors[table]
            _reshape(target, self.schemas[table], changes.schema)
            self.schemas[table] = changes.schema
            for change in _changes(changes):
                order.append(change[0])
                self.ops[change[1]] += 1
                self._change(target, changes.schema, change, batch.included_from if staged else 1 << 30)
        assert len(set(order)) == len(order), "two changes have one place"
        for schema in batch.promote:
            self.mirrors[schema.table] = self.staged.pop(schema.table)
            self.schemas[schema.table] = schema
            self.snapshots[schema.table] = replace(self.snapshots[schema.table], state="done")

    def _stage(self, batch: MicroBatch, progress: SnapshotProgress) -> None:
        (changes,) = batch.changes
        table = progress.table
        if progress.rows_done == changes.rows.num_rows:
            self.staged[table] = {}
        for _, _, row, _, _ in _changes(changes):
            key = _key(changes.schema, row)
            kept = [] if changes.schema.key else self.staged[table].get(key, [])
            self.staged[table][key] = [*kept, (row, progress.number)]
        self.ops["r"] += changes.rows.num_rows
        self.snapshots[table], self.schemas[table] = progress, changes.schema

    def _change(self, target: dict[Row, list[tuple[Row, int]]], schema: TableSchema, change: Any, included_from: int) -> None:
        _, op, row, absent, old_key = change
        if op == "t":
            for key in [key for key, rows in target.items() if all(stamp < included_from for _, stamp in rows)]:
                del target[key]
            return
        key = _key(schema, row)
        there = target.get(key, [])
        if any(stamp >= included_from for _, stamp in there):
            return
        if op == "d":
            self.gone = {key: there}
            if len(there) > 1:
                there.pop()
            else:
                target.pop(key, None)
            return
        before = self.gone.get(old_key, there) if old_key else there
        if absent and before:
            row = tuple(before[0][0][i] if i in absent else value for i, value in enumerate(row))
        target[key] = [*([] if schema.key else there), (row, 0)]


def _changes(changes: TableChanges) -> Iterator[tuple[tuple[int, int], str, Row, frozenset[int], Row | None]]:
    names = [column.name for column in changes.schema.columns]
    columns = {name: _values(changes.rows[name]) for name in changes.rows.column_names}
    for fact in (dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)):
        old = tuple(fact.get(OLD + name) for name in changes.schema.key)
        place, row, absent = (fact[TXN], fact[ORDINAL]), tuple(fact[name] for name in names), frozenset(fact.get(ABSENT) or ())
        yield place, fact[OP], row, absent, None if None in old or not old else old


def _values(column: pa.ChunkedArray) -> list[Any]:
    """As Python values; moments Python has not, such as infinity and years BC, as their number."""
    try:
        return list(column.to_pylist())
    except (OverflowError, ValueError):
        return list(column.cast(pa.int32() if pa.types.is_date32(column.type) else pa.int64()).to_pylist())


def _key(schema: TableSchema, row: Row) -> Row:
    names = [column.name for column in schema.columns]
    return tuple(row[names.index(name)] for name in schema.key) if schema.key else row


def _reshape(target: dict[Row, list[tuple[Row, int]]], old: TableSchema, new: TableSchema) -> None:
    """New columns are NULL in the rows that are there, dropped ones go."""
    if old == new:
        return
    before = [column.name for column in old.columns]
    for key, rows in list(target.items()):
        shaped = [(tuple(r[before.index(c.name)] if c.name in before else None for c in new.columns), stamp) for r, stamp in rows]
        del target[key]
        target.setdefault(_key(new, shaped[0][0]), []).extend(shaped)


Connection = psycopg.Connection[Any] | pymysql.connections.Connection


def source_rows(connection: Connection, table: str, schema: TableSchema) -> list[Row]:
    """What the source's table holds, in order."""
    if isinstance(connection, pymysql.connections.Connection):
        names = ", ".join(identifier(column.name) for column in schema.columns)
        found = mysql_rows(connection, f"SELECT {names} FROM {'.'.join(map(identifier, table.split('.')))}")
        return sorted(found, key=repr)
    columns = sql.SQL(", ").join(sql.Identifier(column.name) for column in schema.columns)
    namespace, relation = split(table)
    rows = connection.execute(sql.SQL("SELECT {} FROM {}").format(columns, sql.Identifier(namespace, relation))).fetchall()
    return sorted(rows, key=repr)


def opened(config: SourceConfig, twin: Twin) -> Source:
    """A source that goes on where the twin is; what the twin has of an unfinished transaction is dropped."""
    twin.pending = []
    source = build.source(twin.source, config)
    twin.reached = build.inspection(twin.source, config).reached
    twin.sources.append(source)
    source.open(twin.resume())
    return source


def step(source: Source, twin: Twin) -> MicroBatch | None:
    """Read once, apply, acknowledge."""
    batch = source.read()
    if batch is not None:
        twin.apply(batch)
        if twin.checkpoint is not None:
            source.acknowledge(twin.checkpoint.position)
    return batch


def until(source: Source, twin: Twin, done: Callable[[], bool]) -> None:
    """Read until `done`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not done():
        assert time.monotonic() < deadline, "the twin did not get there"
        step(source, twin)


def until_equal(source: Source, twin: Twin, connection: Connection, *tables: str) -> None:
    """Read until the mirrors are the source's tables."""

    def equal(table: str) -> bool:
        with suppress(psycopg.errors.UndefinedColumn, pymysql.err.OperationalError):  # the twin has yet to learn of a new shape
            return twin.done(table) and twin.rows(table) == source_rows(connection, table, twin.schemas[table])
        return False

    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(map(equal, tables)):
        if time.monotonic() > deadline:
            for table in tables:
                assert twin.rows(table) == source_rows(connection, table, twin.schemas[table])
        step(source, twin)


def streaming(config: SourceConfig, twin: Twin) -> Source:
    """A source whose tables are all copied."""
    source = opened(config, twin)
    until(source, twin, lambda: all(map(twin.done, config.tables)))
    return source


def progress_of(twin: Twin, table: str) -> dict[str, Any]:
    """The source's own text about a table's copy."""
    facts: dict[str, Any] = json.loads(twin.snapshots[table].progress)
    return facts
