"""What a case says happens: the tables' schemas and their changes, as micro-batches.

`== table` has the columns' names and, below, their DuckDB types; `(key a, b)` names the key, without it rows are told apart by all they
hold. Tables may also stand once for all cases of a folder, in its file `tables.txt`.

`== changes` is a micro-batch, with the `== also` sections that follow it. The first column is `op`: c insert, u update, d delete, r read
by a snapshot, t truncate; the second may be `t`, the number of the transaction, where there are several. A column that is left out is NULL
in a new row, and unchanged in an update. A change of a key is a `d` of the old and a `u` of the new one. The table may be left out where
there is one only.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pyarrow as pa

from cdc.cases.file import Case, Section, aligned, grid, read, told, written
from cdc.types import (
    DELETE,
    INSERT,
    OP,
    ORDINAL,
    READ,
    TRANSACTIONS,
    TRUNCATE,
    TXN,
    UPDATE,
    Column,
    MicroBatch,
    TableChanges,
    TableSchema,
)

TABLES = "tables.txt"
DIGITS_MAX = 38  # of a DECIMAL
Values = dict[str, Any]

_ARROW = {
    "BOOLEAN": pa.bool_(),
    "TINYINT": pa.int8(),
    "SMALLINT": pa.int16(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "UTINYINT": pa.uint8(),
    "USMALLINT": pa.uint16(),
    "UINTEGER": pa.uint32(),
    "UBIGINT": pa.uint64(),
    "FLOAT": pa.float32(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
    "UUID": pa.string(),
    "JSON": pa.string(),
    "BLOB": pa.binary(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "TIMESTAMP": pa.timestamp("us"),
    "TIMESTAMPTZ": pa.timestamp("us", "UTC"),
}
_DECIMAL = re.compile(r"DECIMAL\((\d{1,2}),(\d{1,2})\)")
_TABLE = re.compile(r"([^\s.]+)\.(\S+)(?: +\(key +([^()]+)\))?")
_OPS = (INSERT, UPDATE, DELETE, READ, TRUNCATE)
_FIRST_COMMIT = datetime(2026, 11, 1, tzinfo=UTC)


def column(name: str, kind: str) -> Column:
    """A column of a DuckDB type, in changes of the Arrow type that goes with it. Raises KeyError for a type no source has."""
    digits = _DECIMAL.fullmatch(kind)
    if digits and int(digits[2]) <= int(digits[1]) <= DIGITS_MAX:
        return Column(name, pa.decimal128(int(digits[1]), int(digits[2])), kind, kind.lower())
    return Column(name, _ARROW[kind], kind, kind.lower())


def schemas(case: Case) -> dict[str, TableSchema]:
    """The tables of a case and of `tables.txt` beside it, by name (`shop.orders`). Raises ConfigError."""
    shared = case.path.with_name(TABLES)
    sections = read(shared, ["table"]).sections if shared.is_file() else ()
    return {schema.name: schema for schema in map(_schema, (*sections, *case.of("table")))}


def declared(schema: TableSchema) -> list[str]:
    """The `== table` section of a table, as it is written."""
    key = f" (key {', '.join(schema.key)})" if schema.key else ""
    names, kinds = zip(*((written(column.name), column.store_type) for column in schema.columns), strict=True)
    return [f"== table {schema.name}{key}", *aligned([names, kinds])]


def batches(case: Case, tables: Mapping[str, TableSchema]) -> Iterator[MicroBatch]:
    """The changes of a case, a micro-batch for each `== changes`; transactions are a second apart, numbered from 1. Raises ConfigError."""
    parts: list[list[Section]] = []
    for section in case.sections:
        if section.kind == "changes":
            parts.append([section])
        elif section.kind == "also" and parts:
            parts[-1].append(section)
        elif section.kind == "also":
            raise section.fault("cases.also")
    rows, first = _Rows(tables), 1
    for sections in parts:
        batch = rows.batch(sections, first)
        first += batch.transactions.num_rows
        yield batch


@dataclass(frozen=True, slots=True)
class _Change:
    txn: int
    ordinal: int
    op: str
    values: Values


@dataclass
class _Rows:
    """The rows of the tables with a key, as the changes so far leave them: what an update leaves out stays as it is."""

    tables: Mapping[str, TableSchema]
    known: dict[str, dict[tuple[Any, ...], Values]] = field(default_factory=dict)

    def batch(self, sections: list[Section], first: int) -> MicroBatch:
        """The micro-batch of some sections; its transactions are numbered from `first`."""
        source = self._table(sections[0]).source
        changes: dict[str, list[_Change]] = {}
        ordinals: dict[int, int] = {}
        for section in sections:
            schema = self._table(section)
            if schema.source != source:
                raise section.fault("cases.other_source", source=schema.source)
            of_table = changes.setdefault(schema.name, [])
            for txn, op, values in self._read(section, schema):
                ordinals[txn] = ordinals.get(txn, -1) + 1
                of_table.append(_Change(txn, ordinals[txn], op, values))
        places = {txn: place for place, txn in enumerate(sorted(ordinals))}
        transactions = _transactions(len(places), first)
        return MicroBatch(
            source=source,
            identity="case",
            transactions=transactions,
            changes=tuple(
                TableChanges(self.tables[name], _table(self.tables[name], of_table, places)) for name, of_table in changes.items()
            ),
            position=f"{first + len(places) - 1:08}",
        )

    def _table(self, section: Section) -> TableSchema:
        if not section.about and len(self.tables) == 1:
            return next(iter(self.tables.values()))
        if section.about not in self.tables:
            raise section.fault("cases.no_table", table=section.about, known=", ".join(self.tables) or "-", shared=TABLES)
        return self.tables[section.about]

    def _read(self, section: Section, schema: TableSchema) -> Iterator[tuple[int, str, Values]]:
        """The changes of a section: the transaction's number as it is written, the op and the row's values."""
        table = grid(section)
        names = table.header[2 if table.header[1:2] == ("t",) else 1 :]
        columns = {column.name: column for column in schema.columns}
        if table.header[:1] != ("op",) or not table.rows:
            raise section.fault("cases.no_op", table.line)
        for name in names:
            if name not in columns or names.count(name) > 1:
                raise section.fault("cases.column", table.line, column=name, known=", ".join(columns))
        for line, cells in table.rows:
            op, numbers, texts = cells[0], cells[1 : len(cells) - len(names)], cells[len(cells) - len(names) :]
            if op not in _OPS or not all(number.isdecimal() for number in numbers if number):
                raise section.fault("cases.op", line, op=" ".join(cells[: len(cells) - len(names)]))
            given = {name: _value(section, line, columns[name], text) for name, text in zip(names, texts, strict=True)}
            yield int("".join(numbers) or 0), op, self._whole(section, line, schema, op, given)

    def _whole(self, section: Section, line: int, schema: TableSchema, op: str, given: Values) -> Values:
        """The row after a change, or before a delete."""
        rows = self.known.setdefault(schema.name, {})
        if op == TRUNCATE:
            rows.clear()
            return {}
        if not schema.key:
            return given
        key = tuple(given.get(name) for name in schema.key)
        if None in key:
            raise section.fault("cases.no_key", line, key=", ".join(schema.key))
        if op == INSERT and key in rows:
            raise section.fault("cases.there_already", line, key=", ".join(map(str, key)))
        if op == DELETE:
            return rows.pop(key, {}) | {name: given[name] for name in schema.key}
        rows[key] = rows.get(key, {}) | given if op == UPDATE else given
        return rows[key]


def _schema(section: Section) -> TableSchema:
    found, table = _TABLE.fullmatch(section.about), grid(section)
    if found is None or len(table.rows) != 1:
        raise section.fault("cases.table")
    (line, kinds), columns = table.rows[0], []
    for name, kind in zip(table.header, kinds, strict=True):
        try:
            columns.append(column(name, kind.upper().replace(" ", "")))
        except KeyError as error:
            raise section.fault("cases.type", line, type=kind, known=", ".join(_ARROW)) from error
    key = tuple(name.strip() for name in (found[3] or "").split(",") if name.strip())
    for name in key:
        if name not in table.header:
            raise section.fault("cases.column", column=name, known=", ".join(table.header))
    return TableSchema(found[1], found[2], tuple(columns), key)


def _value(section: Section, line: int, to: Column, cell: str) -> Any:
    """What a cell of changes says, NULL also as such. Raises ConfigError for what is no exact value of the column's type."""
    text = None if cell == "NULL" else told(cell)
    try:
        return time.fromisoformat(text) if to.store_type == "TIME" and text else pa.scalar(text, pa.string()).cast(to.type).as_py()
    except (pa.ArrowInvalid, ValueError) as error:
        raise section.fault("cases.value", line, column=to.name, value=text, type=to.store_type) from error


def _table(schema: TableSchema, changes: list[_Change], places: Mapping[int, int]) -> pa.Table:
    """Changes as the head of `cdc.types` describes them."""
    ordered = sorted(changes, key=lambda change: (change.txn, change.ordinal))
    columns: dict[str, pa.Array] = {
        OP: pa.array([change.op for change in ordered], pa.string()),
        TXN: pa.array([places[change.txn] for change in ordered], pa.int32()),
        ORDINAL: pa.array([change.ordinal for change in ordered], pa.int64()),
    }
    return pa.table(columns | {c.name: pa.array([change.values.get(c.name) for change in ordered], c.type) for c in schema.columns})


def _transactions(count: int, first: int) -> pa.Table:
    rows = [
        {"position": f"{number:08}", "txn": str(number), "committed_at": _FIRST_COMMIT + timedelta(seconds=number)}
        for number in range(first, first + count)
    ]
    return pa.Table.from_pylist(rows, TRANSACTIONS)
