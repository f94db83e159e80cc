"""Rows events: what they begin with, and the kernel's work on the rows themselves.

Formats: MySQL source documentation, Rows_event, and 'binlog_row_value_options' for partial updates of JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pymysqlreplication.constants import BINLOG, FIELD_TYPE

from cdc.decode.kernels import kernel
from cdc.decode.mysql.binary_json import read_binary
from cdc.decode.mysql.events import Reader, decompressed
from cdc.decode.mysql.json_diff import Rejected, apply_diffs
from cdc.decode.mysql.table_map import VECTOR, bit
from cdc.decode.mysql.wire import Malformed, TableMap, WireColumn
from cdc.errors import SchemaUnknown, SourceError
from cdc.types import DELETE, INSERT, UPDATE

if TYPE_CHECKING:
    from cdc.decode.mysql.kernel import Gathered, Image

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


def read_head(kind: int, reader: Reader, width: int) -> tuple[str, tuple[bytes, ...], Reader]:
    """Of an event of that number, whose table id and flags were read, the change, which columns its images carry, and the rows.

    `width`: the columns of its table map. There are two images, before and after, of an UPDATE, else one. Raises Malformed.
    """
    op, extra = KINDS[kind]
    if extra:
        # Partitions, and what NDB says: nothing about the row.
        size = reader.uint(2)
        if size < 2:
            raise Malformed("a length in it is wrong")
        reader.take(size - 2)
    if reader.packed() != width:
        raise Malformed("its rows are not of the table's shape")
    bitmaps = tuple(reader.take((width + 7) // 8) for _ in range(2 if op == UPDATE else 1))
    return op, bitmaps, Reader(decompressed(reader)) if kind in _COMPRESSED else reader


def make_image(table: TableMap, places: Sequence[int], slots: Sequence[int]) -> Image:
    """The image that carries the columns of a table map at `places`, each to be gathered at its slot unless that is -1.

    Raises SourceError for a type that is not known.
    """
    made: Image = kernel("mysql").module.Image([_width(table, table.columns[index]) for index in places], slots)
    return made


def _width(table: TableMap, column: WireColumn) -> int:
    """How many bytes a value takes or, negative, the length before it. Raises SourceError for a type that is not known."""
    code, meta = column.code, column.meta
    if code in _FIXED:
        return _FIXED[code]
    if code in _TEXTS:
        return -2 if meta + column.compressed > 255 else -1
    if code in _META_LENGTH and 1 <= meta <= 4:
        return -meta
    if code in _META_BYTES and 1 <= meta <= 8:
        return meta
    if code in _FRACTION_AFTER and meta <= 6:
        return _FRACTION_AFTER[code] + (meta + 1) // 2
    if code == FIELD_TYPE.BIT:
        return (meta + 7) // 8
    if code == FIELD_TYPE.NEWDECIMAL and meta & 0xFF <= meta >> 8:
        whole, fraction = divmod((meta >> 8) - (meta & 0xFF), 9), divmod(meta & 0xFF, 9)
        return 4 * (whole[0] + fraction[0]) + _DECIMAL_BYTES[whole[1]] + _DECIMAL_BYTES[fraction[1]]
    raise SourceError("binlog.type", table=table, column=column.name or table.columns.index(column) + 1, type=f"{code}, {meta}")


_Span = tuple[int, int]  # place and size of a value; the size of NULL is negative
Texts = dict[tuple[int, int], str]  # by column of the table map, and row gathered


def gather_partial(
    gathered: Gathered, reader: Reader, table: TableMap, name: str, places: Sequence[Sequence[int]], images: Sequence[Image]
) -> tuple[bytes, Texts]:
    """Gather the rows of a PARTIAL_UPDATE_ROWS_EVENT, whose JSON columns may have diffs in place of the document after.

    `places` are the columns that the images carry. Gives the changes, and what diffs make of documents, which are NULL in what is
    gathered. Raises Malformed, and SchemaUnknown where a document before is not told.
    """
    before, after = (make_image(table, carried, range(len(carried))) for carried in places)
    jsons = [index for index, column in enumerate(table.columns) if column.code == FIELD_TYPE.JSON]
    read_row, data, place, ops, texts = kernel("mysql").module.read_row, reader.data, reader.place, b"", Texts()
    while place < reader.end:
        old, middle = read_row(before, data, place, reader.end)
        options = Reader(data, middle, reader.end)
        diffed = _diffed(options, jsons)
        new, end = read_row(after, data, options.place, reader.end)
        documents, diffs = dict(zip(places[0], old, strict=True)), dict(zip(places[1], new, strict=True))
        diffs = {index: diffs[index] for index in diffed if index in diffs and diffs[index][1] >= 0}
        patched = {index: _patched(data, documents.get(index), span, name) for index, span in diffs.items()}
        nulls = {places[1].index(index): (start - table.columns[index].meta, start + size) for index, (start, size) in diffs.items()}
        row = data[place:middle] + _with_nulls(data, options.place, end, len(new), nulls)
        ops += gathered.add(ord(UPDATE), row, 0, len(row), *images)
        texts |= {(index, gathered.rows - 1): text for index, text in patched.items()}
        place = end
    return ops, texts


def _diffed(reader: Reader, jsons: Sequence[int]) -> list[int]:
    """Which JSON columns have diffs: told by one bit for each of the table, carried or not."""
    options = reader.packed()
    if options & ~_PARTIAL_JSON:
        raise Malformed("it has values in an unknown form")
    bits = reader.take((len(jsons) + 7) // 8) if options else b""
    return [index for number, index in enumerate(jsons if options else ()) if bit(bits, number)]


def _patched(data: bytes, document: _Span | None, diffs: _Span, name: str) -> str:
    """The text of a document after diffs."""
    if document is None or document[1] < 0:
        raise SchemaUnknown("binlog.partial", table=name)
    try:
        return apply_diffs(read_binary(_bytes(data, document)), _bytes(data, diffs))
    except Rejected as fault:
        raise Malformed(str(fault)) from fault


def _bytes(data: bytes, span: _Span) -> bytes:
    return data[span[0] : sum(span)]


def _with_nulls(data: bytes, place: int, end: int, width: int, nulls: Mapping[int, _Span]) -> bytes:
    """A row of `width` values with some made NULL, of each of which is told where it starts and ends."""
    start = place + (width + 7) // 8
    bits, values = bytearray(data[place:start]), b""
    for number, (begin, after) in sorted(nulls.items()):
        bits[number >> 3] |= 1 << (number & 7)
        values, start = values + data[start:begin], after
    return bytes(bits) + values + data[start:end]
