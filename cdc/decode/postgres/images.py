"""The kernel of pgoutput: row images of one relation, many at once, into Arrow columns. What a compiled kernel will replace.

An image (TupleData of the protocol) is, for each column, a kind and for `t` a big-endian length and that many bytes of text. The
columns are walked one after the other for all rows together, by Arrow's kernels: `place` holds where each row's next value begins,
and no value becomes a Python object. Only few rows are read one by one.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

import pyarrow as pa
import pyarrow.compute as pc

from cdc.decode.kernels import kernel
from cdc.decode.postgres.malformed import Malformed

HEAD = 8  # what comes before the first value: message kind, relation (4), kind of image, number of columns (2)
TEXT, NULL, UNCHANGED = b"tnu"
read_row = kernel("postgres").module.read_row
Value = bytes | None
Part = tuple[list[pa.Array], dict[int, list[int]]]
_PART_BYTES = 8 << 20  # frames joined at a time; Arrow's 32-bit offsets bound it, the cache wants it small
_LENGTH = 4
_FEW = 400  # rows below which Arrow's fixed cost, some milliseconds, exceeds that of reading them one by one

# Made once: pyarrow takes 0.1 ms to turn a Python number into a scalar where numpy is not installed.
_TEXT, _NULL, _UNCHANGED = (pa.scalar(kind, pa.uint8()) for kind in (TEXT, NULL, UNCHANGED))
_ONE, _PREFIX, _HEAD, _OFFSET_BITS = (pa.scalar(number, pa.int64()) for number in (1, 1 + _LENGTH, HEAD, 32))
_HIGH_BYTES = [(pa.scalar(place, pa.int64()), pa.scalar(8 * (_LENGTH - place), pa.int64())) for place in (1, 2, 3)]
_NO_ROW = pa.scalar(None, pa.int64())


def read_columns(frames: Sequence[bytes], width: int, picks: Sequence[int]) -> Iterator[Part]:
    """The values of the columns at `picks` of rows of `width` columns, whose image starts at HEAD and ends with its frame.

    Yields parts in order: the columns as Arrow binary, NULL and unchanged values null; and the columns that have unchanged
    values, each with the numbers of these rows in the part. Raises Malformed.
    """
    if len(frames) < _FEW:
        yield _read_singly(frames, width, picks)
        return
    sizes = array("q", map(len, frames))
    for part in _parts(sizes):
        try:
            yield _read_part(frames[part], _numbers(sizes[part]), width, picks)
        except IndexError:
            raise Malformed("a length in it is wrong") from None


def _read_singly(frames: Sequence[bytes], width: int, picks: Sequence[int]) -> Part:
    rows: list[list[Value]] = []
    unchanged: dict[int, list[int]] = {}
    for number, frame in enumerate(frames):
        row, absent, end = read_row(frame, HEAD, width)
        if end != len(frame):
            raise Malformed("a length in it is wrong")
        rows.append(row)
        for column in absent:
            unchanged.setdefault(column, []).append(number)
    return [pa.array([row[pick] for row in rows], pa.binary()) for pick in picks], unchanged


def _parts(sizes: array[int]) -> Iterator[slice]:
    """Consecutive slices of the frames, of at most _PART_BYTES or one frame each."""
    ends = array("q", accumulate(sizes))
    start = 0
    while start < len(sizes):
        before = ends[start - 1] if start else 0
        end = max(bisect_right(ends, before + _PART_BYTES, lo=start), start + 1)
        yield slice(start, end)
        start = end


def _read_part(frames: Sequence[bytes], sizes: pa.Array, width: int, picks: Sequence[int]) -> Part:
    # Padded, as the length is read of NULLs too.
    buffer = pa.py_buffer(b"".join([*frames, bytes(_LENGTH)]))
    content = pa.Array.from_buffers(pa.uint8(), len(buffer), [None, buffer])
    ends = pc.cumulative_sum(sizes)
    place = pc.add(pc.subtract(ends, sizes), _HEAD)
    evens = _numbers(array("q", range(0, 2 * len(frames), 2)))
    columns: dict[int, pa.Array] = {}
    unchanged: dict[int, list[int]] = {}
    for column in range(width):
        kind = content.take(place)
        text = pc.equal(kind, _TEXT)
        full = pc.all(text).as_py()
        if not full and pc.any(missing := _unchanged(kind, text)).as_py():
            unchanged[column] = pc.indices_nonzero(missing).to_pylist()
        start, place = _span(content, place, None if full else text)
        if column in picks:
            columns[column] = _values(buffer, start, place, evens if full else pc.if_else(text, evens, _NO_ROW))
    # Places only grow, so that the last one proves all before it.
    if not place.equals(ends):
        raise Malformed("a length in it is wrong")
    return [columns[pick] for pick in picks], unchanged


def _unchanged(kind: pa.Array, text: pa.Array) -> pa.Array:
    unchanged = pc.equal(kind, _UNCHANGED)
    if not pc.all(pc.or_(pc.or_(text, unchanged), pc.equal(kind, _NULL))).as_py():
        raise Malformed("a value is of unknown kind")
    return unchanged


def _span(content: pa.Array, place: pa.Array, text: pa.Array | None) -> tuple[pa.Array, pa.Array]:
    """Where the values that stand at `place` start and end; `text` tells those that are neither NULL nor unchanged, if not all."""
    start = pc.add(place, _PREFIX)
    size = content.take(pc.subtract(start, _ONE)).cast(pa.int64())
    for offset, shift in _HIGH_BYTES:
        high = content.take(pc.add(place, offset))
        if pc.max(high).as_py():
            size = pc.add(size, pc.shift_left(high.cast(pa.int64()), shift))
    end = pc.add(start, size)
    if text is None:
        return start, end
    after = pc.add(place, _ONE)
    return pc.if_else(text, start, after), pc.if_else(text, end, after)


def _values(buffer: pa.Buffer, start: pa.Array, end: pa.Array, rows: pa.Array) -> pa.Array:
    """The bytes from `start` to `end`: every other value of an array whose offsets are start, end, start, end, and so on."""
    if pc.max(end).as_py() > len(buffer):
        raise Malformed("a length in it is wrong")
    offsets = pc.add(start, pc.shift_left(end, _OFFSET_BITS))
    return pa.Array.from_buffers(pa.binary(), 2 * len(start) - 1, [None, offsets.buffers()[1], buffer]).take(rows)


def _numbers(numbers: array[int]) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])


def write_row(row: Sequence[Value], absent: Sequence[int]) -> bytes:
    """The image of a row, as `read_columns` reads it; the values at `absent` are unchanged ones."""
    values = [b"n" if value is None else b"t" + len(value).to_bytes(_LENGTH) + value for value in row]
    for index in absent:
        values[index] = b"u"
    return b"".join(values)
