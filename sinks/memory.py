"""The tests' twin of a store, which `rules test` plays cases into, too: the contract of `cdc.protocols` on plain dicts and lists, simple
enough to be seen to be right."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from cdc.protocols import SinkTransaction
from cdc.types import (
    LINE_FIELDS,
    LIVE,
    LIVE_KEYS,
    NUMBER,
    REFERENCE,
    STAMP,
    Account,
    BatchLog,
    MirrorWrite,
    Postings,
    Promotion,
    Reference,
    TableSchema,
)

Row = dict[str, Any]
PAGE_ROWS = 1000


@dataclass
class State:
    """All that the store holds. Mirrors and staged copies by the tables' names (`shop.orders`)."""

    accounts: list[Account] = field(default_factory=list)
    entries: list[Row] = field(default_factory=list)
    lines: list[Row] = field(default_factory=list)
    live: list[Row] = field(default_factory=list)
    batches: list[Row] = field(default_factory=list)
    quarantine: dict[str, Row] = field(default_factory=dict)
    schemas: dict[tuple[str, bool], TableSchema] = field(default_factory=dict)
    mirrors: dict[str, list[Row]] = field(default_factory=dict)
    staged: dict[str, list[Row]] = field(default_factory=dict)
    reference: dict[str, list[Row]] = field(default_factory=dict)


class MemoryTransaction:
    """Works on a copy of the sink's state, which `commit` puts in its place."""

    def __init__(self, sink: MemorySink) -> None:
        self._sink = sink
        self.state = deepcopy(sink.state)
        self._after_commit: list[Callable[[], None]] = []
        self._done = False

    def live(self, schema: TableSchema, keys: pa.Table) -> pa.Table:
        wanted = {(k["row_hash"], k["row_key"]) for k in keys.to_pylist()}
        found = [row for row in self.state.live if row["source_table"] == schema.name and (row["row_hash"], row["row_key"]) in wanted]
        lines: dict[str, list[Row]] = {row["entry_id"]: [] for row in found}
        for line in sorted(self.state.lines, key=lambda line: line["line_no"]):
            if line["entry_id"] in lines:
                lines[line["entry_id"]].append({field.name: line[field.name] for field in LINE_FIELDS})
        return pa.Table.from_pylist([{**row, "lines": lines[row["entry_id"]]} for row in found], LIVE)

    def standing(self, schema: TableSchema) -> Iterator[pa.Table]:
        found = [{"row_hash": row["row_hash"], "row_key": row["row_key"]} for row in self.state.live if row["source_table"] == schema.name]
        for start in range(0, len(found), PAGE_ROWS):
            yield pa.Table.from_pylist(found[start : start + PAGE_ROWS], LIVE_KEYS)

    def mirror(self, schema: TableSchema, keys: pa.Table | None, staged: bool = False) -> Iterator[pa.Table]:
        rows = (self.state.staged if staged else self.state.mirrors).get(schema.name, [])
        if keys is not None:
            names = keys.column_names
            wanted = {_key(names, key) for key in keys.to_pylist() if not schema.key or None not in key.values()}
            rows = [row for row in rows if tuple(row.get(name) for name in names) in wanted]
        for start in range(0, len(rows), PAGE_ROWS):
            yield pa.Table.from_pylist(rows[start : start + PAGE_ROWS], _arrow(schema, staged))

    def reference(self, name: str) -> pa.Table:
        return pa.Table.from_pylist(self.state.reference.get(name, []), REFERENCE[name])

    def rated(self, schema: TableSchema, rates: pa.Table) -> pa.Table:
        asked = {
            line["entry_id"]
            for line in self.state.lines
            for rate in rates.to_pylist()
            if all(line[name] == rate[name] for name in ("book", "currency", "rate_type"))
            and rate["first"] <= line["rate_date"] <= rate["last"]
        }
        keys = {row["row_key"] for row in self.state.live if row["source_table"] == schema.name and row["entry_id"] in asked}
        for item in self.state.quarantine.values():
            if (item["source_table"], item["status"], item["reason"]) == (schema.name, "open", "quarantine.rate"):
                keys.add(item["row_key"])
        return pa.table([[row_hash(schema.name, key) for key in sorted(keys)], sorted(keys)], LIVE_KEYS)

    def apply(self, part: MirrorWrite | Promotion | Postings | Reference | BatchLog) -> None:
        match part:
            case MirrorWrite():
                self._write(part)
            case Promotion():
                staged = self.state.staged.pop(part.schema.name, [])
                self.state.mirrors[part.schema.name] = [{n: v for n, v in row.items() if n != STAMP} for row in staged]
                self.state.schemas[part.schema.name, False] = part.schema
            case Postings():
                self._post(part)
            case Reference():
                self.state.reference[part.name] = part.rows.to_pylist()
            case BatchLog():
                self._close(part)

    def sql(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        raise NotImplementedError("this store has no SQL; use FileCheckpoints with it")

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run `action` once the transaction has committed."""
        self._after_commit.append(action)

    def commit(self) -> Future[None]:
        assert not self._done, "the transaction has ended"
        self._done = True
        self._sink.state = self.state
        committed: Future[None] = Future()
        try:
            for action in self._after_commit:
                action()
        except BaseException as error:  # noqa: BLE001 - the caller asks for it
            committed.set_exception(error)
        else:
            committed.set_result(None)
        return committed

    def rollback(self) -> None:
        self._done = True

    def fit(self, schema: TableSchema, staged: bool) -> None:
        """Make the mirror or the staged copy fit `schema`."""
        tables = self.state.staged if staged else self.state.mirrors
        old = self.state.schemas.get((schema.name, staged), schema)
        self.state.schemas[schema.name, staged] = schema
        if rows := tables.setdefault(schema.name, []):
            tables[schema.name] = _fitted(rows, old, schema)

    def _write(self, part: MirrorWrite) -> None:
        tables = self.state.mirrors if part.staged is None else self.state.staged
        rows = [] if part.replace else tables.setdefault(part.schema.name, [])
        names = _key_names(part.schema, part.deletes)
        gone = {_key(names, key) for key in part.deletes.to_pylist()}
        stamp = {} if part.staged is None else {STAMP: part.staged}
        tables[part.schema.name] = [row for row in rows if _key(names, row) not in gone] + [row | stamp for row in part.upserts.to_pylist()]

    def _post(self, part: Postings) -> None:
        state, seq = self.state, len(self.state.batches) + 1
        ended = {row["entry_id"] for row in part.live_ended.to_pylist()}
        state.live = [row for row in state.live if row["entry_id"] not in ended] + part.live_begun.to_pylist()
        state.entries += [row | {"batch_seq": seq} for row in part.entries.to_pylist()]
        state.lines += [row | {"batch_seq": seq} for row in part.lines.to_pylist()]
        settled = [tuple(row.values()) for row in part.settled.to_pylist()]
        for item in state.quarantine.values():
            if item["status"] == "open" and (item["source_table"], item["row_key"], item["book"], item["rule"]) in settled:
                item["status"] = "resolved"
        for row in part.quarantined.to_pylist():
            item = state.quarantine.setdefault(row["id"], row | {"status": "open"})
            if item["status"] == "resolved":
                item["status"] = "open"

    def _close(self, log: BatchLog) -> None:
        seq = len(self.state.batches) + 1
        entries = sum(row["batch_seq"] == seq for row in self.state.entries)
        lines = sum(row["batch_seq"] == seq for row in self.state.lines)
        self.state.batches.append({"batch_seq": seq, "source": log.source, "entries": entries, "lines": lines, "log": log})


class MemorySink:
    """`cdc.protocols.Sink` in memory."""

    def __init__(self) -> None:
        self.state = State()

    def prepare(self, accounts: Sequence[Account]) -> None:
        self.state.accounts = list(accounts)

    def prepare_table(self, transaction: SinkTransaction, schema: TableSchema, staged: bool) -> None:
        assert isinstance(transaction, MemoryTransaction)
        transaction.fit(schema, staged)

    def begin(self) -> MemoryTransaction:
        return MemoryTransaction(self)

    def close(self) -> None:
        """There is nothing to let go of."""


def row_hash(table: str, row_key: str) -> int:
    """What a row is looked up by, as the head of `cdc.types.LIVE` says."""
    return int.from_bytes(hashlib.md5(f"{table}\0{row_key}".encode(), usedforsecurity=False).digest()[8:], "little")


def _key_names(schema: TableSchema, keys: pa.Table) -> list[str]:
    return list(schema.key or keys.column_names)


def _key(names: list[str], row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in names)


def _arrow(schema: TableSchema, staged: bool) -> pa.Schema:
    number = [] if schema.key else [pa.field(NUMBER, pa.int64())]
    return pa.schema([*schema.arrow(), *number, *([pa.field(STAMP, pa.int32())] if staged else [])])


def _fitted(rows: list[Row], old: TableSchema, new: TableSchema) -> list[Row]:
    """Rows of the old schema as rows of the new one."""
    types = {c.name: c.type for c in old.columns}
    columns: dict[str, list[Any]] = {}
    for c in new.columns:
        values = pa.array([row[c.name] for row in rows], types[c.name]).cast(c.type) if c.name in types else pa.nulls(len(rows), c.type)
        columns[c.name] = values.to_pylist()
    if not new.key:
        columns[NUMBER] = [row[NUMBER] for row in rows] if not old.key else _numbers(list(zip(*columns.values(), strict=True)))
    if STAMP in rows[0]:
        columns[STAMP] = [row[STAMP] for row in rows]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _numbers(rows: list[tuple[Any, ...]]) -> list[int]:
    """Each row's number among its equals, from 1."""
    return [rows[: i + 1].count(row) for i, row in enumerate(rows)]
