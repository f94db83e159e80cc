"""Values of row images as Arrow arrays, which the kernel writes: no value becomes a Python object.

Arrow's numbers are the machine's; all machines its wheels are made for are little-endian.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cdc.decode.kernels import kernel

if TYPE_CHECKING:
    from cdc.decode.mysql.kernel import Values, Writer

TIMESTAMP, TIMESTAMPTZ = pa.timestamp("us"), pa.timestamp("us", "UTC")


def values_of(values: Sequence[bytes | None]) -> Values:
    """Values that stand in no row image, as if they did."""
    made: Values = _kernel().values_of(values)
    return made


def numbers(values: Values, size: int, kind: pa.DataType, signed: bool = False) -> pa.Array:
    """Little-endian numbers of `size` bytes, or floats of the very width of `kind`."""
    return _array(_kernel().Numbers(values, size, kind.bit_width // 8, signed), kind, values)


def bits(values: Values, size: int) -> pa.Array:
    """Big-endian numbers of up to 8 bytes, as uint64."""
    return _array(_kernel().Bits(values, size), pa.uint64(), values)


def decimals(values: Values, digits: tuple[int, int]) -> pa.Array:
    """DECIMAL(p, s) as decimal128(p, s); p is at most 38."""
    return _array(_kernel().Decimals(values, *digits), pa.decimal128(*digits), values)


def decimal_texts(values: Values, digits: tuple[int, int]) -> pa.Array:
    """DECIMAL(p, s) as the server prints it: all fraction digits, no zeros in front but one before the point."""
    return _array(_kernel().DecimalTexts(values, *digits), pa.string(), values)


def binary(values: Values, length: int | None = None) -> pa.Array:
    """The bytes as they are; or, of BINARY, with the zeros at their end that are not in the log."""
    return _array(_kernel().Bytes(values, -1 if length is None else length), pa.binary(), values)


def years(values: Values) -> pa.Array:
    """YEAR as int16."""
    return _array(_kernel().Years(values), pa.int16(), values)


def dates(values: Values) -> pa.Array:
    """DATE as date32."""
    return _array(_kernel().Dates(values), pa.date32(), values)


def datetimes(values: Values, digits: int, old: bool) -> pa.Array:
    """DATETIME, with `digits` of fraction or in its old form, as timestamp[us]."""
    return _array(_kernel().Datetimes(values, digits, old), TIMESTAMP, values)


def timestamps(values: Values, digits: int, old: bool) -> pa.Array:
    """TIMESTAMP likewise, as timestamp[us, UTC]."""
    return _array(_kernel().Timestamps(values, digits, old), TIMESTAMPTZ, values)


def times(values: Values, digits: int, old: bool) -> pa.Array:
    """TIME likewise, as the server prints it."""
    return _array(_kernel().Times(values, digits, old), pa.string(), values)


def _array(writer: Writer, kind: pa.DataType, values: Values) -> pa.Array:
    """What a writer makes of the values. Raises Malformed."""
    nulls, buffers = writer.write()
    return pa.Array.from_buffers(kind, len(values), [None if buffer is None else pa.py_buffer(buffer) for buffer in buffers], nulls)


def _kernel() -> Any:
    return kernel("mysql").module
