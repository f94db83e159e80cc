"""What is left to copy survives as text, and a walk by a key meets every row once, wherever it is cut."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.decode.mysql.types import MyType, parse_type
from cdc.sources.mysql.progress import Progress, Range, fingerprint, parse
from cdc.sources.mysql.walk import Key, Order, Part, cuts, literal
from cdc.types import Column, TableSchema

KEYS = st.lists(st.binary(max_size=5), min_size=1, max_size=3).map(tuple)


@given(
    st.lists(st.tuples(st.none() | KEYS, st.none() | KEYS), max_size=5),
    st.dictionaries(st.integers(1, 9), st.tuples(st.text(), st.integers())),
)
def test_progress_survives_as_text(left: list[tuple[Key | None, Key | None]], sessions: dict[int, tuple[str, int]]) -> None:
    progress = Progress("shape", "FULL", sessions, [Range(*span) for span in left], "binlog.000003:4")
    again = parse(progress.dump())
    assert again is not None
    assert again.dump() == progress.dump()
    assert [(span.after, span.upto) for span in again.left] == left
    assert (again.shape, again.image, again.sessions, again.level_at) == ("shape", "FULL", sessions, "binlog.000003:4")


def test_an_empty_text_tells_of_no_progress() -> None:
    assert parse("") is None


def test_the_shape_tells_columns_key_and_whatever_else_apart() -> None:
    column = Column("id", pa.int32(), "INTEGER", "int")
    schema = TableSchema("shop", "orders", (column,), ("id",))
    keyless = TableSchema("shop", "orders", (column,), ())
    wider = TableSchema("shop", "orders", (Column("id", pa.int64(), "BIGINT", "bigint"),), ("id",))
    prints = [fingerprint(schema), fingerprint(keyless), fingerprint(wider), fingerprint(schema, "other collation")]
    assert len(set(prints)) == len(prints)
    assert fingerprint(schema) == fingerprint(TableSchema("shop", "orders", (column,), ("id",)))


ROWS = st.lists(st.tuples(*[st.integers(-2, 2)] * 3), unique=True, min_size=1)


@given(ROWS, st.tuples(*[st.booleans()] * 3), st.data())
def test_the_rows_between_two_keys(rows: list[tuple[int, ...]], descending: tuple[bool, ...], data: st.DataObject) -> None:
    """DuckDB evaluates the condition; the order is told by Python."""
    order = Order("PRIMARY", tuple(Part(name, MyType("int"), None, down) for name, down in zip("abc", descending, strict=True)))

    def rank(row: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(-value if down else value for value, down in zip(row, descending, strict=False))

    def bound(row: tuple[int, ...] | None, width: int) -> Key | None:
        return None if row is None else tuple(str(value).encode() for value in row[:width])

    rows.sort(key=rank)
    after, upto = data.draw(st.none() | st.sampled_from(rows)), data.draw(st.none() | st.sampled_from(rows))
    width = data.draw(st.integers(1, 3))
    condition = order.between(bound(after, width), bound(upto, width)).replace("`", '"') or "true"
    table = pa.table({name: pa.array([row[place] for row in rows], pa.int32()) for place, name in enumerate("abc")})
    with duckdb.connect() as connection:
        connection.register("t", table)
        found = connection.execute(f"SELECT a, b, c FROM t WHERE {condition} ORDER BY {order.sql.replace('`', chr(34))}").fetchall()
    wanted = [
        row
        for row in rows
        if (after is None or rank(row)[:width] > rank(after)[:width]) and (upto is None or rank(row)[:width] <= rank(upto)[:width])
    ]
    assert found == wanted


@given(st.integers(-100, 100), st.integers(0, 300), st.integers(1, 20), st.booleans())
def test_cuts_lie_in_order_within_the_numbers(low: int, span: int, count: int, descending: bool) -> None:
    places = [int(key[0]) for key in cuts(Part("id", MyType("bigint"), None, descending), low, low + span, count)]
    assert places == sorted(set(places), reverse=descending)
    assert len(places) < count
    assert all(low <= place <= low + span for place in places)


def part(declared: str, charset: str | None = None) -> Part:
    return Part("k", parse_type(declared), charset, False)


@pytest.mark.parametrize(
    ("declared", "charset", "value", "sql"),
    [
        ("bigint unsigned", None, b"18446744073709551615", "18446744073709551615"),
        ("decimal(20,4)", None, b"-12345.6789", "-12345.6789"),
        ("bit(12)", None, b"\x0a\xff", "2815"),
        ("enum('a','b') charset utf8mb4", "utf8mb4", b"2", "2"),
        ("varchar(9) charset gbk", "gbk", b"\xd6\xd0'\\", "_gbk x'd6d0275c'"),
        ("varbinary(9)", None, b"", "_binary x''"),
        ("datetime(6)", None, b"2026-01-02 03:04:05.000006", "'2026-01-02 03:04:05.000006'"),
    ],
)
def test_a_bound_as_sql(declared: str, charset: str | None, value: bytes, sql: str) -> None:
    assert literal(part(declared, charset), value) == sql


@pytest.mark.parametrize("value", [b"1 OR 1=1", b"", b"0x10", b"1e5", b"--1"])
def test_what_is_no_number_is_no_bound(value: bytes) -> None:
    with pytest.raises(ValueError, match="not a number"):
        literal(part("int"), value)


def test_a_quoted_bound_stays_within_its_quotes() -> None:
    assert literal(part("date"), b"2026' OR '1'='1\\") == "'2026'' OR ''1''=''1\\\\'"
