"""Streams of pgoutput that may be anything, through the decoder with both forms of its kernel, which must come to the same and crash
nowhere."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pyarrow as pa

from cdc.decode.kernels import Form
from cdc.decode.postgres.pgoutput import Decoder
from cdc.decode.postgres.pgtypes import PgType, map_column
from cdc.errors import LedgertailError
from cdc.types import TableSchema
from tests.kernels import FORMS, demanded
from tests.messages import LINES, LOG, ORDERS, UNCHANGED, begin, commit, delete, insert, relation, text, truncate, update

# Columns with their types and two values each.
COLUMNS: dict[str, tuple[PgType, str, str]] = {
    "id": (PgType("int8"), "1", "-999999999999999999"),
    "note": (PgType("text"), "客户", ""),
    "total": (PgType("numeric", (18 << 16 | 2) + 4), "12.50", "-0.05"),
    "small": (PgType("int2"), "32767", "-32768"),
    "open": (PgType("bool"), "t", "f"),
    "whole": (PgType("int4"), "-2147483648", "0"),
    "object": (PgType("oid"), "4294967295", "0"),
    "rate": (PgType("float8"), "1e-3", "NaN"),
    "share": (PgType("numeric", (38 << 16 | 18) + 4), "-18446744073.709551616000000000", "99999999999999999999.000000000000000000"),
    "any": (PgType("numeric"), "1e500", "NaN"),
    "price": (PgType("money"), "$1,234.50", "-$0.05"),
    "day": (PgType("date"), "2024-02-29", "infinity"),
    "moment": (PgType("timestamp"), "2026-11-30 23:59:59.5", "0044-03-15 12:00:00 BC"),
    "at": (PgType("timestamptz"), "2026-11-30 23:59:59.000001+00", "-infinity"),
    "hour": (PgType("time"), "24:00:00", "01:02:03.45"),
    "blob": (PgType("bytea"), "\\x00fF", "\\x"),
    "document": (PgType("jsonb"), '{"a": "\\ud83d\\ude00"}', "[]"),
    "number": (PgType("uuid"), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "00000000-0000-0000-0000-000000000000"),
}
NAMES, FIRST, SECOND = tuple(COLUMNS), [value for _, value, _ in COLUMNS.values()], [value for _, _, value in COLUMNS.values()]
UNKNOWN = 400
_NUMBERS = {32: pa.int32(), 64: pa.int64()}
BETWEEN = b"\xfe\xff"  # messages: so that what comes or goes in one leaves the others whole


def _schema(table: str, names: tuple[str, ...], key: tuple[str, ...]) -> TableSchema:
    return TableSchema("shop", table, tuple(map_column(name, COLUMNS[name][0], None) for name in names), key)


SCHEMAS = {
    "orders": _schema("orders", NAMES, ("id",)),
    "lines": _schema("lines", ("small", "total", "note", "id"), ("id", "note")),
    "log": _schema("log", ("id", "note", "total"), ()),
}
_DESCRIBED = [
    begin(),
    relation(ORDERS, "orders", "d", "id! " + " ".join(NAMES[1:])),
    relation(LINES, "lines", "f", "total! id! note! small! more!"),
    relation(LOG, "log", "f", "id! note! total!"),
    relation(UNKNOWN, "unknown"),
]
_CHANGES = [
    insert(*FIRST),
    insert(*SECOND),
    insert(1, *[None] * (len(NAMES) - 1)),
    update((1, UNCHANGED, *FIRST[2:-1], UNCHANGED)),
    update(FIRST, (2, *[None] * (len(NAMES) - 1))),
    delete((2, *[None] * (len(NAMES) - 1))),
    insert("1.00", 7, "a", 3, "x", relid=LINES),
    update(("2.00", 7, UNCHANGED, UNCHANGED, "x"), ("1.00", 7, "a", 3, None), b"O", LINES),
    update(("2.00", 8, "b", 3, "x"), ("2.00", 7, "a", 3, None), b"O", LINES),
    delete(("2.00", 8, "b", 3, None), b"O", LINES),
    update((1, "x", UNCHANGED), (1, "y", "3.00"), b"O", LOG),
    update((1, "x", UNCHANGED), (1, "x", "3.00"), b"O", LOG),
    insert(1, 1, 1, relid=UNKNOWN),
    truncate(LINES, LOG, ORDERS, UNKNOWN),
    relation(ORDERS, "orders", "f", " ".join(f"{name}!" for name in reversed(NAMES))),
    b"M" + struct.pack(">BQ", 1, 5) + text("prefix") + struct.pack(">I", 1) + b"a",
    b"O" + struct.pack(">Q", 5) + text("elsewhere"),
    b"Y" + struct.pack(">I", 90_000) + text("public") + text("mood"),
]


def seeds() -> Iterator[bytes]:
    """Streams that are as they should be: of each change, and of all; the number of messages fed first stands before them."""
    for change in _CHANGES:
        yield bytes([len(_DESCRIBED)]) + BETWEEN.join([*_DESCRIBED, change, insert("9.00", 9, "z", 9, "x", relid=LINES), commit()])
    again = [begin(0x1_16B3800, 8), *_DESCRIBED[1:], *_CHANGES, commit(0x1_16B3800, 0x1_16B3900)]
    yield bytes([len(_DESCRIBED) + 9]) + BETWEEN.join([*_DESCRIBED, *_CHANGES, commit(), *again])


class Forms:
    """The decoder with either form of the kernel."""

    def check(self, data: bytes) -> tuple[str, ...]:
        """What a stream comes to: rows and transactions, or what it is refused for; alike with both."""
        found = {form: self._outcome(form, data) for form in FORMS}
        assert found[Form.PLAIN] == found[Form.COMPILED], found
        return found[Form.PLAIN]

    def _outcome(self, form: Form, data: bytes) -> tuple[str, ...]:
        frames = data[1:].split(BETWEEN)
        found: list[str] = []
        with demanded("postgres", form):
            decoder = Decoder(lambda relation: SCHEMAS.get(relation.name))
        try:
            for part in (frames[: data[0]], frames[data[0] :]) if data else ():
                end = 0
                while end < len(part):
                    end = decoder.feed(part, end)
                    transactions, changes = decoder.take()
                    found += _rows(transactions)
                    for change in changes:
                        found += _rows(change.rows)
        except LedgertailError as refused:
            return type(refused).__name__, str(refused)
        return *found, decoder.position or "", str(decoder.in_transaction)


def _rows(table: pa.Table) -> list[str]:
    """Moments as the numbers they are: Arrow and Python allow fewer than PostgreSQL."""
    numbers = [column.cast(_NUMBERS[column.type.bit_width]) if pa.types.is_temporal(column.type) else column for column in table.columns]
    made = pa.table(numbers, table.column_names)
    made.validate(full=True)
    return list(map(repr, made.to_pylist()))
