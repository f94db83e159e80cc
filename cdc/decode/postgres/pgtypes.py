"""PostgreSQL's types as Arrow columns and DuckDB types. Values come as the server's own text, from COPY and pgoutput alike.

    PostgreSQL                         Arrow               DuckDB         note
    bool                               bool                BOOLEAN
    int2, int4, int8                   int16, 32, 64       SMALLINT, INTEGER, BIGINT
    oid                                uint32              UINTEGER
    float4, float8                     float, double       FLOAT, DOUBLE  bit for bit, with NaN and the infinities
    numeric(p,s), up to 38 digits      decimal128(p,s)     DECIMAL(p,s)   numeric(p,-n): DECIMAL(p+n,0); s > p: DECIMAL(s,s)
    numeric, numeric beyond 38 digits  string              VARCHAR        exact text; DuckDB has no type for all of them
    money                              decimal128(19,d)    DECIMAL(19,d)  d: the fraction digits of the server's lc_monetary
    text, varchar, bpchar, name,
      "char", xml, citext, enums       string              VARCHAR        bpchar keeps its padding
    bytea                              binary              BLOB
    date                               date32              DATE           infinity, -infinity, BC and years past 9999 kept
    timestamp                          timestamp[us]       TIMESTAMP      likewise, up to 294247-01-10 04:00:54.775806
    timestamptz                        timestamp[us, UTC]  TIMESTAMPTZ    likewise
    time                               time64[us]          TIME           with 24:00:00
    timetz                             string              VARCHAR        DuckDB's TIMETZ orders, and Arrow has, no offset
    interval                           string              VARCHAR        its fields exceed the range of DuckDB's INTERVAL
    uuid                               string              UUID
    json, jsonb                        string              JSON           the text as it is
    arrays, ranges, multiranges,
      geometric, network, bit strings,
      text search, pg_lsn, xid, reg*,
      composites, any other            string              VARCHAR        the server's own text form

A column's `types` in the config may make any of them `text`, and whole numbers, numeric, float and text `decimal(p,s)`. A value
without faithful target (numeric NaN in a DECIMAL, a timestamp past DuckDB's range) raises ValueUnfit: nothing is rounded.

The text is that of a session with client_encoding=UTF8, TimeZone=UTC, DateStyle=ISO, IntervalStyle=postgres, extra_float_digits=3,
bytea_output=hex and lc_monetary=C (https://www.postgresql.org/docs/current/datatype.html).
"""

from __future__ import annotations

import re
from binascii import unhexlify
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc

from cdc.errors import ConfigError, ValueUnfit
from cdc.types import Column

DIGITS_MAX = 38
TIMESTAMP, TIMESTAMPTZ = pa.timestamp("us"), pa.timestamp("us", "UTC")

_MAPPED: dict[str, tuple[pa.DataType, str]] = {
    "bool": (pa.bool_(), "BOOLEAN"),
    "int2": (pa.int16(), "SMALLINT"),
    "int4": (pa.int32(), "INTEGER"),
    "int8": (pa.int64(), "BIGINT"),
    "oid": (pa.uint32(), "UINTEGER"),
    "float4": (pa.float32(), "FLOAT"),
    "float8": (pa.float64(), "DOUBLE"),
    "bytea": (pa.binary(), "BLOB"),
    "date": (pa.date32(), "DATE"),
    "timestamp": (TIMESTAMP, "TIMESTAMP"),
    "timestamptz": (TIMESTAMPTZ, "TIMESTAMPTZ"),
    "time": (pa.time64("us"), "TIME"),
    "uuid": (pa.string(), "UUID"),
    "json": (pa.string(), "JSON"),
    "jsonb": (pa.string(), "JSON"),
}
_TEXT = (pa.string(), "VARCHAR")
_NUMBERS = {"int2", "int4", "int8", "oid", "numeric", "float4", "float8", "text", "varchar"}
_WITH_LENGTH = {"varchar", "bpchar"}
_WITH_DIGITS = {"time", "timetz", "timestamp", "timestamptz", "bit", "varbit"}
_OVERRIDE = re.compile(r"decimal\(\s*(\d{1,2})\s*,\s*(\d{1,2})\s*\)")


@dataclass(frozen=True, slots=True)
class PgType:
    """A column's type, domains resolved. `name` is pg_type.typname (`int4`, `_text` for text[]), `typmod` pg_attribute.atttypmod.

    `builtin` is False for enums, composites and extensions' types, whatever their name. `money_digits`: fraction digits of the
    server's lc_monetary, which decide what a stored money value means.
    """

    name: str
    typmod: int = -1
    builtin: bool = True
    money_digits: int = 2

    def __str__(self) -> str:
        if self.builtin and self.name.startswith("_"):
            return f"{PgType(self.name[1:], self.typmod)}[]"
        name = '"char"' if self.builtin and self.name == "char" else self.name
        return f"{name}{self._modifier() if self.builtin else ''}"

    def digits(self) -> tuple[int, int] | None:
        """Precision and scale of a numeric; None where it has none."""
        if self.typmod < 4:
            return None
        bits = self.typmod - 4
        return bits >> 16 & 0xFFFF, (bits & 0x7FF ^ 1024) - 1024

    def _modifier(self) -> str:
        if self.name == "numeric" and (digits := self.digits()):
            return f"({digits[0]},{digits[1]})"
        if self.name in _WITH_LENGTH and self.typmod >= 4:
            return f"({self.typmod - 4})"
        return f"({self.typmod})" if self.name in _WITH_DIGITS and self.typmod >= 0 else ""


def map_column(name: str, pg_type: PgType, override: str | None) -> Column:
    """How a column is kept. `override` is its `types` in the config: `text`, `decimal(p,s)` or None. Raises ConfigError."""
    arrow, store = _mapped(pg_type) if override is None else _overridden(name, pg_type, override)
    return Column(name, arrow, store, str(pg_type))


def _mapped(pg_type: PgType) -> tuple[pa.DataType, str]:
    if not pg_type.builtin:
        return _TEXT
    if pg_type.name == "money":
        return _decimal(19, pg_type.money_digits)
    if pg_type.name == "numeric" and (digits := pg_type.digits()):
        precision, scale = digits
        whole, scale = precision - min(scale, 0), max(scale, 0)
        return _decimal(max(whole, scale), scale) if max(whole, scale) <= DIGITS_MAX else _TEXT
    return _MAPPED.get(pg_type.name, _TEXT)


def _overridden(name: str, pg_type: PgType, override: str) -> tuple[pa.DataType, str]:
    wanted = override.strip().lower()
    if wanted == "text":
        return _TEXT
    match = _OVERRIDE.fullmatch(wanted)
    if not match or not max(1, int(match[2])) <= int(match[1]) <= DIGITS_MAX:
        raise ConfigError("decode.override", column=name, override=override)
    if not pg_type.builtin or pg_type.name not in _NUMBERS:
        raise ConfigError("decode.override_type", column=name, override=override, type=pg_type)
    return _decimal(int(match[1]), int(match[2]))


def _decimal(precision: int, scale: int) -> tuple[pa.DataType, str]:
    return pa.decimal128(precision, scale), f"DECIMAL({precision},{scale})"


def convert(column: Column, values: pa.Array | pa.ChunkedArray, table: str) -> pa.Array:
    """The server's text (Arrow string or binary) as an array of `column.type`. Raises ValueUnfit with the first value that has none."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    texts = _converted("decode.encoding", lambda part: part.cast(pa.string()), column, values, table)
    return _converted("decode.unfit", _converter(column), column, texts, table)


Converter = Callable[[pa.Array], pa.Array]

_WITHOUT_EXPONENT = ("numeric", "int", "oid")
_DAY_US = 86_400_000_000

# Made once: pyarrow takes 0.1 ms to turn a Python value into a scalar where numpy is not installed.
_TRUE, _FALSE = pa.scalar(True, pa.bool_()), pa.scalar(False, pa.bool_())
_NO_TEXT, _NO_BLOB = pa.scalar(None, pa.string()), pa.scalar(None, pa.binary())
_EMPTY, _BLANK, _MINUS, _NO_BYTES, _EPOCH, _MIDNIGHT, _END_OF_DAY = (
    pa.scalar(text, pa.string()) for text in ("", " ", "-", "\\x", "1970-01-01", "00:00:00", "24:00:00")
)
_ONE, _DIGITS_MAX = pa.scalar(1, pa.int32()), pa.scalar(DIGITS_MAX, pa.int32())
_WHOLE_DAY = pa.scalar(_DAY_US, pa.int64())
_BOOLS, _BOOLS_OR_NULL = pa.array(["f", "t"], pa.string()), pa.array(["f", "t", None], pa.string())


def _converted(code: str, converter: Converter, column: Column, values: pa.Array, table: str) -> pa.Array:
    try:
        return converter(values)
    except ValueError as error:  # pyarrow.ArrowInvalid is one
        value = _offender(converter, values)
        raise ValueUnfit(code, table=table, column=column.name, type=column.source_type, target=column.store_type, value=value) from error


def _offender(converter: Converter, values: pa.Array) -> str:
    """The first value that can't be converted, found by halving; shortened."""
    while len(values) > 1:
        left = values[: len(values) // 2]
        try:
            converter(left)
            values = values[len(values) // 2 :]
        except ValueError:
            values = left
    value: bytes = values.view(pa.binary())[0].as_py()
    return value[:60].decode("utf-8", "backslashreplace") + ("..." if len(value) > 60 else "")


def _converter(column: Column) -> Converter:
    if pa.types.is_decimal(column.type):
        return lambda values: (_money if column.source_type == "money" else _decimals)(values, column)
    if column.store_type == "JSON":
        return _json
    return _CONVERTERS.get(column.type, lambda values: values.cast(column.type))


def _bool(values: pa.Array) -> pa.Array:
    return pc.index_in(values, _BOOLS).cast(pa.bool_()) if _all(pc.is_in(values, _BOOLS_OR_NULL)) else _unfit()


def _decimals(values: pa.Array, column: Column) -> pa.Array:
    # Arrow's cast wraps around silently beyond 38 digits and loses exponents: such texts are read one by one.
    long = pc.greater(pc.binary_length(values), _DIGITS_MAX)
    if not column.source_type.startswith(_WITHOUT_EXPONENT):
        long = pc.or_(long, pc.match_substring_regex(values, "[eE]"))
    target = column.type
    if not _any(long):
        return values.cast(target)
    usual = pc.if_else(long, _NO_TEXT, values).cast(target)
    rare = pa.array([_exact(value, target) for value in values.filter(long).to_pylist()], target)
    return pc.replace_with_mask(usual, pc.fill_null(long, _FALSE), rare)


def _exact(text: str, target: pa.DataType) -> Decimal:
    try:
        sign, digits, exponent = Decimal(text).as_tuple()
    except InvalidOperation:
        return _unfit()
    if not isinstance(exponent, int):  # NaN, Infinity
        return _unfit()
    kept = "".join(map(str, digits)).rstrip("0")
    exponent += len(digits) - len(kept)
    if kept and (exponent < -target.scale or len(kept) + exponent > target.precision - target.scale):
        return _unfit()
    return Decimal((sign, tuple(map(int, kept)), exponent if kept else 0))


def _money(values: pa.Array, column: Column) -> pa.Array:
    # The digits are the stored 64-bit integer, whatever locale printed them.
    sign = pc.if_else(pc.match_substring_regex(values, r"^[^0-9]*[-(]"), _MINUS, _EMPTY)
    whole = pc.binary_join_element_wise(sign, pc.replace_substring_regex(values, r"[^0-9]", ""), _EMPTY)
    return whole.cast(pa.decimal128(19, 0)).view(column.type)


def _bytea(values: pa.Array) -> pa.Array:
    if not _all(pc.starts_with(values, "\\x")):
        return _unfit()
    texts = pc.fill_null(values, _NO_BYTES)
    lengths = pc.binary_length(texts)
    if not len(texts) or _any(pc.bit_wise_and(lengths, _ONE)):
        return _unfit() if len(texts) else pa.array([], pa.binary())
    starts = pa.Array.from_buffers(pa.int32(), len(texts) + 1, [None, texts.buffers()[1]], offset=texts.offset)
    content = memoryview(texts.buffers()[2])[starts[0].as_py() : starts[-1].as_py()]
    raw = unhexlify(bytes(content).replace(b"\\x", b""))
    ends = pc.cumulative_sum(pc.subtract(pc.shift_right(lengths, _ONE), _ONE)).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), ends])
    blobs = pa.Array.from_buffers(pa.binary(), len(texts), [None, offsets.buffers()[1], pa.py_buffer(raw)])
    return pc.if_else(values.is_valid(), blobs, _NO_BLOB) if values.null_count else blobs


_LONE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_SOUND_ESCAPE = re.compile(r"\\(?:\\|u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2})")


def _json(values: pa.Array) -> pa.Array:
    # PostgreSQL's json takes half a surrogate pair, which DuckDB's JSON refuses.
    suspects = values.filter(pc.match_substring(values, "\\u")).to_pylist()
    return _unfit() if any(_LONE_SURROGATE.search(_SOUND_ESCAPE.sub("", text)) for text in suspects) else values


_INFINITE_DAYS, _INFINITE_US = 2**31 - 1, 2**63 - 1
_MOMENT = re.compile(r"(\d{4,})-(\d\d)-(\d\d)(?: (\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?(?:\+00)?)?( BC)?")


def _date(values: pa.Array) -> pa.Array:
    return _patched(values, pa.date32(), pa.int32(), r"^\d{4}-\d\d-\d\d$", _days)


def _timestamp(values: pa.Array) -> pa.Array:
    return _patched(values, TIMESTAMP, pa.int64(), r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?$", _microseconds)


def _timestamptz(values: pa.Array) -> pa.Array:
    return _patched(values, TIMESTAMPTZ, pa.int64(), r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00$", _microseconds)


def _time(values: pa.Array) -> pa.Array:
    midnight = pc.equal(values, _END_OF_DAY)
    stamps = pc.binary_join_element_wise(_EPOCH, pc.if_else(midnight, _MIDNIGHT, values), _BLANK).cast(TIMESTAMP)
    return pc.if_else(midnight, _WHOLE_DAY, stamps.view(pa.int64())).view(pa.time64("us"))


def _patched(values: pa.Array, target: pa.DataType, unit: pa.DataType, usual: str, rare: Callable[[str], int]) -> pa.Array:
    """Cast what Arrow can parse (`usual`), and patch in the rest: infinities, BC, years past 9999. `unit` counts days or µs."""
    try:
        return values.cast(target)
    except pa.ArrowInvalid:
        common = pc.fill_null(pc.match_substring_regex(values, usual), _TRUE)
    counts = pc.if_else(common, values, _NO_TEXT).cast(target).view(unit)
    odd = values.filter(pc.invert(common)).dictionary_encode()
    patch = pa.array([rare(text) for text in odd.dictionary.to_pylist()], unit).take(odd.indices)
    return pc.replace_with_mask(counts, pc.invert(common), patch).view(target)


def _days(text: str) -> int:
    if text.endswith("infinity"):
        return -_INFINITE_DAYS if text.startswith("-") else _INFINITE_DAYS
    match = _MOMENT.fullmatch(text)
    return _civil_days(match) if match and match[4] is None else _unfit()


def _microseconds(text: str) -> int:
    if text.endswith("infinity"):
        return -_INFINITE_US if text.startswith("-") else _INFINITE_US
    match = _MOMENT.fullmatch(text)
    if not match or match[4] is None:
        return _unfit()
    seconds = (int(match[4]) * 60 + int(match[5])) * 60 + int(match[6])
    moment = _civil_days(match) * _DAY_US + seconds * 1_000_000 + int((match[7] or "0").ljust(6, "0"))
    return moment if -_INFINITE_US < moment < _INFINITE_US else _unfit()


def _civil_days(match: re.Match[str]) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar; the year starts in March, so that the leap day comes last."""
    year, month, day = int(match[1]), int(match[2]), int(match[3])
    year = (1 - year if match[8] else year) - (month < 3)
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 719_469


def _all(mask: pa.Array) -> bool:
    return pc.all(mask).as_py() is not False


def _any(mask: pa.Array) -> bool:
    return pc.any(mask.cast(pa.bool_())).as_py() is True


def _unfit() -> NoReturn:
    raise ValueError("no faithful target")


_CONVERTERS: dict[pa.DataType, Converter] = {
    pa.bool_(): _bool,
    pa.binary(): _bytea,
    pa.date32(): _date,
    pa.time64("us"): _time,
    TIMESTAMP: _timestamp,
    TIMESTAMPTZ: _timestamptz,
}
