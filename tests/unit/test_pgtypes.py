"""PostgreSQL's text into Arrow: the type table and each converter's rare values."""

from __future__ import annotations

import math
import struct
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.decode.postgres.pgtypes import PgType, convert, map_column
from cdc.errors import ConfigError, LedgertailError, ValueUnfit

DAY_US = 86_400_000_000


def numeric(precision: int, scale: int) -> PgType:
    return PgType("numeric", (precision << 16 | scale & 0x7FF) + 4)


def converted(pg_type: PgType, values: list[str | None], override: str | None = None) -> pa.Array:
    column = map_column("c", pg_type, override)
    array = convert(column, pa.array(values, pa.string()), "t")
    assert array.type == column.type
    array.validate(full=True)
    return array


def counts(array: pa.Array) -> list[int | None]:
    """Dates and times as the numbers they are stored as."""
    return array.view(pa.int32() if array.type == pa.date32() else pa.int64()).to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("pg_type", "printed", "arrow", "store"),
    [
        (PgType("bool"), "bool", pa.bool_(), "BOOLEAN"),
        (PgType("int2"), "int2", pa.int16(), "SMALLINT"),
        (PgType("int4"), "int4", pa.int32(), "INTEGER"),
        (PgType("int8"), "int8", pa.int64(), "BIGINT"),
        (PgType("oid"), "oid", pa.uint32(), "UINTEGER"),
        (PgType("float4"), "float4", pa.float32(), "FLOAT"),
        (PgType("float8"), "float8", pa.float64(), "DOUBLE"),
        (numeric(18, 2), "numeric(18,2)", pa.decimal128(18, 2), "DECIMAL(18,2)"),
        (numeric(38, 38), "numeric(38,38)", pa.decimal128(38, 38), "DECIMAL(38,38)"),
        (numeric(5, -2), "numeric(5,-2)", pa.decimal128(7, 0), "DECIMAL(7,0)"),
        (numeric(3, 5), "numeric(3,5)", pa.decimal128(5, 5), "DECIMAL(5,5)"),
        (numeric(39, 2), "numeric(39,2)", pa.string(), "VARCHAR"),
        (numeric(37, -2), "numeric(37,-2)", pa.string(), "VARCHAR"),
        (numeric(3, 39), "numeric(3,39)", pa.string(), "VARCHAR"),
        (PgType("numeric"), "numeric", pa.string(), "VARCHAR"),
        (PgType("money"), "money", pa.decimal128(19, 2), "DECIMAL(19,2)"),
        (PgType("money", money_digits=0), "money", pa.decimal128(19, 0), "DECIMAL(19,0)"),
        (PgType("varchar", 24), "varchar(20)", pa.string(), "VARCHAR"),
        (PgType("bpchar", 7), "bpchar(3)", pa.string(), "VARCHAR"),
        (PgType("char"), '"char"', pa.string(), "VARCHAR"),
        (PgType("bytea"), "bytea", pa.binary(), "BLOB"),
        (PgType("date"), "date", pa.date32(), "DATE"),
        (PgType("timestamp", 3), "timestamp(3)", pa.timestamp("us"), "TIMESTAMP"),
        (PgType("timestamptz"), "timestamptz", pa.timestamp("us", "UTC"), "TIMESTAMPTZ"),
        (PgType("time"), "time", pa.time64("us"), "TIME"),
        (PgType("timetz", 0), "timetz(0)", pa.string(), "VARCHAR"),
        (PgType("interval"), "interval", pa.string(), "VARCHAR"),
        (PgType("uuid"), "uuid", pa.string(), "UUID"),
        (PgType("json"), "json", pa.string(), "JSON"),
        (PgType("jsonb"), "jsonb", pa.string(), "JSON"),
        (PgType("_numeric", numeric(18, 2).typmod), "numeric(18,2)[]", pa.string(), "VARCHAR"),
        (PgType("bit", 3), "bit(3)", pa.string(), "VARCHAR"),
        (PgType("int4range"), "int4range", pa.string(), "VARCHAR"),
        (PgType("money", builtin=False), "money", pa.string(), "VARCHAR"),
    ],
    ids=str,
)
def test_mapping(pg_type: PgType, printed: str, arrow: pa.DataType, store: str) -> None:
    column = map_column("c", pg_type, None)
    assert (column.source_type, column.type, column.store_type) == (printed, arrow, store)


def test_overrides() -> None:
    assert map_column("c", PgType("timestamptz"), "text").store_type == "VARCHAR"
    assert map_column("c", PgType("numeric"), "decimal(30, 6)").type == pa.decimal128(30, 6)
    assert converted(PgType("int4"), ["7"], "decimal(5,2)").to_pylist() == [Decimal("7.00")]
    assert converted(PgType("money"), ["-$1.00"], "text").to_pylist() == ["-$1.00"]


@pytest.mark.parametrize(
    "override", ["", "integer", "decimal", "decimal(39,2)", "decimal(5,6)", "decimal(0,0)", "decimal(-1,0)", "varchar"]
)
def test_override_that_is_none(override: str) -> None:
    with pytest.raises(ConfigError, match="is no type a column can be mapped to"):
        map_column("c", PgType("numeric"), override)


@pytest.mark.parametrize("pg_type", [PgType("date"), PgType("money"), PgType("numeric", builtin=False), PgType("_int4")], ids=str)
def test_override_to_decimal_of_what_is_no_number(pg_type: PgType) -> None:
    with pytest.raises(ConfigError, match="can't be mapped"):
        map_column("c", pg_type, "decimal(18,2)")


@pytest.mark.parametrize(
    ("pg_type", "values"),
    [
        (PgType("bool"), {"t": True, "f": False}),
        (PgType("int2"), {"-32768": -32768, "32767": 32767}),
        (PgType("int8"), {"-9223372036854775808": -(2**63), "9223372036854775807": 2**63 - 1}),
        (PgType("oid"), {"4294967295": 2**32 - 1}),
        (numeric(38, 2), {"9" * 36 + ".99": Decimal("9" * 36 + ".99"), "-0.01": Decimal("-0.01"), "0.00": Decimal("0.00")}),
        (numeric(38, 38), {"-0." + "9" * 38: Decimal("-0." + "9" * 38)}),
        (numeric(38, 0), {"-" + "9" * 38: Decimal("-" + "9" * 38)}),
        (PgType("money"), {"$1,234.56": Decimal("1234.56"), "-$0.05": Decimal("-0.05"), "($1.00)": Decimal("-1.00")}),
        (PgType("money"), {"-$92,233,720,368,547,758.08": Decimal("-92233720368547758.08")}),
        (PgType("money", money_digits=0), {"$12.34": Decimal(1234)}),
        (PgType("bytea"), {"\\x": b"", "\\x00ff": b"\x00\xff", "\\x5c78": b"\\x"}),
        (PgType("date"), {"2024-02-29": date(2024, 2, 29), "0001-01-01": date(1, 1, 1)}),
        (PgType("timestamp"), {"9999-12-31 23:59:59.999999": datetime.max, "0001-01-01 00:00:00": datetime.min}),
        (
            PgType("jsonb"),
            {'{"a": "\\\\ud800", "b": "\\ud83d\\ude00", "c": 1e400}': '{"a": "\\\\ud800", "b": "\\ud83d\\ude00", "c": 1e400}'},
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, PgType) else "",
)
def test_values(pg_type: PgType, values: dict[str, Any]) -> None:
    assert converted(pg_type, [None, *values, None]).to_pylist() == [None, *values.values(), None]


@pytest.mark.parametrize("name", ["bool", "int4", "float8", "money", "bytea", "date", "timestamp", "timestamptz", "time", "json", "text"])
def test_nothing_and_only_nulls(name: str) -> None:
    assert len(converted(PgType(name), [])) == 0
    assert converted(PgType(name), [None, None]).to_pylist() == [None, None]


def test_dates_past_the_calendar() -> None:
    values = ["infinity", "-infinity", None, "1970-01-02", "4713-01-01 BC", "0001-12-31 BC", "5874897-12-31", "10000-02-29"]
    assert counts(converted(PgType("date"), values)) == [2**31 - 1, -(2**31) + 1, None, 1, -2440550, -719163, 2145042905, 2932956]


def test_moments_past_the_calendar() -> None:
    values = ["infinity", "-infinity", None, "1970-01-02 00:00:00.5", "0001-12-31 23:59:59.000001 BC", "294247-01-10 04:00:54.775806"]
    expected = [2**63 - 1, -(2**63) + 1, None, DAY_US + 500_000, -719162 * DAY_US - 999_999, 2**63 - 2]
    assert counts(converted(PgType("timestamp"), values)) == expected
    zoned = [
        value and (value.replace(" BC", "+00 BC") if "BC" in value else value if "inf" in value else value + "+00") for value in values
    ]
    assert counts(converted(PgType("timestamptz"), zoned)) == expected


def test_time_has_an_end_of_day() -> None:
    values = ["24:00:00", "00:00:00", None, "23:59:59.999999"]
    column = map_column("c", PgType("time"), None)
    assert counts(convert(column, pa.array(values), "t")) == [DAY_US, 0, None, DAY_US - 1]


@given(st.floats(width=64))
def test_double_keeps_its_bits(value: float) -> None:
    text = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}.get(str(value), repr(value))
    (kept,) = converted(PgType("float8"), [text]).to_pylist()
    assert math.isnan(kept) if math.isnan(value) else struct.pack("d", kept) == struct.pack("d", value)


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**31), max_value=10**31), st.integers(0, 20))
def test_decimals_are_exact_or_refused(value: Decimal, zeros: int) -> None:
    text = f"{value:f}" + "0" * zeros
    assert converted(PgType("numeric"), [text, None], "decimal(38,6)").to_pylist() == [value, None]
    with pytest.raises(ValueUnfit):
        converted(PgType("numeric"), [text + "1"], "decimal(38,6)")


@given(st.lists(st.none() | st.binary(max_size=50), max_size=20), st.integers(0, 3))
def test_bytes(blobs: list[bytes | None], offset: int) -> None:
    texts = pa.array([blob if blob is None else "\\x" + blob.hex() for blob in blobs], pa.string())
    column = map_column("c", PgType("bytea"), None)
    assert convert(column, texts[offset:], "t").to_pylist() == blobs[offset:]
    assert convert(column, pa.chunked_array([texts, texts]), "t").to_pylist() == blobs + blobs


@pytest.mark.parametrize(
    ("pg_type", "value", "override"),
    [
        (PgType("bool"), "true", None),
        (PgType("int2"), "32768", None),
        (numeric(18, 2), "NaN", None),
        (PgType("numeric"), "Infinity", "decimal(38,2)"),
        (PgType("numeric"), "1.005", "decimal(18,2)"),
        (PgType("numeric"), "9" * 39, "decimal(38,0)"),
        (PgType("numeric"), "340282366920938463463374607431768211457", "decimal(38,0)"),
        (PgType("numeric"), "1" + "0" * 300, "decimal(38,0)"),
        (PgType("numeric"), "0." + "0" * 40 + "1", "decimal(38,2)"),
        (PgType("float8"), "1e-41", "decimal(38,2)"),
        (PgType("text"), "1E-41", "decimal(38,2)"),
        (PgType("text"), "1E+400", "decimal(38,2)"),
        (PgType("text"), "twelve", "decimal(38,2)"),
        (PgType("money"), "none", None),
        (PgType("bytea"), "abc", None),
        (PgType("bytea"), "\\xabc", None),
        (PgType("bytea"), "\\xzz", None),
        (PgType("date"), "2024-02-30", None),
        (PgType("date"), "01/02/2024", None),
        (PgType("timestamp"), "294247-01-10 04:00:54.775807", None),
        (PgType("timestamp"), "294276-12-31 23:59:59.999999", None),
        (PgType("time"), "25:00:00", None),
        (PgType("json"), '"\\ud800"', None),
        (PgType("json"), '"\\ude00\\ud83d"', None),
    ],
)
def test_values_without_faithful_target(pg_type: PgType, value: str, override: str | None) -> None:
    good = converted(pg_type, [None] * 3, override)
    assert good.null_count == 3
    with pytest.raises(ValueUnfit) as raised:
        converted(pg_type, [None, value, None], override)
    assert raised.value.values["value"] == (value if len(value) <= 60 else value[:60] + "...")
    assert '"t.c" = "text"' in raised.value.hint


def test_the_offender_is_found_among_many() -> None:
    with pytest.raises(ValueUnfit, match="'NaN'"):
        converted(numeric(18, 2), [*["1.00"] * 700, "NaN", *["2.00"] * 600])


def test_invalid_utf8() -> None:
    with pytest.raises(ValueUnfit, match="not valid UTF-8"):
        convert(map_column("c", PgType("text"), None), pa.array([b"ok", b"\xff"], pa.binary()), "t")


TYPES = ["bool", "int4", "float4", "money", "bytea", "date", "timestamp", "timestamptz", "time", "json", "text"]


@given(st.sampled_from([*(PgType(name) for name in TYPES), numeric(18, 2)]), st.lists(st.none() | st.binary(max_size=30), max_size=5))
def test_any_bytes_are_converted_or_refused(pg_type: PgType, values: list[bytes | None]) -> None:
    try:
        array = convert(map_column("c", pg_type, None), pa.array(values, pa.binary()), "t")
    except LedgertailError:
        return
    assert [value is None for value in values] == array.is_null().to_pylist()
