"""A captured relation and its pending changes, from the kernel's rows to Arrow."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from cdc.decode.postgres.faults import Unidentified
from cdc.decode.postgres.pgtypes import convert
from cdc.errors import SchemaUnknown
from cdc.types import ABSENT, OLD, OP, ORDINAL, TXN, Column, TableChanges, TableSchema


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
    """A captured relation; `rows` takes its changes. Raises SchemaUnknown when the relation does not carry what the schema needs."""

    def __init__(self, kernel: Any, relation: Relation, schema: TableSchema) -> None:
        places = {column.name: place for place, column in enumerate(relation.columns)}
        for column in schema.columns:
            if column.name not in places:
                raise SchemaUnknown("decode.column", table=schema.table, column=column.name)
        key = [places[name] for name in schema.key]
        identity = [place for place, column in enumerate(relation.columns) if column.key]
        if relation.identity in "di" and (unknown := [place for place in key if place not in identity]):
            name = relation.columns[unknown[0]].name
            raise SchemaUnknown("decode.key", table=schema.table, column=name, relation=relation)
        self.relation, self.schema = relation, schema
        self.rows = kernel.Rows(self, len(relation.columns), [places[column.name] for column in schema.columns], key, identity)
        keyed = [column for name in schema.key for column in schema.columns if column.name == name]
        self._columns = (*schema.columns, *keyed)  # and those of the key a row had before
        self._writers = [_writer(kernel, column) for column in self._columns]
        self._bytes = kernel.Bytes

    def take(self) -> TableChanges:
        """The pending changes, which are then forgotten. Raises Malformed, Unidentified and ValueUnfit."""
        width = len(self.schema.columns)
        writers = [make() for make in (self._writers if self.rows.moved else self._writers[:width])]
        absent = self.rows.read(writers)
        again = [None if writer.fit else self._bytes() for writer in writers]
        if any(again):
            self.rows.read(again)
            writers = [second or first for first, second in zip(writers, again, strict=True)]
        self._check_key(writers)
        names, columns = [OP, TXN, ORDINAL], list(self.rows.operations())
        arrays = [self._array(column, writer) for column, writer in zip(self._columns, writers, strict=False)]
        names += [column.name for column in self.schema.columns]
        columns += arrays[:width]
        if absent is not None:
            names.append(ABSENT)
            columns.append(absent)
        names += [OLD + name for name in self.schema.key[: len(arrays) - width]]
        columns += arrays[width:]
        self.rows.forget()
        return TableChanges(self.schema, pa.table(columns, names))

    def _check_key(self, writers: list[Any]) -> None:
        """Only a truncate's row may lack its key."""
        for column, writer in zip(self.schema.columns, writers, strict=False):
            if column.name in self.schema.key and writer.nulls != self.rows.truncates:
                raise Unidentified(self)

    def _array(self, column: Column, writer: Any) -> pa.Array:
        array = writer.array()
        return convert(column, array, self.schema.table) if type(writer) is self._bytes else array


def _writer(kernel: Any, column: Column) -> Any:
    """Makes what writes a column's values: in its type; or as bytes, to be converted, which is faster where the kernel is not compiled."""
    kind = column.type
    if kernel.COMPILED:
        if kind in kernel.NUMBERS:
            return partial(kernel.Number, kind)
        if pa.types.is_decimal(kind) and kind.scale <= kernel.SCALE_MAX and column.source_type != "money":
            return partial(kernel.Decimal, kind)
        if kind == pa.string() and column.store_type != "JSON":
            return kernel.Text
        if kind == pa.binary():
            return kernel.Hex
    return kernel.Bytes
