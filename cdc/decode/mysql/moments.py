"""DATE, DATETIME, TIMESTAMP, TIME and YEAR: the packed forms of row images, and the server's texts, into Arrow.

    DATE        3 bytes, little-endian: year << 9 | month << 5 | day
    DATETIME2   5 bytes: 1 << 39 | (year * 13 + month) << 22 | day << 17 | hour << 12 | minute << 6 | second, and the fraction
    TIMESTAMP2  4 bytes: seconds since 1970 (up to 2106 in MariaDB 11.5 and later), and the fraction
    TIME2       3 bytes: 1 << 23 | hour << 12 | minute << 6 | second, and the fraction, which is part of the number: a negative TIME
                is the whole of it negated
    YEAR        1 byte: years since 1900; 0 for the year 0000
    DATETIME    8 bytes, little-endian: the decimal digits YYYYMMDDhhmmss; TIME 3 bytes hhmmss, TIMESTAMP 4 bytes likewise: the old forms

The new forms are big-endian; a fraction takes 1, 2 or 3 bytes for two, four or six digits (MySQL source documentation, my_time.cc).
Without faithful target, and null here: zero dates and zero TIMESTAMPs, partial dates, days no calendar has (ALLOW_INVALID_DATES), and the
year 0000, which to the servers comes before 0001 but in no calendar of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from pymysqlreplication.constants import FIELD_TYPE

from cdc.decode.mysql.packed import Wire, array_of, at_most, big, bits, divided, joined, little, whole
from cdc.decode.mysql.wire import Malformed, WireColumn

TIMESTAMP, TIMESTAMPTZ = pa.timestamp("us"), pa.timestamp("us", "UTC")
YEAR_MAX = 9999
_SECOND, _DAY = 1_000_000, 86_400_000_000  # in µs
_EPOCH, _EPOCH_DAY = datetime(1970, 1, 1, tzinfo=UTC), date(1970, 1, 1).toordinal()
_FIRST_DAY = 1 - _EPOCH_DAY
_DATETIME_BYTES, _TIMESTAMP_BYTES, _TIME_BYTES, _DATE_BYTES = 5, 4, 3, 3  # without the fraction
_OLD_DATETIME_BYTES = 8
_NO_TEXT, _NO_NUMBER = pa.scalar(None, pa.string()), pa.scalar(None, pa.int64())
_NO_YEAR, _FIRST_YEAR = pa.scalar(0, pa.int16()), pa.scalar(1900, pa.int16())
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")


def dates(values: Wire, _: WireColumn) -> pa.Array:
    """DATE of row images as date32."""
    days = _days(little(values, _DATE_BYTES).view(pa.int64()), _date_parts)
    return days.cast(pa.int32()).view(pa.date32())


def datetimes(values: Wire, column: WireColumn) -> pa.Array:
    """DATETIME of row images as timestamp[us]."""
    if column.code == FIELD_TYPE.DATETIME:
        day, clock = divided(little(values, _OLD_DATETIME_BYTES).view(pa.int64()), 1_000_000)
        days = _days(day, _decimal_parts)
        hours, rest = divided(clock, 10_000)
        minutes, seconds = divided(rest, 100)
        fraction = whole(0)
    else:
        main, fraction = _split(values, _DATETIME_BYTES, column.meta, signed=True)
        days = _days(bits(main, 17, 22), _packed_parts)
        hours, minutes, seconds = bits(main, 12, 5), bits(main, 6, 6), bits(main, 0, 6)
    clock = pc.add(at_most(minutes, 59, "a minute"), pc.multiply(at_most(hours, 23, "an hour"), whole(60)))
    clock = pc.add(at_most(seconds, 59, "a second"), pc.multiply(clock, whole(60)))
    micros = pc.add(fraction, pc.multiply(clock, whole(_SECOND)))
    return pc.add(micros, pc.multiply(days, whole(_DAY))).view(TIMESTAMP)


def timestamps(values: Wire, column: WireColumn) -> pa.Array:
    """TIMESTAMP of row images as timestamp[us, UTC]."""
    if column.code == FIELD_TYPE.TIMESTAMP:
        seconds, fraction = little(values, _TIMESTAMP_BYTES).view(pa.int64()), whole(0)
    else:
        seconds, fraction = _split(values, _TIMESTAMP_BYTES, column.meta)
    known = pc.if_else(pc.equal(seconds, whole(0)), _NO_NUMBER, seconds)
    return pc.add(pc.multiply(known, whole(_SECOND)), fraction).view(TIMESTAMPTZ)


def years(values: Wire, _: WireColumn) -> pa.Array:
    """YEAR of row images as int16."""
    numbers = array_of(joined(values, 1), pa.uint8(), values).cast(pa.int16())
    return pc.if_else(pc.equal(numbers, _NO_YEAR), numbers, pc.add(numbers, _FIRST_YEAR))


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


def _split(values: Wire, size: int, digits: int, signed: bool = False) -> tuple[pa.Array, pa.Array]:
    """The number before the fraction, and the fraction in µs, as int64. `signed`: the highest bit says that it is not negative."""
    octets = (digits + 1) // 2
    numbers = big(values, size + octets)
    least = pc.min(numbers).as_py()
    if signed and least is not None and not least >> 8 * (size + octets) - 1:
        raise Malformed("a date is negative")
    numbers = bits(numbers.view(pa.int64()), 0, 8 * (size + octets) - signed)
    if not octets:
        return numbers, whole(0)
    fraction = pc.multiply(bits(numbers, 0, 8 * octets), whole(10 ** (6 - 2 * octets)))
    return pc.shift_right(numbers, whole(8 * octets)), at_most(fraction, _SECOND - 1, "a fraction")


_Split = Callable[[int], tuple[int, int, int]]


def _days(keys: pa.Array, split: _Split) -> pa.Array:
    """Days since 1970 of numbers that hold year, month and day; there are few distinct ones."""
    encoded = keys.dictionary_encode()
    return pa.array([_day(*split(key)) for key in encoded.dictionary.to_pylist()], pa.int64()).take(encoded.indices)


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


def date_texts(values: Wire, _: WireColumn) -> pa.Array:
    """DATE of row images as the server prints it."""
    return _printed(values, lambda value: _date_text(_date_parts(_number(value, _DATE_BYTES, "little"))))


def datetime_texts(values: Wire, column: WireColumn) -> pa.Array:
    """DATETIME of row images as the server prints it."""
    return _printed(values, _old_datetime if column.code == FIELD_TYPE.DATETIME else partial(_datetime, column.meta))


def timestamp_texts(values: Wire, column: WireColumn) -> pa.Array:
    """TIMESTAMP of row images as the server prints it in a session with time_zone +00:00."""
    return _printed(values, _old_timestamp if column.code == FIELD_TYPE.TIMESTAMP else partial(_timestamp, column.meta))


def time_texts(values: Wire, column: WireColumn) -> pa.Array:
    """TIME of row images as the server prints it."""
    return _printed(values, _old_time if column.code == FIELD_TYPE.TIME else partial(_time, column.meta))


def _printed(values: Wire, form: Callable[[bytes], str]) -> pa.Array:
    texts = {value: form(value) for value in set(values) if value is not None}
    return pa.array([texts.get(value) for value in values], pa.string())  # type: ignore[arg-type]


def _number(value: bytes, size: int, order: Literal["little", "big"], signed: bool = False) -> int:
    if len(value) != size:
        raise Malformed(f"a value is not of {size} bytes")
    return int.from_bytes(value, order, signed=signed)


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
    return f"{_date_text(_packed_parts(main >> 17))} {_clock_text(main >> 12 & 31, main >> 6 & 63, main & 63, 23)}{fraction}"


def _timestamp(digits: int, value: bytes) -> str:
    _, seconds, fraction = _with_fraction(value, _TIMESTAMP_BYTES, digits)
    return _moment_text(seconds) + fraction


def _time(digits: int, value: bytes) -> str:
    negative, main, fraction = _with_fraction(value, _TIME_BYTES, digits, 1 << 23)
    return "-" * negative + _clock_text(main >> 12 & 1023, main >> 6 & 63, main & 63) + fraction


def _old_datetime(value: bytes) -> str:
    day, clock = divmod(_number(value, _OLD_DATETIME_BYTES, "little"), 1_000_000)
    return f"{_date_text(_decimal_parts(day))} {_clock_text(*_decimal_parts(clock), 23)}"


def _old_timestamp(value: bytes) -> str:
    return _moment_text(_number(value, _TIMESTAMP_BYTES, "little"))


def _old_time(value: bytes) -> str:
    number = _number(value, _TIME_BYTES, "little", signed=True)
    return "-" * (number < 0) + _clock_text(*_decimal_parts(abs(number)))


def _date_text(parts: tuple[int, int, int]) -> str:
    if parts[0] > YEAR_MAX:
        raise Malformed(f"a year is beyond {YEAR_MAX}")
    return "{:04}-{:02}-{:02}".format(*parts)


def _clock_text(hours: int, minutes: int, seconds: int, hours_max: int = 1023) -> str:
    if hours > hours_max or minutes > 59 or seconds > 59:
        raise Malformed("a time is none")
    return f"{hours:02}:{minutes:02}:{seconds:02}"


def _moment_text(seconds: int) -> str:
    return f"{_EPOCH + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}" if seconds else "0000-00-00 00:00:00"
