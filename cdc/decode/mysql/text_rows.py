"""The kernel of a snapshot: the rows of a result in the text protocol into Arrow columns. What a compiled kernel will replace.

A packet is the length of its payload (3 bytes), a number, and the payload; one of 2^24 - 1 bytes goes on in the next packet. The payload
of a row is, for each column, 0xFB for NULL, or a length and that many bytes: a length below 251 takes one byte, greater ones stand
behind 0xFC (2 bytes), 0xFD (3) or 0xFE (8). Packets are cut by Python, one step per row; values are found by Arrow's kernels, column by
column for all rows together, so that none becomes a Python object.

Manual: MySQL source documentation, 'Text Resultset', 'MySQL Packets', 'Integer Types'.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator
from functools import cache
from itertools import pairwise
from struct import Struct

import pyarrow as pa
import pyarrow.compute as pc

from cdc.decode.mysql.wire import Malformed

NULL, TWO, THREE, EIGHT = 0xFB, 0xFC, 0xFD, 0xFE
_HEADER, _FULL = 4, (1 << 24) - 1
_HEAD = Struct("<IB")  # length and number, and the first byte of the payload
_END, _ERROR, _END_BYTES_MAX = 0xFE, 0xFF, 8
_PAD = bytes(8)  # as the widest length is read of every row where there is one
_PART_BYTES = 8 << 20  # of rows read together; Arrow's 32-bit offsets bound it, the cache wants it small
_FEW = 400  # rows below which Arrow's fixed cost, some milliseconds, exceeds that of reading them one by one
_NO_ROW = pa.scalar(None, pa.int64())
_WIDTHS = {TWO: 2, THREE: 3, EIGHT: 8}
_EXTRA = pa.array([_WIDTHS.get(lead, 0) for lead in range(256)], pa.int64())
_NULL, _TWO = pa.scalar(NULL, pa.uint8()), pa.scalar(TWO, pa.uint8())


class TextRows:
    """The rows of one result, fed as they come from the server. `ended` after the last one; `error` is the packet that came instead."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._held = bytearray()
        self._starts = array("q")  # of the payloads of whole rows
        self._place = 0  # where the next packet begins
        self.ended = False
        self.error: bytes | None = None

    @property
    def rows(self) -> int:
        """Whole rows that were not taken yet."""
        return len(self._starts)

    @property
    def size(self) -> int:
        """Their bytes."""
        return self._place

    def feed(self, data: bytes) -> None:
        """Add what came next, packets or parts of them. Raises Malformed for anything after the end."""
        held, starts, place, head = self._held, self._starts, self._place, _HEAD.unpack_from
        held += data
        end = len(held)
        # The hot loop: few steps per row.
        while place + _HEADER < end:
            word, first = head(held, place)
            after = place + _HEADER + (word & _FULL)
            if after > end:
                break
            if first >= _END or word & _FULL == _FULL:
                after, end = self._unusual(place, after), len(held)
                if after == place:
                    break
            starts.append(place + _HEADER)
            place = after
        self._place = place
        if self.ended and place < len(held):
            raise Malformed("more comes after the end of a result")

    def _unusual(self, place: int, after: int) -> int:
        """Where the row at `place` ends, if it is one and all there; else `place`."""
        held, first = self._held, place + _HEADER
        if after - first == _FULL:
            return self._joined(place)
        if held[first] == _ERROR or after - first <= _END_BYTES_MAX:
            self.ended = True
            self.error = bytes(held[first:after]) if held[first] == _ERROR else None
            del held[place:after]
            return place
        return after

    def _joined(self, place: int) -> int:
        """Where a payload of several packets ends, once the headers in it are taken out; `place` while it is not all there."""
        held, pieces = self._held, []
        size, start = _FULL, place + _HEADER
        while size == _FULL:
            pieces.append((start, start + size))
            start += size + _HEADER
            if len(held) < start:
                return place
            size = int.from_bytes(held[start - _HEADER : start - 1], "little")
        pieces.append((start, start + size))
        if len(held) < start + size:
            return place
        first, payload = place + _HEADER, b"".join(held[begin:end] for begin, end in pieces)
        held[first : start + size] = payload
        return first + len(payload)

    def take(self) -> Iterator[list[pa.Array]]:
        """The whole rows, which are then forgotten, in parts: their columns as Arrow binary. Raises Malformed."""
        held, starts, place = self._held, self._starts, self._place
        self._held, self._starts, self._place = held[place:], array("q"), 0
        del held[place:]
        held += _PAD
        starts.append(place + _HEADER)  # where a next row would begin
        first = 0
        while first + 1 < len(starts):
            last = min(max(bisect_left(starts, starts[first] + _PART_BYTES), first + 1), len(starts) - 1)
            yield self._read(held, starts[first : last + 1])
            first = last

    def _read(self, held: bytearray, starts: array[int]) -> list[pa.Array]:
        """Consecutive rows; the last of `starts` is where the next one begins."""
        if len(starts) <= _FEW:
            view = memoryview(held)
            rows = [read_row(view[start : after - _HEADER], self._width) for start, after in pairwise(starts)]
            return [pa.array([row[column] for row in rows], pa.binary()) for column in range(self._width)]
        begin, end = starts[0], starts[-1] - _HEADER
        buffer = pa.py_buffer(held).slice(begin, end - begin + len(_PAD))
        try:
            return _read_columns(buffer, _relative(starts[:-1], begin), _relative(starts[1:], begin + _HEADER), self._width)
        except IndexError:
            raise _wrong() from None


@cache
def _whole(number: int) -> pa.Scalar:
    """An int64 for Arrow's kernels; kept, as pyarrow takes 0.1 ms to make one where numpy is not installed."""
    return pa.scalar(number, pa.int64())


def _relative(places: array[int], begin: int) -> pa.Array:
    return pc.subtract(_numbers(places), _whole(begin))


def _numbers(numbers: array[int]) -> pa.Array:
    return pa.Array.from_buffers(pa.int64(), len(numbers), [None, pa.py_buffer(numbers)])


def _read_columns(buffer: pa.Buffer, place: pa.Array, ends: pa.Array, width: int) -> list[pa.Array]:
    """The columns of rows that stand from `place` to `ends`; the buffer has _PAD behind them."""
    content = pa.Array.from_buffers(pa.uint8(), len(buffer), [None, buffer])
    evens = _numbers(array("q", range(0, 2 * len(place), 2)))
    columns = []
    for _ in range(width):
        start, place, null = _span(content, place)
        columns.append(_values(buffer, start, place, evens if null is None else pc.if_else(null, _NO_ROW, evens)))
    # Places only grow, so that the last one proves all before it.
    if not place.equals(ends):
        raise _wrong()
    return columns


def _span(content: pa.Array, place: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array | None]:
    """Where the values that stand at `place` start and end, and which are NULL, if any may be."""
    lead = content.take(place)
    longest = pc.max(lead).as_py()
    start, size = pc.add(place, _whole(1)), lead.cast(pa.int64())
    if longest < NULL:
        return start, pc.add(start, size), None
    if longest > EIGHT:
        raise Malformed("a length of no known kind")
    null = pc.equal(lead, _NULL)
    size = pc.if_else(null, _whole(0), size)
    if longest > NULL:
        extra = _EXTRA.take(lead)
        size = pc.if_else(pc.greater_equal(lead, _TWO), _wide(content, place, extra), size)
        start = pc.add(start, extra)
    return start, pc.add(start, size), null


def _wide(content: pa.Array, place: pa.Array, extra: pa.Array) -> pa.Array:
    """The lengths that take `extra` bytes after the first."""
    size = pc.subtract(place, place)
    for offset in range(1, pc.max(extra).as_py() + 1):
        byte = pc.if_else(pc.less(extra, _whole(offset)), _whole(0), content.take(pc.add(place, _whole(offset))).cast(pa.int64()))
        if offset <= 4:
            size = pc.add(size, pc.shift_left(byte, _whole(8 * (offset - 1))))
        elif pc.max(byte).as_py():
            raise _wrong()
    return size


def _values(buffer: pa.Buffer, start: pa.Array, end: pa.Array, rows: pa.Array) -> pa.Array:
    """The bytes from `start` to `end`: every other value of an array whose offsets are start, end, start, end, and so on."""
    if pc.max(end).as_py() > len(buffer) - len(_PAD):
        raise _wrong()
    offsets = pc.add(start, pc.shift_left(end, _whole(32)))
    return pa.Array.from_buffers(pa.binary(), 2 * len(start) - 1, [None, offsets.buffers()[1], buffer]).take(rows)


def read_row(payload: memoryview, width: int) -> list[bytes | None]:
    """One row by itself. Raises Malformed."""
    row: list[bytes | None] = []
    place, end = 0, len(payload)
    for _ in range(width):
        if place >= end:
            raise _wrong()
        size = payload[place]
        place += 1
        if size == NULL:
            row.append(None)
            continue
        if size > NULL:
            if size not in _WIDTHS:
                raise Malformed("a length of no known kind")
            after = place + _WIDTHS[size]
            size = int.from_bytes(payload[place:after], "little")
            place = after
        row.append(bytes(payload[place : place + size]))
        place += size
    if place != end:
        raise _wrong()
    return row


def _wrong() -> Malformed:
    return Malformed("a length in a row is wrong")
