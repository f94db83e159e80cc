"""Column values of MySQL and MariaDB into Arrow: bytes of row images and texts of the text protocol, to the same values.

A Converter is made for a type once. Whole columns are converted by Arrow's kernels where these can; text in other character sets than
UTF-8, ENUM, SET, TIME and JSON by Python, each distinct value once where few are to be expected.

The text protocol is that of a session with character_set_results=binary, time_zone='+00:00' and a sql_mode without
PAD_CHAR_TO_FULL_LENGTH, which selects columns by `fields.select_expression`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from pymysqlreplication.constants import FIELD_TYPE

from cdc.decode.mysql import images, moments
from cdc.decode.mysql.binary_json import json_text
from cdc.decode.mysql.charsets import Decode, beyond_bmp, decoder, extends_ascii
from cdc.decode.mysql.decimals import DIGITS_MAX, printed
from cdc.decode.mysql.types import BYTES, GEOMETRIES, INTEGERS, INTERNET, MEMBERS, TEXTS, MyType
from cdc.decode.mysql.wire import Malformed, WireColumn

if TYPE_CHECKING:
    from cdc.decode.mysql.kernel import Values

FromWire = Callable[["Values", WireColumn], pa.Array]
FromText = Callable[[pa.Array], pa.Array]


@dataclass(frozen=True, slots=True)
class Converter:
    """How one type's values become Arrow: from row images (`wire`) and the text protocol (`text`, Arrow binary), each as the type's own
    kind and as the server's text (Arrow string).

    Null stands for NULL, and where a value has no faithful target. Bytes that are no value of the type raise ValueError.
    """

    wire: FromWire
    text: FromText
    wire_text: FromWire
    text_text: FromText


@cache
def converter(my_type: MyType) -> Converter:
    """The converter of a type."""
    name = my_type.name
    if name in INTEGERS:
        return _integers(my_type)
    if name == "decimal":
        return _decimals(my_type.digits or (10, 0))
    if name in ("float", "double"):
        return _floats(pa.float32() if name == "float" else pa.float64())
    if name == "bit":
        size = ((my_type.length or 1) + 7) // 8
        return _shown(
            lambda values, _: images.bits(values, size), lambda raw: images.bits(images.values_of(raw.to_pylist()), size), _as_text
        )
    if name in TEXTS:
        convert = partial(decoded, charset=my_type.charset or "")
        return _same(lambda values, _: convert(images.binary(values)), convert)
    if name in BYTES:
        return _bytes(my_type.length if name == "binary" else None)
    if name in MEMBERS:
        return _members(my_type)
    if name in INTERNET:
        form = {"uuid": _uuid_text, "inet4": lambda value: str(IPv4Address(value)), "inet6": _inet6_text}[name]
        return _same(lambda values, _: _each(images.binary(values, INTERNET[name]), form), _utf8)
    if name == "json":
        return _same(lambda values, _: _each(images.binary(values), json_text), _utf8)
    if name in GEOMETRIES or name == "vector":
        return Converter(
            lambda values, _: images.binary(values), _itself, lambda values, _: hexadecimal(images.binary(values)), hexadecimal
        )
    return _moments(name)


def _same(wire: FromWire, text: FromText) -> Converter:
    """Of a type that is kept as the server's text anyway."""
    return Converter(wire, text, wire, text)


def _shown(wire: FromWire, text: FromText, show: FromText) -> Converter:
    """Of a type all of whose values have a target, whose text is made of that."""
    return Converter(wire, text, lambda values, column: show(wire(values, column)), lambda raw: show(text(raw)))


def _itself(raw: pa.Array) -> pa.Array:
    return raw


def _utf8(raw: pa.Array) -> pa.Array:
    return raw.cast(pa.string())


def _as_text(values: pa.Array) -> pa.Array:
    return values.cast(pa.string())


def hexadecimal(raw: pa.Array) -> pa.Array:
    """Bytes as 0x and digits, as the servers' clients print them."""
    return _each(raw, lambda value: f"0x{value.hex().upper()}")


def _each(raw: pa.Array, form: Callable[[bytes], str]) -> pa.Array:
    return pa.array([None if value is None else form(value) for value in raw.to_pylist()], pa.string())


_INTEGERS = {
    "tinyint": (1, pa.int8(), pa.uint8()),
    "smallint": (2, pa.int16(), pa.uint16()),
    "mediumint": (3, pa.int32(), pa.uint32()),
    "int": (4, pa.int32(), pa.uint32()),
    "bigint": (8, pa.int64(), pa.uint64()),
}


def integer_kind(my_type: MyType) -> pa.DataType:
    """The Arrow type of an integer type."""
    return _INTEGERS[my_type.name][1 + my_type.unsigned]


def _integers(my_type: MyType) -> Converter:
    size, kind = _INTEGERS[my_type.name][0], integer_kind(my_type)
    return _shown(
        lambda values, _: images.numbers(values, size, kind, signed=not my_type.unsigned), lambda raw: _utf8(raw).cast(kind), _as_text
    )


def _decimals(digits: tuple[int, int]) -> Converter:
    def wire_text(values: Values, _: WireColumn) -> pa.Array:
        return images.decimal_texts(values, digits)

    def text_text(raw: pa.Array) -> pa.Array:
        return printed(_utf8(raw))

    if digits[0] > DIGITS_MAX:
        return _same(wire_text, text_text)
    target = pa.decimal128(*digits)
    return Converter(lambda values, _: images.decimals(values, digits), lambda raw: _utf8(raw).cast(target), wire_text, text_text)


_POINT_MIN, _POINT_MAX = -14, 15  # where the point may stand before or after the first digit and no exponent is printed


def _floats(kind: pa.DataType) -> Converter:
    return _shown(lambda values, _: images.numbers(values, kind.bit_width // 8, kind), lambda raw: _utf8(raw).cast(kind), _float_texts)


def _float_texts(values: pa.Array) -> pa.Array:
    shortest = values.cast(pa.string()).dictionary_encode()
    return pa.array(map(_float_text, shortest.dictionary.to_pylist()), pa.string()).take(shortest.indices)


def _float_text(shortest: str) -> str:
    """The fewest digits that tell the number from all others, laid out as the servers do (my_gcvt)."""
    sign, digits, exponent = Decimal(shortest).normalize().as_tuple()
    if not isinstance(exponent, int):
        raise Malformed("a number is not finite")
    text, point = "".join(map(str, digits)), len(digits) + exponent
    if point < _POINT_MIN or (point > _POINT_MAX and point >= len(text)):
        text = f"{text[0]}{'.' * (len(text) > 1)}{text[1:]}e{point - 1}"
    elif point <= 0:
        text = f"0.{'0' * -point}{text}" if text != "0" else "0"
    else:
        text = text.ljust(point, "0")
        text = f"{text[:point]}{'.' * (len(text) > point)}{text[point:]}"
    return "-" * sign + text


def decoded(raw: pa.Array, charset: str) -> pa.Array:
    """Text of bytes in a character set; null where they are no text in it."""
    decode = decoder(charset)
    if charset in ("utf8mb4", "utf8mb3"):
        try:
            return raw.cast(pa.string())
        except pa.ArrowInvalid:
            pass  # not all are UTF-8: one by one below
    elif extends_ascii(charset) and decode:
        unchecked = raw.view(pa.string())
        if pc.all(pc.string_is_ascii(unchecked)).as_py() is not False:
            return unchecked
    return pa.array([_text(value, decode) for value in raw.to_pylist()], pa.string())


def _text(value: bytes | None, decode: Decode | None) -> str | None:
    if value is None or decode is None:
        return None
    try:
        return decode(value)
    except UnicodeDecodeError:
        return None


def _bytes(length: int | None) -> Converter:
    """`length`: of BINARY, whose zeros at the end are not in the log."""

    def wire(values: Values, _: WireColumn) -> pa.Array:
        return images.binary(values, length)

    def text(raw: pa.Array) -> pa.Array:
        return decoded(raw, "utf8mb4")

    return Converter(wire, _itself, lambda values, column: text(wire(values, column)), text)


def _uuid_text(value: bytes) -> str:
    digits = value.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def _inet6_text(value: bytes) -> str:
    """As MariaDB prints it: the first longest run of zero groups, be it one, is `::`; IPv4-compatible and mapped ones end like IPv4."""
    groups = [int.from_bytes(value[place : place + 2]) for place in range(0, 16, 2)]
    start, length = _longest_zeros(groups)
    tail = [f"{group:x}" for group in groups]
    if start == 0 and (length == 6 or (length == 5 and groups[5] == 0xFFFF)):
        tail[6:] = [str(IPv4Address(value[12:]))]
    if not length:
        return ":".join(tail)
    return f"{':'.join(tail[:start])}::{':'.join(tail[start + length :])}"


def _longest_zeros(groups: list[int]) -> tuple[int, int]:
    best, length = 0, 0
    for start in range(len(groups)):
        zeros = next((count for count, group in enumerate(groups[start:]) if group), len(groups) - start)
        if zeros > length:
            best, length = start, zeros
    return best, length


def _members(my_type: MyType) -> Converter:
    charset = my_type.charset or ""
    convert = partial(decoded, charset=charset)
    pick = _enum if my_type.name == "enum" else _set

    def wire(values: Values, column: WireColumn) -> pa.Array:
        return pick(images.numbers(values, column.meta, pa.uint64()), _known_members(my_type, column))

    return _same(wire, convert)


def _known_members(my_type: MyType, column: WireColumn) -> list[str | None]:
    """Members' names, from the log if it tells them; None where the catalog, which shows `?` for what is past U+FFFF, can't be trusted."""
    charset = my_type.charset or ""
    decode = decoder(charset)
    if column.members is not None:
        return [_text(member, decode) for member in column.members]
    return [None if "?" in member and beyond_bmp(charset) else member for member in my_type.members]


def _enum(indexes: pa.Array, members: list[str | None]) -> pa.Array:
    if (pc.max(indexes).as_py() or 0) > len(members):
        raise Malformed("an ENUM has no such member")
    return pa.array(["", *members], pa.string()).take(indexes)


def _set(numbers: pa.Array, members: list[str | None]) -> pa.Array:
    encoded = numbers.dictionary_encode()
    return pa.array([_set_text(bits, members) for bits in encoded.dictionary.to_pylist()], pa.string()).take(encoded.indices)


def _set_text(bits: int, members: list[str | None]) -> str | None:
    if bits >> len(members):
        raise Malformed("a SET has no such member")
    names = [member for place, member in enumerate(members) if bits >> place & 1]
    return None if None in names else ",".join(name for name in names if name is not None)


def _moments(name: str) -> Converter:
    if name == "time":
        return _same(lambda values, column: images.times(values, column.meta, column.code == FIELD_TYPE.TIME), _utf8)
    if name == "year":
        return _shown(lambda values, _: images.years(values), lambda raw: _utf8(raw).cast(pa.int16()), _year_texts)
    if name == "date":
        return Converter(
            lambda values, _: images.dates(values), lambda raw: moments.parsed(_utf8(raw), pa.date32()), moments.date_texts, _utf8
        )
    if name == "datetime":
        return Converter(
            lambda values, column: images.datetimes(values, column.meta, column.code == FIELD_TYPE.DATETIME),
            lambda raw: moments.parsed(_utf8(raw), images.TIMESTAMP),
            moments.datetime_texts,
            _utf8,
        )
    assert name == "timestamp"
    return Converter(
        lambda values, column: images.timestamps(values, column.meta, column.code == FIELD_TYPE.TIMESTAMP),
        lambda raw: moments.parsed(_utf8(raw), images.TIMESTAMP).view(images.TIMESTAMPTZ),
        moments.timestamp_texts,
        _utf8,
    )


def _year_texts(years: pa.Array) -> pa.Array:
    return pc.ascii_lpad(years.cast(pa.string()), 4, padding="0")
