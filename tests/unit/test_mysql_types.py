"""MySQL's and MariaDB's types: their texts, what fits a wire column, and values from bytes: limits, round trips, bytes that are none."""

from __future__ import annotations

import datetime as dt
import struct
from decimal import Decimal, localcontext
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymysqlreplication.constants import FIELD_TYPE

from cdc.decode.mysql.charsets import charset_of, decoder
from cdc.decode.mysql.fields import Field, fields_of, make_field, select_expression
from cdc.decode.mysql.images import values_of
from cdc.decode.mysql.types import MyType, declared, fits_wire, parse_type, wire_type
from cdc.decode.mysql.wire import WireColumn
from cdc.errors import ConfigError, LedgertailError, SchemaUnknown, ValueUnfit
from cdc.types import TableSchema

pytestmark = pytest.mark.usefixtures("mysql_kernel")

VECTOR = 242
UTF8MB4, LATIN1, BINARY, GBK, UCS2 = 255, 8, 63, 28, 35

# COLUMN_TYPE and character set; the type's own text; and the Arrow and DuckDB types it is mapped to.
MAPPED: list[tuple[str, str | None, str, pa.DataType, str]] = [
    ("tinyint(1)", None, "tinyint", pa.int8(), "TINYINT"),
    ("tinyint(3) unsigned", None, "tinyint unsigned", pa.uint8(), "UTINYINT"),
    ("smallint", None, "smallint", pa.int16(), "SMALLINT"),
    ("smallint unsigned", None, "smallint unsigned", pa.uint16(), "USMALLINT"),
    ("mediumint(9)", None, "mediumint", pa.int32(), "INTEGER"),
    ("mediumint unsigned", None, "mediumint unsigned", pa.uint32(), "UINTEGER"),
    ("int(5) unsigned zerofill", None, "int unsigned", pa.uint32(), "UINTEGER"),
    ("int", None, "int", pa.int32(), "INTEGER"),
    ("bigint", None, "bigint", pa.int64(), "BIGINT"),
    ("bigint(20) unsigned", None, "bigint unsigned", pa.uint64(), "UBIGINT"),
    ("decimal(20,4)", None, "decimal(20,4)", pa.decimal128(20, 4), "DECIMAL(20,4)"),
    ("decimal(5,0) unsigned zerofill", None, "decimal(5,0) unsigned", pa.decimal128(5, 0), "DECIMAL(5,0)"),
    ("decimal(38,38)", None, "decimal(38,38)", pa.decimal128(38, 38), "DECIMAL(38,38)"),
    ("decimal(39,2)", None, "decimal(39,2)", pa.string(), "VARCHAR"),
    ("float(7,4) unsigned", None, "float unsigned", pa.float32(), "FLOAT"),
    ("double(10,2)", None, "double", pa.float64(), "DOUBLE"),
    ("bit(9)", None, "bit(9)", pa.uint64(), "UBIGINT"),
    ("char(5)", "utf8", "char(5) charset utf8mb3", pa.string(), "VARCHAR"),
    ("varchar(40)", "gbk", "varchar(40) charset gbk", pa.string(), "VARCHAR"),
    ("varchar(10) /*M!100301 COMPRESSED*/", "latin1", "varchar(10) charset latin1", pa.string(), "VARCHAR"),
    ("mediumtext", "utf8mb4", "mediumtext charset utf8mb4", pa.string(), "VARCHAR"),
    ("binary(16)", None, "binary(16)", pa.binary(), "BLOB"),
    ("varbinary(300)", None, "varbinary(300)", pa.binary(), "BLOB"),
    ("longblob", None, "longblob", pa.binary(), "BLOB"),
    ("date", None, "date", pa.date32(), "DATE"),
    ("datetime(6)", None, "datetime(6)", pa.timestamp("us"), "TIMESTAMP"),
    ("datetime /* mariadb-5.3 */", None, "datetime", pa.timestamp("us"), "TIMESTAMP"),
    ("timestamp", None, "timestamp", pa.timestamp("us", "UTC"), "TIMESTAMPTZ"),
    ("time(3)", None, "time(3)", pa.string(), "VARCHAR"),
    ("year(4)", None, "year", pa.int16(), "SMALLINT"),
    ("enum('a','b''c','d\\\\e','f\\ng','x) charset y')", "utf8mb4", "", pa.string(), "VARCHAR"),
    ("set('a,b')", "latin1", "set('a,b') charset latin1", pa.string(), "VARCHAR"),
    ("json", None, "json", pa.string(), "JSON"),
    ("geomcollection", None, "geometrycollection", pa.binary(), "BLOB"),
    ("point", None, "point", pa.binary(), "BLOB"),
    ("vector(3)", None, "vector(3)", pa.binary(), "BLOB"),
    ("uuid", None, "uuid", pa.string(), "UUID"),
    ("inet6", None, "inet6", pa.string(), "VARCHAR"),
]


@pytest.mark.parametrize(
    ("column_type", "charset", "printed", "arrow", "store"), MAPPED, ids=lambda part: part if isinstance(part, str) else ""
)
def test_mapping(column_type: str, charset: str | None, printed: str, arrow: pa.DataType, store: str) -> None:
    my_type = declared(column_type, charset)
    (column,) = make_field("c", my_type, None).columns
    assert (column.type, column.store_type, column.source_type) == (arrow, store, printed or str(my_type))
    assert parse_type(column.source_type) == my_type


def test_members_are_read_as_the_catalog_escapes_them() -> None:
    assert declared("enum('a','b''c','d\\\\e','f\\ng','h\\0','','x) charset y')", "utf8mb4").members == (
        *("a", "b'c", "d\\e", "f\ng", "h\0"),
        *("", "x) charset y"),
    )


@given(st.sampled_from(["enum", "set"]), st.lists(st.text(max_size=8), min_size=1, max_size=5))
def test_any_members_come_back(name: str, members: list[str]) -> None:
    my_type = MyType(name, charset="utf8mb4", members=tuple(members))
    assert parse_type(str(my_type)) == my_type


@pytest.mark.parametrize(
    "text", ["", "xmltype", "enum('a'", "enum(a)", "enum('a';'b')", "int unsigned zerofill x", "datetime(6", "time(x)", "(3)"]
)
def test_unknown_types(text: str) -> None:
    with pytest.raises(SchemaUnknown, match="is not known"):
        parse_type(text)


def wire(code: int, meta: int = 0, **told: Any) -> WireColumn:
    return WireColumn(code, meta, True, **told)


FULL: list[tuple[str, WireColumn]] = [
    ("tinyint", wire(FIELD_TYPE.TINY, unsigned=False)),
    ("mediumint unsigned", wire(FIELD_TYPE.INT24, unsigned=True)),
    ("bigint unsigned", wire(FIELD_TYPE.LONGLONG, unsigned=True)),
    ("decimal(20,4) unsigned", wire(FIELD_TYPE.NEWDECIMAL, 20 << 8 | 4, unsigned=True)),
    ("float", wire(FIELD_TYPE.FLOAT, 4, unsigned=False)),
    ("bit(9)", wire(FIELD_TYPE.BIT, 9)),
    ("char(5) charset utf8mb4", wire(FIELD_TYPE.STRING, 20, collation=UTF8MB4)),
    ("varchar(5) charset gbk", wire(FIELD_TYPE.VARCHAR, 10, collation=GBK)),
    ("varbinary(5)", wire(FIELD_TYPE.VARCHAR, 5, collation=BINARY)),
    ("binary(5)", wire(FIELD_TYPE.STRING, 5, collation=BINARY)),
    ("mediumtext charset latin1", wire(FIELD_TYPE.BLOB, 3, collation=LATIN1)),
    ("tinyblob", wire(FIELD_TYPE.BLOB, 1, collation=BINARY)),
    ("date", wire(FIELD_TYPE.DATE)),
    ("datetime(3)", wire(FIELD_TYPE.DATETIME2, 3)),
    ("timestamp", wire(FIELD_TYPE.TIMESTAMP2, 0)),
    ("time(6)", wire(FIELD_TYPE.TIME2, 6)),
    ("year", wire(FIELD_TYPE.YEAR, unsigned=True)),
    ("enum('é','😀') charset utf8mb4", wire(FIELD_TYPE.ENUM, 1, collation=UTF8MB4, members=("é".encode(), "😀".encode()))),
    ("set('客') charset gbk", wire(FIELD_TYPE.SET, 1, collation=GBK, members=("客".encode("gbk"),))),
    ("json", wire(FIELD_TYPE.JSON, 4)),
    ("point", wire(FIELD_TYPE.GEOMETRY, 4, geometry=1)),
    ("vector(3)", wire(VECTOR, 4, collation=BINARY, dimensions=3)),
]


@pytest.mark.parametrize(("text", "column"), FULL, ids=lambda part: part if isinstance(part, str) else "")
def test_what_the_wire_tells(text: str, column: WireColumn) -> None:
    my_type = parse_type(text)
    assert wire_type(column) == my_type
    others = [other for other, _ in FULL if other != text]
    assert fits_wire(my_type, column)
    assert [other for other in others if fits_wire(parse_type(other), column)] == []
    untold = WireColumn(column.code, column.meta, True)
    assert fits_wire(my_type, untold)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("uuid", wire(FIELD_TYPE.STRING, 16, collation=BINARY)),
        ("inet4", wire(FIELD_TYPE.STRING, 4, collation=BINARY)),
        ("inet6", wire(FIELD_TYPE.STRING, 16)),
        ("vector(3)", wire(FIELD_TYPE.VARCHAR, 12, collation=BINARY)),
        ("datetime", wire(FIELD_TYPE.DATETIME)),
        ("varchar(5) charset latin1", wire(FIELD_TYPE.VAR_STRING, 5)),
        ("enum('?') charset utf8mb4", wire(FIELD_TYPE.ENUM, 1, collation=UTF8MB4, members=("😀".encode(),))),
    ],
)
def test_types_the_wire_does_not_tell_fully(text: str, column: WireColumn) -> None:
    assert fits_wire(parse_type(text), column)


@pytest.mark.parametrize(
    ("text", "column"),
    [
        ("int", wire(FIELD_TYPE.LONG, unsigned=True)),
        ("decimal(10,2)", wire(FIELD_TYPE.NEWDECIMAL, 10 << 8 | 3)),
        ("decimal(10,2)", wire(FIELD_TYPE.NEWDECIMAL, 2 << 8 | 10)),
        ("varchar(5) charset latin1", wire(FIELD_TYPE.VARCHAR, 5, collation=9)),
        ("varchar(5) charset latin1", wire(FIELD_TYPE.VARCHAR, 5, collation=2047)),
        ("varchar(6) charset latin1", wire(FIELD_TYPE.VARCHAR, 5)),
        ("datetime(3)", wire(FIELD_TYPE.DATETIME)),
        ("datetime(3)", wire(FIELD_TYPE.DATETIME2, 2)),
        ("enum('a','b') charset latin1", wire(FIELD_TYPE.ENUM, 1, collation=LATIN1, members=(b"b", b"a"))),
        ("enum('a','b') charset latin1", wire(FIELD_TYPE.ENUM, 2)),
        ("enum('?') charset utf8mb4", wire(FIELD_TYPE.ENUM, 1, collation=UTF8MB4, members=("é".encode(),))),
        ("blob", wire(FIELD_TYPE.BLOB, 0)),
        ("geometry", wire(FIELD_TYPE.GEOMETRY, 4, geometry=1)),
        ("geometry", wire(FIELD_TYPE.GEOMETRY, 4, geometry=99)),
        ("vector(3)", wire(VECTOR, 4, dimensions=4)),
        ("uuid", wire(FIELD_TYPE.STRING, 15, collation=BINARY)),
        ("int", wire(FIELD_TYPE.NULL)),
    ],
)
def test_what_does_not_fit(text: str, column: WireColumn) -> None:
    assert not fits_wire(parse_type(text), column)


@pytest.mark.parametrize(
    "column",
    [
        wire(FIELD_TYPE.LONG),
        wire(FIELD_TYPE.VARCHAR, 10),
        wire(FIELD_TYPE.VARCHAR, 10, collation=4000),
        wire(FIELD_TYPE.ENUM, 1, collation=UTF8MB4, members=(b"\xff",)),
        wire(FIELD_TYPE.ENUM, 1, members=(b"a",)),
        wire(FIELD_TYPE.DATETIME),
        wire(FIELD_TYPE.NEWDECIMAL, 0, unsigned=False),
        wire(20),
    ],
)
def test_wire_types_that_are_not_known(column: WireColumn) -> None:
    with pytest.raises(SchemaUnknown, match="does not tell its type fully"):
        wire_type(column)


@pytest.mark.parametrize(
    ("collation", "charset"),
    [
        (8, "latin1"),
        (28, "gbk"),
        (63, "binary"),
        (255, "utf8mb4"),
        (323, "utf8mb4"),
        (1270, "utf8mb4"),
        (2048, "utf8mb3"),
        (2304, "utf8mb4"),
        (3100, "utf32"),
        (0, None),
        (17, None),
        (1000, None),
        (99999, None),
    ],
)
def test_charset_of_a_collation(collation: int, charset: str | None) -> None:
    assert charset_of(collation) == charset


CODES = {
    "tinyint": FIELD_TYPE.TINY,
    "decimal": FIELD_TYPE.NEWDECIMAL,
    "date": FIELD_TYPE.DATE,
    "time": FIELD_TYPE.TIME2,
    "datetime": FIELD_TYPE.DATETIME2,
    "timestamp": FIELD_TYPE.TIMESTAMP2,
}


def from_wire(text: str, values: list[bytes | None], override: str | None = None, column: WireColumn | None = None) -> list[list[Any]]:
    """The values of each of the field's columns; `column` only where the type's name and fraction don't tell it."""
    my_type = parse_type(text)
    size = 1 if len(my_type.members) < 256 else 2
    meta = size if my_type.members else my_type.fraction
    field = make_field("c", my_type, override)
    return checked(field, field.from_wire(column or wire(CODES.get(my_type.name, FIELD_TYPE.STRING), meta), values_of(values), "t"))


def from_text(text: str, values: list[bytes | None], override: str | None = None) -> list[list[Any]]:
    field = make_field("c", parse_type(text), override)
    return checked(field, field.from_text(pa.array(values, pa.binary()), "t"))


def checked(field: Field, arrays: list[pa.Array]) -> list[list[Any]]:
    for array, kept in zip(arrays, field.columns, strict=True):
        assert array.type == kept.type
        array.validate(full=True)
    return [array.to_pylist() for array in arrays]


DAY = dt.date(2024, 2, 29)
MOMENT = dt.datetime(2024, 2, 29, 23, 59, 59, 999999)

# A type; and for its values the bytes in a row image, the text of the text protocol, and what is kept.
VALUES: dict[str, list[tuple[str, bytes, Any]]] = {
    "tinyint": [("80", b"-128", -128), ("7f", b"127", 127)],
    "tinyint unsigned": [("ff", b"255", 255)],
    "smallint": [("0080", b"-32768", -32768)],
    "mediumint": [("000080", b"-8388608", -8388608), ("ffff7f", b"8388607", 8388607), ("ffffff", b"-1", -1)],
    "mediumint unsigned": [("ffffff", b"16777215", 2**24 - 1)],
    "int": [("00000080", b"-2147483648", -(2**31))],
    "int unsigned": [("ffffffff", b"4294967295", 2**32 - 1), ("2a000000", b"00042", 42)],
    "bigint": [("0000000000000080", b"-9223372036854775808", -(2**63))],
    "bigint unsigned": [("ffffffffffffffff", b"18446744073709551615", 2**64 - 1)],
    "decimal(10,2)": [("7ffffffee6", b"-1.25", Decimal("-1.25")), ("85f5e0ff63", b"99999999.99", Decimal("99999999.99"))],
    "decimal(10,0)": [("8000000000", b"0", Decimal(0)), ("800000002a", b"0000000042", Decimal(42))],
    "float": [("cdcc8c3f", b"1.100000023841858", struct.unpack("f", struct.pack("f", 1.1))[0]), ("00000080", b"-0", -0.0)],
    "double": [("9a9999999999f13f", b"1.1", 1.1), ("ffffffffffffef7f", b"1.7976931348623157e308", 1.7976931348623157e308)],
    "bit(9)": [("0101", b"\x01\x01", 257), ("0000", b"\0\0", 0)],
    "bit(64)": [("ffffffffffffffff", b"\xff" * 8, 2**64 - 1)],
    "char(5) charset utf8mb4": [("c3a9", "é".encode(), "é"), ("", b"", "")],
    "varchar(5) charset gbk": [("bfcdbba7", "客户".encode("gbk"), "客户"), ("6162", b"ab", "ab")],
    "varchar(5) charset latin1": [("80818d8f909de9", b"\x80\x81\x8d\x8f\x90\x9d\xe9", "€\x81\x8d\x8f\x90\x9dé")],
    "text charset ucs2": [("00e95ba2", b"\0\xe9\x5b\xa2", "é客")],
    "binary(5)": [("6100", b"a\0\0\0\0", b"a\0\0\0\0"), ("", b"\0" * 5, b"\0" * 5), ("2020", b"  \0\0\0", b"  \0\0\0")],
    "varbinary(5)": [("6100", b"a\0", b"a\0"), ("", b"", b"")],
    "blob": [("00ff", b"\x00\xff", b"\x00\xff")],
    "date": [("5dd00f", b"2024-02-29", DAY), ("210200", b"0001-01-01", dt.date.min), ("9f1f4e", b"9999-12-31", dt.date.max)],
    "datetime": [("99b2bb7efb", b"2024-02-29 23:59:59", MOMENT.replace(microsecond=0))],
    "datetime(3)": [("99b2bb7efb2706", b"2024-02-29 23:59:59.999", MOMENT.replace(microsecond=999_000))],
    "datetime(6)": [("99b2bb7efb0f423f", b"2024-02-29 23:59:59.999999", MOMENT)],
    "timestamp": [("00000001", b"1970-01-01 00:00:01", dt.datetime(1970, 1, 1, 0, 0, 1, tzinfo=dt.UTC))],
    "timestamp(3)": [("ffffffff04ce", b"2106-02-07 06:28:15.123", dt.datetime(2106, 2, 7, 6, 28, 15, 123000, tzinfo=dt.UTC))],
    "time": [("4b9105", b"-838:59:59", "-838:59:59"), ("b46efb", b"838:59:59", "838:59:59"), ("800000", b"00:00:00", "00:00:00")],
    "time(1)": [("7fffffce", b"-00:00:00.5", "-00:00:00.5"), ("7ffffea6", b"-00:00:01.9", "-00:00:01.9")],
    "time(3)": [("7f3747e12e", b"-12:34:56.789", "-12:34:56.789"), ("80c8b81ed2", b"12:34:56.789", "12:34:56.789")],
    "time(6)": [("4b9105000000", b"-838:59:59.000000", "-838:59:59.000000"), ("7fffffffffff", b"-00:00:00.000001", "-00:00:00.000001")],
    "year": [("00", b"0000", 0), ("01", b"1901", 1901), ("ff", b"2155", 2155)],
    "enum('a','','b') charset latin1": [("01", b"a", "a"), ("02", b"", ""), ("00", b"", ""), ("03", b"b", "b")],
    "enum('é') charset gbk": [("01", "é".encode("gbk"), "é")],
    "set('a','b','c') charset latin1": [("05", b"a,c", "a,c"), ("00", b"", ""), ("07", b"a,b,c", "a,b,c")],
    "json": [("", b"null", "null")],
    "point": [("000000000101", b"\0\0\0\0\x01\x01", b"\0\0\0\0\x01\x01")],
    "vector(1)": [("0000803f", b"\0\0\x80\x3f", b"\0\0\x80\x3f")],
    "uuid": [("00112233445566778899aabbccddee", b"00112233-4455-6677-8899-aabbccddee00", "00112233-4455-6677-8899-aabbccddee00")],
    "inet4": [("7f", b"127.0.0.0", "127.0.0.0"), ("", b"0.0.0.0", "0.0.0.0")],
    "inet6": [("fe80", b"fe80::", "fe80::"), ("00" * 10 + "ffff01020304", b"::ffff:1.2.3.4", "::ffff:1.2.3.4")],
}


@pytest.mark.parametrize("text", VALUES)
def test_values(text: str) -> None:
    cases = VALUES[text]
    expected = [[None, *(kept for _, _, kept in cases), None]]
    assert from_wire(text, [None, *(bytes.fromhex(raw) for raw, _, _ in cases), None]) == expected
    assert from_text(text, [None, *(shown for _, shown, _ in cases), None]) == expected
    assert from_wire(text, []) == from_text(text, []) == [[]]
    assert from_wire(text, [None, None]) == from_text(text, [None, None]) == [[None, None]]


@pytest.mark.parametrize("text", VALUES)
def test_many_values(text: str) -> None:
    """So many that other threads run while they are written."""
    cases = VALUES[text]
    values, expected = [*(bytes.fromhex(raw) for raw, _, _ in cases), None], [*(kept for _, _, kept in cases), None]
    assert from_wire(text, values * 2000) == [expected * 2000]
    for raw in MALFORMED.get(text, ()):
        with pytest.raises(ValueUnfit, match="is no value of this type"):
            from_wire(text, [*values * 2000, bytes.fromhex(raw)])


@pytest.mark.parametrize("text", [text for text in VALUES if "binary" not in text and "blob" not in text])
def test_values_as_text(text: str) -> None:
    cases = VALUES[text]
    (streamed,) = from_wire(text, [*(bytes.fromhex(raw) for raw, _, _ in cases), None], "text")
    (selected,) = from_text(text, [*(shown for _, shown, _ in cases), None], "text")
    assert streamed == selected
    assert all(isinstance(kept, str) for kept in streamed[:-1])


def test_texts_of_what_the_server_prints_otherwise() -> None:
    assert from_wire("float", [struct.pack("f", 0.1), struct.pack("f", 16777216), struct.pack("f", 1e-16)], "text") == [
        ["0.1", "16777216", "1e-16"]
    ]
    assert from_text("float", [b"0.10000000149011612", b"-0"], "text") == [["0.1", "-0"]]
    assert from_wire("bit(9)", [b"\x01\x01"], "text") == [["257"]]
    assert from_wire("point", [b"\0\xff"], "text") == [["0x00FF"]]
    assert from_text("int unsigned", [b"00042"], "text") == [["42"]]
    assert from_text("decimal(8,3)", [b"00001.500", b"-00.500", b"0.000"], "text") == [["1.500", "-0.500", "0.000"]]
    assert from_wire("blob", [b"caf\xc3\xa9"], "text") == [["café"]]


OLD: dict[str, tuple[int, dict[str, str]]] = {
    "time": (FIELD_TYPE.TIME, {"590a80": "-838:59:59", "010000": "00:00:01"}),
    "datetime": (FIELD_TYPE.DATETIME, {"f67cac8b68120000": "2024-02-29 23:59:58", "0" * 16: "0000-00-00 00:00:00"}),
    "timestamp": (FIELD_TYPE.TIMESTAMP, {"7f1ae165": "2024-02-29 23:59:59", "0" * 8: "0000-00-00 00:00:00"}),
}


@pytest.mark.parametrize("text", OLD)
def test_old_forms_of_moments(text: str) -> None:
    code, cases = OLD[text]
    values = [bytes.fromhex(raw) for raw in cases]
    assert from_wire(text, [*values, None], "text", wire(code)) == [[*cases.values(), None]]
    shown = [text.encode() for text in cases.values()]
    assert from_wire(text, [*values, None], "null", wire(code)) == from_text(text, [*shown, None], "null")


# Types with values that have no faithful target: those, and the text that stands for them.
UNFIT: dict[str, dict[str, str]] = {
    "date": {"000000": "0000-00-00", "00d00f": "2024-00-00", "5fd00f": "2024-02-31", "210000": "0000-01-01"},
    "datetime": {"8000000000": "0000-00-00 00:00:00", "99b2000000": "2024-00-00 00:00:00"},
    "datetime(3)": {"80000000000000": "0000-00-00 00:00:00.000"},
    "timestamp": {"00000000": "0000-00-00 00:00:00"},
    "timestamp(6)": {"00000000000000": "0000-00-00 00:00:00.000000"},
    "varchar(5) charset utf8mb4": {"ff": "0xFF", "eda080": "0xEDA080"},
    "varchar(5) charset gbk": {"a140": "0xA140", "81": "0x81"},
    "varchar(5) charset ucs2": {"d800": "0xD800", "00": "0x00", "d800dc00": "0xD800DC00"},
    "varchar(5) charset big5": {"a2cc": "0xA2CC"},
    "varchar(5) charset future": {"61": "0x61"},
    "enum('?','a') charset utf8mb4": {"01": "0x01"},
    "set('?','a') charset utf8mb4": {"03": "0x03"},
}
FIT = {
    "date": "5dd00f",
    "datetime": "99b2bb7efb",
    "datetime(3)": "99b2bb7efb0000",
    "timestamp": "00000001",
    "timestamp(6)": "00000001000000",
}


@pytest.mark.parametrize("text", UNFIT)
def test_values_without_faithful_target(text: str) -> None:
    cases = UNFIT[text]
    values = [None, *map(bytes.fromhex, cases), *([bytes.fromhex(FIT[text])] if text in FIT else []), None]
    kept, record = from_wire(text, values, "null")
    assert record == [None, *cases.values(), *[None] * (len(values) - len(cases) - 1)]
    assert [value is None for value in kept] == [value is None or why is not None for value, why in zip(values, record, strict=True)]
    with pytest.raises(ValueUnfit, match=next(iter(cases.values()))) as raised:
        from_wire(text, values)
    assert raised.value.values["table"] == "t"
    if not text.startswith(("enum", "set")):
        shown = [value and (why or "x").encode() if text in FIT else value for value, why in zip(values, record, strict=True)]
        shown = [b"2024-02-29 00:00:00"[: 10 if text == "date" else None] if value == b"x" else value for value in shown]
        kept, again = from_text(text, shown, "null")
        assert again == record
        with pytest.raises(ValueUnfit):
            from_text(text, shown)


def test_the_code_tells_what_to_do() -> None:
    for text, raw, code in [
        ("date", bytes(3), "decode.value"),
        ("text charset gbk", b"\x81", "decode.charset"),
        ("blob", b"\xff", "decode.charset"),
    ]:
        with pytest.raises(ValueUnfit) as raised:
            from_wire(text, [raw], "text" if text == "blob" else None)
        assert raised.value.code == code
    with pytest.raises(ValueUnfit) as raised:
        from_wire("enum('?') charset utf8mb4", [b"\x01"])
    assert raised.value.code == "decode.member"


def test_names_that_the_log_tells_are_taken() -> None:
    told = wire(FIELD_TYPE.ENUM, 1, collation=UTF8MB4, members=("😀".encode(), b"a"))
    assert from_wire("enum('?','a') charset utf8mb4", [b"\x01", b"\x02", b"\x00"], None, told) == [["😀", "a", ""]]


def test_overrides() -> None:
    assert from_wire("int", [b"\x07\0\0\0", None], "decimal(5,2)") == [[Decimal("7.00"), None]]
    assert from_text("double", [b"1e2", b"0.125"], "decimal(6,3)") == [[Decimal("100.000"), Decimal("0.125")]]
    assert from_wire("float", [struct.pack("f", 0.1)], "decimal(2,1)") == [[Decimal("0.1")]]
    assert from_text("varchar(9) charset gbk", [b"12.50", b"-1E-2"], "DECIMAL( 9 , 2 )") == [[Decimal("12.50"), Decimal("-0.01")]]
    assert from_text("decimal(65,30)", [b"1.500000000000000000000000000000"], "decimal(38,2)") == [[Decimal("1.50")]]
    assert (
        from_wire("text charset gbk", [b"\x81", None], "binary")
        == from_text("text charset gbk", [b"\x81", None], "binary")
        == [[b"\x81", None]]
    )
    assert make_field("c", parse_type("json"), " Text ").columns[0].store_type == "VARCHAR"


@pytest.mark.parametrize(
    "value", [b"1.005", b"123.00", b"", b"twelve", b" 1", b"1_0", b"NaN", b"Infinity", b"1e400", b"9" * 60, "１".encode()]
)
def test_texts_that_are_no_such_decimal(value: bytes) -> None:
    with pytest.raises(ValueUnfit, match="has no exact DECIMAL"):
        from_text("text charset utf8mb4", [b"1.00", value], "decimal(4,2)")


@pytest.mark.parametrize("override", ["", "integer", "decimal", "decimal(39,2)", "decimal(5,6)", "decimal(0,0)", "varchar", "binary"])
def test_overrides_that_are_none(override: str) -> None:
    with pytest.raises(ConfigError, match="can't be mapped to"):
        make_field("c", parse_type("decimal(10,2)"), override)


@pytest.mark.parametrize("text", ["date", "json", "blob", "enum('a') charset latin1"])
def test_overrides_to_decimal_of_what_is_no_number(text: str) -> None:
    with pytest.raises(ConfigError, match="can't be mapped to"):
        make_field("c", parse_type(text), "decimal(10,2)")


def test_key_columns_are_never_null() -> None:
    with pytest.raises(ConfigError, match="part of the table's key"):
        make_field("c", parse_type("date"), "null", key=True)
    assert make_field("c", parse_type("date"), "text", key=True).columns[0].store_type == "VARCHAR"


@pytest.mark.parametrize("override", [None, "text", "null", "decimal(20,2)", "binary"])
def test_fields_come_back_from_a_schema(override: str | None) -> None:
    made = (
        make_field("a", parse_type("int"), None),
        make_field("b", parse_type("varchar(9) charset gbk"), override),
        make_field("c", parse_type("date"), "null"),
        make_field("d", parse_type("bigint unsigned"), "text"),
    )
    schema = TableSchema("shop", "t", tuple(column for field in made for column in field.columns), ("a",))
    assert fields_of(schema) == made


def test_select_expressions() -> None:
    assert select_expression(make_field("a`b", parse_type("int"), None)) == "`a``b`"
    assert select_expression(make_field("f", parse_type("float"), None)) == "`f` * 1e0"


MALFORMED: dict[str, tuple[str, ...]] = {
    "tinyint": ("", "0000"),
    "mediumint": ("0000",),
    "bigint": ("00" * 9,),
    "decimal(10,2)": ("80000000", "ffffffffff", "8000000064"),
    "decimal(65,30)": ("ff" * 30,),
    "double": ("00",),
    "bit(9)": ("00", "000000"),
    "binary(2)": ("616263",),
    "date": ("0000",),
    "datetime": ("99b2bb7e", "0000000000", "19b2bb7efb", "99b2bb8efb", "99b2bbffff", "99b2bb7eff"),
    "datetime(6)": ("99b2bb7efbffffff", "19b2bb7efb0f423f"),
    "timestamp(6)": ("00000001ffffff", "000001"),
    "time(6)": ("800000ffffff", "80", "800fff000000"),
    "year": ("0000",),
    "enum('a') charset latin1": ("02", "0100"),
    "set('a') charset latin1": ("02",),
    "json": ("00", "ff", "0cff"),
    "uuid": ("00" * 17,),
    "inet4": ("00" * 5,),
}


@pytest.mark.parametrize(("text", "raw"), [(text, raw) for text, cases in MALFORMED.items() for raw in cases])
@pytest.mark.parametrize("override", [None, "text", "null"])
def test_bytes_that_are_no_value(text: str, raw: str, override: str | None) -> None:
    good = bytes.fromhex(VALUES[text][0][0]) if text in VALUES else None
    with pytest.raises(ValueUnfit, match="is no value of this type") as raised:
        from_wire(text, [good, None, bytes.fromhex(raw), good], override)
    assert str(raised.value.values["value"]).startswith(f"0x{raw.upper()}"[:60])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("tinyint", b"128"),
        ("int", b"x"),
        ("decimal(10,2)", b"x"),
        ("double", b""),
        ("date", b"2024-1-1"),
        ("datetime", b"2024-01-01 25:00:00"),
        ("year", b"x"),
    ],
)
def test_texts_that_are_no_value(text: str, value: bytes) -> None:
    with pytest.raises(ValueUnfit, match="is no value of this type"):
        from_text(text, [None, value])


EVERY = sorted({*VALUES, *UNFIT, "decimal(39,4)", "decimal(30,10)", "varchar(9) charset sjis", "varchar(9) charset eucjpms"})


@given(st.sampled_from(EVERY), st.lists(st.none() | st.binary(max_size=20), max_size=4), st.sampled_from([None, "text", "null"]))
def test_any_bytes_are_converted_or_refused(text: str, values: list[bytes | None], override: str | None) -> None:
    for convert in (from_wire, from_text):
        try:
            kept, *record = convert(text, values, override)
        except LedgertailError:
            continue
        known = [a is not None or b is not None for a, b in zip(kept, record[0] if record else kept, strict=True)]
        assert known == [value is not None for value in values]


@given(st.data())
def test_packed_decimals_come_back(data: st.DataObject) -> None:
    precision = data.draw(st.integers(1, 65))
    scale = data.draw(st.integers(0, min(precision, 30)))
    wholes = data.draw(st.lists(st.integers(1 - 10**precision, 10**precision - 1), min_size=1, max_size=20))
    with localcontext(prec=70):
        numbers = [Decimal(whole).scaleb(-scale) for whole in wholes]
    text = f"decimal({precision},{scale})"
    shown = [f"{number:f}" for number in numbers]
    packed = [pack_decimal(number, precision, scale) for number in shown]
    assert from_wire(text, [*packed, None], "text") == [[*shown, None]]
    assert from_wire(text, [*packed, None]) == [[*(shown if precision > 38 else numbers), None]]


def pack_decimal(text: str, precision: int, scale: int) -> bytes:
    """As the server's decimal2bin does it."""
    before, _, after = text.lstrip("-").partition(".")
    before = before.lstrip("0").rjust(precision - scale, "0")
    first = (precision - scale) % 9
    groups = [before[:first], *(before[place : place + 9] for place in range(first, precision - scale, 9))]
    groups += [after[place : place + 9] for place in range(0, scale, 9)]
    packed = bytearray(b"".join(int(group).to_bytes((0, 1, 1, 2, 2, 3, 3, 4, 4, 4)[len(group)]) for group in groups if group))
    if text.startswith("-"):
        packed = bytearray(octet ^ 0xFF for octet in packed)
    packed[0] ^= 0x80
    return bytes(packed)


@given(st.lists(st.datetimes(), min_size=1, max_size=20), st.integers(0, 6))
def test_datetimes_come_back(moments: list[dt.datetime], digits: int) -> None:
    kept = [moment.replace(microsecond=moment.microsecond // 10 ** (6 - digits) * 10 ** (6 - digits)) for moment in moments]
    text = f"datetime({digits})" if digits else "datetime"
    assert from_wire(text, [*(pack_datetime(moment, digits) for moment in kept), None]) == [[*kept, None]]
    shown = [f"{moment:%H:%M:%S.%f}"[: 8 + digits + (digits > 0)] for moment in kept]
    shown = [f"{moment.year:04}-{moment:%m-%d} {clock}" for moment, clock in zip(kept, shown, strict=True)]
    assert from_wire(text, [pack_datetime(moment, digits) for moment in kept], "text") == [shown]
    assert from_text(text, [*(clock.encode() for clock in shown), None]) == [[*kept, None]]


def pack_datetime(moment: dt.datetime, digits: int) -> bytes:
    """As the server's TIME_to_longlong_datetime_packed does it."""
    day = (moment.year * 13 + moment.month) << 5 | moment.day
    main = 1 << 39 | day << 17 | moment.hour << 12 | moment.minute << 6 | moment.second
    octets = (digits + 1) // 2
    fraction: int = moment.microsecond // 10 ** (6 - 2 * octets)
    return main.to_bytes(5) + fraction.to_bytes(octets)


@given(st.lists(st.none() | st.text(max_size=20), max_size=20), st.sampled_from(["utf8mb4", "utf16", "utf16le", "utf32", "gb18030"]))
def test_text_comes_back(texts: list[str | None], charset: str) -> None:
    codec = {"utf8mb4": "utf-8", "utf16": "utf-16-be", "utf16le": "utf-16-le", "utf32": "utf-32-be", "gb18030": "gb18030"}[charset]
    known = [None if text is None or "\u1e3f" in text or "\ue7c7" in text else text for text in texts]
    raw = [None if text is None else text.encode(codec) for text in known]
    assert from_wire(f"text charset {charset}", raw) == from_text(f"text charset {charset}", raw) == [known]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_floats_keep_their_bits(double: float, single: float) -> None:
    for text, form, number in (("double", "<d", double), ("float", "<f", single)):
        raw = struct.pack(form, number)
        ((kept,),) = from_wire(text, [raw])
        assert struct.pack(form, kept) == raw
        ((shown,),) = from_wire(text, [raw], "text")
        assert struct.pack(form, from_text(text, [shown.encode()])[0][0]) == raw
        assert from_text(text, [shown.encode()], "text") == [[shown]]


@pytest.mark.parametrize(
    ("charset", "code", "meaning"),
    [
        ("gb18030", "A8BC", "\u1e3f"),
        ("gb18030", "8135F437", "\ue7c7"),
        ("gb18030", "B0A8BCB0", None),  # the misread code across two characters
        ("sjis", "815F", "\\"),
        ("ujis", "F5A1", "\ue000"),
        ("ujis", "8FF5A1", "\ue3ac"),
        ("eucjpms", "ADA1", "①"),
        ("eucjpms", "8FF3F3", "ⅰ"),
        ("eucjpms", "8FF4FE", "黑"),
        ("eucjpms", "A1C18FA2B7", "～～"),
        ("big5", "F9DAA451", "恒十"),
        ("swe7", "5B5C", "ÄÖ"),
        ("armscii8", "B2B3", "Աա"),
        ("geostd8", "C0FD", "ა№"),
        ("keybcs2", "80E1", "Čß"),
        ("hebrew", "AF", "‾"),
    ],
)
def test_codes_that_python_reads_otherwise(charset: str, code: str, meaning: str | None) -> None:
    decode = decoder(charset)
    assert decode is not None
    assert decode(bytes.fromhex(code)) == (meaning or bytes.fromhex(code).decode(charset))
