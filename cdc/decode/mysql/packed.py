"""Values of fixed width, as row images have them, joined into Arrow arrays: no value becomes a Python object.

Arrow's numbers are the machine's; all machines its wheels are made for are little-endian.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from functools import cache

import pyarrow as pa
import pyarrow.compute as pc

from cdc.decode.mysql.wire import Malformed

Wire = Sequence[bytes | None]


@cache
def whole(number: int) -> pa.Scalar:
    """An int64 for Arrow's kernels; kept, as pyarrow takes 0.1 ms to make one where numpy is not installed."""
    return pa.scalar(number, pa.int64())


def joined(values: Wire, size: int, between: bytes = b"", blank: bytes | None = None) -> bytes:
    """The values one after the other, with `between` before each; `blank`, or zeros, for NULL. Raises Malformed unless all have `size`."""
    filled = values
    if None in values:
        missing = blank or bytes(size)
        filled = [missing if value is None else value for value in values]
    if not set(map(len, filled)) <= {size}:  # type: ignore[arg-type]
        raise Malformed(f"a value is not of {size} bytes")
    return (between + between.join(filled)) if values else b""  # type: ignore[arg-type]


def numbers(values: Wire, size: int, kind: pa.DataType) -> pa.Array:
    """Little-endian numbers of the very width of `kind`."""
    return array_of(joined(values, size), kind, values)


def array_of(content: bytes | array[int], kind: pa.DataType, values: Wire) -> pa.Array:
    """An array over its content, null where `values` are."""
    valid = pa.array([value is not None for value in values], pa.bool_()).buffers()[1] if None in values else None
    return pa.Array.from_buffers(kind, len(values), [valid, pa.py_buffer(content)])


def little(values: Wire, size: int) -> pa.Array:
    """Unsigned little-endian numbers of 1 to 8 bytes, as uint64."""
    # The zeros that widen a value come before the next one.
    zeros = bytes(8 - size)
    return array_of(joined(values, size, zeros)[len(zeros) :] + zeros, pa.uint64(), values)


def big(values: Wire, size: int) -> pa.Array:
    """Unsigned big-endian numbers of 1 to 8 bytes, as uint64."""
    swapped = array("Q", joined(values, size, bytes(8 - size)))
    swapped.byteswap()
    return array_of(swapped, pa.uint64(), values)


def signed24(values: Wire) -> pa.Array:
    """Little-endian numbers of 3 bytes, as int32."""
    return pc.shift_right(array_of(joined(values, 3, b"\0"), pa.int32(), values), pa.scalar(8, pa.int32()))


def divided(numbers: pa.Array, by: int) -> tuple[pa.Array, pa.Array]:
    """Quotient and remainder of int64 that are not negative."""
    quotient = pc.divide(numbers, whole(by))
    return quotient, pc.subtract(numbers, pc.multiply(quotient, whole(by)))


def bits(numbers: pa.Array, low: int, count: int) -> pa.Array:
    """Some bits of int64 that are not negative."""
    return pc.bit_wise_and(pc.shift_right(numbers, whole(low)), whole((1 << count) - 1))


def at_most(numbers: pa.Array, limit: int, what: str) -> pa.Array:
    """The numbers. Raises Malformed if one is greater."""
    if (pc.max(numbers).as_py() or 0) > limit:
        raise Malformed(f"{what} is beyond {limit}")
    return numbers
