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
@cython.exceptval(-2)
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
    _columns: cython.p_int  # width and slot of each
    _count: cython.longlong
    _captured: cython.longlong
    _slots: cython.longlong  # one more than the last of them
    _null_bytes: cython.longlong

    def __init__(self, widths: Sequence[int], slots: Sequence[int]) -> None:
        if min(widths, default=0) < -4:
            raise ValueError("a length has up to 4 bytes")
        self._store = bytearray(array("i", [number for pair in zip(widths, slots, strict=True) for number in pair]))
        self._columns = _ints(self._store)
        self._count, self._null_bytes = len(widths), (len(widths) + 7) // 8
        self._captured, self._slots = sum(slot >= 0 for slot in slots), 1 + max(slots, default=-1)


@cython.cfunc
@cython.nogil
@cython.exceptval(-2)
def _read(
    image: Image, data: cython.p_const_uchar, place: cython.longlong, end: cython.longlong, spans: cython.p_int, at: cython.longlong
) -> cython.longlong:
    """Note the spans of the row at `place`, from `at` on; where it ends."""
    size: cython.longlong
    slot: cython.longlong
    columns, bits = image._columns, place
    place += image._null_bytes
    if place > end:
        return _refuse(b"it ends too early")
    for number in range(image._count):
        size, slot = columns[2 * number], columns[2 * number + 1]
        if data[bits + (number >> 3)] >> (number & 7) & 1:
            if slot >= 0:
                spans[at + 2 * slot + 1] = -1
            continue
        if size < 0:
            place -= size
            if place > end:
                return _refuse(b"it ends too early")
            size = _little(data, place + size, -size)
        if size > end - place:
            return _refuse(b"it ends too early")
        if slot >= 0:
            spans[at + 2 * slot], spans[at + 2 * slot + 1] = place, size
        place += size
    return place


def read_row(image: Image, data: bytes, place: cython.longlong, end: cython.longlong) -> tuple[list[tuple[int, int]], int]:
    """One row by itself: place and size of each captured value, a negative size for NULL, and where it ends. Raises Malformed."""
    if not 0 <= place <= end <= len(data):
        raise IndexError(place)
    store = bytearray(array("i", (0, _NULL)) * image._slots)
    place = _read(image, data, place, end, _ints(store), 0)
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
    _held: bytearray
    _data: cython.p_const_uchar
    _store: bytearray
    _spans: cython.p_int
    _changes: bytearray
    _ops: cython.p_uchar
    _slots_compared: bytearray
    _compared: cython.p_int
    _compared_count: cython.longlong
    _keyed: cython.bint
    _op_before: cython.uchar
    _op_after: cython.uchar

    def __init__(self, slots: int, compared: Sequence[int], keyed: bool) -> None:
        if not all(0 <= slot < slots for slot in compared):
            raise IndexError(slots)
        self._rows, self._room, self._slots = 0, 0, slots
        self._held, self._store, self._changes = bytearray(), bytearray(), bytearray()
        self._slots_compared, self._compared_count = bytearray(array("i", compared)), len(compared)
        self._compared, self._keyed = _ints(self._slots_compared), keyed
        self._op_before, self._op_after = DELETE, MOVED if keyed else INSERT

    @property
    def rows(self) -> int:
        """Rows gathered."""
        return self._rows

    @property
    def size(self) -> int:
        """Bytes held for them."""
        return len(self._held)

    def values(self, slot: cython.longlong) -> Values:
        """The values of a column; of no use once more is added."""
        if not 0 <= slot < self._slots:
            raise IndexError(slot)
        values = Values(())
        values._held, values._store, values._count = self._held, self._store, self._rows
        values._first, values._step = 2 * slot, 2 * self._slots
        return values

    def cut(self, rows: cython.longlong) -> None:
        """Forget the rows from a number on."""
        self._rows = min(max(rows, 0), self._rows)

    def add(self, op: cython.uchar, data: bytes, place: cython.longlong, end: cython.longlong, before: Image, after: Image) -> bytes:
        """Gather the rows of an event, from `place` up to `end`. An event that is no UPDATE has one image, given twice.

        Returns the changes they come to, one for each row gathered. An update that changes what is compared is two: DELETE of the row
        before; MOVED, or where there is no key INSERT, of the row after. Others are one, or where there is no key none. What the image
        after does not carry is as before. Raises Malformed; this is of no use then.
        """
        at: cython.longlong = len(self._held)
        begun = self._rows
        update: cython.bint = op == UPDATE
        if not 0 <= place <= end <= len(data) or max(before._slots, after._slots) > self._slots:
            raise IndexError(place)
        if at + end - place > _SIZE_MAX:
            raise Malformed("it is too large")
        self._held += memoryview(data)[place:end]
        self._data, end = self._held, len(self._held)
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
    def _make_room(self) -> cython.void:
        """Room for an update at least."""
        if self._rows + 2 > self._room:
            more = max(self._room, _ROOM_MIN)
            self._room += more
            self._store, self._changes = self._store + bytes(8 * self._slots * more), self._changes + bytes(more)
            self._spans, self._ops = _ints(self._store), self._changes

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2)
    def _read(
        self, op: cython.uchar, update: cython.bint, at: cython.longlong, end: cython.longlong, before: Image, after: Image
    ) -> cython.longlong:
        """Read rows while there is room; where the next one begins."""
        spans, row, width = self._spans, self._rows, 2 * self._slots
        while at < end and row + 2 <= self._room:
            if before._captured < self._slots:
                for slot in range(self._slots):
                    spans[row * width + 2 * slot + 1] = -1
            at = _read(before, self._data, at, end, spans, row * width)
            self._ops[row] = op
            row += 1
            if update:
                _move(spans, row * width, (row - 1) * width, width)
                at = _read(after, self._data, at, end, spans, row * width)
                if self._moved(row):
                    self._ops[row - 1], self._ops[row] = self._op_before, self._op_after
                    row += 1
                elif self._keyed:
                    _move(spans, (row - 1) * width, row * width, width)
                else:
                    row -= 1
        self._rows = row
        return at

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(check=False)
    def _moved(self, row: cython.longlong) -> cython.bint:
        """Whether a row differs from the one before it in what is compared."""
        for number in range(self._compared_count):
            new = 2 * (row * self._slots + self._compared[number])
            old = new - 2 * self._slots
            size = self._spans[new + 1]
            if size != self._spans[old + 1] or not _same(self._data, self._spans[new], self._spans[old], size):
                return True
        return False


@cython.cfunc
@cython.nogil
@cython.exceptval(check=False)
def _move(spans: cython.p_int, to: cython.longlong, at: cython.longlong, count: cython.longlong) -> cython.void:
    if cython.compiled:
        for number in range(count):
            spans[to + number] = spans[at + number]
    else:
        spans[to : to + count] = spans[at : at + count]


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
    _store: bytearray  # spans: of the first value at _first, of each next one _step further
    _first: cython.longlong
    _step: cython.longlong
    _count: cython.longlong

    def __init__(self, values: Sequence[bytes | None]) -> None:
        spans = array("i")
        self._held = bytearray()
        for value in values:
            spans.extend((len(self._held), _NULL if value is None else len(value)))
            self._held += value or b""
        self._store, self._first, self._step, self._count = bytearray(spans), 0, 2, len(values)

    def __len__(self) -> int:
        return self._count

    @property
    def null_count(self) -> int:
        """How many are NULL."""
        spans, nulls = _ints(self._store), 0
        for number in range(self._count):
            nulls += spans[self._first + number * self._step + 1] < 0
        return nulls

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        spans = _ints(self._store)
        size: cython.longlong = 0
        for number in range(self._count):
            size += max(0, spans[self._first + number * self._step + 1])
        return size

    def to_pylist(self) -> list[bytes | None]:
        """All of them."""
        spans, values = _ints(self._store), []
        for number in range(self._count):
            at = self._first + number * self._step
            values.append(None if spans[at + 1] < 0 else bytes(self._held[spans[at] : spans[at] + spans[at + 1]]))
        return values


@cython.cclass
class Writer:
    """Writes the values of a column as Arrow lays it out; null where they are NULL, or have no faithful target.

    The kinds of writers follow; one is good for one column, to whose values it gives `size` bytes.
    """

    _values: Values
    _data: cython.p_const_uchar
    _spans: cython.p_int
    _first: cython.longlong
    _step: cython.longlong
    _count: cython.longlong
    _bitmap: bytearray
    _valid: cython.p_uchar
    _nulls: cython.longlong
    _target: bytearray
    _out: cython.p_uchar

    def __init__(self, values: Values, size: int) -> None:
        self._values, self._data, self._spans = values, values._held, _ints(values._store)
        self._first, self._step, self._count, self._nulls = values._first, values._step, values._count, 0
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
    @cython.exceptval(-2)
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
@cython.exceptval(-2)
def _start(writer: Writer, row: cython.longlong, size: cython.longlong) -> cython.longlong:
    """Where a row's value begins, which must have a size; -1 for NULL."""
    at = writer._first + row * writer._step
    if writer._spans[at + 1] == size:
        return writer._spans[at]
    if writer._spans[at + 1] >= 0:
        return _refuse_size(size)
    _blank(writer, row)
    return -1


@cython.cfunc
@cython.with_gil
@cython.exceptval(-2)
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
    @cython.exceptval(-2)
    def _fill(self) -> cython.longlong:
        for row in range(self._count):
            start = _start(self, row, self._size)
            if start >= 0:
                _copy(self._out, row * self._width, self._data, start, self._size)
                if self._signed and self._data[start + self._size - 1] & 0x80:
                    for at in range(row * self._width + self._size, (row + 1) * self._width):
                        self._out[at] = 0xFF
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
    @cython.exceptval(-2)
    def _fill(self) -> cython.longlong:
        for row in range(self._count):
            start = _start(self, row, self._size)
            if start >= 0:
                self._numbers[row] = _big(self._data, start, self._size)
        return 0


@cython.final
@cython.cclass
class Years(Writer):
    """YEAR as int16."""

    def __init__(self, values: Values) -> None:
        super().__init__(values, 2 * len(values))

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2)
    def _fill(self) -> cython.longlong:
        for row in range(self._count):
            start = _start(self, row, 1)
            if start >= 0 and self._data[start]:
                year = 1900 + self._data[start]
                self._out[2 * row], self._out[2 * row + 1] = year & 0xFF, year >> 8
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
@cython.exceptval(-2)
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
@cython.exceptval(-2)
def _micros(data: cython.p_const_uchar, start: cython.longlong, octets: cython.longlong) -> cython.longlong:
    """A fraction in µs."""
    number: cython.longlong = _big(data, start, octets)
    for _ in range(octets, 3):
        number *= 100
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
    @cython.exceptval(-2)
    def _fill(self) -> cython.longlong:
        for row in range(self._count):
            start = _start(self, row, 3)
            if start >= 0:
                number = _little(self._data, start, 3)
                day = _day(number >> 9, number >> 5 & 15, number & 31)
                if day:
                    self._days[row] = day - 719_469
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
    @cython.exceptval(-2)
    def _fill(self) -> cython.longlong:
        micros: cython.longlong = 0
        for row in range(self._count):
            start = _start(self, row, 8 if self._old else 5 + self._octets)
            if start < 0:
                continue
            if self._old:
                number = _little(self._data, start, 8)
                clock = _clock(number // 10_000 % 100, number // 100 % 100, number % 100)
                number //= 1_000_000
                day = _day(number // 10_000, number // 100 % 100, number % 100)
            else:
                number = _big(self._data, start, 5)
                if not number >> 39:
                    return _refuse(b"a date is negative")
                micros = _micros(self._data, start + 5, self._octets)
                clock = _clock(number >> 12 & 31, number >> 6 & 63, number & 63)
                number = number >> 17 & 0x3F_FFFF
                day = _day((number >> 5) // 13, (number >> 5) % 13, number & 31)
            if day:
                self._moments[row] = ((day - 719_469) * 86_400 + clock) * 1_000_000 + micros
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
    @cython.exceptval(-2)
    def _fill(self) -> cython.longlong:
        for row in range(self._count):
            start = _start(self, row, 4 + self._octets)
            if start >= 0:
                seconds: cython.longlong = _little(self._data, start, 4) if self._old else _big(self._data, start, 4)
                micros = _micros(self._data, start + 4, self._octets)
                if seconds:
                    self._moments[row] = seconds * 1_000_000 + micros
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
        self._plan, self._count, self._size = _ints(self._store), len(counts), sum(_OCTETS[count] for count in counts)


@cython.cfunc
@cython.nogil
@cython.exceptval(-2)
def _group(
    groups: Groups, number: cython.longlong, data: cython.p_const_uchar, start: cython.longlong, place: cython.longlong
) -> cython.longlong:
    """The digits of a group, which is at `place` of a value that begins at `start`."""
    octets = groups._plan[3 * number + 1]
    digits: cython.longlong = _big(data, place, octets)
    bit: cython.longlong = 1
    if place == start:
        digits ^= bit << 8 * octets - 1
    if data[start] < 0x80:
        digits ^= (bit << 8 * octets) - 1
    return digits if digits < groups._plan[3 * number + 2] else _refuse_group(groups._plan[3 * number])


@cython.cfunc
@cython.with_gil
@cython.exceptval(-2)
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
    @cython.exceptval(-2)
    def _fill(self) -> cython.longlong:
        digits: cython.ulonglong
        power: cython.ulonglong
        low: cython.ulonglong
        high: cython.ulonglong
        for row in range(self._count):
            start = _start(self, row, self._groups._size)
            if start < 0:
                continue
            place, low, high = start, 0, 0
            for number in range(self._groups._count):
                digits, power = _group(self._groups, number, self._data, start, place), self._groups._plan[3 * number + 2]
                place += self._groups._plan[3 * number + 1]
                if self._short:
                    low = low * power + digits
                else:
                    digits += (low & self._half) * power
                    low = (low >> 32) * power + (digits >> 32)
                    high = high * power + (low >> 32)
                    low = (low & self._half) << 32 | (digits & self._half)
            if self._data[start] < 0x80:
                low = (low ^ self._ones) + 1 & self._ones
                high = (high ^ self._ones) + (low == 0) & self._ones
            self._halves[2 * row], self._halves[2 * row + 1] = low, high
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


@cython.final
@cython.cclass
class Bytes(Spread):
    """Bytes as they are; or with zeros behind them up to `length`, unless that is negative."""

    _length: cython.longlong

    def __init__(self, values: Values, length: int = -1) -> None:
        super().__init__(values, values.size if length < 0 else length * len(values))
        self._length = length

    @cython.cfunc
    @cython.nogil
    @cython.exceptval(-2)
    def _fill(self) -> cython.longlong:
        for row in range(self._count):
            at = self._first + row * self._step
            size = self._spans[at + 1]
            if size < 0:
                _blank(self, row)
            else:
                if size > self._length >= 0:
                    return _refuse_length(self._length)
                _copy(self._out, self._end, self._data, self._spans[at], size)
                self._end += size if self._length < 0 else self._length
            self._ends[row + 1] = self._end
        return 0


@cython.cfunc
@cython.with_gil
@cython.exceptval(-2)
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
    @cython.exceptval(-2)
    def _fill(self) -> cython.longlong:
        for row in range(self._count):
            start = _start(self, row, self._groups._size)
            if start >= 0:
                self._end = _print_decimal(self._groups, self._data, start, self._out, self._end)
            self._ends[row + 1] = self._end
        return 0


@cython.cfunc
@cython.nogil
@cython.exceptval(-2)
def _print_decimal(
    groups: Groups, data: cython.p_const_uchar, start: cython.longlong, out: cython.p_uchar, at: cython.longlong
) -> cython.longlong:
    """Write the decimal at `start`; where it ends."""
    place = start
    if data[start] < 0x80:
        at = _put(out, at, 45)  # -
    begun = at
    for number in range(groups._count):
        digits, count = _group(groups, number, data, start, place), groups._plan[3 * number]
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
    @cython.exceptval(-2)
    def _fill(self) -> cython.longlong:
        number: cython.longlong
        fraction: cython.longlong = 0
        scale: cython.longlong = 1
        scale <<= 8 * self._octets
        for row in range(self._count):
            start = _start(self, row, 3 + self._octets)
            if start >= 0:
                if self._old:
                    number = _little(self._data, start, 3)
                    number -= number >> 23 << 24
                else:
                    number = _big(self._data, start, 3 + self._octets)
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
@cython.exceptval(-2)
def _print_clock(
    out: cython.p_uchar, at: cython.longlong, hours: cython.longlong, minutes: cython.longlong, seconds: cython.longlong
) -> cython.longlong:
    if minutes > 59 or seconds > 59:
        return _refuse(b"a time is none")
    at = _print(out, at, hours, 2 + (hours > 99) + (hours > 999))
    at = _print(out, _put(out, at, 58), minutes, 2)  # :
    return _print(out, _put(out, at, 58), seconds, 2)
