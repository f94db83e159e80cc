"""What a table of the stream is captured as, and what rows events and statements change in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pymysqlreplication.constants import FIELD_TYPE

from cdc.decode.mysql.fields import Field
from cdc.decode.mysql.rows import Columns, Rows, Value, Walker
from cdc.decode.mysql.table_map import VECTOR
from cdc.decode.mysql.wire import TableMap
from cdc.errors import SchemaUnknown
from cdc.types import DELETE, INSERT, UPDATE, TableSchema

# Types whose default, in MySQL, can only be NULL or an expression; what an expression gave is logged.
_NO_DEFAULT = frozenset((FIELD_TYPE.BLOB, FIELD_TYPE.JSON, FIELD_TYPE.GEOMETRY, VECTOR))


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a table map is captured as.

    `fields` has one Field per column of the table map, None for one that is not captured (a hidden one); their Columns, in order, are
    the schema's. `virtual` are the indexes of generated columns that are not stored, None where that is not known: MariaDB leaves
    these out of the image after an update even when they change.
    """

    schema: TableSchema
    fields: tuple[Field | None, ...]
    virtual: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class Truncate:
    """A statement emptied a captured table, whose schema it still has."""

    schema: TableSchema


@dataclass(frozen=True, slots=True)
class NewSchema:
    """A statement changed a captured table's schema: to be recorded even if no row follows."""

    schema: TableSchema


Effect = Truncate | NewSchema


class Layout:
    """A captured table map: how its rows are read and what they change. Raises SchemaUnknown when it does not carry what is needed."""

    def __init__(self, table: TableMap, resolved: Resolved, mariadb: bool) -> None:
        self.table, self.schema, self.fields = table, resolved.schema, resolved.fields
        columns = [column for kept in self.fields if kept for column in kept.columns]
        if len(self.fields) != len(table.columns) or tuple(columns) != self.schema.columns:
            raise SchemaUnknown("binlog.columns", table=self.schema.table, relation=table)
        self.walker = Walker(table, self.schema.table)
        self._kept = [index for index, kept in enumerate(self.fields) if kept]
        self._places: dict[int, range] = {}
        for index in self._kept:
            first = sum(map(len, self._places.values()))
            self._places[index] = range(first, first + len(self._field(index).columns))
        names = {self._field(index).name: index for index in self._kept}
        self.key = tuple(names[name] for name in self.schema.key)
        self._mariadb, self._virtual = mariadb, resolved.virtual

    def changes(self, rows: Rows) -> Changes:
        """What a rows event changes. Raises SchemaUnknown when the log does not tell it."""
        if rows.op == INSERT:
            return Changes(INSERT * rows.count, self._inserted(rows.after))
        if rows.op == DELETE:
            self._check_identity(rows.before)
            return Changes(DELETE * rows.count, rows.before)
        self._check_identity(rows.before)
        after, absent = self._updated(rows)
        compared = self.key or self._kept
        if any(rows.before[index] != after[index] for index in compared):
            return self._moved(rows, after, absent, compared)
        return Changes(UPDATE * rows.count, after, absent) if self.key else Changes("", [() for _ in after])

    def _inserted(self, after: Columns) -> Columns:
        """All values of new rows: a column that is left out has its default, which the log does not tell."""
        for index in self._kept:
            column = self.table.columns[index]
            if after[index] is None and (self._mariadb or not column.nullable or column.code not in _NO_DEFAULT):
                raise self._untold(index)
        return after

    def _updated(self, rows: Rows) -> tuple[Columns, tuple[int, ...]]:
        """All values there are of updated rows, and which columns are not carried, as these did not change."""
        merged = [before if after is None else after for before, after in zip(rows.before, rows.after, strict=True)]
        for index in self._kept:
            # MariaDB's REPLACE can be an update that leaves out what it set to its default; virtual columns are left out always.
            known = merged[index] is not None and self._virtual is not None and index not in self._virtual
            if self._mariadb and rows.after[index] is None and not known:
                raise self._untold(index)
        return merged, tuple(place for index in self._kept if merged[index] is None for place in self._places[index])

    def _check_identity(self, before: Columns) -> None:
        """A change must tell its row: by the key, or where there is none by all columns."""
        for index in self.key or self._kept:
            if before[index] is None:
                raise SchemaUnknown("binlog.identity", table=self.schema.table, column=self._field(index).name)

    def _untold(self, index: int) -> SchemaUnknown:
        return SchemaUnknown("binlog.image", table=self.schema.table, column=self._field(index).name)

    def _field(self, index: int) -> Field:
        kept = self.fields[index]
        assert kept is not None
        return kept

    def _moved(self, rows: Rows, after: Columns, absent: tuple[int, ...], compared: Sequence[int]) -> Changes:
        """Updates of which some change the key; or of a table without key, where that is all of the row."""
        ops, old = "", {}
        picked: list[list[Value]] = [[] for _ in after]
        for number in range(rows.count):
            was, now = (tuple(_at(columns, index, number) for index in compared) for columns in (rows.before, after))
            if was != now:
                ops += DELETE
                _pick(picked, rows.before, number)
            if self.key or was != now:
                ops += UPDATE if self.key else INSERT
                _pick(picked, after, number)
            if self.key and was != now:
                old[len(ops) - 1] = was
        return Changes(ops, picked, absent, old)


@dataclass(frozen=True, slots=True)
class Changes:
    """Changes of one layout: an op each, values by column of the table map, None for a column that none has.

    `absent` are the columns of the schema whose value an update did not log; `old` the keys that updates changed, by the change's number.
    """

    ops: str
    columns: Sequence[Sequence[Value] | None]
    absent: tuple[int, ...] = ()
    old: Mapping[int, tuple[Value, ...]] = field(default_factory=dict)


def _at(columns: Columns, index: int, number: int) -> Value:
    values = columns[index]
    return None if values is None else values[number]


def _pick(picked: list[list[Value]], columns: Columns, number: int) -> None:
    for values, index in zip(picked, range(len(columns)), strict=True):
        values.append(_at(columns, index, number))
