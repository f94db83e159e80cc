"""Copies tables as of one exact place of the log: several connections on one exported snapshot, each copying spans of blocks.

Manual: 'SET TRANSACTION SNAPSHOT', 'COPY', 'System Columns' (ctid, xmin). A lock on a table is held only while one of its spans is copied.
"""

from __future__ import annotations

import queue
import select
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from psycopg import pq
from pyarrow import csv

from cdc.config import SourceConfig
from cdc.decode.postgres.pgoutput import lsn_text
from cdc.decode.postgres.pgtypes import convert
from cdc.errors import SourceError, SourceUnavailable
from cdc.sources.postgres.catalog import Leaf, Table
from cdc.sources.postgres.connection import Connection, connect, failure, quoted, translated
from cdc.sources.postgres.progress import LeafProgress, Progress, Span, fingerprint, merged, missing
from cdc.types import OP, ORDINAL, READ, TXN, SnapshotProgress, TableSchema

RECHECK_FACTOR = 64  # a span that is only searched for changed rows may be as much larger
_AGE_MAX = 1 << 30
_SNAPSHOT = """
SELECT txid_snapshot_xmin(txid_current_snapshot()), txid_snapshot_xmax(txid_current_snapshot()),
       (extract(epoch FROM clock_timestamp()) * 1000000)::int8, current_setting('block_size')::int
"""


@dataclass(frozen=True, slots=True)
class Session:
    """A snapshot of one exact place: all that committed before `position`, nothing else. Time in microseconds since 1970."""

    number: int
    position: int
    horizon: int
    next_xid: int
    taken_us: int
    block_size: int


@dataclass(slots=True)
class Copy:
    """A table being copied. `waiting`: its spans of which not all rows were handed out yet."""

    table: Table
    schema: TableSchema
    progress: Progress
    rows_done: int
    waiting: int = 0

    @property
    def rows_estimated(self) -> int:
        return max(self.rows_done, sum(leaf.rows_estimated for leaf in self.table.leaves))


@dataclass(frozen=True, slots=True)
class Job:
    """A span of one relation to copy; with `changed_only` just the rows written since the horizon: it was copied before."""

    copy: Copy
    leaf: Leaf
    span: Span
    changed_only: bool


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of a job; `last` is its end."""

    job: Job
    rows: pa.Table
    last: bool


def begin(table: Table, schema: TableSchema, membership: int, session: Session) -> Copy:
    """A copy from the start."""
    leaves = {leaf.relid: LeafProgress(leaf.filenode) for leaf in table.leaves}
    progress = Progress(table.relid, membership, fingerprint(schema), session.horizon, {}, leaves)
    return Copy(table, schema, progress, 0)


def resume(
    table: Table, schema: TableSchema, known: SnapshotProgress, progress: Progress | None, membership: int, session: Session
) -> Copy:
    """A copy that goes on where an earlier one stopped, or from the start where the rows copied by it no longer serve."""
    leaves = {leaf.relid: leaf for leaf in table.leaves}
    if (
        progress is None
        or not table.key
        or (progress.relid, progress.membership, progress.columns) != (table.relid, membership, fingerprint(schema))
        or any(relid not in leaves or leaves[relid].filenode != leaf.filenode for relid, leaf in progress.leaves.items())
        or session.next_xid - progress.horizon > _AGE_MAX
    ):
        return begin(table, schema, membership, session)
    for relid, leaf in leaves.items():
        progress.leaves.setdefault(relid, LeafProgress(leaf.filenode))
    return Copy(table, schema, progress, known.rows_done)


def jobs(copy: Copy, session: Session, chunk_size: int, ranges: bool) -> Iterator[Job]:
    """What is left to copy of a table: the spans not copied yet, and those copied once more for the rows changed since."""
    for leaf in copy.table.leaves:
        bulk = max(1, leaf.total_size) / max(1, leaf.heap_size)
        step = max(1, int(chunk_size / (session.block_size * max(1.0, bulk))))
        end = leaf.heap_size // session.block_size
        done = copy.progress.leaves[leaf.relid].done
        for span in missing(done):
            yield from (Job(copy, leaf, part, False) for part in _cut(span, end, step if ranges else 0))
        for span in merged(done):
            yield from (Job(copy, leaf, part, True) for part in _cut(span, end, step * RECHECK_FACTOR if ranges else 0))


def _cut(span: Span, size: int, step: int) -> Iterator[Span]:
    """A span in steps of blocks; the last one keeps the span's own end. A step of 0 leaves it whole."""
    first, end = span
    limit = size if end is None else end
    while step and first + step < limit:
        yield first, first + step
        first += step
    yield first, end


class Reader:
    """Copies tables with `config.snapshot_workers` threads, a few chunks ahead of `read`."""

    def __init__(self, name: str, config: SourceConfig, snapshot: str, number: int, position: int) -> None:
        self._name, self._config = name, config
        self._connections: list[Connection] = []
        self._threads: list[threading.Thread] = []
        self._stop = threading.Event()
        self._pieces: queue.Queue[Piece | BaseException] = queue.Queue(config.snapshot_workers)
        self._jobs: Iterator[Job] = iter(())
        self._jobs_lock = threading.Lock()
        self._ordinal = 0
        self._empty: list[Copy] = []
        self._left = 0
        try:
            with translated(name, config):
                self.session = self._enter(snapshot, number, position)
        except BaseException:
            self.close()
            raise

    def _enter(self, snapshot: str, number: int, position: int) -> Session:
        """Let every connection see the snapshot; after that its maker may go."""
        for _ in range(self._config.snapshot_workers):
            connection = connect(self._name, self._config)
            self._connections.append(connection)
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'".encode())
        row = self._connections[0].execute(_SNAPSHOT).fetchone()
        assert row is not None
        return Session(number, position, *row)

    def start(self, copies: Sequence[Copy]) -> None:
        """Begin to copy the tables, in their order."""
        ranges = self._connections[0].info.server_version >= 140000
        planned: list[Job] = []
        for copy in copies:
            copy.progress.sessions[self.session.number] = (self.session.position, self.session.taken_us)
            made = list(jobs(copy, self.session, self._config.snapshot_chunk, ranges))
            copy.waiting = len(made)
            planned += made
        self._empty = [copy for copy in copies if not copy.waiting]
        self._left = len(planned)
        self._jobs = iter(planned)
        for connection in self._connections:
            thread = threading.Thread(target=self._work, args=(connection,), name=f"snapshot-{self._name}", daemon=True)
            self._threads.append(thread)
            thread.start()

    @property
    def finished(self) -> bool:
        """Whether every row was handed out."""
        return not self._left and not self._empty

    def read(self, wait_seconds: float) -> tuple[Copy, pa.Table, SnapshotProgress] | None:
        """The next rows of a table and how far its copy is with them; None if there were none in time."""
        if self._empty:
            copy = self._empty.pop()
            return self._hand_out(copy, copy.schema.arrow().empty_table())
        try:
            piece = self._pieces.get(timeout=wait_seconds)
        except queue.Empty:
            return None
        if isinstance(piece, BaseException):
            raise piece
        if piece.last:
            self._left -= 1
            piece.job.copy.waiting -= 1
            if not piece.job.changed_only:
                piece.job.copy.progress.finish(piece.job.leaf.relid, piece.job.span)
        return self._hand_out(piece.job.copy, piece.rows)

    def _hand_out(self, copy: Copy, rows: pa.Table) -> tuple[Copy, pa.Table, SnapshotProgress]:
        count = rows.num_rows
        copy.rows_done += count
        ordinals = pa.arange(self._ordinal, self._ordinal + count)
        self._ordinal += count
        head = [pa.repeat(pa.scalar(READ), count), pa.repeat(pa.scalar(0, pa.int32()), count), ordinals]
        changes = pa.Table.from_arrays([*head, *rows.columns], names=[OP, TXN, ORDINAL, *rows.column_names])
        state = "copying" if copy.waiting else "staged"
        position = lsn_text(self.session.position)
        estimated, text = copy.rows_estimated, copy.progress.dump()
        return copy, changes, SnapshotProgress(copy.table.name, self.session.number, position, state, text, copy.rows_done, estimated)

    def close(self) -> None:
        """Stop the threads and let go of the connections. Never raises."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=5)
        for connection in self._connections:
            connection.close()

    def _work(self, connection: Connection) -> None:
        """One thread: copy spans until there are no more."""
        try:
            with translated(self._name, self._config):
                while (job := self._next()) is not None:
                    for piece in self._pieces_of(connection, job):
                        self._put(piece)
        except BaseException as error:  # noqa: BLE001 handed to the reader, which raises it
            self._put(self._changed(error))

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

    def _changed(self, error: BaseException) -> BaseException:
        """A table or column that went away in the meantime is looked up anew, not given up."""
        if isinstance(error, SourceError) and error.code == "source.object_missing":
            return SourceUnavailable("source.table_changed", source=self._name, table=error.values["detail"])
        return error

    def _pieces_of(self, connection: Connection, job: Job) -> Iterator[Piece]:
        connection.execute("SAVEPOINT span")
        connection.execute(f"LOCK TABLE ONLY {job.leaf.sql} IN ACCESS SHARE MODE".encode())
        row = connection.execute("SELECT pg_relation_filenode(%s::oid)::int8", (job.leaf.relid,)).fetchone()
        if row is None or row[0] != job.leaf.filenode:
            # Rewritten by TRUNCATE, VACUUM FULL or ALTER: spans of blocks mean other rows now.
            raise SourceUnavailable("source.table_changed", source=self._name, table=job.copy.table.name)
        last: bytearray | None = None
        for data in _copy_out(connection, _query(job), self._config.snapshot_chunk, self._stop):
            if last is not None:
                yield Piece(job, parse(job.copy.schema, last), False)
            last = data
        if last is not None and not self._stop.is_set():
            connection.execute("ROLLBACK TO SAVEPOINT span")
            yield Piece(job, parse(job.copy.schema, last), True)


def _query(job: Job) -> str:
    columns = ", ".join(quoted(column.name) for column in job.copy.schema.columns)
    first, end = job.span
    conditions = [f"ctid >= '({first},0)'"] if first else []
    if end is not None:
        conditions.append(f"ctid < '({end},0)'")
    if job.changed_only:
        conditions.append(f"age(xmin) <= age('{job.copy.progress.horizon % (1 << 32)}'::xid)")
    where = f" WHERE {' AND '.join(conditions)}" if conditions else ""
    return f"COPY (SELECT {columns} FROM ONLY {job.leaf.sql}{where}) TO STDOUT (FORMAT csv)"


def _copy_out(connection: Connection, query: str, size_max: int, stop: threading.Event) -> Iterator[bytearray]:
    """The bytes of a COPY in pieces of whole rows, at least one; ends early, without the last, once `stop` is set."""
    pg = connection.pgconn
    result = pg.exec_(query.encode())
    if result.status != pq.ExecStatus.COPY_OUT:
        raise failure(result)
    data = bytearray()
    while True:
        length, row = pg.get_copy_data(1)
        if length > 0:
            data += row
            if len(data) >= 2 * size_max:
                yield data
                data = bytearray()
        elif length < 0:
            break
        elif stop.is_set():
            return
        else:
            select.select([pg.socket], [], [], 0.5)
            pg.consume_input()
    while (ended := pg.get_result()) is not None:
        if ended.status != pq.ExecStatus.COMMAND_OK:
            raise failure(ended)
    yield data


def parse(schema: TableSchema, data: bytearray) -> pa.Table:
    """Rows of a COPY in CSV as an Arrow table of the schema. Raises ValueUnfit."""
    if not data:
        return schema.arrow().empty_table()
    names = [column.name for column in schema.columns]
    indexes = [str(index) for index in range(len(names))]
    table = csv.read_csv(
        pa.py_buffer(data),
        csv.ReadOptions(column_names=indexes, use_threads=False, block_size=len(data) + 1),
        csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
        csv.ConvertOptions(
            column_types={index: pa.string() for index in indexes},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    columns = [convert(column, values, schema.table) for column, values in zip(schema.columns, table.columns, strict=True)]
    return pa.Table.from_arrays(columns, schema=schema.arrow())
