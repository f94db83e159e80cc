"""Tables of changes, as the head of `cdc.types` describes them, from a few words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from cdc.accounting.books import Book, load_book
from cdc.accounting.charts import load_chart
from cdc.cases.changes import column
from cdc.config import BookConfig
from cdc.types import ABSENT, NUMBER, OLD, OP, ORDINAL, TRANSACTIONS, TXN, Account, TableSchema

Row = dict[str, Any]


def table(name: str, key: Sequence[str], /, **columns: str) -> TableSchema:
    """A table of the source `shop`, its columns as name and DuckDB type."""
    return TableSchema("shop", name, tuple(column(name, kind) for name, kind in columns.items()), tuple(key))


@dataclass(frozen=True)
class Change:
    """One change: the values it has, by column; others are null. `absent`: the log did not carry them; `old`: the key before."""

    op: str
    values: Row
    absent: frozenset[str] = frozenset()
    old: Row = field(default_factory=dict)


def changes(schema: TableSchema, rows: Iterable[tuple[int, int, Change]], number: Sequence[int] = ()) -> pa.Table:
    """Changes, each with its transaction's index and its ordinal; `number` are the `#n` of a table without key."""
    rows = list(rows)
    columns: dict[str, pa.Array] = {
        OP: pa.array([change.op for _, _, change in rows], pa.string()),
        TXN: pa.array([txn for txn, _, _ in rows], pa.int32()),
        ORDINAL: pa.array([ordinal for _, ordinal, _ in rows], pa.int64()),
    }
    for c in schema.columns:
        columns[c.name] = pa.array([None if c.name in ch.absent else ch.values.get(c.name) for _, _, ch in rows], c.type)
    if any(change.absent for _, _, change in rows):
        names = [c.name for c in schema.columns]
        absent = [sorted(names.index(name) for name in ch.absent) or None for _, _, ch in rows]
        columns[ABSENT] = pa.array(absent, pa.list_(pa.int16()))
    if any(change.old for _, _, change in rows):
        types = {c.name: c.type for c in schema.columns}
        for name in schema.key:
            columns[OLD + name] = pa.array([ch.old.get(name) for _, _, ch in rows], types[name])
    if number:
        columns[NUMBER] = pa.array(number, pa.int64())
    return pa.table(columns)


def one_batch(schema: TableSchema, *rows: Change, number: Sequence[int] = ()) -> pa.Table:
    """Changes of one transaction."""
    return changes(schema, [(0, ordinal, change) for ordinal, change in enumerate(rows)], number)


def transactions(count: int = 1, first: int = 1) -> pa.Table:
    """Transactions, a second apart, numbered from `first`: at position `00000001`, xid `1`."""
    start = datetime(2026, 11, 1, tzinfo=UTC)
    numbers = range(first, first + count)
    rows = [{"position": f"{n:08}", "txn": str(n), "committed_at": start + timedelta(seconds=n)} for n in numbers]
    return pa.Table.from_pylist(rows, TRANSACTIONS)


def book(name: str = "main", codes: Iterable[str] = ("1001", "1002", "1122", "2221", "5001", "5603"), **config: Any) -> Mapping[str, Book]:
    """A book with some accounts of the chart and one for prior years, by its name; paths start where we are."""
    settings = BookConfig(base_currency="CNY", chart="small-business-2013", **config)
    chart = [account for account in load_chart(name, settings.chart, Path()) if account.code in tuple(codes)]
    return {name: load_book(name, settings, [*chart, Account(name, "6901", "以前年度损益调整")], Path())}
