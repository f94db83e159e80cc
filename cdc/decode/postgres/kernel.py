# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True, infer_types=True
"""The kernel of pgoutput: a `Block` is what was received at a time, `Messages` sorts its rows by table, `Rows` reads those of a table into
Arrow columns, many at once.

An image of a row (TupleData of the protocol) is, for each column, a kind, and for `t` a big-endian length and that many bytes of text.
`Rows` looks through the images of some rows and notes where their values lie (`Spans`). Then each `Column` writes its values, one after
the other, in Arrow's layout. It writes what the server usually sends; at the first value that it is not sure of it gives up, and the
column is read as bytes, for pgtypes to convert, which knows all that is rare and names what has no target.

This source also runs as it is (see cdc/decode/kernels.py): what is a pointer to the compiler is a bytearray then, and is only ever
indexed. Cython checks no index: nothing is read that was not compared with the end of its message.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from cdc.decode.postgres.faults import Malformed, Unidentified
from cdc.types import DELETE, INSERT, TRUNCATE, UPDATE

try:
    import cython
except ImportError:
    from cdc.decode import cython

if cython.compiled:
    from cython.cimports.cdc.decode.postgres.libpq import Free, GetCopyData
    from cython.cimports.cpython.bytearray import PyByteArray_Resize
    from cython.cimports.libc.string import memcpy

COMPILED = cython.compiled
SCALE_MAX = 18  # of a Decimal

# Operations.
cython.declare(_INSERTED=cython.int, _UPDATED=cython.int, _DELETED=cython.int, _TRUNCATED=cython.int)
_INSERTED, _UPDATED, _DELETED, _TRUNCATED = map(ord, (INSERT, UPDATE, DELETE, TRUNCATE))

# Sizes: of what comes before the first value of an image (message, relation, kind of image, number of columns), of what does in one that
# follows an old one (kind of image, number of columns), and before a text (kind, length).
cython.declare(_HEAD=cython.int, _NEW_HEAD=cython.int, _TEXT_HEAD=cython.int, _BEGIN_SIZE=cython.int, _COMMIT_SIZE=cython.int)
_HEAD, _NEW_HEAD, _TEXT_HEAD, _BEGIN_SIZE, _COMMIT_SIZE = 8, 3, 5, 21, 26
_WAL_HEAD = cython.declare(cython.Py_ssize_t, 25)  # of an XLogData of the replication protocol: tag, start, end, time
cython.declare(_EPOCH_US=cython.longlong, _MOMENT_MAX=cython.longlong)
_EPOCH_US = 946_684_800_000_000  # PostgreSQL counts from 2000-01-01
_MOMENT_MAX = 2**63 - 1 - _EPOCH_US

# What stands for the size of a value where there is no text, and what is wrong with an image.
cython.declare(_NONE=cython.int, _ABSENT=cython.int)
_NONE, _ABSENT = -1, -2
cython.declare(_EARLY=cython.int, _LENGTH=cython.int, _KIND=cython.int, _LACKS=cython.int, _KEYLESS=cython.int)
_EARLY, _LENGTH, _KIND, _LACKS, _KEYLESS = range(-7, -2)
_FAULTS = {
    _EARLY: "it ends too early",
    _LENGTH: "a length in it is wrong",
    _KIND: "a value is of unknown kind",
    _ABSENT: "its old row is not whole",
    _LACKS: "a row that is no update lacks a value",
}

# A place of a relation: in its replica identity; in the key; among what tells whether an update moves its row.
cython.declare(_IDENTITY=cython.int, _IN_KEY=cython.int, _COMPARED=cython.int)
_IDENTITY, _IN_KEY, _COMPARED = 1, 2, 4

# A pending row: its operation and transaction, where its image starts and ends in its block, where that of the old row starts (0 if none
# counts), and marks: the old row is whole, and not only its identity; it had another key.
cython.declare(_FIELDS=cython.int, _OP=cython.int, _TXN=cython.int, _START=cython.int, _END=cython.int, _OLD=cython.int, _MARKS=cython.int)
_FIELDS, _OP, _TXN, _START, _END, _OLD, _MARKS = 6, 0, 1, 2, 3, 4, 5
cython.declare(_WHOLE=cython.int, _MOVED=cython.int)
_WHOLE, _MOVED = 1, 2

cython.declare(_HALF=cython.ulonglong, _WORD=cython.ulonglong)
_HALF, _WORD = 2**32 - 1, 2**64 - 1

_TOGETHER = cython.declare(cython.Py_ssize_t, 1000)  # rows whose spans are noted together: so few that they stay in the cache
_NOTHING = pa.scalar(0, pa.int32())
_ROOM = cython.declare(cython.Py_ssize_t, 16)  # rows there is room for at first
_BYTES_ROOM = cython.declare(cython.Py_ssize_t, 1024)  # bytes; a slow server fills thousands of blocks with a few rows each
_STREAM_HEAD = cython.declare(cython.Py_ssize_t, 5)  # of a message within a Stream: its kind, and the xid
_SIZE_MAX = cython.declare(cython.Py_ssize_t, 2**31 - 1 - _TEXT_HEAD)  # of a block and of a column's texts: spans and offsets have 32 bits


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _uint(text: cython.p_uchar, place: cython.Py_ssize_t, size: cython.Py_ssize_t) -> cython.ulonglong:
    value: cython.ulonglong = 0
    if not cython.compiled:
        return int.from_bytes(text[place : place + size])
    for i in range(place, place + size):
        value = value << 8 | text[i]
    return value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _size_at(text: cython.p_uchar, place: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.Py_ssize_t:
    """The size of the text of the value at `place`; _NONE, _ABSENT or a fault if it has none. The image goes to `end` at most."""
    size: cython.Py_ssize_t
    if end - place >= _TEXT_HEAD and text[place] == ord("t"):
        if cython.compiled:
            head = text + place  # in this form gcc makes one load of it
            size = (
                cython.cast(cython.uint, head[1]) << 24
                | cython.cast(cython.uint, head[2]) << 16
                | cython.cast(cython.uint, head[3]) << 8
                | head[4]
            )
        else:
            size = int.from_bytes(text[place + 1 : place + 5])
        if size <= end - place - _TEXT_HEAD:
            return size
        return _LENGTH
    if place >= end or text[place] == ord("t"):
        return _EARLY
    if text[place] == ord("n"):
        return _NONE
    if text[place] == ord("u"):
        return _ABSENT
    return _KIND


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _is_of_stream(kind: cython.int) -> cython.bint:
    """Stream Start, Stop, Commit, Abort."""
    return kind in (ord("S"), ord("E"), ord("c"), ord("A"))


@cython.final
@cython.cclass
class Block:
    """Messages as they were received, one behind the other; to Python a sequence of bytes. `size`: so many.

    What is in it never changes. Raises OverflowError beyond 2 GiB.
    """

    size = cython.declare(cython.Py_ssize_t, visibility="readonly")
    _count: cython.Py_ssize_t
    _held: bytearray
    _room: cython.Py_ssize_t
    _text: cython.p_uchar
    _ends: cython.int[::1]  # number i goes from _ends[i] to _ends[i + 1]

    def __init__(self, messages: Sequence[bytes] = ()) -> None:
        self.size = self._count = self._room = 0
        self._held, self._ends = bytearray(), array("i", bytes(4 * _ROOM))
        self._text = self._held
        for message in messages:
            self.append(message)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> bytes:
        if not 0 <= index < self._count:
            raise IndexError(index)
        at: cython.Py_ssize_t = index
        return bytes(self._held[self._ends[at] : self._ends[at + 1]])

    def append(self, message: bytes | memoryview) -> None:
        """Add a message."""
        end = self.size + len(message)
        self._make_room(end)
        self._held[self.size : end] = message
        self._end(end)

    def fetch(
        self, connection: cython.size_t, get_copy_data: cython.size_t, free: cython.size_t, size_max: cython.Py_ssize_t
    ) -> bytes | None:
        """Add the messages of the XLogData that libpq holds for a connection, up to about `size_max` bytes of all. Only if compiled.

        The first three are addresses: of the PGconn, which no one else may use meanwhile, and of PQgetCopyData and PQfreemem of its libpq.
        Returns what else came, which ends this; b"" if all was taken that is there, or enough; None if the stream has ended.
        """
        message: cython.p_char = cython.NULL
        length: cython.Py_ssize_t = 0
        end: cython.Py_ssize_t
        get: GetCopyData = cython.cast(GetCopyData, get_copy_data)
        let_go: Free = cython.cast(Free, free)
        with cython.nogil:
            while self.size < size_max:
                length = get(cython.cast(cython.p_void, connection), cython.address(message), 1)
                if length <= 0 or message[0] != ord("w"):
                    break
                end = self.size + max(0, length - _WAL_HEAD)
                if end > self._room or self._count + 1 == self._ends.shape[0]:
                    with cython.gil:
                        self._make_room(end)
                memcpy(self._text + self.size, message + _WAL_HEAD, end - self.size)
                self._end(end)
                let_go(message)
                length = 0
        if length <= 0:
            return b"" if length == 0 else None
        other = message[:length]
        let_go(message)
        return other

    def first_streamed(self, index: cython.Py_ssize_t) -> int:
        """The first message from `index` on that tells of a transaction in progress; how many messages there are if none does."""
        while index < self._count and not (self._ends[index] < self._ends[index + 1] and _is_of_stream(self._text[self._ends[index]])):
            index += 1
        return index

    def extend(self, other: Block, index: cython.Py_ssize_t, end: cython.Py_ssize_t) -> None:
        """Add the messages of another block from `index` up to, but without, `end`."""
        if not 0 <= index <= end <= other._count:
            raise IndexError(index)
        for i in range(index, end):
            start, size = other._ends[i], other._ends[i + 1] - other._ends[i]
            self._make_room(self.size + size)
            self._copy(other._text, start, size)

    def split(self, index: cython.Py_ssize_t) -> Block:
        """Take the messages from `index` on out into another block. Nothing may have been read of this one."""
        rest = Block()
        rest.extend(self, index, self._count)
        self._count, self.size = index, self._ends[index]
        return rest

    def put_aside(self, index: cython.Py_ssize_t, kept: bytearray) -> tuple[int, list[tuple[int, int]]]:
        """Add the messages of a transaction in progress, from `index` up to what ends that or the end, to what is kept of it.

        They are kept as they would come without streaming, each behind its size. Returns the index of the first that was not added, and
        where in `kept` begins what another (sub)transaction did: its xid and the place. Raises Malformed.
        """
        xid: cython.longlong = -1
        of: cython.longlong
        marks: list[tuple[int, int]] = []
        at: cython.Py_ssize_t = len(kept)
        kept += bytes(self.size - self._ends[index] + 4 * (self._count - index))
        out: cython.p_uchar = kept
        while index < self._count:
            start, end = self._ends[index], self._ends[index + 1]
            head: cython.Py_ssize_t = 1
            if start == end:
                raise Malformed(_FAULTS[_EARLY])
            if _is_of_stream(self._text[start]):
                break
            if self._text[start] != ord("O"):  # which is of the session
                if end - start < _STREAM_HEAD:
                    raise Malformed(_FAULTS[_EARLY])
                of, head = _uint(self._text, start + 1, 4), _STREAM_HEAD
                if of != xid:
                    xid = of
                    marks.append((of, at))
            size = end - start - head + 1
            for i in range(4):
                out[at + i] = size >> (8 * i) & 0xFF
            out[at + 4] = self._text[start]
            if cython.compiled:
                memcpy(out + at + 5, self._text + start + head, size - 1)
            else:
                out[at + 5 : at + 4 + size] = self._text[start + head : end]
            at += 4 + size
            index += 1
        del kept[at:]
        return index, marks

    def refill(self, kept: bytes) -> int:
        """Add messages as `put_aside` kept them; returns how many bytes these are, without one that is cut off at the end."""
        place: cython.Py_ssize_t = 0
        end: cython.Py_ssize_t = len(kept)
        text: cython.p_uchar = kept
        while end - place >= 4:
            size: cython.Py_ssize_t = text[place + 3]
            size = size << 24 | text[place + 2] << 16 | text[place + 1] << 8 | text[place]
            if size > end - place - 4:
                break
            self._make_room(self.size + size)
            self._copy(text, place + 4, size)
            place += 4 + size
        return place

    @cython.cfunc
    def _copy(self, text: cython.p_uchar, start: cython.Py_ssize_t, size: cython.Py_ssize_t) -> cython.void:
        """Add a message; there is room."""
        if cython.compiled:
            memcpy(self._text + self.size, text + start, size)
        else:
            self._held[self.size : self.size + size] = text[start : start + size]
        self._end(self.size + size)

    @cython.cfunc
    def _make_room(self, end: cython.Py_ssize_t) -> None:
        """Room for a message that ends there."""
        if end > _SIZE_MAX:
            raise OverflowError("messages are more than spans can tell")
        if self._count + 1 == len(self._ends):
            self._ends = array("i", bytes(self._ends)) * 2
        if end > self._room:
            room = max(end, 2 * self._room, _BYTES_ROOM)
            if cython.compiled:
                PyByteArray_Resize(self._held, room)
            else:
                self._held += bytes(room - self._room)
            self._text, self._room = self._held, room

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _end(self, end: cython.Py_ssize_t) -> cython.void:
        """A message was added up to there."""
        self._count += 1
        self._ends[self._count] = end
        self.size = end


@cython.final
@cython.cclass
class Spans:
    """Where the values of `rows` rows from row `first` on lie, all of one block, whose messages are the `text`.

    That of column c in the row first + r starts at `starts[c * _TOGETHER + r]`. `sizes` is laid out alike; below 0 there is no value.
    """

    text: cython.p_uchar
    starts: cython.int[::1]
    sizes: cython.int[::1]
    first: cython.Py_ssize_t
    rows: cython.Py_ssize_t

    def __init__(self, columns: int) -> None:
        self.first = self.rows = 0
        self.starts = array("i", bytes(4 * _TOGETHER * columns))
        self.sizes = array("i", bytes(4 * _TOGETHER * columns))


@cython.cclass
class Column:
    """Writes the values of one column as an Arrow array of `type`. `fit`: it was sure of all of them. `nulls`: so many have no text."""

    type = cython.declare(object, visibility="readonly")
    fit = cython.declare(cython.bint, visibility="readonly")
    nulls = cython.declare(cython.Py_ssize_t, visibility="readonly")
    _rows: cython.Py_ssize_t
    _validity: cython.uchar[::1]

    @cython.cfunc
    def begin(self, rows: cython.Py_ssize_t) -> None:
        """Make room for so many rows."""
        self.fit, self.nulls, self._rows = True, 0, rows

    @cython.cfunc
    def write(self, spans: Spans, column: cython.Py_ssize_t) -> None:
        """Write the values of these rows, which come in order; or give up."""
        at = column * _TOGETHER
        first = spans.first
        count: cython.Py_ssize_t = 0
        sizes = spans.sizes
        for row in range(spans.rows):
            count += sizes[at + row] < 0
        if count and not self.nulls:
            self._validity = bytearray(b"\xff") * ((self._rows + 7) // 8)
        if count:
            self.nulls += count
            for row in range(spans.rows):
                if sizes[at + row] < 0:
                    self._validity[(first + row) >> 3] &= ~(1 << ((first + row) & 7))

    def array(self) -> pa.Array:
        """What was written."""
        validity = pa.py_buffer(self._validity) if self.nulls else None
        return pa.Array.from_buffers(self.type, self._rows, [validity, *self._buffers()], self.nulls)


# How a number is read, and what is none: neither an integer of up to 18 digits nor a moment.
cython.declare(_BOOL=cython.int, _INT=cython.int, _DATE=cython.int, _TIMESTAMP=cython.int, _TIMESTAMPTZ=cython.int, _ODD=cython.longlong)
_BOOL, _INT, _DATE, _TIMESTAMP, _TIMESTAMPTZ = range(5)
_ODD = -(2**63 - 1)
_KINDS = {pa.bool_(): _BOOL, pa.date32(): _DATE, pa.timestamp("us"): _TIMESTAMP, pa.timestamp("us", "UTC"): _TIMESTAMPTZ}
_RANGES = {pa.int16(): (-(2**15), 2**15 - 1), pa.int32(): (-(2**31), 2**31 - 1), pa.uint32(): (0, 2**32 - 1)}
NUMBERS = frozenset((*_KINDS, *_RANGES, pa.int64()))


@cython.final
@cython.cclass
class Number(Column):
    """The types of NUMBERS: whole numbers of up to 18 digits, booleans, dates and moments of the years 1 to 9999."""

    _kind: cython.int
    _bits: cython.int
    _least: cython.longlong
    _most: cython.longlong
    _values: object
    _bytes: cython.uchar[::1]
    _shorts: cython.ushort[::1]
    _ints: cython.uint[::1]
    _longs: cython.longlong[::1]

    def __init__(self, arrow: pa.DataType) -> None:
        self.type, self._kind, self._bits = arrow, _KINDS.get(arrow, _INT), arrow.bit_width
        self._least, self._most = _RANGES.get(arrow, (_ODD + 1, 2**63 - 1))

    @cython.cfunc
    def begin(self, rows: cython.Py_ssize_t) -> None:
        """See Column."""
        Column.begin(self, rows)
        self._values = pa.allocate_buffer((rows * self._bits + 7) // 8)
        values = memoryview(self._values)
        if self._bits == 64:
            self._longs = values.cast("q")
        elif self._bits == 32:
            self._ints = values.cast("I")
        elif self._bits == 16:
            self._shorts = values.cast("H")
        else:
            self._bytes = values.cast("B")

    @cython.cfunc
    def write(self, spans: Spans, column: cython.Py_ssize_t) -> None:
        """See Column."""
        value: cython.longlong
        place = spans.first
        at = column * _TOGETHER
        text = spans.text
        starts = spans.starts
        sizes = spans.sizes
        Column.write(self, spans, column)
        with cython.nogil:
            for row in range(at, at + spans.rows):
                value = _number(self._kind, text, starts[row], sizes[row]) if sizes[row] >= 0 else 0
                if sizes[row] >= 0 and (value < self._least or value > self._most):
                    self.fit = False
                    break
                if self._bits == 64:
                    self._longs[place] = value
                elif self._bits == 32:
                    self._ints[place] = value & _HALF
                elif self._bits == 16:
                    self._shorts[place] = value & 0xFFFF
                elif place & 7:
                    self._bytes[place >> 3] |= value << (place & 7)
                else:
                    self._bytes[place >> 3] = value
                place += 1

    def _buffers(self) -> list[pa.Buffer]:
        return [self._values]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _number(kind: cython.int, text: cython.p_uchar, start: cython.Py_ssize_t, size: cython.Py_ssize_t) -> cython.longlong:
    """The number a text stands for; _ODD when that is not certain."""
    if kind == _INT:
        return _int(text, start, size)
    if kind == _BOOL:
        return text[start] == ord("t") if size == 1 and (text[start] == ord("t") or text[start] == ord("f")) else _ODD
    if kind == _DATE:
        return _date(text, start) if size == 10 else _ODD
    return _moment(text, start, size, kind == _TIMESTAMPTZ)


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _int(text: cython.p_uchar, start: cython.Py_ssize_t, size: cython.Py_ssize_t) -> cython.longlong:
    value: cython.longlong
    negative: cython.bint = size > 0 and text[start] == ord("-")
    value = _digits(text, start + negative, size - negative)
    return _ODD if value < 0 else -value if negative else value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _digits(text: cython.p_uchar, start: cython.Py_ssize_t, size: cython.Py_ssize_t) -> cython.longlong:
    """The number that 1 to 18 digits are; -1 if they are none."""
    value: cython.longlong = 0
    if size < 1 or size > 18:
        return -1
    if not cython.compiled:
        digits = text[start : start + size]
        return int(digits) if digits.isdigit() else -1
    for i in range(start, start + size):
        digit = text[i] - ord("0")
        if digit < 0 or digit > 9:
            return -1
        value = value * 10 + digit
    return value


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _date(text: cython.p_uchar, start: cython.Py_ssize_t) -> cython.longlong:
    """Days since 1970-01-01 of a date in 10 bytes, `2026-11-30`. The year is taken to start in March, so that the leap day comes last."""
    year: cython.longlong = _digits(text, start, 4)
    month: cython.longlong = _digits(text, start + 5, 2)
    day: cython.longlong = _digits(text, start + 8, 2)
    if text[start + 4] != ord("-") or text[start + 7] != ord("-") or year < 1 or month < 1 or month > 12 or day < 1:
        return _ODD
    if day > 28 and day > _days_of(year, month):
        return _ODD
    year -= month < 3
    return 365 * year + year // 4 - year // 100 + year // 400 + (153 * ((month + 9) % 12) + 2) // 5 + day - 719_469


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _days_of(year: cython.longlong, month: cython.longlong) -> cython.longlong:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 + (month + (month > 7)) % 2


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _moment(text: cython.p_uchar, start: cython.Py_ssize_t, size: cython.Py_ssize_t, zoned: cython.bint) -> cython.longlong:
    """Microseconds since 1970-01-01 of a moment, `2026-11-30 23:59:59.5`, or of one that ends in +00 if it is zoned."""
    day: cython.longlong
    hour: cython.longlong
    minute: cython.longlong
    second: cython.longlong
    fraction: cython.longlong = 0
    if zoned:
        size -= 3
        if size < 19 or text[start + size] != ord("+") or text[start + size + 1] != ord("0") or text[start + size + 2] != ord("0"):
            return _ODD
    if size < 19 or size > 26 or text[start + 10] != ord(" ") or text[start + 13] != ord(":") or text[start + 16] != ord(":"):
        return _ODD
    day, hour = _date(text, start), _digits(text, start + 11, 2)
    minute, second = _digits(text, start + 14, 2), _digits(text, start + 17, 2)
    if size > 19:
        fraction = _digits(text, start + 20, size - 20) if text[start + 19] == ord(".") else -1
    if day == _ODD or hour < 0 or hour > 23 or minute < 0 or minute > 59 or second < 0 or second > 59 or fraction < 0:
        return _ODD
    while size < 26:
        fraction, size = fraction * 10, size + 1
    return (((day * 24 + hour) * 60 + minute) * 60 + second) * 1_000_000 + fraction


@cython.final
@cython.cclass
class Decimal(Column):
    """decimal128 with up to 18 digits before and after the point, digit by digit."""

    _scale: cython.int
    _power: cython.ulonglong
    _limit: cython.longlong
    _values: object
    _words: cython.ulonglong[::1]

    def __init__(self, arrow: pa.DataType) -> None:
        self.type, self._scale, self._power = arrow, arrow.scale, 10**arrow.scale
        self._limit = 10 ** min(arrow.precision - arrow.scale, 18)

    @cython.cfunc
    def begin(self, rows: cython.Py_ssize_t) -> None:
        """See Column."""
        Column.begin(self, rows)
        self._values = pa.allocate_buffer(16 * rows)
        self._words = memoryview(self._values).cast("Q")

    @cython.cfunc
    def write(self, spans: Spans, column: cython.Py_ssize_t) -> None:
        """See Column."""
        place = spans.first
        at = column * _TOGETHER
        text = spans.text
        starts = spans.starts
        sizes = spans.sizes
        Column.write(self, spans, column)
        with cython.nogil:
            for row in range(at, at + spans.rows):
                if sizes[row] < 0:
                    self._put(0, 0, False, place)
                elif not self._number(text, starts[row], sizes[row], place):
                    self.fit = False
                    break
                place += 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _number(self, text: cython.p_uchar, start: cython.Py_ssize_t, size: cython.Py_ssize_t, place: cython.Py_ssize_t) -> cython.bint:
        """Put the number that a text stands for; False when that is not certain."""
        whole: cython.longlong
        fraction: cython.longlong = 0
        end = start + size
        point = end
        digits = 0  # of the fraction
        negative: cython.bint = size > 0 and text[start] == ord("-")
        while digits <= self._scale and start + digits < end and point == end:
            if text[end - digits - 1] == ord("."):
                point = end - digits - 1
            else:
                digits += 1
        if point < end:
            fraction = _digits(text, point + 1, digits)
        whole = _digits(text, start + negative, point - start - negative)
        if whole < 0 or whole >= self._limit or fraction < 0:
            return False
        if point == end:
            digits = 0
        while digits < self._scale:
            fraction, digits = fraction * 10, digits + 1
        self._put(whole, fraction, negative, place)
        return True

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _put(self, whole: cython.ulonglong, fraction: cython.ulonglong, negative: cython.bint, place: cython.Py_ssize_t) -> cython.void:
        """Write whole * 10**scale + fraction as 128 bits; all three are below 2**60."""
        product: cython.ulonglong = (whole & _HALF) * (self._power & _HALF)
        middle: cython.ulonglong = (whole >> 32) * (self._power & _HALF) + (product >> 32)
        other: cython.ulonglong = (whole & _HALF) * (self._power >> 32) + (middle & _HALF)
        low: cython.ulonglong = (((other & _HALF) << 32 | (product & _HALF)) + fraction) & _WORD
        high: cython.ulonglong = (whole >> 32) * (self._power >> 32) + (middle >> 32) + (other >> 32) + (low < fraction)
        if negative:
            low = (_WORD - low + 1) & _WORD
            high = (_WORD - high + (low == 0)) & _WORD
        self._words[2 * place] = low
        self._words[2 * place + 1] = high

    def _buffers(self) -> list[pa.Buffer]:
        return [self._values]


@cython.cclass
class Bytes(Column):
    """Texts as they are, whatever they are: binary. Raises OverflowError beyond 2 GiB."""

    _offsets: object
    _ends: cython.int[::1]
    _values: object
    _bytes: cython.uchar[::1]
    _used: cython.Py_ssize_t

    def __init__(self) -> None:
        self.type = pa.binary()

    @cython.cfunc
    def begin(self, rows: cython.Py_ssize_t) -> None:
        """See Column."""
        Column.begin(self, rows)
        self._offsets, self._values, self._used = pa.allocate_buffer(4 * (rows + 1)), pa.allocate_buffer(_BYTES_ROOM, resizable=True), 0
        self._ends = memoryview(self._offsets).cast("i")
        self._bytes = memoryview(self._values).cast("B")
        self._ends[0] = 0

    @cython.cfunc
    def write(self, spans: Spans, column: cython.Py_ssize_t) -> None:
        """See Column."""
        used = self._used
        place = spans.first
        at = column * _TOGETHER
        text = spans.text
        starts = spans.starts
        sizes = spans.sizes
        Column.write(self, spans, column)
        self._make_room(spans, at)
        values = self._bytes
        ends = self._ends
        with cython.nogil:
            for row in range(at, at + spans.rows):
                size = sizes[row]
                if size > 0:
                    if cython.compiled:
                        memcpy(cython.address(values[used]), text + starts[row], size)
                    else:
                        values[used : used + size] = text[starts[row] : starts[row] + size]
                    used += size
                place += 1
                ends[place] = used
        self._used = used

    @cython.cfunc
    def _make_room(self, spans: Spans, at: cython.Py_ssize_t) -> None:
        """Room for the texts of these rows, and for those to come if they are as long, but for no more than as much again."""
        need = self._used
        sizes = spans.sizes
        for row in range(at, at + spans.rows):
            if sizes[row] > 0:
                need += sizes[row]
        if need > _SIZE_MAX:
            raise OverflowError("the texts of a column are more than Arrow's offsets can tell")
        if need > len(self._bytes):
            self._bytes = None
            self._values.resize(need + min(need, need // (spans.first + spans.rows) * (self._rows - spans.first - spans.rows)))
            self._bytes = memoryview(self._values).cast("B")

    def _buffers(self) -> list[pa.Buffer]:
        return [self._offsets, self._values.slice(0, self._used)]


@cython.final
@cython.cclass
class Text(Bytes):
    """Texts in UTF-8: string."""

    def __init__(self) -> None:
        self.type = pa.string()

    @cython.cfunc
    def write(self, spans: Spans, column: cython.Py_ssize_t) -> None:
        """See Column."""
        place = spans.first
        at = column * _TOGETHER
        text = spans.text
        starts = spans.starts
        sizes = spans.sizes
        Bytes.write(self, spans, column)
        with cython.nogil:
            for row in range(at, at + spans.rows):
                if sizes[row] > 0 and not _is_utf8(text, starts[row], starts[row] + sizes[row]):
                    self.fit = False
                    break
                place += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _is_utf8(text: cython.p_uchar, place: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.bint:
    """Whether the bytes are UTF-8 (RFC 3629: nothing longer than needed, no surrogates, nothing past U+10FFFF)."""
    lead = 0
    if not cython.compiled:
        try:
            text[place:end].decode()
        except UnicodeDecodeError:
            return False
        return True
    for i in range(place, end):
        lead |= text[i]
    if lead < 0x80:
        return True
    while place < end:
        lead = text[place]
        place += 1
        if lead < 0x80:
            continue
        more = 1 if lead < 0xE0 else 2 if lead < 0xF0 else 3
        if lead < 0xC2 or lead > 0xF4 or end - place < more:
            return False
        second = text[place]
        if (lead == 0xE0 and second < 0xA0) or (lead == 0xED and second > 0x9F):
            return False
        if (lead == 0xF0 and second < 0x90) or (lead == 0xF4 and second > 0x8F):
            return False
        for i in range(place, place + more):
            if text[i] & 0xC0 != 0x80:
                return False
        place += more
    return True


@cython.final
@cython.cclass
class Hex(Bytes):
    """bytea: the bytes that its hexadecimal digits stand for, binary."""

    @cython.cfunc
    def write(self, spans: Spans, column: cython.Py_ssize_t) -> None:
        """See Column."""
        place = spans.first
        at = column * _TOGETHER
        text = spans.text
        starts = spans.starts
        sizes = spans.sizes
        Column.write(self, spans, column)
        self._make_room(spans, at)
        with cython.nogil:
            for row in range(at, at + spans.rows):
                if sizes[row] >= 0 and not self._blob(text, starts[row], sizes[row]):
                    self.fit = False
                    break
                place += 1
                self._ends[place] = self._used

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _blob(self, text: cython.p_uchar, start: cython.Py_ssize_t, size: cython.Py_ssize_t) -> cython.bint:
        if size < 2 or size % 2 or text[start] != ord("\\") or text[start + 1] != ord("x"):
            return False
        for i in range(start + 2, start + size, 2):
            byte = _hex(text[i]) << 4 | _hex(text[i + 1])
            if byte > 0xFF:
                return False
            self._bytes[self._used] = byte
            self._used += 1
        return True


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _hex(letter: cython.int) -> cython.int:
    """A digit's value; 0x100 if it is none."""
    if letter <= ord("9"):
        return letter - ord("0") if letter >= ord("0") else 0x100
    letter |= 0x20
    return letter - ord("a") + 10 if ord("a") <= letter <= ord("f") else 0x100


@cython.final
@cython.cclass
class Rows:
    """The pending rows of a captured relation, `table` to the caller: `count`, `truncates` of which only say that all rows are gone.

    `moved`: some had another key before. `width` is the relation's number of columns; `picks` are the places in it of the captured
    columns, `key` those of the key's, `identity` those of the replica identity's.
    """

    table = cython.declare(object, visibility="readonly")
    count = cython.declare(cython.Py_ssize_t, visibility="readonly")
    moved = cython.declare(cython.bint, visibility="readonly")
    truncates = cython.declare(cython.Py_ssize_t, visibility="readonly")
    _blocks: list
    _ends: list  # of the rows in each block but the last
    _block: Block  # the last
    _fields: cython.int[::1]
    _ordinals: cython.longlong[::1]
    _room: cython.Py_ssize_t
    _width: cython.Py_ssize_t
    _keyed: cython.bint
    _columns: cython.Py_ssize_t
    _keys: cython.Py_ssize_t
    _flags: cython.uchar[::1]
    _picked: cython.Py_ssize_t[::1]
    _former: cython.Py_ssize_t[::1]
    _absents: cython.Py_ssize_t

    def __init__(self, table: object, width: int, picks: list[int], key: list[int], identity: list[int]) -> None:
        self.table, self._width, self._keyed = table, width, bool(key)
        self._columns, self._keys = len(picks), len(key)
        self._flags = bytearray(width or 1)
        for flag, places in ((_IDENTITY, identity), (_IN_KEY, key), (_COMPARED, key or picks)):
            for place in places:
                self._flags[place] |= flag
        # Where the spans of a place begin, as a captured column and as one of the key before.
        self._picked, self._former = array("q", [-1]) * (width or 1), array("q", [-1]) * (width or 1)
        for number, place in enumerate(picks):
            self._picked[place] = number * _TOGETHER
        for number, place in enumerate(key, len(picks)):
            self._former[place] = number * _TOGETHER
        self._room, self._fields, self._ordinals = _ROOM, array("i", bytes(4 * _FIELDS * _ROOM)), array("q", bytes(8 * _ROOM))
        self.forget()

    def forget(self) -> None:
        """The rows were taken."""
        self.count, self.moved, self.truncates = 0, False, 0
        self._blocks, self._ends, self._block = [], [], None

    @cython.cfunc
    def add(
        self,
        block: Block,
        op: cython.int,
        txn: cython.Py_ssize_t,
        ordinal: cython.longlong,
        start: cython.Py_ssize_t,
        end: cython.Py_ssize_t,
        old: cython.Py_ssize_t,
        marks: cython.int,
    ) -> None:
        """Add a row whose image goes from `start` to `end` of the block, and that of the old row, if it counts, from `old` on."""
        at = self.count * _FIELDS
        if self._block is not block:
            if self.count:
                self._ends.append(self.count)
            self._block = block
            self._blocks.append(block)
        if self.count == self._room:
            self._room *= 2
            self._fields = array("i", bytes(self._fields)) * 2
            self._ordinals = array("q", bytes(self._ordinals)) * 2
        self._fields[at + _OP] = op
        self._fields[at + _TXN] = txn
        self._fields[at + _START] = start
        self._fields[at + _END] = end
        self._fields[at + _OLD] = old
        self._fields[at + _MARKS] = marks
        self._ordinals[self.count] = ordinal
        self.count += 1
        if marks & _MOVED:
            self.moved = True
        if op == _TRUNCATED:
            self.truncates += 1

    def operations(self) -> tuple[pa.Array, pa.Array, pa.Array]:
        """What the rows are: operation, transaction, ordinal in it."""
        numbers = array("i", bytes(4 * self.count))
        ops: cython.uchar[::1] = bytearray(self.count)
        ends: cython.int[::1] = array("i", bytes(4 * (self.count + 1)))
        txns: cython.int[::1] = numbers
        with cython.nogil:
            for row in range(self.count):
                at = row * _FIELDS
                ops[row] = self._fields[at + _OP]
                txns[row] = self._fields[at + _TXN]
                ends[row + 1] = row + 1
        letters = pa.StringArray.from_buffers(self.count, pa.py_buffer(ends), pa.py_buffer(ops))
        return letters, _array(pa.int32(), numbers), _array(pa.int64(), array("q", bytes(self._ordinals[: self.count])))

    def read(self, columns: list[Column | None]) -> pa.Array | None:
        """Let columns write the rows: those captured, then those of the key before if rows have `moved`. None is left out.

        Returns the captured columns that each row lacks, a list<int16>; None if none lacks any. Raises Malformed and Unidentified.
        """
        spans: Spans = Spans(self._columns + self._keys)
        column: Column
        block: Block
        lacking, ends = array("h"), array("i", bytes(4 * (self.count + 1)))
        for column in columns:
            if column is not None:
                column.begin(self.count)
        for block, end in zip(self._blocks, [*self._ends, self.count]):  # noqa: B905  Cython has no strict one
            spans.text = block._text
            while spans.first < end:
                spans.rows = min(_TOGETHER, end - spans.first)
                self._see(spans)
                for number in range(len(columns)):
                    column = columns[number]
                    if column is not None and column.fit:
                        column.write(spans, number)
                if self._absents or lacking:
                    lacking += self._lacks(spans, ends, len(lacking))
                spans.first += spans.rows
        if not lacking:
            return None
        lists = pa.ListArray.from_arrays(_array(pa.int32(), ends), _array(pa.int16(), lacking))
        return pc.if_else(pc.greater(pc.list_value_length(lists), _NOTHING), lists, pa.scalar(None, lists.type))

    @cython.cfunc
    def _see(self, spans: Spans) -> None:
        with cython.nogil:
            fault = self._look(spans)
        if fault == _KEYLESS:
            raise Unidentified(self.table)
        if fault:
            raise Malformed(_FAULTS[fault])

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _look(self, spans: Spans) -> cython.int:
        """Note where the values of the rows from `spans.first` on are. Returns 0 or the fault."""
        picked = self._picked
        starts = spans.starts
        sizes = spans.sizes
        self._absents = 0
        for row in range(spans.rows):
            at = (spans.first + row) * _FIELDS
            place, end = self._fields[at + _START], self._fields[at + _END]
            old, marks = self._fields[at + _OLD], self._fields[at + _MARKS]
            if self.moved or old:
                self._look_back(spans, row, old, end, marks)
            for column in range(self._width):
                size = _size_at(spans.text, place, end)
                to = picked[column]
                if size >= _NONE:
                    if to >= 0:
                        starts[to + row] = place + _TEXT_HEAD
                        sizes[to + row] = size
                elif size != _ABSENT:
                    return size
                elif not (old and (marks & _WHOLE or self._flags[column] & _IDENTITY)):
                    if self._fields[at + _OP] != _UPDATED:
                        return _LACKS
                    if self._flags[column] & _IN_KEY:
                        return _KEYLESS
                    if to >= 0:
                        sizes[to + row] = _ABSENT
                        self._absents += 1
                place += _TEXT_HEAD + size if size >= 0 else 1
            if place != end:
                return _LENGTH
        return 0

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _look_back(
        self, spans: Spans, row: cython.Py_ssize_t, place: cython.Py_ssize_t, end: cython.Py_ssize_t, marks: cython.int
    ) -> cython.void:
        """Note where the values of the old row are, which may be those of the new one, and the key before if it is another.

        Its image starts at `place`; 0 if there is none.
        """
        size: cython.Py_ssize_t = _NONE
        counts: cython.bint = place > 0
        for column in range(self._width):
            if counts:
                size = _size_at(spans.text, place, end)
                if self._picked[column] >= 0:
                    spans.starts[self._picked[column] + row] = place + _TEXT_HEAD
                    spans.sizes[self._picked[column] + row] = size
            if self._former[column] >= 0:
                spans.starts[self._former[column] + row] = place + _TEXT_HEAD
                spans.sizes[self._former[column] + row] = size if marks & _MOVED else _NONE
            place += _TEXT_HEAD + size if size >= 0 else 1

    @cython.cfunc
    def _lacks(self, spans: Spans, ends: cython.int[::1], used: cython.Py_ssize_t) -> array:
        """The captured columns that these rows lack, row by row. Notes in `ends` where those of each row end, after the `used` before."""
        lacking = array("h", bytes(2 * self._absents))
        columns: cython.short[::1] = lacking
        count: cython.Py_ssize_t = 0
        for row in range(spans.rows):
            for column in range(self._columns):
                if spans.sizes[column * _TOGETHER + row] == _ABSENT:
                    columns[count] = column
                    count += 1
            ends[spans.first + row + 1] = used + count
        return lacking


@cython.cfunc
def _array(kind: pa.DataType, numbers: array) -> pa.Array:
    return pa.Array.from_buffers(kind, len(numbers), [None, pa.py_buffer(numbers)])


@cython.final
@cython.cclass
class Messages:
    """The messages of one session that begin and end transactions and change rows. All others are the caller's.

    `pending` are the Rows that have some, `pending_bytes` what these came to as received, and `held_bytes` the blocks they lie in.
    `end_lsn` is the end of the last Commit.
    """

    pending = cython.declare(list, visibility="readonly")
    pending_bytes = cython.declare(cython.longlong, visibility="readonly")
    held_bytes = cython.declare(cython.longlong, visibility="readonly")
    in_transaction = cython.declare(cython.bint, visibility="readonly")
    commit_lsn = cython.declare(cython.ulonglong, visibility="readonly")
    end_lsn = cython.declare(object, visibility="readonly")
    index = cython.declare(cython.Py_ssize_t, visibility="readonly")
    stopped = cython.declare(cython.bint, visibility="readonly")
    _rows: dict
    _relid: cython.longlong
    _last: Rows
    _block: Block  # of the last pending row
    _count: cython.Py_ssize_t
    _room: cython.Py_ssize_t
    _lsns: cython.ulonglong[::1]
    _xids: cython.ulonglong[::1]
    _times: cython.longlong[::1]
    _xid: cython.ulonglong
    _committed_us: cython.longlong
    _ordinal: cython.longlong
    _listed: cython.bint

    def __init__(self) -> None:
        self._rows, self._relid = {}, -1
        self.commit_lsn, self.end_lsn, self.in_transaction, self.index = 0, None, False, 0
        self._room, room = _ROOM, bytes(8 * _ROOM)
        self._lsns, self._xids, self._times = array("Q", room), array("Q", room), array("q", room)
        self.forget()

    def forget(self) -> None:
        """What is pending was taken. An open transaction goes on counting ordinals, and is listed again with its next row."""
        self.pending, self.pending_bytes, self._count, self._listed = [], 0, 0, False
        self._block, self.held_bytes = None, 0

    def transactions(self) -> list[pa.Array]:
        """Those that have pending rows: position of the commit, xid, time of the commit."""
        return [
            _numbers(self._lsns, self._count, True),
            _numbers(self._xids, self._count, False),
            _array(pa.timestamp("us", "UTC"), array("q", bytes(self._times[: self._count]))),
        ]

    def describe(self, relid: int, rows: Rows | None) -> None:
        """From now on `rows` takes the rows of this relation; none is captured if it is None."""
        self._rows[relid], self._relid = rows, -1

    def read(self, block: Block, index: cython.Py_ssize_t, before: int | None, enough: cython.longlong) -> cython.Py_ssize_t:
        """Read messages from `index` on. Returns the index of the first that was not, len(block) if all were.

        That is one of the caller's, unless `stopped`: then it is the Begin of a transaction committed at `before` or later, or stands
        after a Commit with `enough` bytes pending. Raises Malformed and Unidentified, of the message at `self.index`.
        """
        self.stopped = False
        text = block._text
        while index < block._count and not self.stopped:
            self.index = index
            place: cython.Py_ssize_t = block._ends[index]
            end: cython.Py_ssize_t = block._ends[index + 1]
            if place == end:
                raise Malformed(_FAULTS[_EARLY])
            kind = text[place]
            if kind in (ord("I"), ord("U"), ord("D")):
                self._row(block, place, end, kind)
            elif kind == ord("B"):
                if not self._begin(text, place, end, before):
                    self.stopped = True
                    break
            elif kind == ord("C"):
                self._commit(text, place, end)
                self.stopped = self.pending_bytes >= enough
            else:
                break
            index += 1
        return index

    def truncate(self, relid: int) -> None:
        """All rows of a relation are gone. Raises Malformed."""
        rows: Rows = self._rows_of(relid)
        if rows is not None:
            image = Block([bytes(_HEAD) + b"n" * rows._width])
            self._add(rows, image, _TRUNCATED, _HEAD, image.size, 0, 0, image.size)

    @cython.cfunc
    def _begin(self, text: cython.p_uchar, place: cython.Py_ssize_t, end: cython.Py_ssize_t, before: object) -> cython.bint:
        if end - place != _BEGIN_SIZE:
            raise Malformed(_FAULTS[_LENGTH])
        if self.in_transaction:
            raise Malformed("the transaction before has no Commit")
        moment: cython.ulonglong = _uint(text, place + 9, 8)
        if moment > _MOMENT_MAX and not moment >> 63:
            raise Malformed("its time is out of range")
        commit_lsn: cython.ulonglong = _uint(text, place + 1, 8)
        if before is not None and commit_lsn >= before:
            return False
        self.commit_lsn, self._xid = commit_lsn, _uint(text, place + 17, 4)
        self._committed_us = _EPOCH_US + (moment if not moment >> 63 else -1 - (moment ^ _WORD))
        self.in_transaction, self._listed, self._ordinal = True, False, 0
        return True

    @cython.cfunc
    def _commit(self, text: cython.p_uchar, place: cython.Py_ssize_t, end: cython.Py_ssize_t) -> None:
        if end - place != _COMMIT_SIZE:
            raise Malformed(_FAULTS[_LENGTH])
        if not self.in_transaction or text[place + 1] or _uint(text, place + 2, 8) != self.commit_lsn:
            raise Malformed("it does not fit the Begin before it")
        self.in_transaction = False
        self.end_lsn = _uint(text, place + 10, 8)

    @cython.cfunc
    def _row(self, block: Block, place: cython.Py_ssize_t, end: cython.Py_ssize_t, kind: cython.int) -> None:
        text, image = block._text, place + _HEAD
        if image > end:
            raise Malformed(_FAULTS[_EARLY])
        rows: Rows = self._rows_of(_uint(text, place + 1, 4))
        if rows is None:
            return
        mark = text[place + 5]
        fitting = kind != ord("D") if mark == ord("N") else kind != ord("I") and mark in (ord("K"), ord("O"))
        if not fitting or _uint(text, place + 6, 2) != rows._width:
            raise Malformed("its row is not of the relation's shape")
        if not rows._keyed and kind != ord("I") and mark != ord("O"):
            raise Unidentified(rows.table)
        if kind == ord("U") and mark != ord("N"):
            self._update(rows, block, image, end, mark == ord("O"))
        else:
            op = _INSERTED if kind == ord("I") else _UPDATED if kind == ord("U") else _DELETED
            self._add(rows, block, op, image, end, 0, 0, end - place)

    @cython.cfunc
    def _update(self, rows: Rows, block: Block, old: cython.Py_ssize_t, end: cython.Py_ssize_t, whole: cython.bint) -> None:
        """An update that has an old row: all of it, or its identity, as that changed or is stored apart."""
        text = block._text
        middle = _middle(rows, text, old, end)
        if middle < 0:
            raise Malformed(_FAULTS[middle])
        if text[middle] != ord("N") or _uint(text, middle + 1, 2) != rows._width:
            raise Malformed(_FAULTS[_ABSENT])
        start = middle + _NEW_HEAD
        moved = _moves(rows, text, old, start, end, whole)
        if moved < 0:
            raise Malformed(_FAULTS[moved])
        size, marks = _HEAD + end - start, _WHOLE if whole else 0
        if moved:
            self._add(rows, block, _DELETED, old, middle, 0, 0, _HEAD + middle - old)
        if rows._keyed:
            self._add(rows, block, _UPDATED, start, end, old, marks | (_MOVED if moved else 0), size)
        elif moved:
            self._add(rows, block, _INSERTED, start, end, old, marks, size)

    @cython.cfunc
    def _rows_of(self, relid: cython.longlong) -> Rows:
        if not self.in_transaction:
            raise Malformed("it is outside any transaction")
        if relid != self._relid:
            if relid not in self._rows:
                raise Malformed(f"relation {relid} was not described")
            self._relid, self._last = relid, self._rows[relid]
        return self._last

    @cython.cfunc
    def _add(
        self,
        rows: Rows,
        block: Block,
        op: cython.int,
        start: cython.Py_ssize_t,
        end: cython.Py_ssize_t,
        old: cython.Py_ssize_t,
        marks: cython.int,
        size: cython.Py_ssize_t,
    ) -> None:
        """A row of the block is the next change of the open transaction; it came as `size` bytes."""
        if not self._listed:
            self._list()
        if rows.count == 0:
            self.pending.append(rows)
        if self._block is not block:
            self._block = block
            self.held_bytes += block.size
        rows.add(block, op, self._count - 1, self._ordinal, start, end, old, marks)
        self._ordinal += 1
        self.pending_bytes += size

    @cython.cfunc
    def _list(self) -> None:
        if self._count == self._room:
            self._room *= 2
            self._lsns = array("Q", bytes(self._lsns)) * 2
            self._xids = array("Q", bytes(self._xids)) * 2
            self._times = array("q", bytes(self._times)) * 2
        self._lsns[self._count], self._xids[self._count], self._times[self._count] = self.commit_lsn, self._xid, self._committed_us
        self._count += 1
        self._listed = True


@cython.cfunc
def _numbers(numbers: cython.ulonglong[::1], count: cython.Py_ssize_t, lsn: cython.bint) -> pa.Array:
    """The numbers as texts: decimal, or as PostgreSQL writes an LSN, `0/16B3748`."""
    end: cython.Py_ssize_t = 0
    ends: cython.int[::1] = array("i", bytes(4 * (count + 1)))
    texts: cython.uchar[::1] = bytearray(20 * count)  # the digits of 2**64
    for i in range(count):
        if lsn:
            end = _put_number(texts, end, numbers[i] >> 32, 16)
            texts[end] = ord("/")
            end = _put_number(texts, end + 1, numbers[i] & _HALF, 16)
        else:
            end = _put_number(texts, end, numbers[i], 10)
        ends[i + 1] = end
    return pa.StringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(texts))


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _put_number(texts: cython.uchar[::1], place: cython.Py_ssize_t, number: cython.ulonglong, base: cython.int) -> cython.Py_ssize_t:
    """Write a number's digits to a place; returns the place after them."""
    end = place + 1
    rest: cython.ulonglong = number // base
    while rest:
        end, rest = end + 1, rest // base
    at = end
    while at > place:
        at -= 1
        digit = number % base
        texts[at] = digit + (ord("0") if digit < 10 else ord("A") - 10)
        number = number // base
    return end


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _middle(rows: Rows, text: cython.p_uchar, place: cython.Py_ssize_t, end: cython.Py_ssize_t) -> cython.Py_ssize_t:
    """Where the old row of an update ends; it has all values, and room behind it for the head of the new one. Or a fault."""
    for _ in range(rows._width):
        size = _size_at(text, place, end)
        if size < _NONE:
            return size
        place += _TEXT_HEAD + size if size >= 0 else 1
    if end - place < _NEW_HEAD:
        return _EARLY
    return place


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _moves(
    rows: Rows, text: cython.p_uchar, old: cython.Py_ssize_t, new: cython.Py_ssize_t, end: cython.Py_ssize_t, whole: cython.bint
) -> cython.int:
    """Whether the new row of an update differs from the old one in what is compared; or a fault. An absent value is as the old row's."""
    moved: cython.int = 0
    for column in range(rows._width):
        was, now = _size_at(text, old, end), _size_at(text, new, end)
        if now < _ABSENT:
            return now
        if rows._flags[column] & _COMPARED and not moved:
            if now == _ABSENT:
                moved = not (whole or rows._flags[column] & _IDENTITY or was == _NONE)
            elif now != was:
                moved = 1
            else:
                for i in range(_TEXT_HEAD, _TEXT_HEAD + now):
                    if text[old + i] != text[new + i]:
                        moved = 1
                        break
        old += _TEXT_HEAD + was if was >= 0 else 1
        new += _TEXT_HEAD + now if now >= 0 else 1
    if new != end:
        return _LENGTH
    return moved
