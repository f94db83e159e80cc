"""Sample tables, rows and postings for the contract tests of stores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa

from cdc.protocols import Sink, SinkTransaction
from cdc.types import (
    BEGUN,
    ENDED,
    ENTRIES,
    LINES,
    LIVE_KEYS,
    NUMBER,
    QUARANTINED,
    SETTLED,
    BatchLog,
    Column,
    MirrorWrite,
    Postings,
    TableSchema,
)

Row = dict[str, Any]
NOON = datetime(2026, 11, 3, 12, 0, 0, 123456, UTC)
LOG = BatchLog("shop", "0/10", "0/20", 1, 2, NOON, NOON)
ID = Column("id", pa.int64(), "BIGINT", "int8")
NAME = Column("name", pa.string(), "VARCHAR", "text")
TOTAL = Column("total", pa.decimal128(10, 2), "DECIMAL(10,2)", "numeric(10,2)")
ORDERS = TableSchema("shop", "orders", (ID, NAME, TOTAL), ("id",))
KEYLESS = TableSchema("shop", "log", (NAME, TOTAL), ())


@contextmanager
def committed(sink: Sink) -> Iterator[SinkTransaction]:
    """A transaction that is committed at the end."""
    transaction = sink.begin()
    try:
        yield transaction
        transaction.commit().result()
    finally:
        transaction.rollback()


def all_live(transaction: SinkTransaction, schema: TableSchema) -> pa.Table:
    """Every live entry of a table."""
    return transaction.live(schema, pa.concat_tables([LIVE_KEYS.empty_table(), *transaction.standing(schema)]))


def rows(schema: TableSchema, values: Iterable[Sequence[Any]]) -> pa.Table:
    """A table's rows; with `#n` last where it has no key."""
    number = [] if schema.key else [pa.field(NUMBER, pa.int64())]
    arrow = pa.schema([*schema.arrow(), *number])
    return pa.Table.from_pylist([dict(zip(arrow.names, value, strict=True)) for value in values], arrow)


def keys(schema: TableSchema, values: Iterable[Sequence[Any]]) -> pa.Table:
    """Keys of a table, whole rows where it has none."""
    arrow = schema.arrow()
    fields = [arrow.field(name) for name in schema.key] or list(arrow)
    return pa.Table.from_pylist([dict(zip([f.name for f in fields], value, strict=True)) for value in values], pa.schema(fields))


def write(
    schema: TableSchema, upserts: Iterable[Sequence[Any]], deletes: Iterable[Sequence[Any]] = (), staged: int | None = None
) -> MirrorWrite:
    """A MirrorWrite; deletes of a table without key are whole rows with `#n`."""
    gone = keys(schema, deletes) if schema.key else rows(schema, deletes)
    return MirrorWrite(schema, gone, rows(schema, upserts), staged)


def mirrored(sink: Sink, schema: TableSchema, wanted: pa.Table | None = None, staged: bool = False) -> list[tuple[Any, ...]]:
    """What a mirror or staged copy holds, in the order of its text."""
    transaction = sink.begin()
    try:
        found = [tuple(row.values()) for table in transaction.mirror(schema, wanted, staged) for row in table.to_pylist()]
    finally:
        transaction.rollback()
    return sorted(found, key=str)


def row_key(number: int) -> str:
    """The row key of order `number`."""
    return json.dumps({"id": number})


def row_hash(number: int) -> int:
    """What the live entries of order `number` are looked up by."""
    return int.from_bytes(hashlib.md5(f"shop.orders\0{row_key(number)}".encode()).digest()[:8], "little")


def entry_id(*parts: object) -> str:
    """A UUID made of parts."""
    digest = hashlib.md5(repr(parts).encode()).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:]}"


def live_keys(numbers: Iterable[int]) -> pa.Table:
    """LIVE_KEYS of orders."""
    return pa.Table.from_pylist([{"row_hash": row_hash(n), "row_key": row_key(n)} for n in numbers], LIVE_KEYS)


def lines_of(amount: Decimal) -> list[Row]:
    """Two balanced lines."""
    common = {"currency": "CNY", "orig_amount": amount, "rate": Decimal(1), "quantity": None, "unit": None}
    common |= {"rate_type": None, "rate_date": None, "origin": None}
    return [
        {"line_no": 1, "account": "1122", "debit": amount, "credit": None, **common, "dims": '{"customer": "张三"}'},
        {"line_no": 2, "account": "5001", "debit": None, "credit": amount, **common, "dims": None},
    ]


def postings(
    begun: Iterable[tuple[int, Decimal]] = (),
    ended: Iterable[tuple[int, str]] = (),
    quarantined: Sequence[Row] = (),
    settled: Sequence[Row] = (),
    version: int = 0,
) -> Postings:
    """Postings that begin entries of orders with an amount, end (order, entry_id) without reversing, quarantine and settle."""
    heads = [_head(number, amount, version) for number, amount in begun]
    entries = [{**_told(head), "kind": "post", "reverses": None, "corrects": None} for head in heads]
    lines = [{**head, **line} for head in heads for line in head["lines"]]
    return Postings(
        pa.Table.from_pylist(entries, ENTRIES),
        pa.Table.from_pylist([{name: line[name] for name in LINES.names} for line in lines], LINES),
        pa.Table.from_pylist([{"row_hash": row_hash(number), "entry_id": entry} for number, entry in ended], ENDED),
        pa.Table.from_pylist([{name: head[name] for name in BEGUN.names} for head in heads], BEGUN),
        pa.Table.from_pylist(list(quarantined), QUARANTINED),
        pa.Table.from_pylist(list(settled), SETTLED),
    )


def item(number: int, code: str = "quarantine.unbalanced") -> Row:
    """A quarantined order."""
    return {
        "id": entry_id("item", number),
        "source": "shop",
        **fault(number),
        "position": "0/20",
        "level": 3,
        "reason": code,
        "detail": "1 <> 2",
        "payload": '{"name": "茶"}',
    }


def fault(number: int) -> Row:
    """The row and rule that an item of order `number` is about."""
    return {"source_table": "shop.orders", "row_key": row_key(number), "book": "main", "rule": "order-paid"}


def _head(number: int, amount: Decimal, version: int) -> Row:
    return {
        "row_hash": row_hash(number),
        "source_table": "shop.orders",
        "row_key": row_key(number),
        "book": "main",
        "rule": "order-paid",
        "entry_id": entry_id(number, version),
        "voucher_key": f"SO{number}",
        "voucher_type": None,
        "doc_date": date(2026, 11, 3),
        "entry_date": date(2026, 11, 3),
        "period": "2026-11",
        "attachments": 2,
        "content": None,
        "correction": 0,
        "summary": f"销售 SO{number}",
        "rule_version": 1,
        "lines": lines_of(amount),
    }


def _told(head: Row) -> Row:
    told = {"source": "shop", "op": "c", "position": "0/20", "txn": "771", "ordinal": 0, "committed_at": NOON, **head}
    return {name: told[name] for name in ENTRIES.names if name in told}
