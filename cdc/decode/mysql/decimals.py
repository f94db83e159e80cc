"""DECIMAL: the packed form of row images, and texts, into Arrow.

Packed: the digits before the point and those after it in groups of nine, four bytes each, big-endian; the group that is not full comes
first before the point and last after it, in as many bytes as its digits need. The highest bit is turned over, all bits of a negative
number are (MySQL source documentation, decimal2bin).
"""

from __future__ import annotations

import re
from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from cdc.decode.mysql.packed import Wire, array_of, at_most, joined, whole

DIGITS_MAX = 38  # of Arrow's and DuckDB's decimals
_INT64_DIGITS = 18
_GROUP = 9
_BYTES = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)  # of a group, by its digits
_SIGN = 0x80
_SIGN_BIT = pa.scalar(_SIGN, pa.uint8())
_TURNED_OVER = bytes(octet ^ _SIGN for octet in range(256))
_MINUS, _POINT, _NOTHING, _ZERO = (pa.scalar(text, pa.string()) for text in ("-", ".", "", "0"))
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,9})?")
_NO_TEXT, _FALSE = pa.scalar(None, pa.string()), pa.scalar(False, pa.bool_())


def packed_decimals(values: Wire, digits: tuple[int, int]) -> pa.Array:
    """As decimal128(p, s); p is at most 38. Raises Malformed."""
    target = pa.decimal128(*digits)
    if digits[0] > _INT64_DIGITS:
        return packed_texts(values, digits).cast(target)
    negative, before, after = _groups(values, digits)
    (total, _), *rest = (*before, *after)
    for group, count in rest:
        total = pc.add(pc.multiply(total, whole(10**count)), group)
    return pc.if_else(negative, pc.negate(total), total).cast(pa.decimal128(_INT64_DIGITS + 1, 0)).view(target)


def packed_texts(values: Wire, digits: tuple[int, int]) -> pa.Array:
    """As the server prints them: all fraction digits, no zeros in front but one before the point. Raises Malformed."""
    negative, before, after = _groups(values, digits)
    front = pc.ascii_ltrim(_concatenated(before), characters="0")
    front = pc.if_else(pc.equal(front, _NOTHING), _ZERO, front)
    fraction = [_POINT, _concatenated(after)] if after else []
    return pc.binary_join_element_wise(pc.if_else(negative, _MINUS, _NOTHING), front, *fraction, _NOTHING)


_Groups = list[tuple[pa.Array, int]]


def _groups(values: Wire, digits: tuple[int, int]) -> tuple[pa.Array, _Groups, _Groups]:
    """Whether they are negative, and the groups before and after the point: int64 and how many digits it is of. Null where `values` are."""
    precision, scale = digits
    full, rest = divmod(precision - scale, _GROUP)
    sizes = [rest, *[_GROUP] * full]
    full, rest = divmod(scale, _GROUP)
    sizes, split = [*sizes, *[_GROUP] * full, rest], len(sizes)
    size = sum(_BYTES[count] for count in sizes)
    content = joined(values, size, blank=bytes([_SIGN, *bytes(size - 1)]))
    first = array_of(content[::size], pa.uint8(), values)
    negative = pc.less(first, _SIGN_BIT)
    groups, place = [], 0
    for count in sizes:
        octets = [content[place + octet :: size] for octet in range(_BYTES[count])]
        if count:
            octets[0] = octets[0] if place else octets[0].translate(_TURNED_OVER)
            groups.append((_group(octets, negative, count), count))
        place += _BYTES[count]
    split -= not sizes[0]
    return negative, groups[:split], groups[split:]


def _group(octets: list[bytes], negative: pa.Array, count: int) -> pa.Array:
    """A group's numbers, from all values' first octets, all second ones and so on."""
    content = bytearray(8 * len(negative))
    for place, column in enumerate(reversed(octets)):
        content[place::8] = column
    straight = pa.Array.from_buffers(pa.int64(), len(negative), [None, pa.py_buffer(content)])
    turned = pc.bit_wise_xor(straight, whole((1 << 8 * len(octets)) - 1))
    return at_most(pc.if_else(negative, turned, straight), 10**count - 1, f"a group of {count} digits")


def _concatenated(groups: _Groups) -> pa.Array:
    texts = [pc.ascii_lpad(group.cast(pa.string()), count, padding="0") for group, count in groups]
    return pc.binary_join_element_wise(*texts, _NOTHING) if texts else _NOTHING


def printed(texts: pa.Array) -> pa.Array:
    """The texts without the zeros that ZEROFILL puts in front."""
    return pc.replace_substring_regex(texts, r"^(-?)0+([0-9])", r"\1\2")


def exact(texts: pa.Array, target: pa.DataType) -> pa.Array:
    """The numbers that texts hold, as decimals; null for those that have no such value, or that are none."""
    # Arrow's cast wraps around silently beyond 38 digits and loses exponents: it gets only what is sure to fit.
    front = f"[0-9]{{1,{target.precision - target.scale}}}" if target.precision > target.scale else "0"
    fraction = rf"(\.[0-9]{{1,{target.scale}}})?" if target.scale else ""
    usual = pc.match_substring_regex(texts, f"^-?{front}{fraction}$")
    numbers = pc.if_else(usual, texts, _NO_TEXT).cast(target)
    rare = pc.fill_null(pc.invert(usual), _FALSE)
    if not pc.any(rare).as_py():
        return numbers
    return pc.replace_with_mask(numbers, rare, pa.array([_exact(text, target) for text in texts.filter(rare).to_pylist()], target))


def _exact(text: str, target: pa.DataType) -> Decimal | None:
    if not _NUMBER.fullmatch(text):
        return None
    sign, digits, exponent = Decimal(text).as_tuple()
    assert isinstance(exponent, int)
    kept = "".join(map(str, digits)).rstrip("0")
    exponent += len(digits) - len(kept)
    if kept and (exponent < -target.scale or len(kept) + exponent > target.precision - target.scale):
        return None
    return Decimal((sign, tuple(map(int, kept)), exponent if kept else 0))
