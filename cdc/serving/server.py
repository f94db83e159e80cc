"""The daemon's side of the socket: reads that never hold up the writer, and readers that can't hold up the daemon.

Whoever may open the socket's file may read. Each query has a cursor and a snapshot of its own; the instance behind it must have
external access off. All is bounded: connections, running queries, the time of a query, and how long a reader may not take what
it asked for.
"""

from __future__ import annotations

import json
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from cdc.errors import LedgertailError, StoreError
from cdc.serving import wire
from cdc.serving.read import read

CONNECTIONS_MAX = 64
QUERIES_MAX = 8
_WATCH_S = 0.25
_GRACE_S = 2.0
_PIECE_BYTES = 1 << 18
_log = logging.getLogger(__name__)

Action = Callable[[dict[str, Any]], object]


class Server:
    """Answers on a Unix socket from `start` to `close`.

    `cursor` makes a cursor for a query, `actions` has what else may be asked, by the request's `do`: each gets the request and
    returns what JSON can carry, or raises a LedgertailError, and must be safe to call from any thread.
    """

    def __init__(
        self,
        path: Path,
        mode: int,
        cursor: Callable[[], duckdb.DuckDBPyConnection],
        actions: Mapping[str, Action],
        read_timeout_s: float = 600.0,
        send_timeout_s: float = 30.0,
    ) -> None:
        self._path, self._mode = path, mode
        self._cursor, self._actions = cursor, actions
        self._read_timeout_s, self._send_timeout_s = read_timeout_s, send_timeout_s
        self._connections = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._queries = threading.BoundedSemaphore(QUERIES_MAX)
        self._closing = threading.Event()
        self._listener: socket.socket | None = None
        self._accepting = threading.Thread(target=self._accept, name="serving", daemon=True)
        self._readers: dict[threading.Thread, socket.socket] = {}

    def start(self) -> None:
        """Listen. Raises StoreError if another daemon answers there or the socket can't be made."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(self._path)
            listener.bind(os.fspath(self._path))
            # Nobody can connect before listen(), so no reader slips in under the mode of the umask.
            self._path.chmod(self._mode)
            self._inode = self._path.stat().st_ino
            listener.listen(CONNECTIONS_MAX)
            listener.settimeout(_WATCH_S)
        except OSError as error:
            listener.close()
            raise StoreError("serving.socket", path=self._path, fault=error.strerror or error) from error
        except StoreError:
            listener.close()
            raise
        self._listener = listener
        self._accepting.start()

    def close(self) -> None:
        """Stop listening, break off running reads, take the socket's file away. Never raises; does nothing if not started."""
        if self._listener is None or self._closing.is_set():
            return
        self._closing.set()
        with suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._accepting.join()
        self._listener.close()
        until = time.monotonic() + _GRACE_S
        for thread, connection in tuple(self._readers.items()):
            thread.join(max(0.0, until - time.monotonic()))
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # ends a send that its reader does not take
            thread.join(_GRACE_S)

    def _accept(self) -> None:
        assert self._listener is not None
        while not self._closing.is_set():
            if not self._connections.acquire(timeout=_WATCH_S):
                continue
            try:
                connection, _ = self._listener.accept()
            except OSError:  # the timeout, or a connection that was gone before it was taken
                self._connections.release()
                continue
            thread = threading.Thread(target=self._serve, args=(connection,), name="serving-reader", daemon=True)
            self._readers[thread] = connection
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                self._answer(_Connection(connection, self._send_timeout_s, time.monotonic() + self._read_timeout_s, self._closing))
        except OSError as error:
            _log.info("reader dropped: %s", error)
        finally:
            self._readers.pop(threading.current_thread(), None)
            self._connections.release()

    def _answer(self, reader: _Connection) -> None:
        try:
            request = reader.request()
            if request.get("do") == "query":
                return self._query(reader, request)
            action = self._actions.get(str(request.get("do")))
            if action is None:
                raise StoreError("serving.request", fault=f"unknown action '{request.get('do')}'")
            reader.write(wire.line({"ok": True, "result": action(request)}))
        except LedgertailError as error:
            reader.write(wire.line(wire.failure(error)))
        except OSError:
            raise
        except Exception as error:  # noqa: BLE001 - the reader is due an answer whatever an action raises
            _log.exception("answering a reader")
            reader.write(wire.line(wire.failure(StoreError("serving.internal", fault=f"{type(error).__name__}: {error}"))))

    def _query(self, reader: _Connection, request: dict[str, Any]) -> None:
        sql, parameters = _arguments(request)
        if not self._queries.acquire(timeout=self._send_timeout_s):
            raise StoreError("serving.busy", queries=QUERIES_MAX)
        try:
            with self._cursor() as cursor, _Watch(reader, cursor) as watch:
                try:
                    batches = read(cursor, sql, parameters)
                except StoreError as error:
                    raise watch.over() or error from error
                reader.write(wire.line({"ok": True}))
                reader.write(wire.line(_stream(reader, batches, watch)))
        finally:
            self._queries.release()


class _Connection:
    """One reader's socket; also the file that Arrow writes to. Raises OSError once the reader is to be dropped."""

    closed = False

    def __init__(self, connection: socket.socket, send_timeout_s: float, deadline: float, closing: threading.Event) -> None:
        self.socket, self.deadline, self.closing = connection, deadline, closing
        self.gone = False
        self._send_timeout_s = send_timeout_s
        self.socket.settimeout(send_timeout_s)

    def request(self) -> dict[str, Any]:
        received = b""
        until = time.monotonic() + self._send_timeout_s
        while not received.endswith(b"\n"):
            part = self.socket.recv(_PIECE_BYTES)
            received += part
            if not part or time.monotonic() > until:
                raise ConnectionError("no request came")
            if len(received) > wire.REQUEST_BYTES_MAX:
                raise StoreError("serving.request", fault=f"longer than {wire.REQUEST_BYTES_MAX} bytes")
        try:
            request = json.loads(received)
        except ValueError as error:
            raise StoreError("serving.request", fault=error) from error
        if not isinstance(request, dict):
            raise StoreError("serving.request", fault="not a JSON object")
        return request

    def write(self, data: Any) -> int:
        """Send all of it, in pieces that each are taken within the send timeout."""
        view = memoryview(data).cast("B")
        size = view.nbytes
        try:
            while view:
                if self.gone or time.monotonic() > self.deadline + self._send_timeout_s:
                    raise TimeoutError("the reader is too slow")
                view = view[self.socket.send(view[:_PIECE_BYTES]) :]
        except OSError:
            self.gone = True
            raise
        return size

    def flush(self) -> None:
        """Nothing is held back."""


class _Watch:
    """Interrupts a query that is over time, whose reader has gone, or that stands in the way of shutdown."""

    def __init__(self, reader: _Connection, cursor: duckdb.DuckDBPyConnection) -> None:
        self._reader, self._cursor = reader, cursor
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="serving-watch", daemon=True)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def over(self) -> StoreError | None:
        """Why the query may not go on."""
        if self._reader.closing.is_set():
            return StoreError("serving.closing")
        return StoreError("serving.out_of_time") if time.monotonic() > self._reader.deadline else None

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._reader.socket, select.POLLIN)  # a reader says nothing after its request, but may hang up
        while not self._done.wait(_WATCH_S):
            if self.over() or poll.poll(0):
                self._cursor.interrupt()  # again and again, as it is lost if it comes between two statements


def _stream(reader: _Connection, batches: pa.RecordBatchReader, watch: _Watch) -> dict[str, Any]:
    """Send the batches; the last line to send after them."""
    with pa.ipc.new_stream(pa.PythonFile(reader, mode="w"), batches.schema) as stream:
        try:
            for batch in batches:
                stream.write_batch(batch)
                if over := watch.over():
                    return wire.failure(over)
        except StoreError as error:
            return wire.failure(watch.over() or error)
    return {"ok": True}


def _arguments(request: dict[str, Any]) -> tuple[str, list[object]]:
    sql, parameters = request.get("sql"), request.get("parameters", [])
    if not isinstance(sql, str) or not isinstance(parameters, list):
        raise StoreError("serving.request", fault="a query has 'sql', a text, and 'parameters', a list")
    try:
        return sql, wire.unpack(parameters)
    except (ArithmeticError, LookupError, TypeError, ValueError) as error:
        raise StoreError("serving.request", fault=f"parameters: {error}") from error


def _remove_stale(path: Path) -> None:
    """Take away a socket nobody listens on. Raises StoreError where somebody does, or where something else lies there."""
    if not os.path.lexists(path):
        return
    if not path.is_socket():
        raise StoreError("serving.not_a_socket", path=path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(5.0)
        with suppress(ConnectionRefusedError, FileNotFoundError):
            probe.connect(os.fspath(path))
            raise StoreError("serving.taken", path=path)
    path.unlink(missing_ok=True)
