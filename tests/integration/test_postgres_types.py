"""Every PostgreSQL type from a real server: by COPY and by pgoutput alike, equal to the server's own text, and again out of DuckDB."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Any, LiteralString

import duckdb
import psycopg
import pyarrow as pa
import pytest
from psycopg import sql
from pyarrow import csv

from cdc.decode.postgres.pgoutput import Decoder
from cdc.decode.postgres.pgtypes import PgType, convert, map_column
from cdc.errors import ValueUnfit
from cdc.types import Column, TableSchema
from tests.servers.postgres import Database

SESSION: LiteralString = """
SET client_encoding = 'UTF8'; SET timezone = 'UTC'; SET datestyle = 'ISO'; SET intervalstyle = 'postgres';
SET extra_float_digits = 3; SET bytea_output = 'hex'; SET lc_monetary = 'C'
"""
DEFINITIONS: LiteralString = """
CREATE TYPE mood AS ENUM ('happy', 'so, so', '心情');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN cents AS numeric(20,2);
CREATE DOMAIN price AS cents CHECK (VALUE >= 0);
"""
CASES: dict[str, tuple[str, ...]] = {
    "bool": ("true", "false"),
    "int2": ("-32768", "32767"),
    "int4": ("-2147483648", "2147483647"),
    "int8": ("-9223372036854775808", "9223372036854775807"),
    "oid": ("0", "4294967295"),
    "float4": ("'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "1e-45", "3.4028235e38", "0.1", "16777216"),
    "float8": ("'NaN'", "'Infinity'", "'-Infinity'", "'-0'", "5e-324", "1.7976931348623157e308", "0.1", "123456789012345678"),
    "numeric(18,2)": ("-9999999999999999.99", "0.01", "0"),
    "numeric(38,0)": ("99999999999999999999999999999999999999", "-99999999999999999999999999999999999999"),
    "numeric(38,38)": ("0.99999999999999999999999999999999999999", "-0.00000000000000000000000000000000000001"),
    "numeric(5,-2)": ("12345", "-9999900"),
    "numeric(3,5)": ("0.00123", "-0.00999"),
    "numeric(39,1)": ("99999999999999999999999999999999999999.9", "'NaN'"),
    "numeric": ("'NaN'", "'Infinity'", "'-Infinity'", "1e100", "1e-100", "1.10", "-12345678901234567890123456789012345678901234567890.5"),
    "price": ("123456789012345678.99", "0"),
    "money": ("'-92233720368547758.08'", "'92233720368547758.07'", "0", "'-0.05'", "1234.5"),
    "text": ("''", "' '", "E'a\\n\"b\",\\t\\\\.'", "'客户 😀'", "'NULL'", "'\\N'", "repeat('长', 50000)"),
    "varchar(20)": ("''", "'x'"),
    "bpchar(5)": ("'ab'", "''"),
    "name": ("'a name'",),
    '"char"': ("'x'", "''"),
    "xml": (),  # only NULL: the wheel's server is built without libxml, and makes none
    "mood": ("'happy'", "'so, so'", "'心情'"),
    "bytea": ("''", "'\\x00ff'", "'\\x5c785c'", "decode(repeat('ab', 50000), 'hex')"),
    "date": (
        "'infinity'",
        "'-infinity'",
        "'4713-11-24 BC'",
        "'0001-12-31 BC'",
        "'0001-01-01'",
        "'2024-02-29'",
        "'10000-01-01'",
        "'5874897-12-31'",
    ),
    "timestamp": (
        "'infinity'",
        "'-infinity'",
        "'4713-11-24 00:00:00 BC'",
        "'0044-03-15 01:02:03.000001 BC'",
        "'1969-12-31 23:59:59.999999'",
        "'9999-12-31 23:59:59.5'",
        "'12345-06-07 08:09:10.11'",
        "'294246-12-31 23:59:59.999999'",
    ),
    "timestamp(3)": ("'2024-01-01 00:00:00.12345'",),
    "timestamptz": (  # DuckDB shows it by way of ICU, which loses the microseconds that far out; the value keeps them
        "'infinity'",
        "'-infinity'",
        "'4713-11-24 00:00:00+00 BC'",
        "'2024-03-10 02:30:00-08'",
        "'294246-12-31 12:00:00+00'",
    ),
    "time": ("'24:00:00'", "'00:00:00'", "'23:59:59.999999'", "'12:00:00.5'"),
    "timetz": ("'24:00:00-15:59'", "'12:00:00.5+05:30'"),
    "interval": ("'178000000 years'", "'-1 mons +2 days -03:04:05.000006'", "'0'", "'1 day -1 microsecond'"),
    "uuid": ("'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-4fff-bfff-ffffffffffff'"),
    "json": ('\' {"a" : 1, "a": [1e400, null]} \'', "'\"\\ud83d\\ude00 \\u0000\"'", "'1'"),
    "jsonb": ('\'{"b": 1.10, "a": "\\\\ud800"}\'', "'1e400'", "'null'", "'12345678901234567890.123456789012345678901234567890'"),
    "jsonpath": ("'$.a[*] ? (@ > 1)'",),
    "int4range": ("'[1,5)'", "'empty'", "'(,)'"),
    "tstzrange": ("'[2024-01-01,infinity)'",),
    "nummultirange": ("'{[1,2),[5,)}'", "'{}'"),
    "point": ("'(1.5,-2)'",),
    "box": ("'(1,1),(0,0)'",),
    "path": ("'[(0,0),(1,1)]'",),
    "circle": ("'<(0,0),1e-300>'",),
    "line": ("'{1,2,3}'",),
    "lseg": ("'[(0,0),(1,1)]'",),
    "polygon": ("'((0,0),(1,1),(2,0))'",),
    "inet": ("'192.168.0.1/24'", "'::1'"),
    "cidr": ("'10.0.0.0/8'",),
    "macaddr": ("'08:00:2b:01:02:03'",),
    "macaddr8": ("'08:00:2b:01:02:03:04:05'",),
    "bit(3)": ("B'101'",),
    "varbit": ("B''", "B'1011'"),
    "tsvector": ("'''it''''s'':1A fat:2 '",),
    "tsquery": ("'fat & (rat | !cat)'",),
    "pg_lsn": ("'0/16B3748'",),
    "xid": ("'4294967295'",),
    "xid8": ("'18446744073709551615'",),
    "cid": ("'7'",),
    "tid": ("'(1,2)'",),
    "txid_snapshot": ("'10:20:10,14'",),
    "pg_snapshot": ("'10:20:10,14'",),
    "regclass": ("'pg_class'", "0"),
    "regtype": ("'int4'",),
    "regproc": ("'now'",),
    "regprocedure": ("'abs(int4)'",),
    "regoper": ("'||/'",),
    "regoperator": ("'+(int4,int4)'",),
    "regrole": ("'postgres'",),
    "regnamespace": ("'public'",),
    "regconfig": ("'simple'",),
    "regdictionary": ("'simple'",),
    "regcollation": ("'\"C\"'",),
    "int2vector": ("'1 2'",),
    "oidvector": ("'1 2'",),
    "aclitem": ("'postgres=r/postgres'",),
    "refcursor": ("'c'",),
    "pair": ("ROW(1, 'a \"b\", c')", "ROW(NULL, NULL)"),
    "int4[]": ("'{1,NULL,3}'", "'[2:3]={4,5}'", "'{{1,2},{3,4}}'", "'{}'"),
    "text[]": ("ARRAY['a,b', '', NULL, 'NULL', '\"\\']",),
    "mood[]": ("ARRAY['so, so']::mood[]",),
    "numeric(18,2)[]": ("'{1.5,NaN}'",),
    "timestamptz[]": ("'{infinity,2024-01-01 00:00:00+00}'",),
}
BASE_TYPE: LiteralString = """
WITH RECURSIVE base(oid, typmod) AS (
  SELECT a.atttypid, a.atttypmod FROM pg_attribute a WHERE a.attrelid = %s::regclass AND a.attname = 'v'
  UNION ALL SELECT t.typbasetype, t.typtypmod FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype = 'd')
SELECT t.typname, b.typmod, t.oid < 16384 FROM base b JOIN pg_type t ON t.oid = b.oid WHERE t.typtype <> 'd'
"""


class Typed:
    """A table per type, filled by SQL; its values by COPY, by pgoutput and as the server's text."""

    def __init__(self, connection: psycopg.Connection[tuple[Any, ...]], types: dict[str, tuple[str, ...]]) -> None:
        self.connection = connection
        connection.execute(SESSION)
        connection.execute(DEFINITIONS)
        self.tables = {f"t{number}": kind for number, kind in enumerate(types)}
        for table, kind in self.tables.items():
            connection.execute(f"CREATE TABLE {table} (n int PRIMARY KEY, v {kind})".encode())
        connection.execute("CREATE PUBLICATION all_types FOR ALL TABLES")
        connection.execute("SELECT pg_create_logical_replication_slot('types', 'pgoutput')")
        for table, kind in self.tables.items():
            values = ", ".join(f"({n}, ({value})::{kind})" for n, value in enumerate([*types[kind], "NULL"]))
            connection.execute(f"INSERT INTO {table} VALUES {values}".encode())
        self.schemas = {table: self._schema(table) for table in self.tables}

    def _schema(self, table: str) -> TableSchema:
        row = self.connection.execute(BASE_TYPE, [table]).fetchone()
        assert row is not None
        return TableSchema("shop", table, (map_column("n", PgType("int4"), None), map_column("v", PgType(*row), None)), ("n",))

    def streamed(self) -> dict[str, pa.Table]:
        query: LiteralString = """SELECT data FROM pg_logical_slot_get_binary_changes('types', NULL, NULL,
            'proto_version', '1', 'publication_names', 'all_types')"""
        frames = [data for (data,) in self.connection.execute(query)]
        decoder = Decoder(lambda relation: self.schemas[relation.name])
        assert decoder.feed(frames) == len(frames)
        return {changes.schema.table: changes.rows for changes in decoder.take()[1]}

    def copied(self, table: str) -> pa.Array:
        query = sql.SQL("COPY (SELECT n, v FROM {} ORDER BY n) TO STDOUT (FORMAT csv)").format(sql.Identifier(table))
        with self.connection.cursor().copy(query) as copy:
            data = b"".join(bytes(part) for part in copy)
        strings = csv.ConvertOptions(
            column_types={"n": pa.string(), "v": pa.string()}, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        )
        parsing = csv.ParseOptions(newlines_in_values=True)
        read = csv.read_csv(io.BytesIO(data), csv.ReadOptions(column_names=["n", "v"]), parsing, strings)
        return convert(self.schemas[table].columns[1], read["v"], table)

    def texts(self, table: str) -> list[str | None]:
        """What the server itself writes; money without its currency sign."""
        cast = "v::numeric::text" if self.tables[table] == "money" else "format('%s', v)"
        rows = self.connection.execute(
            f"SELECT CASE WHEN v IS NOT DISTINCT FROM NULL THEN NULL ELSE {cast} END FROM {table} ORDER BY n".encode()
        )
        return [text for (text,) in rows]


def number(text: str) -> str:
    return repr(float(text))


def calendar(text: str) -> str:
    """DuckDB writes `0044-03-15 (BC) 01:02:03` for PostgreSQL's `0044-03-15 01:02:03 BC`."""
    return re.sub(r"^(\S+) \(BC\)(.*)$", r"\1\2 BC", text)


# How the store's text of a type is spelled as PostgreSQL does.
SPELLING: dict[str, Callable[[str], str]] = {
    "DECIMAL": lambda text: f"{Decimal(text):f}",  # DuckDB leaves out the zero of 0.5 where all digits are fraction
    "BOOLEAN": lambda text: text[0],
    "FLOAT": number,
    "DOUBLE": number,
    "DATE": calendar,
    "TIMESTAMP": calendar,
    "TIMESTAMPTZ": calendar,
}


def stored(store: duckdb.DuckDBPyConnection, column: Column, values: pa.Array) -> list[str | None]:
    """The values written to a column of the store's type and read back as text, in PostgreSQL's spelling."""
    rows = pa.table({"n": pa.array(range(len(values)), pa.int32()), "v": values})
    store.register("rows", rows)
    store.execute(f"CREATE OR REPLACE TABLE kept (n INTEGER, v {column.store_type})")
    store.execute("INSERT INTO kept SELECT n, v FROM rows")
    shown = "'\\x' || lower(hex(v))" if column.store_type == "BLOB" else "v::VARCHAR"
    texts = [text for (text,) in store.execute(f"SELECT {shown} FROM kept ORDER BY n").fetchall()]
    spell = SPELLING.get(column.store_type.partition("(")[0], str)
    return [None if text is None else spell(text) for text in texts]


@pytest.fixture
def store() -> Any:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection


def test_every_type(database: Database, store: duckdb.DuckDBPyConnection) -> None:
    typed = Typed(database.connection, CASES)
    streamed = typed.streamed()
    for table, kind in typed.tables.items():
        column = typed.schemas[table].columns[1]
        copied, expected = typed.copied(table), typed.texts(table)
        assert len(expected) == len(CASES[kind]) + 1
        changes = streamed[table]["v"].combine_chunks()
        assert changes.type == copied.type == column.type, kind
        # By their text: NaN is not equal to itself.
        kept = stored(store, column, copied)
        assert stored(store, column, changes) == kept, kind
        if column.store_type in ("FLOAT", "DOUBLE"):
            expected = [text and number(text) for text in expected]
        assert kept == expected, kind


def test_the_table_names_every_builtin_type(database: Database) -> None:
    """A type the server has and no case above writes would go untested."""
    query: LiteralString = """SELECT typname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
        WHERE nspname = 'pg_catalog' AND typtype IN ('b', 'r', 'm') AND typcategory <> 'A'"""
    found = {name for (name,) in database.connection.execute(query)}
    tested = {re.sub(r"\(.*\)", "", kind).strip('"') for kind in CASES}
    alike = {
        "int8range",
        "numrange",
        "tsrange",
        "daterange",
        "int4multirange",
        "int8multirange",
        "tsmultirange",
        "tstzmultirange",
        "datemultirange",
    }
    internal = {name for name in found if name.startswith("pg_") and name not in ("pg_lsn", "pg_snapshot")} | {"gtsvector"}
    assert found - tested - alike - internal == set()


def test_moment_past_the_stores_range(database: Database) -> None:
    typed = Typed(database.connection, {"timestamp": ("'294276-12-31 23:59:59.999999'",)})
    with pytest.raises(ValueUnfit, match=r"294276-12-31 23:59:59\.999999.*TIMESTAMP"):
        typed.streamed()
    with pytest.raises(ValueUnfit, match="294276"):
        typed.copied("t0")


def test_half_a_surrogate_pair(database: Database) -> None:
    typed = Typed(database.connection, {"json": ("'\"\\ud800\"'",)})
    with pytest.raises(ValueUnfit, match="has no exact JSON"):
        typed.copied("t0")


def test_toast_keys_and_identities(database: Database) -> None:
    """HARD_CASES 1 and 2 with the server's own frames."""
    connection = database.connection
    connection.execute(SESSION)
    connection.execute("CREATE TABLE parts (id int PRIMARY KEY, note text, n int); ALTER TABLE parts ALTER note SET STORAGE EXTERNAL")
    connection.execute("CREATE TABLE loose (note text, n int); ALTER TABLE loose ALTER note SET STORAGE EXTERNAL, REPLICA IDENTITY FULL")
    connection.execute("CREATE PUBLICATION p FOR TABLE parts, loose")
    connection.execute("SELECT pg_create_logical_replication_slot('s', 'pgoutput')")
    for table, key in (("parts", "1, "), ("loose", "")):
        connection.execute(f"INSERT INTO {table} VALUES ({key}repeat('x', 9000), 1)".encode())
        connection.execute(f"UPDATE {table} SET n = 2".encode())
    connection.execute("UPDATE parts SET id = 2")
    connection.execute("UPDATE parts SET note = NULL")
    connection.execute("DELETE FROM parts")
    connection.execute("TRUNCATE parts, loose")
    typed = {name: map_column(name, PgType(kind), None) for name, kind in (("id", "int4"), ("note", "text"), ("n", "int4"))}
    schemas = {
        "parts": TableSchema("shop", "parts", (typed["id"], typed["note"], typed["n"]), ("id",)),
        "loose": TableSchema("shop", "loose", (typed["note"], typed["n"]), ()),
    }
    decoder = Decoder(lambda relation: schemas[relation.name])
    query: LiteralString = (
        "SELECT data FROM pg_logical_slot_get_binary_changes('s', NULL, NULL, 'proto_version', '1', 'publication_names', 'p')"
    )
    frames = [data for (data,) in connection.execute(query)]
    assert decoder.feed(frames) == len(frames)
    transactions, changes = decoder.take()
    tables = {part.schema.table: part.rows.to_pydict() for part in changes}
    note = "x" * 9000
    assert tables["parts"]["#op"] == ["c", "u", "d", "u", "u", "d", "t"]
    assert tables["parts"]["id"] == [1, 1, 1, 2, 2, 2, None]
    assert tables["parts"]["note"] == [note, *[None] * 6]
    assert tables["parts"]["#absent"] == [None, [1], None, [1], None, None, None]
    assert tables["parts"]["#old:id"] == [None, None, None, 1, None, None, None]
    assert tables["loose"]["#op"] == ["c", "d", "c", "t"]
    assert tables["loose"]["note"] == [note, note, note, None]
    assert tables["loose"]["n"] == [1, 1, 2, None]
    assert transactions.num_rows == 8


def test_money_is_what_numeric_says(database: Database) -> None:
    typed = Typed(database.connection, {"money": ("'-1234567.89'",)})
    assert typed.copied("t0").to_pylist() == [Decimal("-1234567.89"), None]
