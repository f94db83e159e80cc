"""What pg_recvlogical writes to a pipe, read only as far as to know when each commit came through it.

Messages of pgoutput, protocol version 1, each followed by a newline:
https://www.postgresql.org/docs/current/protocol-logicalrep-message-formats.html
"""

from __future__ import annotations

import os
import struct
import threading
import time
from typing import IO

_EPOCH_US = 946_684_800_000_000  # PostgreSQL counts from 2000-01-01
_BEGIN, _COMMIT, _INSERT, _RELATION = b"BCIR"
_BEGIN_BYTES, _COMMIT_BYTES = 21, 26
_PIECE_BYTES = 1 << 16


class Received(threading.Thread):
    """Reads a pipe to its end; `commits` has (committed, received) in microseconds since 1970."""

    def __init__(self, pipe: IO[bytes]) -> None:
        super().__init__(name="received", daemon=True)
        self._pipe = pipe
        self.commits: list[tuple[int, int]] = []

    def run(self) -> None:
        rest = b""
        while piece := os.read(self._pipe.fileno(), _PIECE_BYTES):
            received_us = time.time_ns() // 1000
            data, place = rest + piece, 0
            while (end := _end(data, place)) < len(data):
                if data[place] == _COMMIT:
                    (committed_us,) = struct.unpack_from(">q", data, place + 18)
                    self.commits.append((committed_us + _EPOCH_US, received_us))
                place = end + 1
            rest = data[place:]


def _end(data: bytes, place: int) -> int:
    """Where the message at `place` ends; past the end of the data if it is not all there."""
    try:
        kind = data[place]
        if kind == _BEGIN:
            return place + _BEGIN_BYTES
        if kind == _COMMIT:
            return place + _COMMIT_BYTES
        if kind == _INSERT:
            return _row_end(data, place + 6)
        if kind == _RELATION:
            return _relation_end(data, place + 5)
    except (IndexError, struct.error, ValueError):
        return len(data)
    raise ValueError(f"a message {chr(kind)!r} that the load does not cause")


def _row_end(data: bytes, place: int) -> int:
    (width,) = struct.unpack_from(">H", data, place)
    place += 2
    for _ in range(width):
        place += 5 + struct.unpack_from(">I", data, place + 1)[0] if data[place] == ord("t") else 1
    return place


def _relation_end(data: bytes, place: int) -> int:
    for _ in range(2):
        place = data.index(0, place) + 1
    (width,) = struct.unpack_from(">H", data, place + 1)
    place += 3
    for _ in range(width):
        place = data.index(0, place + 1) + 9
    return place
