"""DATE, DATETIME and TIMESTAMP as text: what the text protocol has of them into Arrow, and of row images what the server would print."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pymysqlreplication.constants import FIELD_TYPE

from cdc.decode.mysql.wire import Malformed, WireColumn

if TYPE_CHECKING:
    from cdc.decode.mysql.kernel import Values

YEAR_MAX = 9999
_DAY = 86_400_000_000  # in µs
_EPOCH, _EPOCH_DAY = datetime(1970, 1, 1, tzinfo=UTC), date(1970, 1, 1).toordinal()
_FIRST_DAY = 1 - _EPOCH_DAY
_DATETIME_BYTES, _TIMESTAMP_BYTES, _DATE_BYTES = 5, 4, 3  # without the fraction
_OLD_DATETIME_BYTES = 8
_NO_TEXT = pa.scalar(None, pa.string())
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")


def parsed(texts: pa.Array, target: pa.DataType) -> pa.Array:
    """The server's texts of DATE, DATETIME or TIMESTAMP (of a session with time_zone +00:00) as date32 or timestamp[us]."""
    unit = pa.int32() if target == pa.date32() else pa.int64()
    first = _FIRST_DAY if target == pa.date32() else _FIRST_DAY * _DAY
    try:
        moments = texts.cast(target)
        least = pc.min(moments.view(unit)).as_py()
        if least is None or least >= first:
            return moments
    except pa.ArrowInvalid:
        pass  # a zero or partial date, or no date at all: told apart below
    encoded = pc.utf8_slice_codeunits(texts, 0, 10).dictionary_encode()
    known = pa.array([_is_date(text) for text in encoded.dictionary.to_pylist()], pa.bool_()).take(encoded.indices)
    return pc.if_else(known, texts, _NO_TEXT).cast(target)


def _is_date(text: str) -> bool:
    match = _DATE.fullmatch(text)
    if not match:
        raise Malformed("a text is no date")
    return _day(int(match[1]), int(match[2]), int(match[3])) is not None


def _day(year: int, month: int, day: int) -> int | None:
    try:
        return date(year, month, day).toordinal() - _EPOCH_DAY
    except ValueError:
        return None


def _date_parts(number: int) -> tuple[int, int, int]:
    return number >> 9, number >> 5 & 15, number & 31


def _packed_parts(number: int) -> tuple[int, int, int]:
    return *divmod(number >> 5, 13), number & 31


def _decimal_parts(number: int) -> tuple[int, int, int]:
    return number // 10_000, number // 100 % 100, number % 100


def date_texts(values: Values, _: WireColumn) -> pa.Array:
    """DATE of row images as the server prints it."""
    return _printed(values, lambda value: _date_text(_date_parts(_number(value, _DATE_BYTES, "little"))))


def datetime_texts(values: Values, column: WireColumn) -> pa.Array:
    """DATETIME of row images as the server prints it."""
    return _printed(values, _old_datetime if column.code == FIELD_TYPE.DATETIME else partial(_datetime, column.meta))


def timestamp_texts(values: Values, column: WireColumn) -> pa.Array:
    """TIMESTAMP of row images as the server prints it in a session with time_zone +00:00."""
    return _printed(values, _old_timestamp if column.code == FIELD_TYPE.TIMESTAMP else partial(_timestamp, column.meta))


def _printed(values: Values, form: Callable[[bytes], str]) -> pa.Array:
    listed = values.to_pylist()
    texts = {value: form(value) for value in set(listed) if value is not None}
    return pa.array([None if value is None else texts[value] for value in listed], pa.string())


def _number(value: bytes, size: int, order: Literal["little", "big"]) -> int:
    if len(value) != size:
        raise Malformed(f"a value is not of {size} bytes")
    return int.from_bytes(value, order)


def _with_fraction(value: bytes, size: int, digits: int, sign: int = 0) -> tuple[bool, int, str]:
    """Whether it is negative, its number before the fraction, and the fraction's text. `sign`: what is added to all numbers."""
    octets = (digits + 1) // 2
    number = _number(value, size + octets, "big") - (sign << 8 * octets)
    main, fraction = divmod(abs(number), 1 << 8 * octets)
    text = f"{fraction:0{2 * octets}}"
    if len(text) > 2 * octets > 0 or text[digits:].strip("0"):
        raise Malformed("a fraction is beyond its digits")
    return number < 0, main, "." + text[:digits] if digits else ""


def _datetime(digits: int, value: bytes) -> str:
    negative, main, fraction = _with_fraction(value, _DATETIME_BYTES, digits, 1 << 39)
    if negative:
        raise Malformed("a date is negative")
    return f"{_date_text(_packed_parts(main >> 17))} {_clock_text(main >> 12 & 31, main >> 6 & 63, main & 63)}{fraction}"


def _timestamp(digits: int, value: bytes) -> str:
    _, seconds, fraction = _with_fraction(value, _TIMESTAMP_BYTES, digits)
    return _moment_text(seconds) + fraction


def _old_datetime(value: bytes) -> str:
    day, clock = divmod(_number(value, _OLD_DATETIME_BYTES, "little"), 1_000_000)
    return f"{_date_text(_decimal_parts(day))} {_clock_text(*_decimal_parts(clock))}"


def _old_timestamp(value: bytes) -> str:
    return _moment_text(_number(value, _TIMESTAMP_BYTES, "little"))


def _date_text(parts: tuple[int, int, int]) -> str:
    if parts[0] > YEAR_MAX:
        raise Malformed(f"a year is beyond {YEAR_MAX}")
    return "{:04}-{:02}-{:02}".format(*parts)


def _clock_text(hours: int, minutes: int, seconds: int) -> str:
    if hours > 23 or minutes > 59 or seconds > 59:
        raise Malformed("a time is none")
    return f"{hours:02}:{minutes:02}:{seconds:02}"


def _moment_text(seconds: int) -> str:
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}" if seconds else "0000-00-00 00:00:00"
