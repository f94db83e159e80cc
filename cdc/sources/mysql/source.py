"""MysqlSource: opens, copies what has to be copied, then streams. Read `open` and `read` first."""

from __future__ import annotations

import logging
import time

import pyarrow as pa

from cdc.config import SourceConfig
from cdc.decode.mysql.lexer import Dialect
from cdc.decode.mysql.position import BinlogPosition, place_text
from cdc.decode.mysql.wire import Place
from cdc.errors import SourceError, SourceUnavailable
from cdc.sources.handover import HandOver, Staged
from cdc.sources.mysql import snapshot
from cdc.sources.mysql.catalog import Catalog, Table
from cdc.sources.mysql.connection import Connection, connect, default_database, hang_up, place, query, translated
from cdc.sources.mysql.progress import parse
from cdc.sources.mysql.relations import Relations
from cdc.sources.mysql.replication import FromFile, Start, Stream, replica
from cdc.sources.mysql.server import Server, identify, resumable
from cdc.sources.mysql.tail import NOWHERE, Tail
from cdc.sources.tail import WAIT_SECONDS, Outcome
from cdc.types import TRANSACTIONS, MicroBatch, Position, Resume, SnapshotProgress, TableChanges, TableSchema

log = logging.getLogger("ledgertail.source")

_SETTINGS = "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('lower_case_table_names', 'binlog_row_metadata')"
ADVANCE_SECONDS, ADVANCE_BYTES = 10.0, 16 << 20


class MysqlSource:
    """One database of a MySQL or MariaDB server, tailed. See cdc.protocols.Source."""

    def __init__(self, name: str, config: SourceConfig) -> None:
        self.name, self._config = name, config
        self._catalog = Catalog(name, config.types)
        self._side: Connection | None = None
        self._reader: snapshot.Reader | None = None
        self._tail: Tail | None = None
        self._server: Server
        self._relations: Relations
        self._handover: HandOver[Place]
        self._position: BinlogPosition  # what the store has, or will have once all batches handed out are in it
        self._start: Start  # where the next session of the stream begins
        self._taken_at: dict[int, str] = {}  # file and offset of snapshots, by number
        self._store_id = ""
        self._advanced_at = 0.0

    def open(self, resume: Resume) -> None:
        """See Source.open."""
        with translated(self.name, self._config):
            self._store_id = resume.store_id
            self._side = side = connect(self.name, self._config)
            self._server = identify(side)
            self._check_server()
            known = self._known_position(resume)
            start = None if known is None else resumable(self.name, self._config, side, self._server, known)
            tables = self._catalog.tables(side, self._config.tables)
            self._check_distinct(tables)
            now = {name: self._catalog.schema(table) for name, table in tables.items()}
            standing = self._standing(resume, tables, start)
            wanted = [table for name, table in tables.items() if name not in standing]
            if wanted:
                self._reader = self._begin_snapshot(side, resume, wanted, start)
            self._begin(known, start)
            staged = {name: self._staged(progress) for name, progress in standing.items() if progress.state == "staged"}
            self._handover = HandOver(self._position.place if isinstance(self._start, FromFile) else NOWHERE, staged)
            kept = {name: schema for name, schema in resume.schemas.items() if name in standing}
            settings = dict(query(side, _SETTINGS))
            dialect = Dialect(self._server.mariadb, settings["lower_case_table_names"] != "0")
            named = settings.get("binlog_row_metadata") == "FULL"
            self._relations = Relations(side, self._catalog, tables, now | kept, self._handover.wanted, dialect, named)

    def _check_server(self) -> None:
        if not self._server.log_bin:
            raise SourceError("mysql.no_binlog", source=self.name, place=place(self._config), detail="log_bin = OFF")

    def _check_distinct(self, tables: dict[str, Table]) -> None:
        """A table with two names would be told of its changes by one of them."""
        names: dict[str, str] = {}
        for name, table in tables.items():
            if (other := names.setdefault(table.sql, name)) != name:
                raise SourceError("mysql.table_twice", source=self.name, table=name, other=other)

    def _known_position(self, resume: Resume) -> BinlogPosition | None:
        """What rows of the store stand on; None where none do."""
        checkpoint, standing = resume.checkpoint, {"copying", "staged", "done"}
        if checkpoint is None or not any(_state(resume, name) in standing for name in self._config.tables):
            return None
        return BinlogPosition.parse(checkpoint.position)

    def _standing(self, resume: Resume, tables: dict[str, Table], start: Start | None) -> dict[str, SnapshotProgress]:
        """The tables that are copied. A staged copy can only be brought level by the log of the server whose places it knows."""
        states = {"staged", "done"} if isinstance(start, FromFile) else {"done"}
        return {name: resume.snapshots[name] for name in tables if start is not None and _state(resume, name) in states}

    def _begin(self, known: BinlogPosition | None, start: Start | None) -> None:
        """Settle where the stream goes on: where the store is, or at the first snapshot's place."""
        if known is not None and start is not None:
            self._position, self._start = known, start
            return
        assert self._reader is not None, "what does not stand is copied"
        self._position = BinlogPosition.parse(self._reader.session.position)
        self._start = FromFile(*self._position.start)

    def _begin_snapshot(self, side: Connection, resume: Resume, wanted: list[Table], start: Start | None) -> snapshot.Reader:
        number = 1 + max((known.number for known in resume.snapshots.values()), default=0)
        reader = snapshot.Reader(self.name, self._config, self._server, wanted, number)
        try:
            self._check_unchanged(side, wanted)
            copies = []
            for table in wanted:
                known = resume.snapshots.get(table.name)
                if known is not None and known.state == "copying" and isinstance(start, FromFile):
                    copies.append(snapshot.resume(table, self._catalog, known, parse(known.progress), reader.session))
                else:
                    copies.append(snapshot.begin(table, self._catalog, reader.session))
            named = ", ".join(copy.table.name for copy in copies)
            log.info("source '%s': snapshot %d at %s of %s", self.name, number, reader.session.position, named)
            reader.start(copies)
        except BaseException:
            reader.close()
            raise
        return reader

    def _check_unchanged(self, side: Connection, wanted: list[Table]) -> None:
        """The tables' shapes were read before the snapshot's place was known: nothing may have changed them in between."""
        for name, table in self._catalog.tables(side, [table.name for table in wanted]).items():
            if any(table.shape != before.shape for before in wanted if before.name == name):
                raise SourceUnavailable("source.table_changed", source=self.name, table=name)

    def read(self) -> MicroBatch | None:
        """See Source.read."""
        with translated(self.name, self._config):
            if self._reader is not None:
                if not self._reader.finished:
                    return self._read_snapshot(self._reader)
                self._reader.close()
                self._reader = None
            if self._handover.due:
                return self._promotion()
            if self._tail is None:
                self._tail = self._start_tail()
            return self._read_tail(self._tail)

    def _read_snapshot(self, reader: snapshot.Reader) -> MicroBatch | None:
        piece = reader.read(WAIT_SECONDS)
        if piece is None:
            return None
        copy, rows, progress = piece
        if progress.state == "staged":
            self._handover.staged[copy.table.name] = self._staged(progress)
        session = reader.session
        transaction = _snapshot_transaction(session.number, _file_and_offset(session.position), session.taken_us)
        return self._batch(transaction, (TableChanges(copy.schema, rows),), snapshot=progress)

    def _staged(self, known: SnapshotProgress) -> Staged[Place]:
        progress = parse(known.progress)
        assert progress is not None, "a copy's progress has been written by its reader"
        self._taken_at |= {number: _file_and_offset(position) for number, (position, _) in progress.sessions.items()}
        sessions = {number: (BinlogPosition.parse(text).place, taken_us) for number, (text, taken_us) in progress.sessions.items()}
        level_at = BinlogPosition.parse(progress.level_at).place if progress.level_at else None
        return Staged(known.number, sessions, level_at)

    def _promotion(self) -> MicroBatch:
        schemas = tuple(self._relations.schemas[name] for name in self._config.tables if name in self._handover.staged)
        newest = self._handover.promote()
        transaction = _snapshot_transaction(newest.number, self._taken_at[newest.number], newest.taken_us)
        return self._batch(transaction, (), promote=schemas)

    def _start_tail(self) -> Tail:
        self._handover.skipped = False
        stream = Stream(self.name, self._config, replica(self.name, self._config, self._store_id), self._start)
        self._advanced_at = time.monotonic()
        return Tail(self._config, self._server, stream, self._start, self._position, self._relations)

    def _read_tail(self, tail: Tail) -> MicroBatch | None:
        before = self._handover.before
        outcome = tail.collect(before)
        if outcome is Outcome.BATCH:
            return self._take(tail, before)
        if before is not None and (outcome is Outcome.CUT or (tail.resting and tail.place >= before)):
            return self._cross(tail, before)
        return self._advance(tail) if tail.resting else None

    def _take(self, tail: Tail, before: Place | None) -> MicroBatch:
        transactions, changes, whole = tail.take()
        self._move(tail, before)
        included = self._handover.included_from(before)
        return self._batch(transactions, changes, whole=whole, included_from=included, received_at=tail.received_at)

    def _move(self, tail: Tail, place: Place | None) -> None:
        """All up to the tail's place has been handed out. From a snapshot's place on, tables that were left out are wanted: only a new
        session resolves them."""
        self._handover.advance(tail.place)
        self._position, self._advanced_at = tail.position, time.monotonic()
        if self._handover.skipped and place is not None and place <= self._handover.place:
            tail.stream.close()
            self._tail, self._start = None, FromFile(*self._position.start)

    def _cross(self, tail: Tail, place: Place) -> MicroBatch:
        """All that committed before a snapshot's place has been handed out."""
        self._handover.advance(place)
        self._move(tail, place)
        return self._promotion() if self._handover.due else self._batch(TRANSACTIONS.empty_table(), ())

    def _advance(self, tail: Tail) -> MicroBatch | None:
        """A new position without changes, now and then: others write to the log too, and the server purges what is old."""
        here, there = self._handover.place, tail.place
        near = here.file == there.file and there.offset - here.offset < ADVANCE_BYTES
        if there <= here or (near and time.monotonic() - self._advanced_at < ADVANCE_SECONDS):
            return None
        self._move(tail, None)
        return self._batch(TRANSACTIONS.empty_table(), ())

    def _batch(
        self,
        transactions: pa.Table,
        changes: tuple[TableChanges, ...],
        *,
        whole: bool = True,
        snapshot: SnapshotProgress | None = None,
        included_from: int = 0,
        promote: tuple[TableSchema, ...] = (),
        received_at: float | None = None,
    ) -> MicroBatch:
        return MicroBatch(
            source=self.name,
            identity=f"{self._server.uuid}/{default_database(self._config)}",
            transactions=transactions,
            changes=changes,
            position=str(self._position),
            whole=whole,
            snapshot=snapshot,
            staged=frozenset(self._handover.staged) if snapshot is None else frozenset(),
            included_from=included_from,
            promote=promote,
            received_at=time.time() if received_at is None else received_at,
        )

    def acknowledge(self, position: Position) -> None:
        """See Source.acknowledge. A MySQL server is told nothing: it keeps its log by age."""

    def keepalive(self) -> None:
        """See Source.keepalive. The server waits as long as the session's net_write_timeout says."""

    def close(self) -> None:
        """See Source.close."""
        if self._reader is not None:
            self._reader.close()
        if self._tail is not None:
            self._tail.stream.close()
        if self._side is not None:
            hang_up(self._side)


def _state(resume: Resume, table: str) -> str:
    known = resume.snapshots.get(table)
    return known.state if known else ""


def _file_and_offset(position: Position) -> str:
    known = BinlogPosition.parse(position)
    return place_text(known.file, known.offset)


def _snapshot_transaction(number: int, position: str, taken_us: int) -> pa.Table:
    return pa.table([[position], [f"snapshot:{number}"], pa.array([taken_us], pa.timestamp("us", "UTC"))], schema=TRANSACTIONS)
