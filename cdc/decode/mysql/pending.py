"""What was decoded and not taken yet: changes per table, between the decoder that collects them and Arrow, and their transactions."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc

from cdc.decode.mysql.aside import Aside
from cdc.decode.mysql.captured import Changes, Layout
from cdc.decode.mysql.events import Reader, Xid, inflate
from cdc.decode.mysql.images import values_of
from cdc.decode.mysql.kernel import DELETE, MOVED
from cdc.decode.mysql.rows import Texts
from cdc.decode.mysql.wire import Malformed, Place
from cdc.errors import SchemaUnknown
from cdc.types import ABSENT, OLD, OP, ORDINAL, TRANSACTIONS, TRUNCATE, TXN, UPDATE, TableChanges, TableSchema

if TYPE_CHECKING:
    from cdc.decode.mysql.kernel import Gathered, Values

PACKED_AT = 2 << 20  # bytes of rows that wait to be turned into Arrow together
_OPS = bytes.maketrans(bytes([MOVED]), UPDATE.encode())


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

    def add(self, transaction: Transaction, layout: Layout, kind: int, reader: Reader) -> None:
        """The next changes of a transaction, out of a rows event; there must be room. Raises as Layout.read, and ValueUnfit."""
        table = self._table(layout.schema)
        changes = table.read(layout, kind, reader)
        if changes.ops:
            self._keep(table).add(changes, self._listed(transaction), transaction.ordinal)
            transaction.ordinal += len(changes.ops)
            self.bytes += changes.size

    def truncate(self, transaction: Transaction, schema: TableSchema) -> None:
        """The next change of a transaction is that a table was emptied; there must be room."""
        self._keep(self._table(schema)).truncate(self._listed(transaction), transaction.ordinal)
        transaction.ordinal += 1

    def announce(self, schema: TableSchema) -> None:
        """A table has a new schema; there must be room."""
        self._keep(self._table(schema)).announced = True

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
        """What is pending of a table that has the schema, be it nothing yet."""
        table = self._tables.get(schema.table)
        return table if table is not None and table.schema == schema else Captured(schema)

    def _keep(self, table: Captured) -> Captured:
        if self._tables.get(table.schema.table) is not table:
            self._tables.pop(table.schema.table, None)
            self._tables[table.schema.table] = table
        return table

    def _listed(self, transaction: Transaction) -> int:
        """The transaction's index among those that `take` gives."""
        if not transaction.listed:
            self._transactions.append(transaction)
            transaction.listed = True
        return len(self._transactions) - 1


class Captured:
    """The pending changes of a table, all of one schema; `announced`: that is new, and to be told of even without any.

    Rows are gathered, and turned into Arrow some MB at a time.
    """

    def __init__(self, schema: TableSchema) -> None:
        self.schema = schema
        self._chunks: list[list[pa.Array]] = [[] for _ in schema.columns]
        self._layout: Layout | None = None
        self._gathered: Gathered | None = None
        self._texts = Texts()  # by rows gathered
        self._ops = bytearray()  # as gathered
        self._txns = array("i")
        self._ahead = array("q")  # how far the ordinal of a row is ahead of its number here
        self._absents: list[tuple[int, ...] | None] = [None]
        self._absent = array("i")  # which of these is of a row, up to the last that has one
        self.announced = False

    @property
    def rows(self) -> int:
        """Rows pending."""
        return len(self._ops)

    def read(self, layout: Layout, kind: int, reader: Reader) -> Changes:
        """Gather what a rows event changes (see Layout.read), to be added at once. Raises as that, and as `pack`."""
        if self._layout is not layout:
            self.pack(least=0)
            self._layout, self._gathered = layout, layout.gathered()
        assert self._gathered is not None
        return layout.read(kind, reader, self._gathered)

    def add(self, changes: Changes, txn: int, ordinal: int) -> None:
        """Add changes that were read, whose ordinals follow each other from `ordinal`. Raises as `pack`."""
        self._texts |= changes.texts
        if changes.absent:
            self._note_absent(changes)
        self._note(changes.ops, txn, ordinal)
        self.pack()

    def truncate(self, txn: int, ordinal: int) -> None:
        """Add that the table was emptied."""
        self.pack(least=0)
        for chunks, column in zip(self._chunks, self.schema.columns, strict=True):
            chunks.append(pa.nulls(1, column.type))
        self._note(TRUNCATE.encode(), txn, ordinal)

    def _note(self, ops: bytes, txn: int, ordinal: int) -> None:
        self._txns += array("i", [txn]) * len(ops)
        self._ahead += array("q", [ordinal - self.rows]) * len(ops)
        self._ops += ops

    def _note_absent(self, changes: Changes) -> None:
        if changes.absent not in self._absents:
            self._absents.append(changes.absent)
        number = self._absents.index(changes.absent)
        self._fill_absent()
        deleted = DELETE in changes.ops
        self._absent += array("i", [number * (op != DELETE) for op in changes.ops]) if deleted else array("i", [number]) * len(changes.ops)

    def _fill_absent(self) -> None:
        self._absent += array("i", [0]) * (self.rows - len(self._absent))

    def cut(self, txn: int, ordinal: int) -> None:
        """Forget the changes of a transaction from an ordinal on: they were rolled back."""
        kept = self.rows
        while kept and self._txns[kept - 1] == txn and self._ahead[kept - 1] + kept - 1 >= ordinal:
            kept -= 1
        packed = self.rows - (self._gathered.rows if self._gathered else 0)
        if self._gathered:
            self._gathered.cut(kept - packed)
        if kept < packed:
            arrays = (pa.chunked_array(chunks, column.type) for chunks, column in zip(self._chunks, self.schema.columns, strict=True))
            self._chunks = [list(whole.slice(0, kept).chunks) for whole in arrays]
        self._texts = Texts({(index, row): text for (index, row), text in self._texts.items() if row < kept - packed})
        del self._ops[kept:], self._txns[kept:], self._ahead[kept:], self._absent[kept:]

    def pack(self, least: int = PACKED_AT) -> None:
        """Turn the values into Arrow and let go of them, once they are of `least` bytes. Raises Malformed and ValueUnfit."""
        layout, gathered = self._layout, self._gathered
        if layout is None or gathered is None or not gathered.rows or gathered.size < least:
            return
        made = [one for slot, index in enumerate(layout.kept) for one in self._convert(layout, index, gathered.values(slot))]
        for chunks, one in zip(self._chunks, made, strict=True):
            chunks.append(one)
        gathered.clear()
        self._texts = Texts()

    def _convert(self, layout: Layout, index: int, values: Values) -> list[pa.Array]:
        field, column = layout.fields[index], layout.table.columns[index]
        assert field is not None
        if column.compressed:
            values = values_of([value and _decompressed(value) for value in values.to_pylist()])
        array, *more = field.from_wire(column, values, self.schema.table)
        texts = {row: text for (at, row), text in self._texts.items() if at == index}
        if texts:
            array = pa.array([texts.get(row, text) for row, text in enumerate(array.to_pylist())], array.type)
        return [array, *more]

    def take(self) -> TableChanges:
        """The pending rows; of no use then. Raises as `pack`, and SchemaUnknown."""
        self.pack(least=0)
        self._check_key()
        columns = {
            column.name: pa.chunked_array(chunks, column.type) for column, chunks in zip(self.schema.columns, self._chunks, strict=True)
        }
        ordinals = pc.add(_whole(pa.int64(), self._ahead), pa.arange(0, self.rows))
        places = {OP: self._op_column(), TXN: _whole(pa.int32(), self._txns), ORDINAL: ordinals}
        return TableChanges(self.schema, pa.table(places | columns | self._old_keys(columns) | self._absent_column()))

    def _old_keys(self, columns: Mapping[str, pa.ChunkedArray]) -> dict[str, pa.ChunkedArray]:
        """The keys that updates changed: those of the rows before them, which are deleted. None at all if no update did."""
        if not self.schema.key or MOVED not in self._ops:
            return {}
        moved = pc.equal(pa.Array.from_buffers(pa.uint8(), self.rows, [None, pa.py_buffer(self._ops)]), pa.scalar(MOVED, pa.uint8()))
        rows = pc.if_else(moved, pa.arange(-1, self.rows - 1), pa.scalar(None, pa.int64()))
        return {OLD + name: columns[name].take(rows) for name in self.schema.key}

    def _absent_column(self) -> dict[str, pa.Array]:
        """Which columns rows did not log. None at all if all did."""
        if not any(self._absent):
            return {}
        self._fill_absent()
        return {ABSENT: pa.array(self._absents, pa.list_(pa.int16())).take(_whole(pa.int32(), self._absent))}

    def _check_key(self) -> None:
        """Only a truncate's row may lack its key."""
        truncates = self._ops.count(TRUNCATE.encode())
        for column, chunks in zip(self.schema.columns, self._chunks, strict=True):
            if column.name in self.schema.key and sum(chunk.null_count for chunk in chunks) != truncates:
                raise SchemaUnknown("binlog.identity", table=self.schema.table, column=column.name)

    def _op_column(self) -> pa.Array:
        (_, ends) = pa.arange(0, self.rows + 1).cast(pa.int32()).buffers()
        return pa.StringArray.from_buffers(self.rows, ends, pa.py_buffer(self._ops.translate(_OPS)))


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
