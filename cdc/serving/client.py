"""The reader's side: `cdc.connect()` and the commands. Asks the daemon while it runs, else opens the store's file.

The file is open only while something is read from it, so that a waiting Reader never keeps the daemon from starting.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from cdc.errors import ConfigError, LedgertailError, StoreError
from cdc.paths import Places, places
from cdc.serving import wire

if TYPE_CHECKING:
    import pyarrow as pa

ANSWER_TIMEOUT_S = 30.0
_DOWN = (FileNotFoundError, ConnectionRefusedError)
T = TypeVar("T")


class Refused(LedgertailError):
    """The daemon's answer that it can't or won't; code, message and hint are its own."""

    def __init__(self, code: str, message: str, hint: str) -> None:
        Exception.__init__(self, message)
        self.code, self.message, self.hint, self.values = code, message, hint, {}


class RefusedConfig(Refused, ConfigError):
    """The daemon's answer that the request does not fit its config."""


class Down(StoreError):
    """No daemon answers on the socket."""


class Reader:
    """Reads of one store. Every read is of one consistent snapshot; several threads may read at once.

    `query`, `batches` and `status` are tried once more if the daemon comes up or goes down underneath. Raise StoreError for a store
    that can't be read and for a refused or failed query; `Refused` where the daemon says so.
    """

    def __init__(self, where: Places) -> None:
        self._where = where

    def query(self, sql: str, parameters: Sequence[object] = ()) -> pa.Table:
        """The whole answer."""
        return self._either_way(
            lambda: _from_socket(self._where.socket, sql, parameters).read_all(),
            lambda: _from_file(self._where.store, sql, parameters).read_all(),
        )

    def batches(self, sql: str, parameters: Sequence[object] = ()) -> pa.RecordBatchReader:
        """The answer as it comes, in bounded memory. Read it to its end or close it. A stream that breaks off raises StoreError."""
        return self._either_way(
            lambda: _from_socket(self._where.socket, sql, parameters),
            lambda: _from_file(self._where.store, sql, parameters),
        )

    def status(self) -> dict[str, Any]:
        """What `ledgertail status --json` prints."""
        return self._either_way(lambda: dict(ask(self._where.socket, {"do": "status"})), lambda: _status_of_file(self._where))

    def close(self) -> None:
        """Nothing stays open between reads."""

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _either_way(self, by_socket: Callable[[], T], by_file: Callable[[], T]) -> T:
        try:
            return by_socket()
        except StoreError as error:
            if not isinstance(error, Down) and error.code != "serving.broken_off":
                raise
        try:
            return by_file()
        except StoreError:
            with suppress(Down):
                return by_socket()
            raise


def _status_of_file(where: Places) -> dict[str, Any]:
    from cdc.serving.status import status

    return status(where)


def connect_config(config: str | Path | None = None) -> Reader:
    """A reader of the store a config file names. Raises ConfigError."""
    return Reader(places(config))


def ask(path: Path, request: dict[str, Any]) -> Any:
    """Have the daemon do something; its result. Raises Down, Refused or StoreError."""
    with _connected(path) as connection, connection.makefile("rb") as answer:
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            return _asked(connection, answer, request).get("result")
        except TimeoutError as error:
            raise StoreError("serving.silent", path=path, seconds=ANSWER_TIMEOUT_S) from error


def _connected(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(os.fspath(path))
    except _DOWN as error:
        connection.close()
        raise Down("serving.down", path=path) from error
    except OSError as error:
        connection.close()
        raise StoreError("serving.unreachable", path=path, fault=error.strerror or error) from error
    return connection


def _asked(connection: socket.socket, answer: BinaryIO, request: dict[str, Any]) -> dict[str, Any]:
    """Send a request and read the first line of its answer."""
    try:
        connection.sendall(wire.line(request))
        return _line(answer.readline())
    except ConnectionError as error:
        raise StoreError("serving.broken_off") from error


def _line(line: bytes) -> dict[str, Any]:
    """One line of an answer. Raises Refused for an error, StoreError if there is none."""
    if not line.endswith(b"\n"):
        raise StoreError("serving.broken_off")
    message: dict[str, Any] = json.loads(line)
    if error := message.get("error"):
        refused = RefusedConfig if error["code"].startswith("config.") else Refused
        raise refused(error["code"], error["message"], error["hint"])
    return message


def _from_socket(path: Path, sql: str, parameters: Sequence[object]) -> pa.RecordBatchReader:
    import pyarrow as pa

    request = {"do": "query", "sql": sql, "parameters": wire.pack(parameters)}
    with ExitStack() as stack:
        connection = stack.enter_context(_connected(path))
        answer = stack.enter_context(connection.makefile("rb"))
        _asked(connection, answer, request)
        try:
            stream = pa.ipc.open_stream(answer)
        except (OSError, pa.ArrowException) as error:
            raise StoreError("serving.broken_off") from error
        return _owned(stream.schema, _whole(stream, answer), stack.pop_all())


def _whole(stream: pa.RecordBatchReader, answer: BinaryIO) -> Iterator[pa.RecordBatch]:
    """The batches, and an error unless the last line says that they are all."""
    import pyarrow as pa

    try:
        yield from stream
        last = answer.readline()
    except (OSError, pa.ArrowException) as error:
        raise StoreError("serving.broken_off") from error
    _line(last)


def _from_file(path: Path, sql: str, parameters: Sequence[object]) -> pa.RecordBatchReader:
    from cdc.serving.read import read
    from sinks.duckdb import open_read_only

    with ExitStack() as stack:
        answer = read(stack.enter_context(open_read_only(path)), sql, parameters)
        return _owned(answer.schema, answer, stack.pop_all())


def _owned(schema: pa.Schema, batches: Iterator[pa.RecordBatch], resources: ExitStack) -> pa.RecordBatchReader:
    """A stream that lets go of its resources at its end, or when it is dropped."""
    import pyarrow as pa

    def owned() -> Iterator[pa.RecordBatch]:
        with resources:
            yield  # where a stream that is dropped unread is left, so that its resources are closed then too
            yield from batches

    started = owned()
    next(started)
    return pa.RecordBatchReader.from_batches(schema, started)
