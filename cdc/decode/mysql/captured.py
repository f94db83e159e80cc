"""What a table of the stream is captured as, and what rows events and statements change in it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pymysqlreplication.constants import BINLOG, FIELD_TYPE

from cdc.decode.kernels import kernel
from cdc.decode.mysql.events import Reader
from cdc.decode.mysql.fields import Field
from cdc.decode.mysql.rows import Texts, gather_partial, make_image, read_head
from cdc.decode.mysql.table_map import VECTOR, bit
from cdc.decode.mysql.wire import TableMap
from cdc.errors import SchemaUnknown
from cdc.types import DELETE, INSERT, TableSchema

if TYPE_CHECKING:
    from cdc.decode.mysql.kernel import Gathered, Image

# Types whose default, in MySQL, can only be NULL or an expression; what an expression gave is logged.
_NO_DEFAULT = frozenset((FIELD_TYPE.BLOB, FIELD_TYPE.JSON, FIELD_TYPE.GEOMETRY, VECTOR))
_SHAPES_MAX = 1024


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


@dataclass(frozen=True, slots=True)
class _Shape:
    """What the images of an event carry: `places` are columns of the table map, by image. `absent`: see Changes.

    `untold`: what is needed and not carried.
    """

    places: tuple[list[int], ...]
    images: tuple[Image, ...]
    absent: tuple[int, ...]
    untold: SchemaUnknown | None


@dataclass(frozen=True, slots=True)
class Changes:
    """What a rows event of `size` bytes changes: an op for each row gathered.

    `absent` are the columns of the schema whose value its updates did not log. `texts` are JSON documents that are not gathered.
    """

    ops: bytes
    size: int
    absent: tuple[int, ...] = ()
    texts: Texts = field(default_factory=dict)


class Layout:
    """A captured table map: how its rows are read and what they change. Raises SchemaUnknown when it does not carry what is needed.

    `kept` are the indexes of its columns that are captured.
    """

    def __init__(self, table: TableMap, resolved: Resolved, mariadb: bool) -> None:
        self.table, self.schema, self.fields = table, resolved.schema, resolved.fields
        columns = [column for kept in self.fields if kept for column in kept.columns]
        if len(self.fields) != len(table.columns) or tuple(columns) != self.schema.columns:
            raise SchemaUnknown("binlog.columns", table=self.schema.table, relation=table)
        self.kept = [index for index, kept in enumerate(self.fields) if kept]
        self._slots = {index: slot for slot, index in enumerate(self.kept)}
        self._places: dict[int, range] = {}
        for index in self.kept:
            first = sum(map(len, self._places.values()))
            self._places[index] = range(first, first + len(self._field(index).columns))
        names = {self._field(index).name: index for index in self.kept}
        self._key = tuple(names[name] for name in self.schema.key)
        self._mariadb, self._virtual = mariadb, resolved.virtual
        self._shapes: dict[tuple[str, tuple[bytes, ...]], _Shape] = {}

    def gathered(self) -> Gathered:
        """Where its rows are gathered; a slot for each column that is kept."""
        made: Gathered = kernel("mysql").module.Gathered(
            len(self.kept), [self._slots[index] for index in self._key or self.kept], bool(self._key)
        )
        return made

    def read(self, kind: int, reader: Reader, gathered: Gathered) -> Changes:
        """Gather the rows of a rows event of that number, whose table id and flags were read.

        Raises Malformed, SourceError, and SchemaUnknown when the log does not tell what it changes.
        """
        op, bitmaps, reader = read_head(kind, reader, len(self.table.columns))
        shape = self._shapes.get((op, bitmaps)) or self._shape(op, bitmaps)
        size, texts = reader.left, Texts()
        if kind == BINLOG.PARTIAL_UPDATE_ROWS_EVENT:
            ops, texts = gather_partial(gathered, reader, self.table, self.schema.table, shape.places, shape.images)
        else:
            ops = gathered.add(ord(op), reader.data, reader.place, reader.end, shape.images[0], shape.images[-1])
        if shape.untold is not None:
            raise shape.untold
        return Changes(ops, size, shape.absent, texts)

    def _shape(self, op: str, bitmaps: tuple[bytes, ...]) -> _Shape:
        places = tuple([index for index in range(len(self.table.columns)) if bit(bitmap, index)] for bitmap in bitmaps)
        if not any(places):
            # Of rows without a value not even the number is told.
            raise SchemaUnknown("binlog.image", table=self.schema.table, column=1)
        images = tuple(make_image(self.table, carried, [self._slots.get(index, -1) for index in carried]) for carried in places)
        absent: tuple[int, ...] = ()
        if op == INSERT:
            untold = self._uninserted(places[0])
        elif op == DELETE:
            untold = self._unidentified(places[0])
        else:
            untold = self._unidentified(places[0]) or self._unmerged(*places)
            absent = tuple(at for index in self.kept if index not in (*places[0], *places[1]) for at in self._places[index])
        if len(self._shapes) >= _SHAPES_MAX:
            self._shapes.clear()
        shape = self._shapes[op, bitmaps] = _Shape(places, images, absent, untold)
        return shape

    def _uninserted(self, after: Collection[int]) -> SchemaUnknown | None:
        """A new row must have all values: a column that is left out has its default, which the log does not tell."""
        for index in self.kept:
            column = self.table.columns[index]
            if index not in after and (self._mariadb or not column.nullable or column.code not in _NO_DEFAULT):
                return self._untold("binlog.image", index)
        return None

    def _unmerged(self, before: Collection[int], after: Collection[int]) -> SchemaUnknown | None:
        """What the image after an update leaves out must be what it was."""
        for index in self.kept:
            # MariaDB's REPLACE can be an update that leaves out what it set to its default; virtual columns are left out always.
            known = (index in before or index in after) and self._virtual is not None and index not in self._virtual
            if self._mariadb and index not in after and not known:
                return self._untold("binlog.image", index)
        return None

    def _unidentified(self, before: Collection[int]) -> SchemaUnknown | None:
        """A change must tell its row: by the key, or where there is none by all columns."""
        return next((self._untold("binlog.identity", index) for index in self._key or self.kept if index not in before), None)

    def _untold(self, code: str, index: int) -> SchemaUnknown:
        return SchemaUnknown(code, table=self.schema.table, column=self._field(index).name)

    def _field(self, index: int) -> Field:
        kept = self.fields[index]
        assert kept is not None
        return kept
