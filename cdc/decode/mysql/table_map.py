"""TABLE_MAP_EVENT: a table as the stream describes it before its rows, with the optional metadata of binlog_row_metadata.

Format: MySQL source documentation, Table_map_event. The optional metadata tell of the columns of one class at a time (numbers, texts,
ENUM and SET), counting only these; kinds of metadata that are not known are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pymysqlreplication.constants import FIELD_TYPE

from cdc.decode.mysql.events import Reader
from cdc.decode.mysql.wire import Malformed, TableMap, WireColumn

# Numbers that python-mysql-replication does not have.
TYPED_ARRAY, VECTOR = 20, 242
BLOB_COMPRESSED, VARCHAR_COMPRESSED = 140, 141

_COLUMNS_MAX = 4096
_MEMBERS = frozenset((FIELD_TYPE.ENUM, FIELD_TYPE.SET))
_BLOBS = frozenset((FIELD_TYPE.BLOB, FIELD_TYPE.TINY_BLOB, FIELD_TYPE.MEDIUM_BLOB, FIELD_TYPE.LONG_BLOB, BLOB_COMPRESSED))
_NUMBERS = frozenset(
    getattr(FIELD_TYPE, name) for name in ("TINY", "SHORT", "INT24", "LONG", "LONGLONG", "NEWDECIMAL", "FLOAT", "DOUBLE", "YEAR")
)
_TEXTS = frozenset((FIELD_TYPE.STRING, FIELD_TYPE.VAR_STRING, FIELD_TYPE.VARCHAR, FIELD_TYPE.BLOB, VECTOR))

# Bytes of metadata by type; none for the rest.
_META_SIZES = {
    **dict.fromkeys((FIELD_TYPE.FLOAT, FIELD_TYPE.DOUBLE, FIELD_TYPE.JSON, FIELD_TYPE.GEOMETRY, VECTOR, *_BLOBS), 1),
    **dict.fromkeys((FIELD_TYPE.TIMESTAMP2, FIELD_TYPE.DATETIME2, FIELD_TYPE.TIME2), 1),
    **dict.fromkeys((FIELD_TYPE.VARCHAR, VARCHAR_COMPRESSED, FIELD_TYPE.VAR_STRING, FIELD_TYPE.STRING, FIELD_TYPE.BIT), 2),
    **dict.fromkeys((FIELD_TYPE.NEWDECIMAL, *_MEMBERS), 2),
}


def table_id(reader: Reader) -> int:
    """The number a TABLE_MAP_EVENT or a rows event begins with."""
    return reader.uint(6)


def read_table_map(reader: Reader, mariadb: bool) -> TableMap:
    """A table map, its metadata as wire.WireColumn has them. Raises Malformed."""
    number = table_id(reader)
    reader.take(2)
    database, table = _name(reader), _name(reader)
    count = reader.packed()
    if count > _COLUMNS_MAX:
        raise Malformed("it has too many columns")
    codes = reader.take(count)
    metas = Reader(reader.counted())
    kinds = [_kind(code, metas) for code in codes]
    if metas.left:
        raise Malformed("a length in it is wrong")
    nullable = reader.take((count + 7) // 8)
    columns = [WireColumn(code, meta, bit(nullable, index), compressed=packed) for index, (code, meta, packed) in enumerate(kinds)]
    told, key = _read_optional(reader, columns, mariadb)
    if any(place >= count for place in key or ()):
        raise Malformed("its key is of columns it does not have")
    return TableMap(number, database, table, tuple(_with(column, index, told) for index, column in enumerate(columns)), key)


def bit(bits: bytes, index: int) -> bool:
    """One of a bitmap whose lowest bit comes first."""
    return bool(bits[index >> 3] >> (index & 7) & 1)


def _name(reader: Reader) -> str:
    name = reader.counted()
    if reader.take(1) != b"\0":
        raise Malformed("a text in it does not end")
    return name.decode()


def _kind(code: int, metas: Reader) -> tuple[int, int, bool]:
    """The real type of a column, its metadata as WireColumn.meta has it, and whether it is compressed."""
    if code == TYPED_ARRAY:
        # Its elements' type and metadata; of multi-valued indexes, whose columns no rows event carries.
        metas.take(_META_SIZES.get(metas.uint(1), 0))
        return code, 0, False
    raw = metas.take(_META_SIZES.get(code, 0))
    if code == FIELD_TYPE.STRING or code in _MEMBERS:
        if raw[0] in _MEMBERS:
            return raw[0], raw[1], False
        # A length of more than a byte has its two highest bits in the type, turned over.
        return FIELD_TYPE.STRING, ((raw[0] & 0x30) ^ 0x30) << 4 | raw[1], False
    if code == FIELD_TYPE.BIT:
        return code, raw[1] * 8 + raw[0], False
    if code == FIELD_TYPE.NEWDECIMAL:
        return code, int.from_bytes(raw, "big"), False
    meta = int.from_bytes(raw, "little")
    if code == VARCHAR_COMPRESSED:
        # One byte of it is for the header of what is compressed.
        return FIELD_TYPE.VARCHAR, max(0, meta - 1), True
    return (FIELD_TYPE.BLOB if code in _BLOBS else code), meta, code == BLOB_COMPRESSED


# What the optional metadata tell: by WireColumn's attributes, values by column.
_Told = dict[str, Mapping[int, Any]]


def _with(column: WireColumn, index: int, told: _Told) -> WireColumn:
    return replace(column, **{name: values[index] for name, values in told.items() if index in values})


def _read_optional(reader: Reader, columns: Sequence[WireColumn], mariadb: bool) -> tuple[_Told, tuple[int, ...] | None]:
    """The optional metadata (kind, packed length and content, one after the other), and the key."""
    geometry = frozenset((FIELD_TYPE.GEOMETRY,))
    texts = _TEXTS | geometry if mariadb else _TEXTS
    readers: dict[int, tuple[str, frozenset[int] | None, Callable[[Reader, int], Iterable[object]]]] = {
        1: ("unsigned", _NUMBERS, _flags),
        2: ("collation", texts, _default_collation),
        3: ("collation", texts, _numbers),
        4: ("name", None, _texts),
        5: ("members", frozenset((FIELD_TYPE.SET,)), _members),
        6: ("members", frozenset((FIELD_TYPE.ENUM,)), _members),
        7: ("geometry", geometry, _numbers),
        10: ("collation", _MEMBERS, _default_collation),
        11: ("collation", _MEMBERS, _numbers),
        12: ("visible", None, _flags),
        13: ("dimensions", frozenset((VECTOR,)), _numbers),
    }
    told: _Told = {}
    key: tuple[int, ...] | None = None
    while reader.left:
        kind = reader.uint(1)
        value = Reader(reader.counted())
        if kind in (_SIMPLE_KEY, _PREFIX_KEY):
            # With prefixes each column is followed by the prefix's length: rows that differ there differ in the column.
            key = tuple(_numbers(value, 0))[:: kind - _SIMPLE_KEY + 1]
        elif kind in readers:
            attribute, codes, read = readers[kind]
            places = [index for index, column in enumerate(columns) if codes is None or column.code in codes]
            values = list(read(value, len(places)))
            if value.left or len(values) != len(places):
                raise Malformed("its metadata are not of its columns")
            told[attribute] = {**told.get(attribute, {}), **dict(zip(places, values, strict=True))}
    return told, () if key is None and "name" in told else key


_SIMPLE_KEY, _PREFIX_KEY = 8, 9


def _flags(reader: Reader, count: int) -> Iterable[bool]:
    """One bit per column, the highest first."""
    bits = reader.take((count + 7) // 8)
    return [bool(bits[index >> 3] << (index & 7) & 0x80) for index in range(count)]


def _numbers(reader: Reader, _: int) -> Iterable[int]:
    while reader.left:
        yield reader.packed()


def _default_collation(reader: Reader, count: int) -> Iterable[int]:
    """One collation for all, and then those that differ, each behind the number of its column."""
    numbers = list(_numbers(reader, count))
    if len(numbers) % 2 == 0 or any(place >= count for place in numbers[1::2]):
        raise Malformed("its metadata are not of its columns")
    collations = [numbers[0]] * count
    for place, collation in zip(numbers[1::2], numbers[2::2], strict=True):
        collations[place] = collation
    return collations


def _texts(reader: Reader, _: int) -> Iterable[str]:
    while reader.left:
        yield reader.counted().decode()


def _members(reader: Reader, count: int) -> Iterable[tuple[bytes, ...]]:
    for _ in range(count):
        members = reader.packed()
        if members > reader.left:
            raise Malformed("it ends too early")
        yield tuple(reader.counted() for _ in range(members))
