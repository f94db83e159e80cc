"""The replication connection: frames in, status updates out. Bytes only; what they mean is cdc/decode's business.

Manual: 'Streaming Replication Protocol' (START_REPLICATION, XLogData, Primary keepalive, Standby status update).
"""

from __future__ import annotations

import ctypes
import logging
import select
import struct
import sys
import time
from collections.abc import Callable
from functools import partial
from threading import Event
from typing import Any

from psycopg import errors, pq

from cdc.config import SourceConfig
from cdc.decode.kernels import kernel
from cdc.decode.postgres.pgoutput import lsn_int, lsn_text
from cdc.errors import SourceUnavailable
from cdc.sources.postgres.connection import Connection, connect, failure, place, quoted, translated

log = logging.getLogger("ledgertail.source")

STATUS_SECONDS = 2.0  # which also wakes a walsender that has slept through a commit
DEAD_SECONDS = 60.0
START_TRIES, START_PAUSE_SECONDS = 20, 0.25
SLOT_WARN_SECONDS = 10.0
SLOT_SECONDS_MAX = 600.0
_EPOCH_SECONDS = 946_684_800  # PostgreSQL counts microseconds from 2000-01-01
_HEADER = 25  # tag, start, end, time: what stands before the message of an XLogData
_DATA, _KEEPALIVE = b"wk"
_BLOCKERS = """
SELECT coalesce(string_agg(format('pid %s (%s, transaction since %s, query since %s)', pid, usename,
           to_char(xact_start, 'HH24:MI:SS'), to_char(query_start, 'HH24:MI:SS')), ', ' ORDER BY xact_start), '-')
FROM pg_stat_activity WHERE backend_xid IS NOT NULL AND pid <> pg_backend_pid()
"""


class Stream:
    """One walsender's stream from `start` on. `wal_end` is how far the server said, in a keepalive, that its log has been read."""

    def __init__(self, name: str, config: SourceConfig, slot: str, publication: str, start: int) -> None:
        self._name, self._config = name, config
        self._connection = connect(name, config, replication=True)
        self._pg = self._connection.pgconn
        self._fetch = _fetching(self._pg)
        self._acknowledged = self._told = start
        self._told_at = self._heard_at = time.monotonic()
        self._reply_wanted = False
        self.wal_end = 0
        try:
            self._start(slot, publication, start)
        except BaseException:
            self.close()
            raise

    def _start(self, slot: str, publication: str, start: int) -> None:
        names = quoted(publication).replace("'", "''")
        # From 14 on a transaction that is more than logical_decoding_work_mem is sent while it is in progress.
        protocol = "proto_version '2', streaming 'on'" if self._connection.info.server_version >= 140000 else "proto_version '1'"
        command = f"START_REPLICATION SLOT \"{slot}\" LOGICAL {lsn_text(start)} ({protocol}, publication_names '{names}')"
        with translated(self._name, self._config):
            # A session of ours that has just ended may hold the slot for a moment.
            for patience in reversed(range(START_TRIES)):
                result = self._pg.exec_(command.encode())
                if result.status == pq.ExecStatus.COPY_BOTH:
                    break
                error = failure(result)
                if not patience or not isinstance(error, errors.ObjectInUse):
                    raise error
                time.sleep(START_PAUSE_SECONDS)
            self._pg.nonblocking = 1

    def receive(self, frames: Any, size_max: int, wait_seconds: float) -> int:
        """Append the frames that are there to an empty Block, up to about `size_max` bytes; wait for the first one. Returns the bytes."""
        with translated(self._name, self._config):
            self._tell_in_time()
            size = self._gather(frames, size_max)
            if not size and wait_seconds > 0:
                select.select([self._pg.socket], [], [], min(wait_seconds, STATUS_SECONDS))
                size = self._gather(frames, size_max)
            self._tell_in_time()
        if time.monotonic() - self._heard_at > DEAD_SECONDS:
            raise SourceUnavailable("source.silent", source=self._name, place=place(self._config), seconds=int(DEAD_SECONDS))
        return size

    def _gather(self, frames: Any, size_max: int) -> int:
        """Take what the socket holds now."""
        asked = False
        while frames.size < size_max:
            other = self._fetch(frames, size_max)
            if other is None:
                self._ended()
            elif other:
                self._heard_at = time.monotonic()
                if other[0] == _KEEPALIVE:
                    self._keepalive(other)
            elif asked and not select.select([self._pg.socket], [], [], 0)[0]:
                break
            else:
                self._pg.consume_input()
                asked = True
        if frames.size:
            self._heard_at = time.monotonic()
        return int(frames.size)

    def _keepalive(self, data: bytes) -> None:
        _, wal_end, _, reply = struct.unpack(">cQQB", data)
        self.wal_end = max(self.wal_end, wal_end)
        self._reply_wanted = self._reply_wanted or bool(reply)

    def _ended(self) -> None:
        """The server ended the stream: raise why."""
        result = self._pg.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            raise failure(result)
        raise SourceUnavailable("source.unreachable", source=self._name, place=place(self._config), detail="the server ended the stream")

    def ask(self) -> None:
        """Let the server say, with the next status update, how far it is."""
        self._told_at = 0.0

    def acknowledge(self, position: int) -> None:
        """All up to `position` may be forgotten; said with the next `receive` or `tell`."""
        self._acknowledged = max(self._acknowledged, position)

    def tell(self) -> None:
        """Send what is due without reading: for while nobody has room for more frames."""
        with translated(self._name, self._config):
            self._tell_in_time()

    def _tell_in_time(self) -> None:
        due = time.monotonic() - self._told_at >= STATUS_SECONDS
        if due or self._reply_wanted or self._acknowledged > self._told:
            position, self._reply_wanted = self._acknowledged, False
            now = int((time.time() - _EPOCH_SECONDS) * 1_000_000)
            # An answer is asked for now and then: silence of a server with nothing to say would look like a dead one.
            self._pg.put_copy_data(struct.pack(">cQQQQB", b"r", position, position, position, now, due))
            self._told, self._told_at = position, time.monotonic() if due else self._told_at
        self._pg.flush()

    def close(self) -> None:
        """Let go of the connection. Never raises."""
        self._connection.close()


def _fetching(connection: Any) -> Callable[[Any, int], bytes | None]:
    """What takes messages from a connection into a Block as Block.fetch does; that itself, where it is compiled and finds its functions."""
    library = sys.modules[type(connection).__module__].__file__
    if kernel("postgres").module.COMPILED and pq.__impl__ != "python" and library:
        functions = ctypes.CDLL(library)  # looks into what it is linked with, too
        addresses = [ctypes.cast(function, ctypes.c_void_p).value for function in (functions.PQgetCopyData, functions.PQfreemem)]
        return lambda block, size_max: block.fetch(connection.pgconn_ptr, *addresses, size_max)
    return partial(fetch, connection.get_copy_data)


def fetch(get_copy_data: Callable[[int], tuple[int, memoryview]], block: Any, size_max: int) -> bytes | None:
    """As Block.fetch, a message at a time."""
    while block.size < size_max:
        length, data = get_copy_data(1)
        if length <= 0:
            return None if length else b""
        if data[0] != _DATA:
            return bytes(data)
        block.append(data[_HEADER:])
    return b""


def identify(connection: Connection) -> str:
    """What the positions of a replication connection belong to: system identifier and database."""
    row = connection.execute("IDENTIFY_SYSTEM").fetchone()
    assert row is not None
    return f"{row[0]}/{row[3]}"


class SlotMaker:
    """Creates slots with an exported snapshot, which lives until `release` or the next slot."""

    def __init__(self, name: str, config: SourceConfig, closing: Event) -> None:
        self._name, self._config, self._closing = name, config, closing
        self._connection: Connection | None = None

    def create(self, slot: str, temporary: bool, side: Connection) -> tuple[int, str]:
        """Make a slot; returns its consistent point and the name of the snapshot of exactly that place.

        The server waits for every transaction that is open to end. Who is waited for is logged; after ten minutes it is given up.
        """
        self.release()
        self._connection = connect(self._name, self._config, replication=True)
        kind = "TEMPORARY " if temporary else ""
        export = "(SNAPSHOT 'export')" if self._connection.info.server_version >= 150000 else "EXPORT_SNAPSHOT"
        with translated(self._name, self._config):
            result = self._wait(f'CREATE_REPLICATION_SLOT "{slot}" {kind}LOGICAL pgoutput {export}'.encode(), side)
        point, snapshot = result.get_value(0, 1), result.get_value(0, 2)
        assert point is not None and snapshot is not None
        return lsn_int(point.decode()), snapshot.decode()

    def _wait(self, command: bytes, side: Connection) -> pq.abc.PGresult:
        assert self._connection is not None
        connection, begun = self._connection.pgconn, time.monotonic()
        connection.send_query(command)
        warn_at = begun + SLOT_WARN_SECONDS
        while connection.is_busy():
            select.select([connection.socket], [], [], 0.5)
            connection.consume_input()
            now = time.monotonic()
            if now >= warn_at and connection.is_busy():
                warn_at = now + 6 * SLOT_WARN_SECONDS
                blockers = blocking(side)
                log.warning("source '%s': creating a slot waits for open transactions: %s", self._name, blockers)
            if now - begun > SLOT_SECONDS_MAX or self._closing.is_set():
                connection.get_cancel().cancel()
                raise SourceUnavailable("source.slot_blocked", source=self._name, blockers=blocking(side))
        result = connection.get_result()
        if result is None or result.status != pq.ExecStatus.TUPLES_OK:
            raise self._refused(connection, result)
        return result

    def _refused(self, connection: pq.abc.PGconn, result: pq.abc.PGresult | None) -> Exception:
        if result is None:
            return SourceUnavailable("source.unreachable", source=self._name, place=place(self._config), detail="connection closed")
        return failure(result)

    def release(self) -> None:
        """End the snapshot and, if the last slot was temporary, the slot. Never raises."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def blocking(side: Connection) -> str:
    """The sessions with a transaction that a new slot has to wait for."""
    row = side.execute(_BLOCKERS).fetchone()
    assert row is not None
    return str(row[0])
