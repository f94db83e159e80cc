"""What was decoded and not taken yet: changes per table, between the decoder that collects them and Arrow, and their transactions."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import cast

import pyarrow as pa
from pymysqlreplication.constants import FIELD_TYPE

from cdc.decode.mysql.aside import Aside
from cdc.decode.mysql.captured import Changes, Layout
from cdc.decode.mysql.events import Xid, inflate
from cdc.decode.mysql.rows import Value
from cdc.decode.mysql.wire import Malformed, Place
from cdc.errors import SchemaUnknown
from cdc.types import ABSENT, OLD, OP, ORDINAL, TRANSACTIONS, TRUNCATE, TXN, UPDATE, TableChanges, TableSchema

PACKED_AT = 2 << 20  # bytes of rows that wait to be turned into Arrow together


@dataclass(slots=True)
class Transaction:
    """A transaction of the log. `bracketed`: it ends with an event of its own, not with the first statement. `xid`: it is of XA.

    `ordinal` counts its changes, of which those before `taken` were taken. `decided`: its end is known, it is not rolled back any more.
    `aside` has events that wait for that: all of an XA transaction, which is of captured tables if `touched`, or those beyond a batch.
    `savepoints`: by name, the ordinal, the bytes pending and the end of `aside` then. `skipped`: it was applied already. `alters`: its
    statement has an effect.
    """

    place: Place
    position: str
    gtid: str | None
    committed_us: int
    bracketed: bool
    alters: bool
    skipped: bool
    bytes_before: int
    xid: Xid | None = None
    touched: bool = False
    ordinal: int = 0
    taken: int = 0
    listed: bool = False
    decided: bool = False
    savepoints: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    aside: Aside | None = None
    fragments: list[bytes] = field(default_factory=list)


class Pending:
    """All that is pending. `bytes`: the size of the rows' events."""

    def __init__(self) -> None:
        self._tables: dict[str, Captured] = {}
        self._transactions: list[Transaction] = []
        self.bytes = 0

    @property
    def rows(self) -> int:
        """Changes; a new schema without any counts as one."""
        return sum(max(table.rows, table.announced) for table in self._tables.values())

    def has_room(self, schema: TableSchema) -> bool:
        """Whether no rows of the table are pending that have another schema."""
        table = self._tables.get(schema.table)
        return table is None or table.schema == schema or not table.rows

    def room(self, schema: TableSchema) -> Iterable[None]:
        """Stops as long as rows of the table are pending that have another schema."""
        while not self.has_room(schema):
            yield
        if schema.table in self._tables and self._tables[schema.table].schema != schema:
            del self._tables[schema.table]

    def add(self, transaction: Transaction, layout: Layout, changes: Changes, size: int) -> None:
        """The next changes of a transaction, of `size` bytes; there must be room. Raises Malformed and ValueUnfit."""
        self._table(layout.schema).add(layout, changes, size, self._listed(transaction), transaction.ordinal)
        transaction.ordinal += len(changes.ops)
        self.bytes += size

    def truncate(self, transaction: Transaction, schema: TableSchema) -> None:
        """The next change of a transaction is that a table was emptied; there must be room."""
        self._table(schema).truncate(self._listed(transaction), transaction.ordinal)
        transaction.ordinal += 1

    def announce(self, schema: TableSchema) -> None:
        """A table has a new schema; there must be room."""
        self._table(schema).announced = True

    def cut(self, transaction: Transaction, ordinal: int, size: int) -> None:
        """Forget a transaction's changes from an ordinal on, when `size` bytes were pending. Raises Malformed if some were taken."""
        if ordinal < transaction.taken:
            raise Malformed("it rolls back what had been decided")
        if transaction.listed:
            for name, table in list(self._tables.items()):
                table.cut(len(self._transactions) - 1, ordinal)
                if not table.rows and not table.announced:
                    del self._tables[name]
            if ordinal == transaction.taken:
                self._transactions.pop()
                transaction.listed = False
            self.bytes = min(size, self.bytes)
        transaction.ordinal = ordinal

    def take(self, unfinished: Transaction | None) -> tuple[pa.Table, tuple[TableChanges, ...]]:
        """All of it, which is then forgotten; the unfinished transaction is listed again once more of its changes come."""
        columns = [
            pa.array([transaction.position for transaction in self._transactions], pa.string()),
            pa.array([transaction.gtid for transaction in self._transactions], pa.string()),
            pa.array([transaction.committed_us for transaction in self._transactions], pa.timestamp("us", "UTC")),
        ]
        changes = tuple(table.take() for table in self._tables.values())
        self._tables, self._transactions, self.bytes = {}, [], 0
        if unfinished is not None:
            unfinished.listed, unfinished.taken, unfinished.bytes_before = False, unfinished.ordinal, 0
        return pa.Table.from_arrays(columns, schema=TRANSACTIONS), changes

    def _table(self, schema: TableSchema) -> Captured:
        if schema.table not in self._tables:
            self._tables[schema.table] = Captured(schema)
        return self._tables[schema.table]

    def _listed(self, transaction: Transaction) -> int:
        """The transaction's index among those that `take` gives."""
        if not transaction.listed:
            self._transactions.append(transaction)
            transaction.listed = True
        return len(self._transactions) - 1


class Captured:
    """The pending changes of a table, all of one schema; `announced`: that is new, and to be told of even without any.

    Rows are gathered as lists of values and turned into Arrow some MB at a time.
    """

    def __init__(self, schema: TableSchema) -> None:
        self.schema = schema
        types = {column.name: column.type for column in schema.columns}
        self._types = [*types.values(), *(types[name] for name in schema.key)]
        self._chunks: list[list[pa.Array]] = [[] for _ in self._types]  # of the columns, and of the keys there were before
        self._layout: Layout | None = None
        self._raw: list[list[Value]] = []
        self._raw_rows = self._raw_bytes = 0
        self._ops = bytearray()
        self._txns, self._ordinals = array("i"), array("q")
        self._absent: dict[int, tuple[int, ...]] = {}
        self._old: dict[int, tuple[Value, ...]] = {}
        self.announced = False

    @property
    def rows(self) -> int:
        """Rows pending."""
        return len(self._ops)

    def add(self, layout: Layout, changes: Changes, size: int, txn: int, ordinal: int) -> None:
        """Add changes of `size` bytes, whose ordinals follow each other from `ordinal`. Raises as `pack`."""
        if self._layout is not layout:
            self.pack(least=0)
            self._layout, self._raw = layout, [[] for _ in layout.fields]
        first, count = self.rows, len(changes.ops)
        for raw, values in zip(self._raw, changes.columns, strict=True):
            raw.extend(repeat(None, count) if values is None else values)
        if changes.absent:
            self._absent.update((first + at, changes.absent) for at, op in enumerate(changes.ops) if op == UPDATE)
        self._old.update((first + at, key) for at, key in changes.old.items())
        self._note(changes.ops, txn, ordinal)
        self._raw_rows += count
        self._raw_bytes += size
        self.pack()

    def truncate(self, txn: int, ordinal: int) -> None:
        """Add that the table was emptied."""
        self.pack(least=0)
        for chunks, kind in zip(self._chunks, self._types, strict=True):
            chunks.append(pa.nulls(1, kind))
        self._note(TRUNCATE, txn, ordinal)

    def _note(self, ops: str, txn: int, ordinal: int) -> None:
        self._ops += ops.encode()
        self._txns.extend(repeat(txn, len(ops)))
        self._ordinals.extend(range(ordinal, ordinal + len(ops)))

    def cut(self, txn: int, ordinal: int) -> None:
        """Forget the changes of a transaction from an ordinal on: they were rolled back."""
        kept = self.rows
        while kept and self._txns[kept - 1] == txn and self._ordinals[kept - 1] >= ordinal:
            kept -= 1
        packed = self.rows - self._raw_rows
        self._raw_rows = max(0, kept - packed)
        for raw in self._raw:
            del raw[self._raw_rows :]
        if kept < packed:
            arrays = (pa.chunked_array(chunks, kind) for chunks, kind in zip(self._chunks, self._types, strict=True))
            self._chunks = [list(whole.slice(0, kept).chunks) for whole in arrays]
        del self._ops[kept:], self._txns[kept:], self._ordinals[kept:]
        self._absent = {row: indexes for row, indexes in self._absent.items() if row < kept}
        self._old = {row: key for row, key in self._old.items() if row < kept}

    def pack(self, least: int = PACKED_AT) -> None:
        """Turn the values into Arrow and let go of them, once they are of `least` bytes. Raises Malformed and ValueUnfit."""
        layout = self._layout
        if layout is None or not self._raw_rows or self._raw_bytes < least:
            return
        arrays = [
            converted for index, field in enumerate(layout.fields) if field for converted in self._convert(layout, index, self._raw[index])
        ]
        arrays += self._converted_old(layout)
        for chunks, converted in zip(self._chunks, arrays, strict=True):
            chunks.append(converted)
        self._raw = [[] for _ in self._raw]
        self._raw_rows = self._raw_bytes = 0

    def _converted_old(self, layout: Layout) -> Iterator[pa.Array]:
        rows = range(self.rows - self._raw_rows, self.rows)
        changed = bool(self._old) and max(self._old) >= rows.start
        nothing = (None,) * len(layout.key)
        keys = [self._old.get(row, nothing) for row in rows] if changed else []
        for place, index in enumerate(layout.key):
            yield (
                self._convert(layout, index, [key[place] for key in keys])[0]
                if changed
                else pa.nulls(len(rows), self._types[len(self.schema.columns) + place])
            )

    def _convert(self, layout: Layout, index: int, values: Sequence[Value]) -> list[pa.Array]:
        field, column = layout.fields[index], layout.table.columns[index]
        assert field is not None
        texts: dict[int, str] = {}
        raw = cast("Sequence[bytes | None]", values)
        if column.code == FIELD_TYPE.JSON:
            texts = {row: value for row, value in enumerate(values) if isinstance(value, str)}
            raw = [value if isinstance(value, bytes) else None for value in values]
        elif column.compressed:
            raw = [value and _decompressed(value) for value in raw]
        array, *more = field.from_wire(column, raw, self.schema.table)
        if texts:
            array = pa.array([texts.get(row, text) for row, text in enumerate(array.to_pylist())], array.type)
        return [array, *more]

    def take(self) -> TableChanges:
        """The pending rows; of no use then. Raises as `pack`, and SchemaUnknown."""
        self.pack(least=0)
        self._check_key()
        names = [*(column.name for column in self.schema.columns), *(OLD + name for name in self.schema.key if self._old)]
        columns = [pa.chunked_array(chunks, kind) for chunks, kind in zip(self._chunks, self._types, strict=True)][: len(names)]
        if self._absent:
            names.append(ABSENT)
            columns.append(pa.array([self._absent.get(row) for row in range(self.rows)], pa.list_(pa.int16())))
        places = [self._op_column(), _whole(pa.int32(), self._txns), _whole(pa.int64(), self._ordinals)]
        return TableChanges(self.schema, pa.table([*places, *columns], [OP, TXN, ORDINAL, *names]))

    def _check_key(self) -> None:
        """Only a truncate's row may lack its key."""
        truncates = self._ops.count(TRUNCATE.encode())
        for column, chunks in zip(self.schema.columns, self._chunks[: len(self.schema.columns)], strict=True):
            if column.name in self.schema.key and sum(chunk.null_count for chunk in chunks) != truncates:
                raise SchemaUnknown("binlog.identity", table=self.schema.table, column=column.name)

    def _op_column(self) -> pa.Array:
        ends = array("i", range(self.rows + 1))
        return pa.StringArray.from_buffers(self.rows, pa.py_buffer(ends), pa.py_buffer(bytes(self._ops)))


def _decompressed(value: bytes) -> bytes:
    """A value of MariaDB's COMPRESSED columns: a byte of method and size, the size before it was compressed, and the rest."""
    head = value[0]
    if head == 0:
        return value[1:]
    if head >> 4 != 8:
        raise Malformed("a value in it is compressed in an unknown way")
    start = 1 + (head & 7)
    return inflate(value[start:], int.from_bytes(value[1:start], "big"), -zlib.MAX_WBITS if head & 8 else zlib.MAX_WBITS)


def _whole(kind: pa.DataType, numbers: array[int]) -> pa.Array:
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])
