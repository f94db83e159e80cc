"""The types of MySQL's and MariaDB's columns: as declared, as kept in the schema history, and as table maps of the binlog tell them.

What a table map with binlog_row_metadata=FULL cannot tell, and what is taken for it: MariaDB's uuid, inet6 and inet4 (binary), its vector
(varbinary), its json (longtext, which it is). So a declared type that fits a wire column is to be preferred to the wire's own.
The catalogs keep the names of ENUM and SET members in utf8mb3 and show `?` for every character past U+FFFF.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from pymysqlreplication.constants import FIELD_TYPE

from cdc.decode.mysql.charsets import charset_of, decoder, width
from cdc.decode.mysql.table_map import VECTOR
from cdc.decode.mysql.wire import WireColumn
from cdc.errors import SchemaUnknown

INTEGERS = ("tinyint", "smallint", "mediumint", "int", "bigint")
TEXTS = ("char", "varchar", "tinytext", "text", "mediumtext", "longtext")
BYTES = ("binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob")
GEOMETRIES = ("geometry", "point", "linestring", "polygon", "multipoint", "multilinestring", "multipolygon", "geometrycollection")
MEMBERS = ("enum", "set")
TIMES = ("time", "datetime", "timestamp")
INTERNET = {"uuid": 16, "inet6": 16, "inet4": 4}  # MariaDB's types of fixed bytes
NUMBERS = (*INTEGERS, "decimal", "float", "double")
DECIMAL_DIGITS_MAX, FRACTION_DIGITS_MAX = 65, 6
_PLAIN = ("date", "year", "json")
_NAMES = {*NUMBERS, *TEXTS, *BYTES, *GEOMETRIES, *MEMBERS, *TIMES, *INTERNET, *_PLAIN, "bit", "vector"}
_WITH_LENGTH = ("char", "varchar", "binary", "varbinary", "bit", "vector")


@dataclass(frozen=True, slots=True)
class MyType:
    """A column's declared type. `name` is information_schema's DATA_TYPE in lower case, with geometrycollection for MySQL's geomcollection.

    `length`: characters of char and varchar, bytes of binary and varbinary, bits of bit, dimensions of vector. `digits`: precision and
    scale of decimal. `fraction`: digits of fractional seconds. `charset`: the server's name, None for types without. `members`: of ENUM
    and SET. Display widths, ZEROFILL, COMPRESSED and the deprecated digits of float and double are left out: they change no value.
    """

    name: str
    unsigned: bool = False
    length: int | None = None
    digits: tuple[int, int] | None = None
    fraction: int = 0
    charset: str | None = None
    members: tuple[str, ...] = ()

    def __str__(self) -> str:
        unsigned, charset = " unsigned" if self.unsigned else "", f" charset {self.charset}" if self.charset else ""
        return f"{self.name}{self._arguments()}{unsigned}{charset}"

    def _arguments(self) -> str:
        if self.digits:
            return "({},{})".format(*self.digits)
        if self.length is not None:
            return f"({self.length})"
        if self.name in MEMBERS:
            return "({})".format(",".join("'" + member.replace("'", "''") + "'" for member in self.members))
        return f"({self.fraction})" if self.fraction else ""


_TYPE = re.compile(r"(\w+)(?:\((.*)\))?( unsigned)?(?: charset (\w+))?", re.DOTALL)
_DECLARED = re.compile(r"(\w+)(?:\((.*)\))?([^()]*)", re.DOTALL)
_MEMBER = re.compile(r"'((?:[^']|'')*)'(?:,|$)")
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED = {"0": "\0", "n": "\n", "r": "\r"}
_OLD_NAMES = {"geomcollection": "geometrycollection", "utf8": "utf8mb3"}


def parse_type(text: str) -> MyType:
    """The inverse of `str(my_type)`. Raises SchemaUnknown."""
    match = _TYPE.fullmatch(text)
    if not match:
        raise SchemaUnknown("decode.type", type=text)
    name, arguments, unsigned, charset = match.groups()
    return _type(text, name, arguments or "", bool(unsigned), charset, str)


def declared(column_type: str, charset: str | None) -> MyType:
    """From information_schema.columns: COLUMN_TYPE and CHARACTER_SET_NAME. Raises SchemaUnknown for a type this version does not know."""
    match = _DECLARED.fullmatch(column_type)
    if not match:
        raise SchemaUnknown("decode.type", type=column_type)
    name, arguments, attributes = match.groups()
    name = _OLD_NAMES.get(name.lower(), name.lower())
    charset = _OLD_NAMES.get(charset, charset) if charset and name in (*TEXTS, *MEMBERS) else None
    # COLUMN_TYPE escapes members as the server prints text, whatever the sql_mode.
    return _type(column_type, name, arguments or "", "unsigned" in attributes.split(), charset, _unescaped)


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda escape: _ESCAPED.get(escape[1], escape[1]), text)


def _type(text: str, name: str, arguments: str, unsigned: bool, charset: str | None, member: Callable[[str], str]) -> MyType:
    if name not in _NAMES:
        raise SchemaUnknown("decode.type", type=text)
    if name in MEMBERS:
        parts = _MEMBER.findall(arguments)
        if "".join("'" + part + "'," for part in parts) != arguments + ",":
            raise SchemaUnknown("decode.type", type=text)
        return MyType(name, charset=charset, members=tuple(member(part.replace("''", "'")) for part in parts))
    if not re.fullmatch(r"(\d+(,\d+)?)?", arguments):
        raise SchemaUnknown("decode.type", type=text)
    numbers = [int(number) for number in arguments.split(",") if number]
    if name == "decimal":
        return MyType(name, unsigned, digits=(numbers[0], numbers[1]) if len(numbers) == 2 else (10, 0))
    if name in _WITH_LENGTH:
        return MyType(name, length=numbers[0] if numbers else 1, charset=charset)
    if name in TIMES:
        return MyType(name, fraction=numbers[0] if numbers else 0)
    return MyType(name, unsigned, charset=charset)


OLD_TIMES = (FIELD_TYPE.TIME, FIELD_TYPE.DATETIME, FIELD_TYPE.TIMESTAMP)  # of tables made before MySQL 5.6.4, or as MariaDB 5.3 did
_CODES = {
    FIELD_TYPE.TINY: "tinyint",
    FIELD_TYPE.SHORT: "smallint",
    FIELD_TYPE.INT24: "mediumint",
    FIELD_TYPE.LONG: "int",
    FIELD_TYPE.LONGLONG: "bigint",
    FIELD_TYPE.NEWDECIMAL: "decimal",
    FIELD_TYPE.FLOAT: "float",
    FIELD_TYPE.DOUBLE: "double",
    FIELD_TYPE.BIT: "bit",
    FIELD_TYPE.DATE: "date",
    FIELD_TYPE.YEAR: "year",
    FIELD_TYPE.TIME: "time",
    FIELD_TYPE.TIME2: "time",
    FIELD_TYPE.DATETIME: "datetime",
    FIELD_TYPE.DATETIME2: "datetime",
    FIELD_TYPE.TIMESTAMP: "timestamp",
    FIELD_TYPE.TIMESTAMP2: "timestamp",
    FIELD_TYPE.STRING: "char",
    FIELD_TYPE.VARCHAR: "varchar",
    FIELD_TYPE.VAR_STRING: "varchar",
    FIELD_TYPE.BLOB: "text",
    FIELD_TYPE.ENUM: "enum",
    FIELD_TYPE.SET: "set",
    FIELD_TYPE.JSON: "json",
    FIELD_TYPE.GEOMETRY: "geometry",
    VECTOR: "vector",
}
_BY_LENGTH_BYTES = TEXTS[2:]
_RAW = dict(zip(TEXTS, BYTES, strict=True))  # what a text type is called when its collation is binary
_SET_BYTES = (0, 1, 2, 3, 4, 8, 8, 8, 8)  # of a value, by eights of members


@dataclass(frozen=True, slots=True)
class _Told:
    """What the optional metadata tell of a column's type; None where they don't. `charset` is `binary` for bytes."""

    unsigned: bool | None
    charset: str | None
    members: tuple[str, ...] | None
    geometry: int | None
    dimensions: int | None


def wire_type(column: WireColumn) -> MyType:
    """The type of a column of a table map with binlog_row_metadata=FULL. Raises SchemaUnknown if it tells too little or an unknown type."""
    my_type = _described(column, _told(column))
    # Of MariaDB's old forms the log does not tell the fraction, on which the length of a value depends.
    if my_type is None or column.code in OLD_TIMES:
        raise SchemaUnknown("decode.wire_type", column=column.name, number=column.code, collation=column.collation)
    return my_type


def fits_wire(my_type: MyType, column: WireColumn) -> bool:
    """Whether rows of the wire column can be values of the type: all the table map tells agrees with it."""
    told = _told(column)
    taken = _Told(
        unsigned=my_type.unsigned if told.unsigned is None else told.unsigned,
        charset=(my_type.charset or "binary") if column.collation is None else told.charset,
        members=my_type.members if told.members is None else told.members,
        geometry=GEOMETRIES.index(my_type.name) if told.geometry is None and my_type.name in GEOMETRIES else told.geometry,
        dimensions=my_type.length if told.dimensions is None else told.dimensions,
    )
    described = _described(column, taken)
    if described is None:
        return False
    if my_type.name in INTERNET:
        return described == MyType("binary", length=INTERNET[my_type.name])
    if my_type.name == "vector" and my_type.length and column.code != VECTOR:
        return described == MyType("varbinary", length=4 * my_type.length)
    return _as_cataloged(described) == _as_cataloged(my_type)


def _told(column: WireColumn) -> _Told:
    charset = None if column.collation is None else charset_of(column.collation)
    members = None if column.members is None or charset is None else _names(column.members, charset)
    return _Told(column.unsigned, charset, members, column.geometry, column.dimensions)


def _described(column: WireColumn, told: _Told) -> MyType | None:
    """The type a table map describes; None where it is not known, or too little is told."""
    name, meta = _CODES.get(column.code, ""), column.meta
    if name in NUMBERS:
        precision, scale = divmod(meta, 256)
        if told.unsigned is None or (name == "decimal" and not max(1, scale) <= precision <= DECIMAL_DIGITS_MAX):
            return None
        return MyType(name, told.unsigned, digits=(precision, scale) if name == "decimal" else None)
    if name in TEXTS:
        return _described_text(name, meta, told.charset)
    if name in MEMBERS:
        fits = told.members is not None and _value_bytes(name, len(told.members)) == meta
        return MyType(name, charset=told.charset, members=told.members or ()) if fits and told.charset else None
    if name in TIMES:
        return MyType(name, fraction=meta) if meta <= FRACTION_DIGITS_MAX else None
    if name == "geometry":
        return MyType(GEOMETRIES[told.geometry or 0]) if (told.geometry or 0) < len(GEOMETRIES) else None
    return MyType(name, length={"bit": meta, "vector": told.dimensions}.get(name)) if name else None


def _described_text(name: str, meta: int, charset: str | None) -> MyType | None:
    if charset is None:
        return None
    if name == "text":
        if not 1 <= meta <= len(_BY_LENGTH_BYTES):
            return None
        name, length = _BY_LENGTH_BYTES[meta - 1], None
    else:
        length = meta // width(charset)
    return MyType(_RAW[name], length=length) if charset == "binary" else MyType(name, length=length, charset=charset)


def _value_bytes(name: str, members: int) -> int:
    return (1 if members < 256 else 2) if name == "enum" else _SET_BYTES[min((members + 7) // 8, 8)]


def _names(members: tuple[bytes, ...], charset: str) -> tuple[str, ...] | None:
    decode = decoder(charset)
    try:
        return tuple(map(decode, members)) if decode else None
    except UnicodeDecodeError:
        return None


def _as_cataloged(my_type: MyType) -> MyType:
    """With members as the catalogs show them."""
    return replace(my_type, members=tuple(_PAST_BMP.sub("?", member) for member in my_type.members))


_PAST_BMP = re.compile("[\U00010000-\U0010ffff]")
