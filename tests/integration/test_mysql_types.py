"""Every MySQL and MariaDB type from real servers: by the text protocol and by the binlog alike, equal to the server's own text, and again
out of DuckDB; and the servers' character sets and collations.
"""

from __future__ import annotations

import math
import random
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from pymysqlreplication.constants import FIELD_TYPE

from cdc.decode.mysql.binlog import Decoder
from cdc.decode.mysql.captured import Resolved
from cdc.decode.mysql.fields import Field, make_field, select_expression
from cdc.decode.mysql.images import values_of
from cdc.decode.mysql.types import OLD_TIMES, MyType, declared, fits_wire, wire_type
from cdc.decode.mysql.wire import TableMap, WireColumn
from cdc.errors import SchemaUnknown, ValueUnfit
from cdc.types import Column, TableSchema
from tests.servers.mysql import MyDatabase, rows

pytestmark = pytest.mark.usefixtures("mysql_kernel")

COM_BINLOG_DUMP, NON_BLOCKING = 0x12, 1
SQL_MODE = "ALLOW_INVALID_DATES,NO_AUTO_VALUE_ON_ZERO"
MOMENT_FRACTIONS = ("'2024-02-29 23:59:59.999999'", "'1999-12-31 00:00:00.120456'")
ZEROS = ("'0000-00-00 00:00:00'",)


def names(count: int) -> list[str]:
    return [f"'m{number}'" for number in range(count)]


# What all servers have: column definitions, and values as SQL.
CASES: dict[str, tuple[str, ...]] = {
    "tinyint": ("-128", "127", "0"),
    "tinyint unsigned": ("0", "255"),
    "smallint": ("-32768", "32767"),
    "smallint unsigned": ("65535",),
    "mediumint": ("-8388608", "8388607", "-1", "0"),
    "mediumint unsigned": ("16777215", "0"),
    "int": ("-2147483648", "2147483647"),
    "int unsigned": ("4294967295",),
    "int(5) zerofill": ("42", "1234567"),
    "bigint": ("-9223372036854775808", "9223372036854775807"),
    "bigint unsigned": ("18446744073709551615", "9223372036854775808", "0"),
    "decimal(10,2)": ("-99999999.99", "99999999.99", "0", "-0.01", "0.1"),
    "decimal(5,0) unsigned": ("99999", "0"),
    "decimal(8,3) zerofill": ("1.5", "12345.678"),
    "decimal(18,0)": ("-999999999999999999", "1"),
    "decimal(19,18)": ("-9.999999999999999999", "0.000000000000000001"),
    "decimal(30,30)": ("0.999999999999999999999999999999", "-0.000000000000000000000000000001"),
    "decimal(38,10)": ("9999999999999999999999999999.9999999999", "-0.0000000001"),
    "decimal(39,0)": ("-999999999999999999999999999999999999999", "0"),
    "decimal(65,30)": ("99999999999999999999999999999999999.999999999999999999999999999999", "-0.5", "0"),
    "float": ("0e0", "0.1", "1e-45", "1.17549435e-38", "-3.4028235e38", "16777216", "123456.789", "1e15", "1e16"),
    "float(7,4)": ("1.23456", "-999.9999"),
    "double": ("0", "0.1", "5e-324", "2.2250738585072014e-308", "-1.7976931348623157e308", "1e15", "123456789012345678", "1e-15", "1e-16"),
    "double(20,3)": ("1.2345", "12345678901234.567"),
    "bit(1)": ("b'1'", "b'0'"),
    "bit(9)": ("b'100000001'", "0"),
    "bit(64)": ("18446744073709551615", "9223372036854775808", "1"),
    "char(5)": ("'ab  '", "''", "'  '", "' ab'", "'客户 😀'"),
    "char(255)": ("repeat('长', 255)", "'a'"),
    "char(5) charset ucs2": ("'ab  '", "'中'"),
    "varchar(20)": ("''", "'ab  '", "'客户 😀'", "'a\\0b\\n\"\\'\\\\'"),
    "varchar(2000)": ("repeat('长', 2000)",),
    "varchar(20) charset utf8mb3": ("'客户'",),
    "varchar(20) charset latin1": ("'é€'", "_latin1 x'818D8F909D'"),
    "varchar(20) charset gbk": ("'客户'", "'€'", "'plain'"),
    "varchar(20) charset big5": ("'客戶'", "_big5 x'F9DAA451'"),
    "varchar(20) charset utf16": ("'客户 😀'", "''"),
    "varchar(20) charset swe7": ("'åÖ'", "'a'"),
    "text charset cp1251": ("'счёт'", "repeat('я', 65535)"),
    "tinytext": ("'客'", "repeat('x', 255)"),
    "text": ("''", "repeat('x', 70)"),
    "mediumtext": ("repeat('长', 100000)",),
    "longtext": ("'{\"a\": 1}'",),
    "binary(5)": ("x'6100'", "''", "x'0000000000'", "'a '"),
    "varbinary(300)": ("x'00FF6100'", "''", "repeat(x'FE', 300)"),
    "tinyblob": ("x'00FF'", "''"),
    "blob": ("repeat(x'C3', 65535)",),
    "mediumblob": ("repeat('x', 65536)",),
    "longblob": ("x'00'",),
    "date": ("'2024-02-29'", "'0001-01-01'", "'9999-12-31'", "'1969-12-31'"),
    "datetime": ("'2024-02-29 23:59:59'", "'0001-01-01'", "'9999-12-31 23:59:59'", "'1969-12-31 23:59:59'"),
    **{f"datetime({digits})": MOMENT_FRACTIONS for digits in range(1, 7)},
    "timestamp null": ("'1970-01-01 00:00:01'", "'2038-01-19 03:14:07'", "'2024-03-31 01:30:00'"),
    **{f"timestamp({digits}) null": MOMENT_FRACTIONS for digits in range(1, 7)},
    "time": ("'-838:59:59'", "'838:59:59'", "'-00:00:01'", "0", "'24:00:00'"),
    **{f"time({digits})": ("'-838:59:59'", "'-00:00:00.999999'", "'-00:00:01.000001'", "'838:59:58.5'", "0") for digits in range(1, 7)},
    "year": ("0", "1901", "1970", "2155"),
    "enum('a','b''c','\\\\','','客','d\\n')": ("'a'", "'b''c'", "3", "''", "0", "5", "6"),
    "enum('甲','乙') charset gbk": ("1", "'乙'"),
    "enum('甲','b') charset ucs2": ("1", "2"),
    f"enum({','.join(names(300))})": ("1", "300", "0"),
    "set('a','b','客')": ("''", "'a'", "'a,客'", "7"),
    "set('甲','乙') charset gbk": ("3", "2"),
    f"set({','.join(names(64))})": ("18446744073709551615", "9223372036854775808", "1"),
    "geometry": ("ST_GeomFromText('POINT(1 -2.5)')", "ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 2), LINESTRING(0 0, 1 1))')"),
    "point": ("ST_GeomFromText('POINT(1 2)', 4326)",),
    "geometrycollection": ("ST_GeomFromText('GEOMETRYCOLLECTION(POINT(1 2))')",),
}
MYSQL_CASES: dict[str, tuple[str, ...]] = {
    "json": ('\'{"b": 1.50, "a": [null, 1e10, "客"]}\'', "'null'", "'\"\\\\u0000\"'", "cast(1.10 as json)"),
    "vector(3)": ("string_to_vector('[1,-2.5,3e38]')",),
    "varchar(20) charset gb18030": ("'客户 😀'", "_gb18030 x'8135F437'", "_gb18030 x'A8BC'"),
}
_UUIDS = (
    "'00000000-0000-0000-0000-000000000000'",
    "'ffffffff-ffff-4fff-bfff-ffffffffffff'",
    "'123e4567-e89b-12d3-a456-426614174000'",
    "'0189d5a4-9d1f-7c3e-8a2b-000000000000'",
)
_ADDRESSES = (
    *("::1.2.3.4", "::ffff:1.2.3.4", "1:0:0:2:0:0:0:3", "1:0:2:3:4:5:6:7", "0:0:1::", "::1:2", "::", "ffff::", "::2"),
    *("64:ff9b::1.2.3.4", "1:0:0:2:0:0:3:4", "::1:2:3", "fe80::1", "1:2:3:4:5:6:7:0", "::fffe:1.2.3.4", "::ffff:0:1"),
)
MARIADB_CASES: dict[str, tuple[str, ...]] = {
    "json": ('\'{"b": 1.50, "a" : 1}\'',),
    "uuid": _UUIDS,
    "inet6": tuple(f"'{address}'" for address in _ADDRESSES),
    "inet4": ("'0.0.0.0'", "'255.1.2.0'"),
    "varchar(2000) compressed": ("repeat('客', 1000)", "'x'", "''"),
    "text compressed charset gbk": ("repeat('客', 1000)", "''"),
    "blob compressed": ("repeat(x'00FF', 1000)", "x'00'"),
}
# Values without faithful target, and what stands in for them in the record: the server's text, or for bytes that are no text their digits.
UNFIT: dict[str, dict[str, str]] = {
    "date": {value: value.strip("'") for value in ("'0000-00-00'", "'2024-00-00'", "'2024-02-00'", "'2024-02-31'", "'0000-01-01'")},
    "datetime": {"'0000-00-00'": "0000-00-00 00:00:00", "'2024-00-00 12:30:00'": "2024-00-00 12:30:00"},
    "datetime(3)": {"'0000-00-00'": "0000-00-00 00:00:00.000", "'2023-02-29 23:59:59.5'": "2023-02-29 23:59:59.500"},
    "timestamp null": {"'0000-00-00'": "0000-00-00 00:00:00"},
    "timestamp(6) null": {"'0000-00-00'": "0000-00-00 00:00:00.000000"},
    "varchar(9) charset gbk": {"_gbk x'A140'": "0xA140"},
    "char(9) charset cp1250": {"_cp1250 x'6181'": "0x6181"},
    "text charset sjis": {"_sjis x'8540'": "0x8540"},
}


class Typed:
    """A table per type, filled by SQL; its values by the text protocol, by the binlog and as the server's text."""

    def __init__(self, database: MyDatabase, cases: Mapping[str, tuple[str, ...]]) -> None:
        self.database, self.mariadb = database, database.server.is_mariadb
        connect = partial(database.server.connect, database.name, conv={}, ssl_disabled=True)
        self.raw, self.plain = connect(use_unicode=False), connect()
        rows(self.raw, "SET character_set_results = binary, time_zone = '+00:00'")
        rows(self.plain, "SET time_zone = '+00:00'")
        database.execute(f"SET SESSION sql_mode = '{SQL_MODE}', time_zone = '+00:00'")
        self.tables = {f"t{number}": kind for number, kind in enumerate(cases)}
        for table, kind in self.tables.items():
            database.execute(f"CREATE TABLE {table} (n int PRIMARY KEY, v {kind})")
        self.types = {table: self._declared(table) for table in self.tables}
        self.start = self._place()
        for table, kind in self.tables.items():
            values = [*cases[kind], *([] if "not null" in kind else ["NULL"])]
            database.execute(f"INSERT INTO {table} VALUES " + ", ".join(f"({n}, {value})" for n, value in enumerate(values)))

    def _declared(self, table: str) -> MyType:
        query = """SELECT column_type, character_set_name FROM information_schema.columns
            WHERE table_schema = %s AND table_name = %s AND column_name = 'v'"""
        ((column_type, charset),) = self.database.execute(query, [self.database.name, table])
        return declared(column_type, charset)

    def _place(self) -> tuple[str, int]:
        row = self.database.execute("SHOW MASTER STATUS" if self.mariadb else "SHOW BINARY LOG STATUS")[0]
        return row[0], row[1]

    def field(self, table: str, override: str | None) -> Field:
        return make_field("v", self.types[table], override)

    def streamed(self, override: str | None) -> dict[str, pa.Table]:
        """The tables' rows out of the binlog; each wire column must fit the declared type, and tell it where it can."""

        def resolve(table_map: TableMap) -> Resolved | None:
            if table_map.database != self.database.name:
                return None
            column, my_type = table_map.columns[1], self.types[table_map.table]
            assert fits_wire(my_type, column), (self.tables[table_map.table], column)
            if table_map.full and column.code not in OLD_TIMES and my_type.name not in ("uuid", "inet6", "inet4", "vector" * self.mariadb):
                assert replace(wire_type(column), members=()) == replace(my_type, members=())
            fields = make_field("n", MyType("int"), None), self.field(table_map.table, override)
            columns = tuple(column for field in fields for column in field.columns)
            return Resolved(TableSchema("shop", table_map.table, columns, ("n",)), fields)

        file, offset = self.start
        stream = Decoder(resolve, lambda _: (), mariadb=self.mariadb, file=file, offset=offset)
        events = list(logged(self.database, self.start))
        assert stream.feed(events) == len(events)
        return {changes.schema.table: changes.rows for changes in stream.take()[1]}

    def selected(self, table: str, override: str | None) -> list[pa.Array]:
        """The column's values by the text protocol, as a snapshot reads them."""
        field = self.field(table, override)
        values = [value for (value,) in rows(self.raw, f"SELECT {select_expression(field)} FROM {table} ORDER BY n")]
        return field.from_text(pa.array(values, pa.binary()), table)

    def texts(self, table: str) -> list[str | None]:
        """What the server itself writes, exactly."""
        name = self.types[table].name
        shown = {"bit": "v + 0", "float": "v * 1e0", "double": "v * 1e0"}.get(name, "v")
        if name in ("geometry", "point", "geometrycollection", "vector", "binary", "varbinary") or name.endswith("blob"):
            shown = "concat('0x', hex(v))"
        texts = (text for (text,) in rows(self.plain, f"SELECT {shown} FROM {table} ORDER BY n"))
        return [text.decode() if isinstance(text, bytes) else text for text in texts]

    def close(self) -> None:
        self.raw.close()
        self.plain.close()


def logged(database: MyDatabase, place: tuple[str, int]) -> Iterator[bytes]:
    """The events from a place to the log's end."""
    with closing(database.server.connect(ssl_disabled=True)) as connection:
        connection.query("SET @master_binlog_checksum = 'CRC32', @source_binlog_checksum = 'CRC32', @mariadb_slave_capability = 4")
        # The driver has no public way to send this command.
        connection._execute_command(COM_BINLOG_DUMP, struct.pack("<IHI", place[1], NON_BLOCKING, 999_979) + place[0].encode())
        while (packet := connection._read_packet().get_all_data())[0] == 0:
            yield packet[1:]


@contextmanager
def metadata(database: MyDatabase, full: bool) -> Iterator[None]:
    """With binlog_row_metadata=FULL, or the least a server can do with."""
    ((before,),) = database.execute("SELECT @@global.binlog_row_metadata")
    setting = "FULL" if full else "NO_LOG" if database.server.is_mariadb else "MINIMAL"
    database.execute(f"SET GLOBAL binlog_row_metadata = '{setting}'")
    try:
        yield
    finally:
        database.execute(f"SET GLOBAL binlog_row_metadata = '{before}'")


def cases(database: MyDatabase) -> dict[str, tuple[str, ...]]:
    if not database.server.is_mariadb:
        return CASES | MYSQL_CASES
    vectors = {"vector(3) not null": ("vec_fromtext('[1,-2.5,3]')",)}
    late = vectors | {"timestamp(3) null": ("'2106-02-07 06:28:15.999'",)} if database.server.version >= "11.8" else {}
    return CASES | MARIADB_CASES | late


def stored(store: duckdb.DuckDBPyConnection, column: Column, values: pa.Array) -> list[str | None]:
    """The values written to a column of the store's type and read back as text."""
    store.register("rows", pa.table({"n": pa.array(range(len(values)), pa.int32()), "v": values}))
    store.execute(f"CREATE OR REPLACE TABLE kept (n INTEGER, v {column.store_type})")
    store.execute("INSERT INTO kept SELECT n, v FROM rows")
    shown = "'0x' || hex(v)" if column.store_type == "BLOB" else "v::VARCHAR"
    return [text for (text,) in store.execute(f"SELECT {shown} FROM kept ORDER BY n").fetchall()]


def spelled(store_type: str, text: str) -> str:
    """The server's text as DuckDB spells it."""
    kind = store_type.partition("(")[0]
    if "INT" in kind:
        return str(int(text))
    if kind in ("TIMESTAMP", "TIMESTAMPTZ"):
        return re.sub(r"(\.\d*?)0*$", r"\1", text.removesuffix("+00")).rstrip(".")
    if kind == "FLOAT":
        return str(struct.unpack("f", struct.pack("f", float(text))))
    return {"DECIMAL": lambda: str(Decimal(text)), "DOUBLE": lambda: repr(float(text))}.get(kind, lambda: text)()


Make = Callable[[Mapping[str, tuple[str, ...]]], Typed]


@pytest.fixture
def typed_as(any_mysql_database: MyDatabase) -> Iterator[Make]:
    """Makes tables of given types in each flavour in turn."""
    with ExitStack() as stack:
        yield lambda kinds: stack.enter_context(closing(Typed(any_mysql_database, kinds)))


@pytest.fixture
def store() -> Any:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


@pytest.mark.parametrize("full", [True, False], ids=["full", "least"])
def test_every_type(any_mysql_database: MyDatabase, typed_as: Make, store: duckdb.DuckDBPyConnection, full: bool) -> None:
    with metadata(any_mysql_database, full):
        typed = typed_as(cases(any_mysql_database))
        streamed = typed.streamed(None)
    for table, kind in typed.tables.items():
        (column,), expected = typed.field(table, None).columns, typed.texts(table)
        (selected,) = typed.selected(table, None)
        changes = streamed[table]["v"].combine_chunks()
        assert changes.type == selected.type == column.type, kind
        assert changes.equals(selected), kind
        kept = [text and spelled(column.store_type, text) for text in stored(store, column, changes)]
        assert kept == [text and spelled(column.store_type, text) for text in expected], kind


def test_every_type_as_text(any_mysql_database: MyDatabase, typed_as: Make) -> None:
    no_text = re.compile(r"(var)?binary|.*blob")
    typed = typed_as({kind: values for kind, values in cases(any_mysql_database).items() if not no_text.match(kind)})
    streamed = typed.streamed("text")
    for table, kind in typed.tables.items():
        (selected,) = typed.selected(table, "text")
        kept, expected = streamed[table]["v"].to_pylist(), typed.texts(table)
        assert kept == selected.to_pylist(), kind
        if typed.types[table].name == "float":  # fewer digits, which tell it from all other FLOATs
            kept, expected = ([text and spelled("FLOAT", text) for text in texts] for texts in (kept, expected))
        assert kept == [text and re.sub(r"^0+(?=\d)", "", text) if "zerofill" in kind else text for text in expected], kind


def test_what_has_no_faithful_target(typed_as: Make) -> None:
    typed = typed_as({kind: (*values, "'2024-02-29'") for kind, values in UNFIT.items()})
    streamed = typed.streamed("null")
    for table, kind in typed.tables.items():
        records = [*UNFIT[kind].values(), None, None]
        selected, recorded = typed.selected(table, "null")
        assert streamed[table]["v"].combine_chunks().equals(selected), kind
        assert streamed[table]["v#unfit"].to_pylist() == recorded.to_pylist() == records, kind
        assert [value is None for value in selected.to_pylist()] == [True] * len(UNFIT[kind]) + [False, True]
        with pytest.raises(ValueUnfit, match=re.escape(records[0] or "")):
            typed.selected(table, None)
        if typed.types[table].charset is None:
            assert typed.selected(table, "text")[0].to_pylist() == typed.texts(table)
    with pytest.raises(ValueUnfit, match="0000-00-00"):
        typed.streamed(None)


def test_dates_as_text(typed_as: Make) -> None:
    """The server's own text of zero and partial dates too, from the log as from the table."""
    typed = typed_as({kind: tuple(values) for kind, values in UNFIT.items() if "charset" not in kind})
    for table, changes in typed.streamed("text").items():
        assert changes["v"].to_pylist() == typed.texts(table)


def test_members_past_the_bmp(any_mysql_database: MyDatabase, typed_as: Make) -> None:
    """The catalogs show `?` for them: only the log can tell, with FULL."""
    members = {"enum('😀','a','?')": ("1", "2", "3"), "set('b','😀')": ("1", "2", "3")}
    with metadata(any_mysql_database, True):
        typed = typed_as(members)
        streamed = typed.streamed(None)
    assert [my_type.members for my_type in typed.types.values()] == [("?", "a", "?"), ("b", "?")]
    assert streamed["t0"]["v"].to_pylist() == typed.selected("t0", None)[0].to_pylist() == ["😀", "a", "?", None]
    assert streamed["t1"]["v"].to_pylist() == typed.selected("t1", None)[0].to_pylist() == ["b", "😀", "b,😀", None]


def test_members_past_the_bmp_that_nothing_tells(any_mysql_database: MyDatabase, typed_as: Make) -> None:
    with metadata(any_mysql_database, False):
        typed = typed_as({"enum('😀','a','?')": ("1", "2", "3")})
        streamed = typed.streamed("null")
    assert streamed["t0"]["v"].to_pylist() == [None, "a", None, None]
    assert streamed["t0"]["v#unfit"].to_pylist() == ["0x01", None, "0x03", None]
    with pytest.raises(ValueUnfit, match="the binlog has 0x01") as raised:
        typed.streamed(None)
    assert "binlog_row_metadata = FULL" in raised.value.hint


@pytest.fixture
def old_form(any_mysql_database: MyDatabase) -> Iterator[None]:
    """Columns are made as in tables from before MySQL 5.6."""
    if not any_mysql_database.server.is_mariadb:
        pytest.skip("MySQL 9 makes no such columns any more")
    any_mysql_database.execute("SET GLOBAL mysql56_temporal_format = OFF")
    try:
        yield
    finally:
        any_mysql_database.execute("SET GLOBAL mysql56_temporal_format = ON")


@pytest.mark.usefixtures("old_form")
def test_moments_in_their_old_form(typed_as: Make) -> None:
    dates = ("'2024-02-29 23:59:58'", "'0000-00-00'")
    kinds = {"time": ("'-838:59:59'", "'00:00:01'"), "datetime": (*dates, "'2024-00-01 00:00:00'"), "timestamp null": dates}
    typed = typed_as(kinds)
    for override in ("null", "text"):
        for table, changes in typed.streamed(override).items():
            columns = typed.field(table, override).columns
            selected = [values.to_pylist() for values in typed.selected(table, override)]
            assert [changes[column.name].to_pylist() for column in columns] == selected


@pytest.mark.usefixtures("old_form")
def test_old_moments_with_a_fraction(typed_as: Make) -> None:
    """Only MariaDB 5.3 made such columns. The log does not tell how long their values are: they fit no type."""
    typed = typed_as({f"{name}({digits})": ("'2024-02-29 23:59:58.125'",) for name in ("datetime", "time") for digits in (1, 6)})
    maps: list[TableMap] = []
    file, offset = typed.start
    stream = Decoder(maps.append, lambda _: (), mariadb=True, file=file, offset=offset)
    stream.feed(list(logged(typed.database, typed.start)))
    ours = [table_map for table_map in maps if table_map.database == typed.database.name]
    assert [fits_wire(typed.types[table_map.table], table_map.columns[1]) for table_map in ours] == [False] * 4
    for table_map in ours:
        with pytest.raises(SchemaUnknown, match="does not tell its type fully"):
            wire_type(table_map.columns[1])


def test_doubles_as_text(any_mysql_database: MyDatabase) -> None:
    """The text made of a DOUBLE out of the log is the server's."""
    anything = [struct.unpack("<d", random.randbytes(8))[0] for _ in range(2000)]
    usual = [float(f"{random.randrange(10**17)}e{random.randrange(-40, 25)}") for _ in range(2000)]
    numbers = [number for number in (*anything, *usual) if math.isfinite(number)]
    any_mysql_database.execute("CREATE TABLE doubles (n int PRIMARY KEY AUTO_INCREMENT, v double)")
    any_mysql_database.execute("INSERT INTO doubles (v) VALUES " + ",".join(f"({number:.16e})" for number in numbers))
    with closing(any_mysql_database.server.connect(any_mysql_database.name, conv={})) as connection:
        expected = [text for (text,) in rows(connection, "SELECT v FROM doubles ORDER BY n")]
    wire = [struct.pack("<d", number) for number in numbers]
    (texts,) = make_field("v", MyType("double"), "text").from_wire(WireColumn(FIELD_TYPE.DOUBLE, 8, True), values_of(wire), "doubles")
    assert texts.to_pylist() == expected
