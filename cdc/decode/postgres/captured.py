"""The pending changes of one captured table, between the decoder that collects them and Arrow."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat

import pyarrow as pa

from cdc.decode.postgres.images import Value, read_columns
from cdc.decode.postgres.malformed import Malformed
from cdc.decode.postgres.pgtypes import convert
from cdc.errors import SchemaUnknown
from cdc.types import ABSENT, OLD, OP, ORDINAL, TRUNCATE, TXN, UPDATE, TableChanges, TableSchema

PACKED_AT = 4 << 20  # bytes of frames that wait to be read together


@dataclass(frozen=True, slots=True)
class RelationColumn:
    """A column of a Relation message. `key`: it is part of the replica identity."""

    name: str
    type_oid: int
    typmod: int
    key: bool


@dataclass(frozen=True, slots=True)
class Relation:
    """A table as the stream describes it. `identity` is pg_class.relreplident: d, f, i or n."""

    relid: int
    namespace: str
    name: str
    identity: str
    columns: tuple[RelationColumn, ...]

    def __str__(self) -> str:
        return ".".join('"' + part.replace('"', '""') + '"' for part in (self.namespace, self.name))


class Captured:
    """A captured relation and its pending rows. Raises SchemaUnknown when the relation does not carry what the schema needs.

    `picks` are the places of the schema's columns in the relation, `key` those of its key columns.
    """

    def __init__(self, relation: Relation, schema: TableSchema) -> None:
        places = {column.name: place for place, column in enumerate(relation.columns)}
        for column in schema.columns:
            if column.name not in places:
                raise SchemaUnknown("decode.column", table=schema.table, column=column.name)
        self.relation, self.schema = relation, schema
        self.width = len(relation.columns)
        self.picks = tuple(places[column.name] for column in schema.columns)
        self.key = tuple(places[name] for name in schema.key)
        if relation.identity in "di" and (unknown := [place for place in self.key if not relation.columns[place].key]):
            name = relation.columns[unknown[0]].name
            raise SchemaUnknown("decode.key", table=schema.table, column=name, relation=relation)
        self._forget()

    def _forget(self) -> None:
        self._frames: list[bytes] = []
        self._frames_bytes = 0
        self._columns: list[list[pa.Array]] = [[] for _ in self.picks]
        self._ops = bytearray()
        self._txns, self._ordinals = array("i"), array("q")
        self._absent: dict[int, list[int]] = {}
        self._old: dict[int, tuple[Value, ...]] = {}

    @property
    def rows(self) -> int:
        """Rows pending."""
        return len(self._ops)

    def add(self, op: str, frames: Sequence[bytes], size: int, txn: int, ordinal: int) -> None:
        """Add a row per frame, whose image starts at HEAD; `size` is their bytes, their ordinals follow each other from `ordinal`."""
        rows = len(frames)
        self._frames += frames
        self._frames_bytes += size
        self._ops += op.encode() * rows
        self._txns.extend(repeat(txn, rows))
        self._ordinals.extend(range(ordinal, ordinal + rows))

    def set_old_key(self, key: tuple[Value, ...]) -> None:
        """The key that the row last added had before."""
        self._old[self.rows - 1] = key

    def pack(self, least: int = PACKED_AT) -> None:
        """Read the frames into Arrow and let go of them, once there are `least` bytes. Raises Malformed and SchemaUnknown."""
        if self._frames_bytes < least:
            return
        first = self.rows - len(self._frames)
        for columns, unchanged in read_columns(self._frames, self.width, self.picks):
            for chunks, column in zip(self._columns, columns, strict=True):
                chunks.append(column)
            for place, rows in unchanged.items():
                self._note_absent(place, [first + row for row in rows])
            first += len(columns[0]) if columns else 0
        self._frames, self._frames_bytes = [], 0

    def _note_absent(self, place: int, rows: list[int]) -> None:
        if any(self._ops[row] != ord(UPDATE) for row in rows):
            raise Malformed("a row that is no update lacks a value")
        if place in self.key:
            raise unidentified(self)
        if place in self.picks:
            index = self.picks.index(place)
            for row in rows:
                self._absent.setdefault(row, []).append(index)

    def take(self) -> TableChanges:
        """The pending rows, which are then forgotten. Raises as `pack`, and ValueUnfit."""
        self.pack(least=0)
        self._check_key()
        names, columns = [OP, TXN, ORDINAL], [self._op_column(), _whole(pa.int32(), self._txns), _whole(pa.int64(), self._ordinals)]
        for column, chunks in zip(self.schema.columns, self._columns, strict=True):
            names.append(column.name)
            columns.append(convert(column, pa.chunked_array(chunks, pa.binary()), self.schema.table))
        if self._absent:
            names.append(ABSENT)
            lists = [sorted(self._absent[row]) if row in self._absent else None for row in range(self.rows)]
            columns.append(pa.array(lists, pa.list_(pa.int16())))
        if self._old:
            names += [OLD + name for name in self.schema.key]
            columns += self._old_columns()
        self._forget()
        return TableChanges(self.schema, pa.table(columns, names))

    def _check_key(self) -> None:
        """Only a truncate's row may lack its key."""
        truncates = self._ops.count(TRUNCATE.encode())
        for place in self.key:
            if sum(chunk.null_count for chunk in self._columns[self.picks.index(place)]) != truncates:
                raise unidentified(self)

    def _op_column(self) -> pa.Array:
        ends = array("i", range(self.rows + 1))
        return pa.StringArray.from_buffers(self.rows, pa.py_buffer(ends), pa.py_buffer(bytes(self._ops)))

    def _old_columns(self) -> list[pa.Array]:
        nothing = (None,) * len(self.key)
        keys = [self._old.get(row, nothing) for row in range(self.rows)]
        columns = [self.schema.columns[self.picks.index(place)] for place in self.key]
        return [
            convert(column, pa.array([key[index] for key in keys], pa.binary()), self.schema.table) for index, column in enumerate(columns)
        ]


def unidentified(table: Captured) -> SchemaUnknown:
    """The error for a change whose row can't be told."""
    return SchemaUnknown("decode.identity", table=table.schema.table, relation=table.relation)


def _whole(kind: pa.DataType, numbers: array[int]) -> pa.Array:
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])
