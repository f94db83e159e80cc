# cython: cdivision=True, infer_types=True
"""The kernel of a binlog: row images are gathered event by event, and their values then written as Arrow lays columns out.

An image is a bitmap of its NULLs and then the values of the columns it carries, one behind the other, without anything between them:
where a value ends is told by the table map, or by a length before it. Rows follow each other the same way. Of each value its span is
noted, place and size, once it is known to lie within the event; writers go by spans alone.

    DECIMAL     the digits before the point and those after it in groups of nine, four bytes each, big-endian; the group that is not full
                comes first before the point and last after it, in as many bytes as its digits need. The highest bit is turned over, all
                bits of a negative number are
    DATE        3 bytes, little-endian: year << 9 | month << 5 | day
    DATETIME2   5 bytes: 1 << 39 | (year * 13 + month) << 22 | day << 17 | hour << 12 | minute << 6 | second, and the fraction
    TIMESTAMP2  4 bytes: seconds since 1970 (up to 2106 in MariaDB 11.5 and later), and the fraction
    TIME2       3 bytes: 1 << 23 | hour << 12 | minute << 6 | second, and the fraction, which is part of the number: a negative TIME
                is the whole of it negated
    YEAR        1 byte: years since 1900; 0 for the year 0000
    DATETIME    8 bytes, little-endian: the decimal digits YYYYMMDDhhmmss; TIME 3 bytes hhmmss, TIMESTAMP 4 bytes likewise: the old forms

The new forms are big-endian; a fraction takes 1, 2 or 3 bytes for two, four or six digits. Without faithful target, and null here: zero
dates and zero TIMESTAMPs, partial dates, days no calendar has (ALLOW_INVALID_DATES), and the year 0000, which to the servers comes before
0001 but in no calendar of theirs. (MySQL source documentation: Rows_event, decimal2bin, my_time.cc.)

Places, sizes and numbers are never negative where they are divided. Functions give -2 when they raise.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

try:
    import cython
except ImportError:
    from cdc.decode import cython

from cdc.decode.mysql.wire import Malformed

INSERT, UPDATE, DELETE = b"cud"  # cdc.types has them as text
MOVED = ord("m")  # an UPDATE that changed the key
DIGITS_MAX, _INT64_DIGITS = 38, 18
_NULL = -1  # its size
_SIZE_MAX = (1 << 31) - 1  # spans and Arrow's offsets have 32 bits
_BYTES_LONG, _VALUES_LONG = 1 << 16, 2000  # what is less takes so little time that other threads can wait
_ROOM_MIN = 64
_GROUP = 9
_OCTETS = (0, 1, 1, 2, 2, 3, 3, 4, 4, 4)  # of a group, by its digits


@cython.cfunc
def _ints(store: bytearray) -> cython.p_int:
    """A buffer as numbers of 32 bits."""
    if cython.compiled:
        return cython.cast(cython.p_int, cython.cast(cython.p_uchar, store))
    return memoryview(store).cast("i")


@cython.cfunc
def _part(store: bytearray, first: cython.longlong, count: cython.longlong) -> cython.p_int:
    """Of such numbers some, to be read."""
    if cython.compiled:
        return _ints(store) + first
    return memoryview(store).cast("i")[first : first + count].tolist()


@cython.cfunc
def _longs(store: bytearray) -> cython.p_longlong:
    """A buffer as numbers of 64 bits."""
    if cython.compiled:
        return cython.cast(cython.p_longlong, cython.cast(cython.p_uchar, store))
    return memoryview(store).cast("q")


@cython.cfunc
def _wide(store: bytearray) -> cython.p_ulonglong:
    """A buffer as numbers of 64 bits without sign."""
    if cython.compiled:
        return cython.cast(cython.p_ulonglong, cython.cast(cython.p_uchar, store))
    return memoryview(store).cast("Q")


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _copy(
    target: cython.p_uchar, at: cython.longlong, data: cython.p_const_uchar, start: cython.longlong, size: cython.longlong
) -> cython.void:
    if cython.compiled:
        for place in range(size):
            target[at + place] = data[start + place]
    else:
        target[at : at + size] = data[start : start + size]


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _little(data: cython.p_const_uchar, start: cython.longlong, size: cython.longlong) -> cython.ulonglong:
    """A number of up to 8 bytes."""
    number: cython.ulonglong = 0
    if cython.compiled:
        for place in range(start + size - 1, start - 1, -1):
            number = number << 8 | data[place]
    else:
        number = int.from_bytes(data[start : start + size], "little")
    return number


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _big(data: cython.p_const_uchar, start: cython.longlong, size: cython.longlong) -> cython.ulonglong:
    """A number of up to 8 bytes."""
    number: cython.ulonglong = 0
    if cython.compiled:
        for place in range(start, start + size):
            number = number << 8 | data[place]
    else:
        number = int.from_bytes(data[start : start + size], "big")
    return number


@cython.cfunc
@cython.with_gil
@cython.exceptval(-2, check=False)
def _refuse(why: cython.p_const_char) -> cython.longlong:
    raise Malformed(why.decode())


# Rows.


@cython.final
@cython.cclass
class Image:
    """The columns that an image of an event carries, in order.

    `widths`: of each the bytes of a value or, negative, those of the length before it, up to 4. `slots`: where it stands in a row that
    was gathered; -1 for one that is not captured.
    """

    _store: bytearray
    _widths: cython.p_int
    _slots: cython.p_int
    _count: cython.longlong
    _captured: cython.longlong
    _slots_end: cython.longlong
    _null_bytes: cython.longlong

    def __init__(self, widths: Sequence[int], slots: Sequence[int]) -> None:
        if min(widths, default=0) < -4 or len(widths) != len(slots):
            raise ValueError(widths)
        self._count, self._null_bytes = len(widths), (len(widths) + 7) // 8
        self._captured, self._slots_end = sum(slot >= 0 for slot in slots), 1 + max(slots, default=-1)
        self._store = bytearray(array("i", [*widths, *slots]))
        self._widths, self._slots = _part(self._store, 0, self._count), _part(self._store, self._count, self._count)


@cython.cfunc
@cython.nogil
@cython.exceptval(-2, check=False)
def _read(
    image: Image,
    data: cython.p_const_uchar,
    place: cython.longlong,
    end: cython.longlong,
    spans: cython.p_int,
    row: cython.longlong,
    room: cython.longlong,
) -> cython.longlong:
    """Note the spans of the row at `place`; where it ends. `spans` has as many places as there is `room`, then as many sizes, by slot."""
    slot: cython.longlong
    size: cython.longlong
    nulls: cython.int = 0
    widths, slots, bits = image._widths, image._slots, place
    place += image._null_bytes
    if place > end:
        return _refuse(b"it ends too early")
    for number in range(image._count):
        nulls = nulls >> 1 if number & 7 else data[bits + (number >> 3)]
        slot, size = slots[number], widths[number]
        if nulls & 1:
            size = -1
        else:
            if size < 0:
                place -= size
                if place > end:
                    return _refuse(b"it ends too early")
                size = data[place - 1] if size == -1 else _little(data, place + size, -size)
            if size > end - place:
                return _refuse(b"it ends too early")
        if slot >= 0:
            slot = 2 * slot * room + row
            spans[slot] = place
            spans[slot + room] = size
        if size > 0:
            place += size
    return place


def read_row(image: Image, data: bytes, place: cython.longlong, end: cython.longlong) -> tuple[list[tuple[int, int]], int]:
    """One row by itself: place and size of each captured value, a negative size for NULL, and where it ends. Raises Malformed."""
    if not 0 <= place <= end <= len(data):
        raise IndexError(place)
    store = bytearray(array("i", (0, _NULL)) * image._slots_end)
    place = _read(image, data, place, end, _ints(store), 0, 1)
    spans = array("i", bytes(store))
    return list(zip(spans[::2], spans[1::2], strict=True)), place


@cython.final
@cython.cclass
class Gathered:
    """Rows of one table, gathered event by event: the bytes of their images, and for each row the spans of its captured values.

    `slots`: how many these are. Updates are compared by the values at the slots `compared`: the key's, or where a table is not `keyed`
    those of all columns.
    """

    _rows: cython.longlong
    _room: cython.longlong  # for how many there is
    _slots: cython.longlong
    _held: bytearray  # of which _size bytes are used
    _size: cython.longlong
    _data: cython.p_const_uchar
    _store: bytearray
    _spans: cython.p_int
    _changes: bytearray
    _ops: cython.p_uchar
    _store_compared: bytearray
    _compared: cython.p_int
    _compared_count: cython.longlong
    _keyed: cython.bint
    _op_before: cython.uchar
    _op_after: cython.uchar

    def __init__(self, slots: int, compared: Sequence[int], keyed: bool) -> None:
        if not all(0 <= slot < slots for slot in compared):
            raise IndexError(slots)
        self._rows, self._room, self._slots, self._size = 0, 0, slots, 0
        self._held, self._store, self._changes = bytearray(), bytearray(), bytearray()
        self._store_compared, self._compared_count, self._keyed = bytearray(array("i", compared)), len(compared), keyed
        self._compared = _part(self._store_compared, 0, self._compared_count)
        self._op_before, self._op_after = DELETE, MOVED if keyed else INSERT

    @property
    def rows(self) -> int:
        """Rows gathered."""
        return self._rows

    @property
    def size(self) -> int:
        """Bytes held for them."""
        return self._size

    def values(self, slot: cython.longlong) -> Values:
        """The values of a column; of no use once rows are added or forgotten."""
        if not 0 <= slot < self._slots:
            raise IndexError(slot)
        return _values(self._held, self._store, 2 * slot * self._room, (2 * slot + 1) * self._room, self._rows)

    def cut(self, rows: cython.longlong) -> None:
        """Forget the rows from a number on."""
        self._rows = min(max(rows, 0), self._rows)

    def clear(self) -> None:
        """Forget all rows; their memory is kept for others."""
        self._rows = self._size = 0

    def add(self, op: cython.uchar, data: bytes, place: cython.longlong, end: cython.longlong, before: Image, after: Image) -> bytes:
        """Gather the rows of an event, from `place` up to `end`. An event that is no UPDATE has one image, given twice.

        Returns the changes they come to, one for each row gathered. An update that changes what is compared is two: DELETE of the row
        before; MOVED, or where there is no key INSERT, of the row after. Others are one, or where there is no key none. What the image
        after does not carry is as before. Raises Malformed; this is of no use then.
        """
        at, begun = self._size, self._rows
        update: cython.bint = op == UPDATE
        if not 0 <= place <= end <= len(data) or max(before._slots_end, after._slots_end) > self._slots:
            raise IndexError(place)
        if not before._count + after._count:
            raise ValueError("how many rows have no columns is not told")
        if at + end - place > _SIZE_MAX:
            raise Malformed("it is too large")
        self._hold(data, place, end)
        end = self._size
        long: cython.bint = end - at >= _BYTES_LONG
        while at < end:
            self._make_room()
            if long:
                with cython.nogil:
                    at = self._read(op, update, at, end, before, after)
            else:
                at = self._read(op, update, at, end, before, after)
        return bytes(self._changes[begun : self._rows])

    @cython.cfunc
    def _hold(self, data: bytes, place: cython.longlong, end: cython.longlong) -> cython.void:
        size = end - place
        if self._size + size > len(self._held):
            self._held += bytes(max(size, len(self._held)))
            self._data = self._held
        self._held[self._size : self._size + size] = memoryview(data)[place:end]
        self._size += size

    @cython.cfunc
    def _make_room(self) -> cython.void:
        """Room for an update at least."""
        if self._rows + 2 > self._room:
            room, self._room = self._room, max(2 * self._room, _ROOM_MIN)
            store, known = bytearray(8 * self._slots * self._room), memoryview(self._store)
            for part in range(2 * self._slots):
                store[4 * part * self._room : 4 * (part * self._room + room)] = known[4 * part * room : 4 * (part + 1) * room]
            self._store, self._changes = store, self._changes + bytes(self._room - room)
            self._spans, self._ops = _ints(self._store), self._changes

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2, check=False)
    def _read(
        self, op: cython.uchar, update: cython.bint, at: cython.longlong, end: cython.longlong, before: Image, after: Image
    ) -> cython.longlong:
        """Read rows while there is room; where the next one begins."""
        data, spans, row, room = self._data, self._spans, self._rows, self._room
        while at < end and row + 2 <= room:
            # The row before an update stands behind the row after it, until they are found to be two.
            if before._captured < self._slots:
                for slot in range(self._slots):
                    spans[(2 * slot + 1) * room + row + update] = -1
            at = _read(before, data, at, end, spans, row + update, room)
            self._ops[row] = op
            if update:
                if after._captured < self._slots:
                    for part in range(2 * self._slots):
                        spans[part * room + row] = spans[part * room + row + 1]
                at = _read(after, data, at, end, spans, row, room)
                if self._moved(row):
                    self._ops[row], self._ops[row + 1] = self._op_before, self._op_after
                    row += 2
                elif self._keyed:
                    row += 1
            else:
                row += 1
        self._rows = row
        return at

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _moved(self, row: cython.longlong) -> cython.bint:
        """Whether an update changes what is compared; then the row before it comes first."""
        spans, room = self._spans, self._room
        for number in range(self._compared_count):
            at = 2 * self._compared[number] * room + row
            size = spans[at + room]
            if size != spans[at + room + 1] or not _same(self._data, spans[at], spans[at + 1], size):
                for part in range(2 * self._slots):
                    at = part * room + row
                    spans[at], spans[at + 1] = spans[at + 1], spans[at]
                return True
        return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _same(data: cython.p_const_uchar, one: cython.longlong, other: cython.longlong, size: cython.longlong) -> cython.bint:
    """Whether the bytes are; those of NULL are."""
    if not cython.compiled:
        return size < 0 or data[one : one + size] == data[other : other + size]
    place: cython.longlong = 0
    while place < size and data[one + place] == data[other + place]:
        place += 1
    return place >= size


# Values.


@cython.final
@cython.cclass
class Values:
    """The values of one column as row images have them, in order: None for NULL, else the bytes without a length before them."""

    _held: bytearray
    _store: bytearray
    _starts: cython.p_int
    _sizes: cython.p_int
    _count: cython.longlong

    def __len__(self) -> int:
        return self._count

    @property
    def null_count(self) -> int:
        """How many are NULL."""
        nulls: cython.longlong = 0
        for row in range(self._count):
            nulls += self._sizes[row] < 0
        return nulls

    def to_pylist(self) -> list[bytes | None]:
        """All of them."""
        starts, sizes, values = self._starts, self._sizes, []
        for row in range(self._count):
            values.append(None if sizes[row] < 0 else bytes(self._held[starts[row] : starts[row] + sizes[row]]))
        return values


@cython.cfunc
def _values(held: bytearray, store: bytearray, starts: cython.longlong, sizes: cython.longlong, count: cython.longlong) -> Values:
    """The values whose spans are in a buffer, the places of these from `starts` on, the sizes from `sizes` on."""
    values = Values()
    values._held, values._store, values._count = held, store, count
    values._starts, values._sizes = _part(store, starts, count), _part(store, sizes, count)
    return values


def values_of(values: Sequence[bytes | None]) -> Values:
    """Values that stand in no row image, as if they did. Raises Malformed if they are too large."""
    sizes = [_NULL if value is None else len(value) for value in values]
    starts = list(accumulate([max(0, size) for size in sizes], initial=0))
    if starts[-1] > _SIZE_MAX:
        raise Malformed("it is too large")
    store = bytearray(array("i", [*starts, *sizes]))
    return _values(bytearray(b"".join([value or b"" for value in values])), store, 0, len(sizes) + 1, len(sizes))


@cython.cclass
class Writer:
    """Writes the values of a column as Arrow lays it out; null where they are NULL, or have no faithful target.

    The kinds of writers follow; one is good for one column, to whose values it gives `size` bytes.
    """

    _values: Values
    _data: cython.p_const_uchar
    _starts: cython.p_int
    _sizes: cython.p_int
    _count: cython.longlong
    _bitmap: bytearray
    _valid: cython.p_uchar
    _nulls: cython.longlong
    _target: bytearray
    _out: cython.p_uchar

    def __init__(self, values: Values, size: int) -> None:
        self._values, self._data, self._count, self._nulls = values, values._held, values._count, 0
        self._starts, self._sizes = values._starts, values._sizes
        self._bitmap, self._target = bytearray(b"\xff") * ((self._count + 7) // 8), bytearray(size)
        self._valid, self._out = self._bitmap, self._target

    def write(self) -> tuple[int, list[Any]]:
        """The number of nulls, and Arrow's buffers, the bitmap first. Raises Malformed for what is no value of the type."""
        if self._count < _VALUES_LONG:
            self._fill()
        else:
            with cython.nogil:
                self._fill()
        return self._nulls, [self._bitmap if self._nulls else None, *self._buffers()]

    def _buffers(self) -> tuple[Any, ...]:
        return (self._target,)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2, check=False)
    def _fill(self) -> cython.longlong:
        return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _blank(writer: Writer, row: cython.longlong) -> cython.void:
    """Leave a row null."""
    writer._valid[row >> 3] &= 0xFF ^ (1 << (row & 7))
    writer._nulls += 1


@cython.cfunc
@cython.nogil
@cython.exceptval(-2, check=False)
def _pass(writer: Writer, row: cython.longlong, size: cython.longlong) -> cython.longlong:
    """Leave a row null that has no value of a size; it must be NULL."""
    if writer._sizes[row] >= 0:
        return _refuse_size(size)
    _blank(writer, row)
    return 0


@cython.cfunc
@cython.with_gil
@cython.exceptval(-2, check=False)
def _refuse_size(size: cython.longlong) -> cython.longlong:
    raise Malformed(f"a value is not of {size} bytes")


@cython.final
@cython.cclass
class Numbers(Writer):
    """Little-endian numbers of `size` bytes in `width`, which may be `signed`. Floats keep their bits."""

    _size: cython.longlong
    _width: cython.longlong
    _signed: cython.bint

    def __init__(self, values: Values, size: int, width: int, signed: bool = False) -> None:
        if not 0 < size <= width <= 8:
            raise ValueError(f"a number can't have {size} bytes")
        super().__init__(values, width * len(values))
        self._size, self._width, self._signed = size, width, signed

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2, check=False)
    def _fill(self) -> cython.longlong:
        out, data, starts, sizes, size, width = self._out, self._data, self._starts, self._sizes, self._size, self._width
        extended: cython.bint = self._signed and size < width
        for row in range(self._count):
            if sizes[row] != size:
                _pass(self, row, size)
                continue
            _copy(out, row * width, data, starts[row], size)
            if extended and data[starts[row] + size - 1] & 0x80:
                for at in range(row * width + size, (row + 1) * width):
                    out[at] = 0xFF
        return 0


@cython.final
@cython.cclass
class Bits(Writer):
    """Big-endian numbers of `size` bytes as uint64."""

    _numbers: cython.p_ulonglong
    _size: cython.longlong

    def __init__(self, values: Values, size: int) -> None:
        if not 0 < size <= 8:
            raise ValueError(f"a number can't have {size} bytes")
        super().__init__(values, 8 * len(values))
        self._numbers, self._size = _wide(self._target), size

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2, check=False)
    def _fill(self) -> cython.longlong:
        numbers, data, starts, sizes, size = self._numbers, self._data, self._starts, self._sizes, self._size
        for row in range(self._count):
            if sizes[row] != size:
                _pass(self, row, size)
            else:
                numbers[row] = _big(data, starts[row], size)
        return 0


@cython.final
@cython.cclass
class Years(Writer):
    """YEAR as int16."""

    def __init__(self, values: Values) -> None:
        super().__init__(values, 2 * len(values))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2, check=False)
    def _fill(self) -> cython.longlong:
        for row in range(self._count):
            if self._sizes[row] != 1:
                _pass(self, row, 1)
                continue
            year = self._data[self._starts[row]]
            if year:
                self._out[2 * row] = (1900 + year) & 0xFF
                self._out[2 * row + 1] = (1900 + year) >> 8
        return 0


# Moments.


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _day(year: cython.longlong, month: cython.longlong, day: cython.longlong) -> cython.longlong:
    """Days since the end of February of the year 0; 0 where no calendar has such a day."""
    days = 30 + ((month + (month >> 3)) & 1)
    if month == 2:
        days = 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    if not (1 <= year <= 9999 and 1 <= month <= 12 and 1 <= day <= days):
        return 0
    if month <= 2:
        # Years that begin in March have the day that only some have as their last.
        year, month = year - 1, month + 12
    return year * 365 + year // 4 - year // 100 + year // 400 + (153 * (month - 3) + 2) // 5 + day


@cython.cfunc
@cython.nogil
@cython.exceptval(-2, check=False)
def _clock(hours: cython.longlong, minutes: cython.longlong, seconds: cython.longlong) -> cython.longlong:
    """Seconds of a day."""
    if minutes > 59:
        return _refuse(b"a minute is beyond 59")
    if hours > 23:
        return _refuse(b"an hour is beyond 23")
    if seconds > 59:
        return _refuse(b"a second is beyond 59")
    return (hours * 60 + minutes) * 60 + seconds


@cython.cfunc
@cython.nogil
@cython.exceptval(-2, check=False)
def _micros(data: cython.p_const_uchar, start: cython.longlong, octets: cython.longlong) -> cython.longlong:
    """A fraction in µs."""
    number: cython.longlong = _big(data, start, octets)
    number *= 1 if octets == 3 else 100 if octets == 2 else 10_000
    return number if number <= 999_999 else _refuse(b"a fraction is beyond 999999")


@cython.cfunc
def _octets(digits: cython.longlong) -> cython.longlong:
    """The bytes that a fraction of so many digits takes."""
    if not 0 <= digits <= 6:
        raise ValueError(f"a fraction can't have {digits} digits")
    return (digits + 1) // 2


@cython.final
@cython.cclass
class Dates(Writer):
    """DATE as date32."""

    _days: cython.p_int

    def __init__(self, values: Values) -> None:
        super().__init__(values, 4 * len(values))
        self._days = _ints(self._target)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2, check=False)
    def _fill(self) -> cython.longlong:
        days, data, starts, sizes = self._days, self._data, self._starts, self._sizes
        for row in range(self._count):
            if sizes[row] != 3:
                _pass(self, row, 3)
                continue
            number = _little(data, starts[row], 3)
            day = _day(number >> 9, number >> 5 & 15, number & 31)
            if day:
                days[row] = day - 719_469
            else:
                _blank(self, row)
        return 0


@cython.final
@cython.cclass
class Datetimes(Writer):
    """DATETIME, with `digits` of fraction or in its old form, as timestamp[us]."""

    _moments: cython.p_longlong
    _octets: cython.longlong
    _old: cython.bint

    def __init__(self, values: Values, digits: int, old: bool) -> None:
        super().__init__(values, 8 * len(values))
        self._moments, self._octets, self._old = _longs(self._target), _octets(digits), old

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2, check=False)
    def _fill(self) -> cython.longlong:
        micros: cython.longlong = 0
        moments, data, starts, sizes, octets = self._moments, self._data, self._starts, self._sizes, self._octets
        size = 8 if self._old else 5 + octets
        for row in range(self._count):
            if sizes[row] != size:
                _pass(self, row, size)
                continue
            start = starts[row]
            if self._old:
                number = _little(data, start, 8)
                clock = _clock(number // 10_000 % 100, number // 100 % 100, number % 100)
                number //= 1_000_000
                day = _day(number // 10_000, number // 100 % 100, number % 100)
            else:
                number = _big(data, start, 5)
                if not number >> 39:
                    return _refuse(b"a date is negative")
                micros = _micros(data, start + 5, octets)
                clock = _clock(number >> 12 & 31, number >> 6 & 63, number & 63)
                number = number >> 17 & 0x3F_FFFF
                day = _day((number >> 5) // 13, (number >> 5) % 13, number & 31)
            if day:
                moments[row] = ((day - 719_469) * 86_400 + clock) * 1_000_000 + micros
            else:
                _blank(self, row)
        return 0


@cython.final
@cython.cclass
class Timestamps(Writer):
    """TIMESTAMP, with `digits` of fraction or in its old form, as timestamp[us, UTC]."""

    _moments: cython.p_longlong
    _octets: cython.longlong
    _old: cython.bint

    def __init__(self, values: Values, digits: int, old: bool) -> None:
        super().__init__(values, 8 * len(values))
        self._moments, self._octets, self._old = _longs(self._target), _octets(digits), old

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2, check=False)
    def _fill(self) -> cython.longlong:
        seconds: cython.longlong
        moments, data, starts, sizes, octets = self._moments, self._data, self._starts, self._sizes, self._octets
        for row in range(self._count):
            if sizes[row] != 4 + octets:
                _pass(self, row, 4 + octets)
                continue
            seconds = _little(data, starts[row], 4) if self._old else _big(data, starts[row], 4)
            micros = _micros(data, starts[row] + 4, octets)
            if seconds:
                moments[row] = seconds * 1_000_000 + micros
            else:
                _blank(self, row)
        return 0


# Decimals.


@cython.final
@cython.cclass
class Groups:
    """How the digits of DECIMALs lie."""

    _store: bytearray
    _plan: cython.p_int  # of each group its digits, its bytes, and 10 to the digits
    _count: cython.longlong
    _whole: cython.longlong  # groups before the point
    _size: cython.longlong  # bytes of a value

    def __init__(self, precision: int, scale: int) -> None:
        if not 0 <= scale <= precision or not precision:
            raise ValueError(f"a decimal can't have {scale} of {precision} digits after the point")
        full, rest = divmod(precision - scale, _GROUP)
        counts = [rest] * (rest > 0) + [_GROUP] * full
        self._whole = len(counts)
        full, rest = divmod(scale, _GROUP)
        counts += [_GROUP] * full + [rest] * (rest > 0)
        self._store = bytearray(array("i", [number for count in counts for number in (count, _OCTETS[count], 10**count)]))
        self._plan, self._count, self._size = _part(self._store, 0, 3 * len(counts)), len(counts), sum(_OCTETS[count] for count in counts)


@cython.cfunc
@cython.nogil
@cython.exceptval(-2, check=False)
def _group(
    groups: Groups, number: cython.longlong, data: cython.p_const_uchar, place: cython.longlong, negative: cython.bint
) -> cython.longlong:
    """The digits of a group at `place`."""
    octets = groups._plan[3 * number + 1]
    digits: cython.longlong = _big(data, place, octets)
    bit: cython.longlong = 1
    if number == 0:
        digits ^= bit << 8 * octets - 1
    if negative:
        digits ^= (bit << 8 * octets) - 1
    return digits if digits < groups._plan[3 * number + 2] else _refuse_group(groups._plan[3 * number])


@cython.cfunc
@cython.with_gil
@cython.exceptval(-2, check=False)
def _refuse_group(count: cython.longlong) -> cython.longlong:
    raise Malformed(f"a group of {count} digits is beyond {'9' * count}")


@cython.final
@cython.cclass
class Decimals(Writer):
    """DECIMAL of up to 38 digits as decimal128."""

    _groups: Groups
    _halves: cython.p_ulonglong  # the low and the high half of each number
    _half: cython.ulonglong  # 32 bits that are set
    _ones: cython.ulonglong  # 64
    _short: cython.bint  # numbers fit into the low half

    def __init__(self, values: Values, precision: int, scale: int) -> None:
        if precision > DIGITS_MAX:
            raise ValueError(f"a decimal128 can't have {precision} digits")
        super().__init__(values, 16 * len(values))
        self._groups, self._halves = Groups(precision, scale), _wide(self._target)
        self._half, self._ones, self._short = (1 << 32) - 1, (1 << 64) - 1, precision <= _INT64_DIGITS

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2, check=False)
    def _fill(self) -> cython.longlong:
        digits: cython.ulonglong
        power: cython.ulonglong
        low: cython.ulonglong
        high: cython.ulonglong
        negative: cython.bint
        data, starts, sizes, plan, size = self._data, self._starts, self._sizes, self._groups._plan, self._groups._size
        for row in range(self._count):
            if sizes[row] != size:
                _pass(self, row, size)
                continue
            place, low, high = starts[row], 0, 0
            negative = data[place] < 0x80
            for number in range(self._groups._count):
                digits, power = _group(self._groups, number, data, place, negative), plan[3 * number + 2]
                place += plan[3 * number + 1]
                if self._short:
                    low = low * power + digits
                else:
                    digits += (low & self._half) * power
                    low = (low >> 32) * power + (digits >> 32)
                    high = high * power + (low >> 32)
                    low = (low & self._half) << 32 | (digits & self._half)
            if negative:
                low = (low ^ self._ones) + 1 & self._ones
                high = (high ^ self._ones) + (low == 0) & self._ones
            self._halves[2 * row] = low
            self._halves[2 * row + 1] = high
        return 0


# Values of any length.


@cython.cclass
class Spread(Writer):
    """What their writers have in common: `size` bytes for all of them together, and where each ends in these."""

    _offsets: bytearray
    _ends: cython.p_int
    _end: cython.longlong

    def __init__(self, values: Values, size: int) -> None:
        if size > _SIZE_MAX:
            raise Malformed("it is too large")
        super().__init__(values, size)
        self._offsets, self._end = bytearray(4 * (self._count + 1)), 0
        self._ends = _ints(self._offsets)

    def _buffers(self) -> tuple[Any, ...]:
        return self._offsets, memoryview(self._target)[: self._end]


@cython.cfunc
@cython.exceptval(check=False)
def _bytes(values: Values) -> cython.longlong:
    """How many there are."""
    size: cython.longlong = 0
    for row in range(values._count):
        size += max(0, values._sizes[row])
    return size


@cython.final
@cython.cclass
class Bytes(Spread):
    """Bytes as they are; or with zeros behind them up to `length`, unless that is negative."""

    _length: cython.longlong

    def __init__(self, values: Values, length: int = -1) -> None:
        super().__init__(values, _bytes(values) if length < 0 else length * len(values))
        self._length = length

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2, check=False)
    def _fill(self) -> cython.longlong:
        out, ends, data, starts, sizes, length, end = self._out, self._ends, self._data, self._starts, self._sizes, self._length, self._end
        for row in range(self._count):
            size = sizes[row]
            if size < 0:
                _blank(self, row)
            else:
                if size > length >= 0:
                    return _refuse_length(length)
                _copy(out, end, data, starts[row], size)
                end += size if length < 0 else length
            ends[row + 1] = end
        self._end = end
        return 0


@cython.cfunc
@cython.with_gil
@cython.exceptval(-2, check=False)
def _refuse_length(length: cython.longlong) -> cython.longlong:
    raise Malformed(f"a value is longer than {length} bytes")


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _put(out: cython.p_uchar, at: cython.longlong, character: cython.uchar) -> cython.longlong:
    """Write it; where it ends."""
    out[at] = character
    return at + 1


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _print(out: cython.p_uchar, at: cython.longlong, number: cython.longlong, count: cython.longlong) -> cython.longlong:
    """Write the last `count` digits of a number; where they end."""
    for place in range(at + count - 1, at - 1, -1):
        out[place] = 48 + number % 10
        number //= 10
    return at + count


@cython.final
@cython.cclass
class DecimalTexts(Spread):
    """DECIMAL as the server prints it: all digits of its fraction, no zeros in front but one before the point."""

    _groups: Groups

    def __init__(self, values: Values, precision: int, scale: int) -> None:
        super().__init__(values, (precision + 3) * len(values))
        self._groups = Groups(precision, scale)

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2, check=False)
    def _fill(self) -> cython.longlong:
        for row in range(self._count):
            if self._sizes[row] != self._groups._size:
                _pass(self, row, self._groups._size)
            else:
                self._end = _print_decimal(self._groups, self._data, self._starts[row], self._out, self._end)
            self._ends[row + 1] = self._end
        return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(-2, check=False)
def _print_decimal(
    groups: Groups, data: cython.p_const_uchar, place: cython.longlong, out: cython.p_uchar, at: cython.longlong
) -> cython.longlong:
    """Write the decimal at `place`; where it ends."""
    negative: cython.bint = data[place] < 0x80
    if negative:
        at = _put(out, at, 45)  # -
    begun = at
    for number in range(groups._count):
        digits, count = _group(groups, number, data, place, negative), groups._plan[3 * number]
        place += groups._plan[3 * number + 1]
        if number == groups._whole:
            at = _put(out, _print(out, at, 0, at == begun), 46)  # .
        elif at == begun:
            count, rest = 0, digits
            while rest:
                count, rest = count + 1, rest // 10
        at = _print(out, at, digits, count)
    return _print(out, at, 0, at == begun)


@cython.final
@cython.cclass
class Times(Spread):
    """TIME, with `digits` of fraction or in its old form, as the server prints it."""

    _digits: cython.longlong
    _octets: cython.longlong
    _all: cython.longlong  # 10 to the digits that are logged
    _more: cython.longlong  # 10 to those of them that the type does not have
    _old: cython.bint

    def __init__(self, values: Values, digits: int, old: bool) -> None:
        super().__init__(values, 18 * len(values))
        self._digits, self._octets, self._old = digits, _octets(digits), old
        self._all, self._more = (1, 100, 10_000, 1_000_000)[self._octets], 10 if digits % 2 else 1

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2, check=False)
    def _fill(self) -> cython.longlong:
        number: cython.longlong
        fraction: cython.longlong = 0
        scale: cython.longlong = 1
        scale <<= 8 * self._octets
        size = 3 + self._octets
        for row in range(self._count):
            if self._sizes[row] != size:
                _pass(self, row, size)
                self._ends[row + 1] = self._end
                continue
            if self._old:
                number = _little(self._data, self._starts[row], 3)
                number -= number >> 23 << 24
            else:
                number = _big(self._data, self._starts[row], size)
                number -= scale << 23
            if number < 0:
                number = -number
                self._end = _put(self._out, self._end, 45)  # -
            if self._old:
                self._end = _print_clock(self._out, self._end, number // 10_000, number // 100 % 100, number % 100)
            else:
                number, fraction = number // scale, number % scale
                if fraction >= self._all or fraction % self._more:
                    return _refuse(b"a fraction is beyond its digits")
                self._end = _print_clock(self._out, self._end, number >> 12 & 1023, number >> 6 & 63, number & 63)
            if self._digits:
                self._end = _print(self._out, _put(self._out, self._end, 46), fraction // self._more, self._digits)  # .
            self._ends[row + 1] = self._end
        return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(-2, check=False)
def _print_clock(
    out: cython.p_uchar, at: cython.longlong, hours: cython.longlong, minutes: cython.longlong, seconds: cython.longlong
) -> cython.longlong:
    if minutes > 59 or seconds > 59:
        return _refuse(b"a time is none")
    at = _print(out, at, hours, 2 + (hours > 99) + (hours > 999))
    at = _print(out, _put(out, at, 58), minutes, 2)  # :
    return _print(out, _put(out, at, 58), seconds, 2)
