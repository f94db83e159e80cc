"""Copies tables as of one exact place of the log: several sessions that began there together, each copying chunks in the order of a key.

Of a table without transactions (MyISAM) rows are read as they are at the moment; the stream from the same place on brings them level
too, as soon as it has come to the place read after the copy (`Progress.level_at`).
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise

import pyarrow as pa
import pymysql
from pymysql.constants import ER

from cdc.config import SourceConfig
from cdc.decode.mysql.fields import Field
from cdc.decode.mysql.types import INTEGERS
from cdc.decode.mysql.wire import Malformed
from cdc.errors import SourceUnavailable
from cdc.sources.mysql.catalog import Catalog, Table
from cdc.sources.mysql.chunks import Block, blocks, selection
from cdc.sources.mysql.connection import Connection, connect, hang_up, query, quoted, translated
from cdc.sources.mysql.guard import Guard
from cdc.sources.mysql.lock import agree
from cdc.sources.mysql.progress import Progress, Range, fingerprint
from cdc.sources.mysql.server import Server, born
from cdc.sources.mysql.walk import Key, cuts
from cdc.types import OP, ORDINAL, READ, TXN, SnapshotProgress, TableSchema

FIRST_ROWS, GROWTH = 1000, 8  # of a table's first chunk, whose size tells that of the next
RANGES_MAX = 64  # of one table, each of a chunk or more
UNBUFFERED_BYTES = 1 << 20  # of a chunk of a table without transactions: others may not write it while it is read
_FULL = "FULL"
_MOMENT = "SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000000 AS SIGNED), UPPER(@@GLOBAL.binlog_row_image)"
_CREATED = "SELECT CAST(create_time AS CHAR) FROM information_schema.tables WHERE table_schema = %s AND table_name = %s"
# What the next statement meets where a table was altered, renamed or dropped meanwhile.
_CHANGED = {ER.TABLE_DEF_CHANGED, ER.NO_SUCH_TABLE, ER.BAD_FIELD_ERROR, ER.KEY_DOES_NOT_EXITS}


@dataclass(frozen=True, slots=True)
class Session:
    """A snapshot of one exact place: all that committed before `position`, nothing else. Time in microseconds since 1970.

    `image`: binlog_row_image, upper case.
    """

    number: int
    position: str
    taken_us: int
    image: str


@dataclass(slots=True)
class Copy:
    """A table being copied. `chunk_rows`: how many fill a chunk, as far as is known."""

    table: Table
    schema: TableSchema
    fields: tuple[Field, ...]
    progress: Progress
    rows_done: int
    chunk_rows: int = field(default_factory=lambda: FIRST_ROWS)

    @property
    def rows_estimated(self) -> int:
        return max(self.rows_done, self.table.rows_estimated)


@dataclass(frozen=True, slots=True)
class Job:
    """A range of a table to copy; `after` and `upto` as they were when it was planned."""

    copy: Copy
    span: Range
    after: Key | None
    upto: Key | None


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a job, all that come before `reached`; `last` is its end. `level_at`: see Progress."""

    job: Job
    rows: pa.Table
    reached: Key | None
    last: bool
    level_at: str = ""


def begin(table: Table, catalog: Catalog, session: Session) -> Copy:
    """A copy from the start."""
    schema = catalog.schema(table)
    return Copy(table, schema, catalog.fields(table), Progress(fingerprint(schema, table.shape), session.image, {}), 0)


def resume(table: Table, catalog: Catalog, known: SnapshotProgress, progress: Progress | None, session: Session) -> Copy:
    """A copy that goes on where an earlier one stopped, or from the start where the rows copied by it no longer serve.

    They serve if the log has all of each row that changed since: rows copied earlier are brought level by it.
    """
    fresh = begin(table, catalog, session)
    if (
        progress is None
        or table.order is None
        or not progress.left
        or progress.shape != fresh.progress.shape
        or (progress.image, session.image) != (_FULL, _FULL)
    ):
        return fresh
    return replace(fresh, progress=progress, rows_done=known.rows_done)


class Reader:
    """Copies tables with `config.snapshot_workers` threads, a few chunks ahead of `read`. All of `tables` are as of one place."""

    def __init__(self, name: str, config: SourceConfig, server: Server, tables: Sequence[Table], number: int) -> None:
        self._name, self._config, self._server = name, config, server
        self._connections: list[Connection] = []
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._pieces: queue.Queue[Piece | BaseException] = queue.Queue(config.snapshot_workers)
        self._jobs: Iterator[Job] = iter(())
        self._jobs_lock = threading.Lock()
        self._ordinal = 0
        self._left = 0
        self._opened = ExitStack()
        try:
            with translated(name, config):
                self.session = self._enter(tables, number)
                self._guard = Guard(name, config, self._connections)
                self._opened.callback(self._guard.end)
                self._side, self._side_lock = self._connect(raw=False), threading.Lock()
        except BaseException:
            self.close()
            raise

    def _connect(self, raw: bool) -> Connection:
        connection = connect(self._name, self._config, raw=raw)
        self._opened.callback(hang_up, connection)
        return connection

    def _enter(self, tables: Sequence[Table], number: int) -> Session:
        """Let every session begin at one place."""
        connections = [self._connect(raw=True) for _ in range(self._config.snapshot_workers)]
        position, self._connections = agree(self._name, self._config, self._server, tables, connections)
        for connection in connections[len(self._connections) :]:
            hang_up(connection)
        if not self._server.mariadb:
            for connection in self._connections:
                query(connection, "SAVEPOINT chunk")
        ((taken_us, image),) = query(self._connections[0], _MOMENT)
        position = replace(position, born=born(self._name, self._config, position.file))
        return Session(number, str(position), int(taken_us), image.decode())

    def start(self, copies: Sequence[Copy]) -> None:
        """Begin to copy the tables, in their order; those without transactions at the end."""
        with translated(self._name, self._config):
            self._guard.start()
            planned: list[Job] = []
            for copy in sorted(copies, key=lambda copy: not copy.table.transactional):
                copy.progress.sessions[self.session.number] = (self.session.position, self.session.taken_us)
                if [(span.after, span.upto) for span in copy.progress.left] == [(None, None)]:
                    copy.progress.left = self._split(copy.table)
                planned += [Job(copy, span, span.after, span.upto) for span in copy.progress.left]
        self._left = len(planned)
        self._jobs = iter(planned)
        for connection in self._connections:
            thread = threading.Thread(target=self._work, args=(connection,), name=f"snapshot-{self._name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _split(self, table: Table) -> list[Range]:
        """Ranges that several threads can copy, where a number leads the key and there are rows enough."""
        count = min(RANGES_MAX, table.size // self._config.snapshot_chunk)
        leading = table.order.parts[0] if table.order else None
        if leading is None or leading.my_type.name not in INTEGERS or count < 2 or not table.transactional:
            return [Range()]
        column, connection = quoted(leading.column), self._connections[0]
        self._hold(table)
        ((low, high),) = query(connection, f"SELECT MIN({column}), MAX({column}) FROM {table.sql}")
        self._let_go(connection, table)
        edges = [None, *(cuts(leading, int(low), int(high), count) if low is not None else ()), None]
        return [Range(after, upto) for after, upto in pairwise(edges)]

    @property
    def finished(self) -> bool:
        """Whether every row was handed out."""
        return not self._left

    def read(self, wait_seconds: float) -> tuple[Copy, pa.Table, SnapshotProgress] | None:
        """The next rows of a table and how far its copy is with them; None if there were none in time."""
        try:
            piece = self._pieces.get(timeout=wait_seconds)
        except queue.Empty:
            return None
        if isinstance(piece, BaseException):
            raise piece
        job, progress = piece.job, piece.job.copy.progress
        job.span.after = piece.reached or job.span.after
        progress.level_at = piece.level_at or progress.level_at
        if piece.last:
            self._left -= 1
            progress.left.remove(job.span)
        return self._hand_out(job.copy, piece.rows)

    def _hand_out(self, copy: Copy, rows: pa.Table) -> tuple[Copy, pa.Table, SnapshotProgress]:
        count = rows.num_rows
        copy.rows_done += count
        ordinals = pa.arange(self._ordinal, self._ordinal + count)
        self._ordinal += count
        head = [pa.repeat(pa.scalar(READ), count), pa.repeat(pa.scalar(0, pa.int32()), count), ordinals]
        changes = pa.Table.from_arrays([*head, *rows.columns], names=[OP, TXN, ORDINAL, *rows.column_names])
        session, state = self.session, "copying" if copy.progress.left else "staged"
        estimated, text = copy.rows_estimated, copy.progress.dump()
        done = SnapshotProgress(copy.table.name, session.number, session.position, state, text, copy.rows_done, estimated)
        return copy, changes, done

    def close(self) -> None:
        """Stop the threads and let go of the connections. Never raises."""
        self._stop.set()
        for connection in self._connections:
            with suppress(OSError, AttributeError):  # closed already
                connection._sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=5)
        self._opened.close()

    def _work(self, connection: Connection) -> None:
        """One thread: copy ranges until there are no more."""
        try:
            with translated(self._name, self._config):
                while (job := self._next()) is not None:
                    for piece in self._pieces_of(connection, job):
                        self._put(piece)
                query(connection, "COMMIT")
        except Malformed as error:
            self._put(SourceUnavailable("mysql_snapshot.broken", source=self._name, detail=error))
        except BaseException as error:  # noqa: BLE001 handed to the reader, which raises it
            self._put(self._guard.reason or error)

    def _next(self) -> Job | None:
        with self._jobs_lock:
            return None if self._stop.is_set() else next(self._jobs, None)

    def _put(self, piece: Piece | BaseException) -> None:
        while not self._stop.is_set():
            try:
                self._pieces.put(piece, timeout=0.2)
                return
            except queue.Full:
                continue

    def _pieces_of(self, connection: Connection, job: Job) -> Iterator[Piece]:
        copy, table = job.copy, job.copy.table
        if not table.transactional:
            query(connection, "COMMIT")
        size_wanted = self._config.snapshot_chunk if table.transactional else min(UNBUFFERED_BYTES, self._config.snapshot_chunk)
        after, last = job.after, False
        while not last:
            if self._guard.reason is not None:
                raise self._guard.reason
            rows = size = 0
            held: Block | None = None
            limit = copy.chunk_rows if table.order else None
            for block in self._chunk(connection, copy, selection(table, copy.fields, after, job.upto, limit)):
                if held is not None:
                    yield Piece(job, held.rows, held.reached, False)
                held = block
                rows, size, after = rows + block.rows.num_rows, size + block.size, block.reached or after
            assert held is not None, "a result has a block"
            last = limit is None or rows < limit
            if limit is not None and not last:
                copy.chunk_rows = max(1, min(limit * GROWTH, rows * size_wanted // max(1, size)))
            level_at = self._level(table) if last and not table.transactional else ""
            yield Piece(job, held.rows, held.reached, last, level_at)

    def _chunk(self, connection: Connection, copy: Copy, statement: str) -> Iterator[Block]:
        """The rows of one SELECT, the last of them once the table is let go of and was the one meant. Raises SourceUnavailable if not."""
        table, held = copy.table, None
        try:
            self._hold(table)
            for block in blocks(connection, table, copy.schema, copy.fields, statement, 2 * self._config.snapshot_chunk):
                if held is not None:
                    self._guard.watch(table)  # a chunk larger than was thought waits for room with its table locked
                    yield held
                held = block
            self._check_same(table)
            self._let_go(connection, table)
        except pymysql.Error as error:
            if error.args[0] in _CHANGED:
                raise SourceUnavailable("source.table_changed", source=self._name, table=table.name) from error
            raise
        if held is not None:
            yield held

    def _hold(self, table: Table) -> None:
        """A session is about to lock a table: for no longer than a chunk takes, or long enough to be in somebody's way."""
        if table.order is None or (table.transactional and self._server.mariadb):
            self._guard.watch(table)

    def _let_go(self, connection: Connection, table: Table) -> None:
        """A chunk of it was read; MariaDB keeps the lock until the transaction ends. The snapshot stays."""
        if table.transactional and not self._server.mariadb:
            query(connection, "ROLLBACK TO SAVEPOINT chunk")
            self._guard.forget(table)

    def _check_same(self, table: Table) -> None:
        """Whether the name still means the same table: one that was renamed to it may have been filled after the snapshot."""
        with self._side_lock:
            rows = query(self._side, _CREATED, (table.database, table.table))
        if [created or "" for (created,) in rows] != [table.created]:
            raise SourceUnavailable("source.table_changed", source=self._name, table=table.name)

    def _level(self, table: Table) -> str:
        """A place of the log after all that was read of a table without transactions."""
        position, _ = agree(self._name, self._config, self._server, [table], [])
        return str(position)
