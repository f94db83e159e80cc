"""The kernel: the rows of one rows event, walked once, as per-column lists of raw values. What a compiled kernel will replace.

An image is a bitmap of its NULLs and then the values of the columns it carries, one behind the other, without anything between them:
where a value ends is told by the table map, or by a length before it. Rows follow each other the same way. A raw value is the bytes of
a value without its length, None for NULL; what they mean is for `fields`.

Formats: MySQL source documentation, Rows_event, and 'binlog_row_value_options' for partial updates of JSON.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from struct import Struct
from struct import error as struct_error
from typing import Any, NamedTuple

from pymysqlreplication.constants import BINLOG, FIELD_TYPE

from cdc.decode.mysql.binary_json import read_binary
from cdc.decode.mysql.events import Reader, decompressed
from cdc.decode.mysql.json_diff import Rejected, apply_diffs
from cdc.decode.mysql.table_map import VECTOR, bit
from cdc.decode.mysql.wire import Malformed, TableMap, WireColumn
from cdc.errors import SchemaUnknown, SourceError
from cdc.types import DELETE, INSERT, UPDATE

Value = bytes | str | None  # str: a JSON document that diffs were applied to, as text
Columns = list[Sequence[Value] | None]  # by column of the table map; None where an image does not carry it

# Rows events by their numbers: the change, and whether they have extra data (version 2).
KINDS = {
    BINLOG.WRITE_ROWS_EVENT_V1: (INSERT, False),
    BINLOG.UPDATE_ROWS_EVENT_V1: (UPDATE, False),
    BINLOG.DELETE_ROWS_EVENT_V1: (DELETE, False),
    BINLOG.WRITE_ROWS_EVENT_V2: (INSERT, True),
    BINLOG.UPDATE_ROWS_EVENT_V2: (UPDATE, True),
    BINLOG.DELETE_ROWS_EVENT_V2: (DELETE, True),
    BINLOG.PARTIAL_UPDATE_ROWS_EVENT: (UPDATE, True),
    166: (INSERT, False),  # MariaDB's compressed ones, in the same order
    167: (UPDATE, False),
    168: (DELETE, False),
    169: (INSERT, True),
    170: (UPDATE, True),
    171: (DELETE, True),
}
_COMPRESSED = range(166, 172)
_PARTIAL_JSON = 1
_PLANS_MAX = 1024
_DECIMAL_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)

_FIXED = {
    **dict.fromkeys((FIELD_TYPE.TINY, FIELD_TYPE.YEAR), 1),
    FIELD_TYPE.SHORT: 2,
    **dict.fromkeys((FIELD_TYPE.INT24, FIELD_TYPE.DATE, FIELD_TYPE.NEWDATE, FIELD_TYPE.TIME), 3),
    **dict.fromkeys((FIELD_TYPE.LONG, FIELD_TYPE.TIMESTAMP), 4),
    **dict.fromkeys((FIELD_TYPE.LONGLONG, FIELD_TYPE.DATETIME), 8),
}
_FRACTION_AFTER = {FIELD_TYPE.TIME2: 3, FIELD_TYPE.TIMESTAMP2: 4, FIELD_TYPE.DATETIME2: 5}
_META_BYTES = frozenset((FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE, FIELD_TYPE.ENUM, FIELD_TYPE.SET))
_META_LENGTH = frozenset((FIELD_TYPE.BLOB, FIELD_TYPE.JSON, FIELD_TYPE.GEOMETRY, VECTOR))
_TEXTS = frozenset((FIELD_TYPE.VARCHAR, FIELD_TYPE.VAR_STRING, FIELD_TYPE.STRING))


@dataclass(frozen=True, slots=True)
class Rows:
    """What a rows event says: `count` changes of one kind, in `size` bytes; `before` of an INSERT and `after` of a DELETE are empty."""

    op: str
    count: int
    size: int
    before: Columns
    after: Columns


class _Segment(NamedTuple):
    """A run of values that one call unpacks; of the last one it may be the length only: `tail` is how many items that takes."""

    unpack: Callable[[bytes, int], tuple[Any, ...]]
    size: int
    tail: int


class _Plan(NamedTuple):
    """How to read a row with certain NULLs: its segments, and where in it the NULLs are, in ascending order."""

    segments: tuple[_Segment, ...]
    nulls: tuple[int, ...]


class _Image:
    """The columns that one image of an event carries, in order, and plans for their rows by the bytes of the NULL bitmap."""

    def __init__(self, table: TableMap, bitmap: bytes) -> None:
        self.places = [index for index in range(len(table.columns)) if bit(bitmap, index)]
        self.null_bytes = (len(self.places) + 7) // 8
        self._widths = [_width(table, table.columns[index]) for index in self.places]
        self._plans: dict[bytes, _Plan] = {}

    def row(self, data: bytes, place: int) -> tuple[list[Value], int]:
        """The values of the row at `place`, and where it ends: the caller must compare that with the end of the event."""
        start = place
        place += self.null_bytes
        plan = self._plans.get(data[start:place]) or self._plan(data[start:place])
        row: list[Any] = []
        for unpack, size, tail in plan.segments:
            row += unpack(data, place)
            place += size
            if tail:
                length = row[-1] if tail == 1 else row.pop() << 16 | row[-1]
                start = place
                place += length
                row[-1] = data[start:place]
        for at in plan.nulls:
            row.insert(at, None)
        return row, place

    def _plan(self, bits: bytes) -> _Plan:
        if len(bits) != self.null_bytes:
            raise Malformed("it ends too early")
        if len(self._plans) >= _PLANS_MAX:
            self._plans.clear()
        nulls = tuple(at for at in range(len(self.places)) if bit(bits, at))
        widths = [width for at, width in enumerate(self._widths) if not bit(bits, at)]
        plan = self._plans[bits] = _Plan(tuple(_segments(widths)), nulls)
        return plan

    def columns(self, rows: Sequence[Sequence[Value]], width: int) -> Columns:
        """Rows as columns of the table, of which there are `width`."""
        columns: Columns = [None] * width
        for at, values in zip(self.places, zip(*rows, strict=True) if rows else repeat(()), strict=False):
            columns[at] = values
        return columns


def _segments(widths: Sequence[tuple[int, bool]]) -> Iterator[_Segment]:
    """`widths`: bytes of a value, or of the length before it."""
    run = ""
    for size, counted in widths:
        run += ("B", "H", "HB", "I")[size - 1] if counted else f"{size}s"
        if counted:
            yield _segment(run, 2 if size == 3 else 1)
            run = ""
    if run:
        yield _segment(run, 0)


def _segment(run: str, tail: int) -> _Segment:
    struct = Struct(f"<{run}")
    return _Segment(struct.unpack_from, struct.size, tail)


def _width(table: TableMap, column: WireColumn) -> tuple[int, bool]:
    """How many bytes a value takes; or, with True, the length before it. Raises SourceError for a type that is not known."""
    code, meta = column.code, column.meta
    if code in _FIXED:
        return _FIXED[code], False
    if code in _TEXTS:
        return (2 if meta + column.compressed > 255 else 1), True
    if code in _META_LENGTH and 1 <= meta <= 4:
        return meta, True
    if code in _META_BYTES and 1 <= meta <= 8:
        return meta, False
    if code in _FRACTION_AFTER and meta <= 6:
        return _FRACTION_AFTER[code] + (meta + 1) // 2, False
    if code == FIELD_TYPE.BIT:
        return (meta + 7) // 8, False
    if code == FIELD_TYPE.NEWDECIMAL and meta & 0xFF <= meta >> 8:
        whole, fraction = divmod((meta >> 8) - (meta & 0xFF), 9), divmod(meta & 0xFF, 9)
        return 4 * (whole[0] + fraction[0]) + _DECIMAL_BYTES[whole[1]] + _DECIMAL_BYTES[fraction[1]], False
    raise SourceError("binlog.type", table=table, column=column.name or table.columns.index(column) + 1, type=f"{code}, {meta}")


class Walker:
    """Reads the rows events of one table map; `name` is the table's in the config."""

    def __init__(self, table: TableMap, name: str) -> None:
        self._table, self._name = table, name
        self._images: dict[bytes, _Image] = {}
        self._jsons = [index for index, column in enumerate(table.columns) if column.code == FIELD_TYPE.JSON]

    def read(self, kind: int, reader: Reader) -> Rows:
        """The rows of an event of that number, whose table id and flags were read. Raises Malformed, SourceError and SchemaUnknown."""
        op, extra = KINDS[kind]
        if extra:
            # Partitions, and what NDB says: nothing about the row.
            size = reader.uint(2)
            if size < 2:
                raise Malformed("a length in it is wrong")
            reader.take(size - 2)
        width = len(self._table.columns)
        if reader.packed() != width:
            raise Malformed("its rows are not of the table's shape")
        images = [self._image(reader.take((width + 7) // 8)) for _ in range(2 if op == UPDATE else 1)]
        if kind in _COMPRESSED:
            reader = Reader(decompressed(reader))
        if not any(image.places for image in images):
            # Of rows without a value not even the number is told.
            raise SchemaUnknown("binlog.image", table=self._name, column=1)
        try:
            walk = partial(_walk_partial, jsons=self._jsons) if kind == BINLOG.PARTIAL_UPDATE_ROWS_EVENT else _walk
            found = walk(reader.data, reader.place, reader.end, images)
        except _Unpatched:
            raise SchemaUnknown("binlog.partial", table=self._name) from None
        except struct_error:
            raise Malformed("it ends too early") from None
        columns = [image.columns(rows, width) for image, rows in zip(images, found, strict=True)]
        before = [] if op == INSERT else columns[0]
        return Rows(op, len(found[0]), reader.left, before, [] if op == DELETE else columns[-1])

    def _image(self, bitmap: bytes) -> _Image:
        image = self._images.get(bitmap)
        if image is None:
            if len(self._images) >= _PLANS_MAX:
                self._images.clear()
            image = self._images[bitmap] = _Image(self._table, bitmap)
        return image


def _walk(data: bytes, place: int, end: int, images: Sequence[_Image]) -> list[list[list[Value]]]:
    """The rows of each image, in turn, up to exactly `end`."""
    found: list[list[list[Value]]] = [[] for _ in images]
    pairs = [(image.row, rows.append) for image, rows in zip(images, found, strict=True)]
    while place < end:
        for read, keep in pairs:
            row, place = read(data, place)
            keep(row)
    if place != end:
        raise Malformed("a length in it is wrong")
    return found


def _walk_partial(data: bytes, place: int, end: int, images: Sequence[_Image], jsons: Sequence[int]) -> list[list[list[Value]]]:
    """The same where JSON columns may have diffs in place of the document after: the image after begins with which ones do."""
    before, after = images
    found: list[list[list[Value]]] = [[], []]
    while place < end:
        old, place = before.row(data, place)
        reader = Reader(data, place, end)
        options = reader.packed()
        if options & ~_PARTIAL_JSON:
            raise Malformed("it has values in an unknown form")
        # One bit per JSON column of the table, carried or not.
        bits = reader.take((len(jsons) + 7) // 8) if options else b""
        new, place = after.row(data, reader.place)
        for number, index in enumerate(jsons if options else ()):
            if bit(bits, number) and index in after.places and new[at := after.places.index(index)] is not None:
                new[at] = _patched(old[before.places.index(index)] if index in before.places else None, new[at])
        found[0].append(old)
        found[1].append(new)
    if place != end:
        raise Malformed("a length in it is wrong")
    return found


class _Unpatched(Exception):
    """Only what changed in a JSON document was logged, and the image before does not have the document."""


def _patched(document: Value, diffs: Value) -> str:
    """The text of a document after diffs."""
    if not isinstance(document, bytes) or not isinstance(diffs, bytes):
        raise _Unpatched
    try:
        return apply_diffs(read_binary(document), diffs)
    except Rejected as fault:
        raise Malformed(str(fault)) from fault
