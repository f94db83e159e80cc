"""The kernel of pgoutput: row images."""

from __future__ import annotations

try:
    import cython
except ImportError:
    from cdc.decode import cython

from cdc.decode.postgres.malformed import Malformed

_LENGTH = 4
Value = bytes | None
TEXT, NULL, UNCHANGED = b"tnu"


def read_row(frame: bytes, place: cython.Py_ssize_t, width: cython.Py_ssize_t) -> tuple[list[Value], list[int], int]:
    """One row by itself: its values, the indexes of unchanged ones, and the place after it.

    The caller must compare that place with the length of the message: a slice past the end is merely short. Raises Malformed.
    """
    row: list[Value] = []
    absent: list[int] = []
    index: cython.Py_ssize_t
    start: cython.Py_ssize_t
    for index in range(width):
        if place >= len(frame):
            raise Malformed("it ends too early")
        kind = frame[place]
        if kind == TEXT:
            start = place + 1 + _LENGTH
            place = start + int.from_bytes(frame[place + 1 : start])
            row.append(frame[start:place])
        elif kind in (NULL, UNCHANGED):
            row.append(None)
            place += 1
            if kind == UNCHANGED:
                absent.append(index)
        else:
            raise Malformed("a value is of unknown kind")
    return row, absent, place
