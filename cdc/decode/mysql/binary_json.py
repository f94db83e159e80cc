"""MySQL's binary JSON to the very text the server gives on SELECT, by way of a small tree that partial updates change.

    value   type (1 byte), then its body; an empty value stands for null (a NULL ignored into a NOT NULL column)
    object  count, size in bytes, a key entry (offset, 2 bytes of length) and a value entry (type, offset) per member, keys, bodies
    array   count, size in bytes, a value entry per element, bodies
    string  length in groups of 7 bits, low ones first, then UTF-8
    opaque  column type (1 byte), length likewise, the value in that type's own packed form

Counts, sizes and offsets have 2 bytes in small containers, 4 in large ones; offsets count from the container's start. Literals and
integers as wide as an offset lie in their value entry. All is little-endian (MySQL source documentation, json_binary.h).
The text is that of MySQL 8.0 and later: 5.7 prints a double without fraction as `1`, not `1.0`.
"""

from __future__ import annotations

from base64 import encodebytes
from collections.abc import Iterable
from decimal import Decimal
from json.encoder import encode_basestring
from math import isfinite
from struct import Struct
from typing import TypeAlias

from cdc.decode.mysql.wire import Malformed

# A scalar is its JSON text, so no number is ever anything but the server's digits; an object's keys are unescaped, in stored order.
Node: TypeAlias = "str | list[Node] | dict[str, Node]"

# The server's JSON_DOCUMENT_MAX_DEPTH: how deep arrays and objects may lie in one another.
DEPTH_MAX = 100
# Digits a server's decimal can hold: nine words of nine.
DECIMAL_DIGITS_MAX = 81
# The most digits before the point, and zeros after it, that a double is printed with before an exponent takes over.
POINT_MAX = 15

SMALL_OBJECT, LARGE_OBJECT, SMALL_ARRAY, LARGE_ARRAY, LITERAL = range(5)
INT16, UINT16, INT32, UINT32, INT64, UINT64, DOUBLE, STRING = range(5, 13)
OPAQUE = 15
# Column types an opaque value can have that are not printed as base64.
TIMESTAMP, DATE, TIME, DATETIME, NEWDECIMAL, VAR_STRING = 7, 10, 11, 12, 246, 253

_LITERALS = {0: "null", 1: "true", 2: "false"}
_INTEGERS = {kind: Struct(form) for kind, form in zip(range(INT16, DOUBLE), ("<h", "<H", "<i", "<I", "<q", "<Q"), strict=True)}
_DOUBLE = Struct("<d")
# Of small and large containers.
_HEADS = (Struct("<HH"), Struct("<II"))
_KEY_ENTRIES = (Struct("<HH"), Struct("<IH"))
_VALUE_ENTRIES = (Struct("<BH"), Struct("<BI"))
_INLINED = (frozenset({LITERAL, INT16, UINT16}), frozenset({LITERAL, INT16, UINT16, INT32, UINT32}))
# What 0 to 9 digits of a decimal take in bytes.
_DIGIT_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)

# As the server escapes: quote, backslash, \b \t \n \f \r, \u00xx in lower case for the other controls, and nothing else.
_quoted = encode_basestring


def json_text(value: bytes) -> str:
    """The text the server gives for a JSON column's value as it stands in a row image. Raises Malformed."""
    return document_text(read_binary(value))


def read_binary(value: bytes) -> Node:
    """A document from its binary form. Raises Malformed."""
    try:
        return _Reader(value).value(value[0], 1, len(value), 0) if value else "null"
    except UnicodeDecodeError as error:
        raise Malformed(f"a string is not UTF-8: {error}") from error


def document_text(node: Node, depth: int = 0) -> str:
    """A document as the server writes it. Raises Malformed where it would refuse the depth."""
    if isinstance(node, str):
        return node
    if depth == DEPTH_MAX:
        raise Malformed(f"the document is nested deeper than {DEPTH_MAX} levels")
    if isinstance(node, list):
        return "[" + ", ".join([document_text(child, depth + 1) for child in node]) + "]"
    return "{" + ", ".join([_quoted(key) + ": " + document_text(child, depth + 1) for key, child in node.items()]) + "}"


class _Reader:
    """Reads one document. `left`: bytes it may still read.

    The parts of a document do not overlap, so all of them together are no more than its bytes: crafted ones can't be told many times.
    """

    __slots__ = ("data", "left")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.left = len(data)

    def take(self, start: int, size: int, end: int) -> bytes:
        """`size` bytes from `start` on, not past `end`."""
        self.left -= size
        if start + size > end or self.left < 0:
            raise Malformed(f"{size} bytes at offset {start} of the document are out of bounds")
        return self.data[start : start + size]

    def value(self, kind: int, start: int, end: int, depth: int) -> Node:
        """The value of type `kind` whose body begins at `start` and ends before `end`, inside of `depth` containers."""
        if kind == STRING:
            return _quoted(self.counted(start, end).decode())
        if kind <= LARGE_ARRAY:
            return self.container(kind, start, end, depth)
        if integer := _INTEGERS.get(kind):
            return str(integer.unpack(self.take(start, integer.size, end))[0])
        if kind == LITERAL:
            return _literal(self.take(start, 1, end)[0])
        if kind == DOUBLE:
            return double_text(_DOUBLE.unpack(self.take(start, _DOUBLE.size, end))[0])
        if kind == OPAQUE:
            return _opaque_text(self.take(start, 1, end)[0], self.counted(start + 1, end))
        raise Malformed(f"there is no type {kind} of JSON value")

    def counted(self, start: int, end: int) -> bytes:
        """Bytes behind their length, which has at most five groups of 7 bits."""
        if start < end and (size := self.data[start]) < 0x80:
            return self.take(start + 1, size, end)
        size = 0
        for group in range(5):
            byte = self.take(start + group, 1, end)[0]
            size |= (byte & 0x7F) << 7 * group
            if byte < 0x80:
                return self.take(start + group + 1, size, end)
        raise Malformed("a length has more than five bytes")

    def container(self, kind: int, start: int, end: int, depth: int) -> Node:
        """An object or array. What its entries point to lies behind them."""
        if depth == DEPTH_MAX:
            raise Malformed(f"the document is nested deeper than {DEPTH_MAX} levels")
        large = kind & 1
        head, key_entry, value_entry = _HEADS[large], _KEY_ENTRIES[large], _VALUE_ENTRIES[large]
        count, size = head.unpack(self.take(start, head.size, end))
        if start + size > end:
            raise Malformed(f"{size} bytes at offset {start} of the document are out of bounds")
        end = start + size
        keys_size = count * key_entry.size if kind <= LARGE_OBJECT else 0
        entries = self.take(start + head.size, keys_size + count * value_entry.size, end)
        bodies = head.size + len(entries)
        nodes: list[Node] = []
        for child, offset in value_entry.iter_unpack(entries[keys_size:]):
            if child in _INLINED[large]:
                nodes.append(_inlined_text(child, offset))
            elif offset < bodies:
                raise Malformed("a value lies before the last entry")
            else:
                nodes.append(self.value(child, start + offset, end, depth + 1))
        if kind > LARGE_OBJECT:
            return nodes
        return dict(zip(self.keys(start, key_entry.iter_unpack(entries[:keys_size]), bodies, end), nodes, strict=True))

    def keys(self, start: int, entries: Iterable[tuple[int, int]], bodies: int, end: int) -> list[str]:
        """An object's keys."""
        keys = []
        for offset, size in entries:
            if offset < bodies:
                raise Malformed("a key lies before the last entry")
            keys.append(self.take(start + offset, size, end).decode())
        if len(set(keys)) != len(keys):
            raise Malformed("an object has a key twice")
        return keys


def _inlined_text(kind: int, raw: int) -> str:
    """A value in the place of its offset, read as unsigned."""
    if kind == LITERAL:
        return _literal(raw & 0xFF)
    bits = 16 if kind <= UINT16 else 32
    raw &= (1 << bits) - 1
    if kind in (INT16, INT32) and raw >> bits - 1:
        raw -= 1 << bits
    return str(raw)


def double_text(value: float) -> str:
    """The fewest digits that give the double back, as the server's my_gcvt and its JSON writer lay them out."""
    if not isfinite(value):
        raise Malformed("a double is not finite")
    text = repr(value)
    if "e" not in text and abs(value) < 10**POINT_MAX:
        return text
    number = Decimal(text)
    sign, digits, exponent = number.as_tuple()
    assert isinstance(exponent, int)
    point = len(digits) + exponent
    significant = "".join(map(str, digits)).rstrip("0")
    if point > -POINT_MAX and (point <= POINT_MAX or len(significant) > point):
        return format(number, "f")
    return f"{'-' * sign}{significant[0]}{'.' * (len(significant) > 1)}{significant[1:]}e{point - 1}"


def _literal(value: int) -> str:
    if value not in _LITERALS:
        raise Malformed(f"there is no JSON literal {value}")
    return _LITERALS[value]


def _opaque_text(kind: int, value: bytes) -> str:
    """A value of a column type that JSON has no own type for. Long base64 is broken into lines of 76 characters."""
    if kind == NEWDECIMAL:
        return _decimal_text(value)
    if kind == TIME:
        return f'"{_time_text(value)}"'
    if kind in (DATE, DATETIME, TIMESTAMP):
        return f'"{_datetime_text(kind, value)}"'
    if kind == VAR_STRING:
        return _quoted(value.decode())
    return _quoted(f"base64:type{kind}:{encodebytes(value).decode().removesuffix(chr(10))}")


def _time_text(value: bytes) -> str:
    """8 bytes: hour << 12 | minute << 6 | second, << 24 | microsecond; the whole negated for a negative time."""
    packed = _packed(value)
    whole, micro = divmod(abs(packed), 1 << 24)
    hour, minute, second = whole >> 12, whole >> 6 & 63, whole & 63
    if hour > 838 or minute > 59 or second > 59 or micro > 999_999:
        raise Malformed(f"there is no time {value.hex()}")
    return f"{'-' * (packed < 0)}{hour:02}:{minute:02}:{second:02}.{micro:06}"


def _datetime_text(kind: int, value: bytes) -> str:
    """8 bytes: ((year * 13 + month) << 5 | day) << 17 before a time as above. Months and days of zero are dates to MySQL."""
    whole, micro = divmod(_packed(value), 1 << 24)
    days, clock = divmod(whole, 1 << 17)
    year, month = divmod(days >> 5, 13)
    hour, minute, second = clock >> 12, clock >> 6 & 63, clock & 63
    if not 0 <= year <= 9999 or hour > 23 or minute > 59 or second > 59 or micro > 999_999:
        raise Malformed(f"there is no date {value.hex()}")
    date = f"{year:04}-{month:02}-{days & 31:02}"
    return date if kind == DATE else f"{date} {hour:02}:{minute:02}:{second:02}.{micro:06}"


def _packed(value: bytes) -> int:
    if len(value) != 8:
        raise Malformed(f"a date or time has {len(value)} bytes")
    return int.from_bytes(value, "little", signed=True)


def _decimal_text(value: bytes) -> str:
    """Precision and scale, a byte each, then the column's form: groups of nine digits in 4 bytes, the shorter ones outermost.

    The first bit is 1 for what is not negative; all bits of a negative number are flipped.
    """
    precision, scale = value[:2] if len(value) > 2 else (0, 0)
    whole_digits = precision - scale
    counts = [whole_digits % 9, *[9] * (whole_digits // 9 + scale // 9), scale % 9]
    sizes = [_DIGIT_BYTES[count] for count in counts]
    if not 1 <= precision <= DECIMAL_DIGITS_MAX or whole_digits < 0 or len(value) != 2 + sum(sizes):
        raise Malformed(f"there is no decimal {value.hex()}")
    negative = value[2] < 0x80
    packed = int.from_bytes(value[2:]) ^ (1 << 8 * sum(sizes) - 1)
    if negative:
        packed ^= (1 << 8 * sum(sizes)) - 1
    digits = ""
    for count, size in zip(reversed(counts), reversed(sizes), strict=True):
        packed, group = packed >> 8 * size, packed & (1 << 8 * size) - 1
        if group >= 10**count:
            raise Malformed(f"there is no decimal {value.hex()}")
        digits = (f"{group:0{count}}" if count else "") + digits
    whole = digits[:whole_digits].lstrip("0") or "0"
    return f"{'-' * negative}{whole}{'.' * (scale > 0)}{digits[whole_digits:]}"
