"""PostgresSource: opens, copies what has to be copied, then streams. Read `open` and `read` first."""

from __future__ import annotations

import logging
import secrets
import time
from threading import Event

import pyarrow as pa

from cdc.config import SourceConfig
from cdc.decode.postgres.pgoutput import lsn_int, lsn_text
from cdc.errors import PositionLost, SchemaUnknown, SourceError
from cdc.sources.handover import HandOver, Staged
from cdc.sources.postgres import slots, snapshot
from cdc.sources.postgres.catalog import Catalog, Table, measured
from cdc.sources.postgres.connection import Connection, connect, translated
from cdc.sources.postgres.progress import parse
from cdc.sources.postgres.relations import Relations
from cdc.sources.postgres.replication import SlotMaker, Stream, identify
from cdc.sources.postgres.tail import Tail
from cdc.sources.tail import WAIT_SECONDS, Outcome
from cdc.types import TRANSACTIONS, MicroBatch, Position, Resume, SnapshotProgress, TableChanges, TableSchema

log = logging.getLogger("ledgertail.source")

VERSION_MIN = 120000
ADVANCE_SECONDS, ADVANCE_BYTES = 10.0, 16 << 20


class PostgresSource:
    """One PostgreSQL database, tailed. See cdc.protocols.Source."""

    def __init__(self, name: str, config: SourceConfig) -> None:
        self.name, self._config = name, config
        self._closing = Event()
        self._maker = SlotMaker(name, config, self._closing)
        self._catalog = Catalog(name, config.types)
        self._side: Connection | None = None
        self._reader: snapshot.Reader | None = None
        self._tail: Tail | None = None
        self._relations: Relations
        self._identity = ""
        self._slot = slots.slot_name(name, "", config.slot)
        self._publication = slots.publication_name(name, config.publication)
        self._handover: HandOver[int] = HandOver(0, {})
        self._acknowledged = 0
        self._advanced_at = 0.0

    def open(self, resume: Resume) -> None:
        """See Source.open."""
        with translated(self.name, self._config):
            self._side = side = connect(self.name, self._config)
            self._check_server(side)
            replication = connect(self.name, self._config, replication=True)
            with replication:
                self._identity = identify(replication)
            tables = self._catalog.tables(side, self._config.tables)
            self._slot = slots.slot_name(self.name, resume.store_id, self._config.slot)
            self._check_position(side, resume)
            publication = slots.ensure_publication(side, self.name, self._publication, list(tables.values()), self._config.create)
            self._check_still_same(tables, publication, resume)
            place, exported = self._take_place(side, resume)
            now = {name: self._catalog.schema(side, table) for name, table in tables.items()}
            kept = {name: schema for name, schema in resume.schemas.items() if name in now and _state(resume, name) in ("staged", "done")}
            self._relations = Relations(side, self._catalog, tables, now | kept)
            staged = {name: _staged(known) for name, known in resume.snapshots.items() if name in tables and known.state == "staged"}
            self._handover = HandOver(place, staged)
            wanted = [name for name in tables if _state(resume, name) not in ("staged", "done")]
            if wanted:
                self._begin_snapshot(side, resume, exported, [(tables[name], now[name]) for name in wanted], publication)
            self._maker.release()

    def _check_server(self, side: Connection) -> None:
        version = side.info.server_version
        if version < VERSION_MIN:
            raise SourceError("source.version", source=self.name, version=version // 10000)
        row = side.execute("SELECT current_setting('wal_level'), pg_is_in_recovery(), getdatabaseencoding()").fetchone()
        assert row is not None
        if row[0] != "logical":
            raise SourceError("source.wal_level", source=self.name, wal_level=row[0])
        if row[1] and version < 160000:
            raise SourceError("source.standby", source=self.name)
        if row[2] == "SQL_ASCII":
            raise SourceError("source.encoding", source=self.name)

    def _check_still_same(self, tables: dict[str, Table], publication: slots.Publication, resume: Resume) -> None:
        """Raise SchemaUnknown for a table that was dropped, lost a partition or left the publication since its rows were taken."""
        for name, table in tables.items():
            known = resume.snapshots.get(name)
            progress = parse(known.progress) if known and known.state in ("staged", "done") else None
            if progress is None:
                continue
            if progress.relid != table.relid:
                raise SchemaUnknown("source.table_recreated", source=self.name, table=name)
            if not progress.leaves.keys() <= {leaf.relid for leaf in table.leaves}:
                raise SchemaUnknown("source.partition_gone", source=self.name, table=name)
            if progress.membership != publication.membership(table):
                raise SchemaUnknown("source.publication_left", source=self.name, table=name, publication=self._publication)

    def _check_position(self, side: Connection, resume: Resume) -> None:
        """Raise PositionLost when rows of the store stand on a place of the log that this server does not hold for us."""
        checkpoint = resume.checkpoint
        if checkpoint is None or not {_state(resume, name) for name in self._config.tables} & {"copying", "staged", "done"}:
            return
        if checkpoint.identity != self._identity:
            raise PositionLost("source.other_server", source=self.name, known=checkpoint.identity, found=self._identity)
        slots.check_position(self.name, slots.slot_of(side, self._slot), self._slot, lsn_int(checkpoint.position))

    def _take_place(self, side: Connection, resume: Resume) -> tuple[int, str | None]:
        """Where the stream begins, and the exported snapshot of just that place when the slot was made now."""
        slot, checkpoint = slots.slot_of(side, self._slot), resume.checkpoint
        if slot is not None and slot.lost is None:
            slots.check_slot(self.name, slot, side.info.dbname)
            known = checkpoint is not None and checkpoint.identity == self._identity
            return max(slot.confirmed, lsn_int(checkpoint.position) if checkpoint and known else 0), None
        if not self._config.create:
            raise SourceError("source.slot_wanted", source=self.name, slot=self._slot)
        if slot is not None:
            slots.drop_slot(side, self._slot)
        return self._maker.create(self._slot, False, side)

    def _begin_snapshot(
        self,
        side: Connection,
        resume: Resume,
        exported: str | None,
        wanted: list[tuple[Table, TableSchema]],
        publication: slots.Publication,
    ) -> None:
        position = self._handover.place
        if exported is None:
            position, exported = self._maker.create(f"{self._slot[:46]}_{secrets.token_hex(8)}", True, side)
        number = 1 + max((known.number for known in resume.snapshots.values()), default=0)
        self._reader = reader = snapshot.Reader(self.name, self._config, exported, number, position)
        copies = []
        for table, schema in wanted:
            known, membership = resume.snapshots.get(table.name), publication.membership(table)
            if known is not None and known.state == "copying":
                copies.append(snapshot.resume(measured(side, table), schema, known, parse(known.progress), membership, reader.session))
            else:
                copies.append(snapshot.begin(measured(side, table), schema, membership, reader.session))
        log.info("source '%s': snapshot %d at %s of %s", self.name, number, lsn_text(position), ", ".join(c.table.name for c in copies))
        reader.start(copies)

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
        session = reader.session
        if progress.state == "staged":
            self._handover.staged[copy.table.name] = Staged(session.number, copy.progress.sessions)
        transaction = _snapshot_transaction(session.number, session.position, session.taken_us)
        return self._batch(transaction, (TableChanges(copy.schema, rows),), snapshot=progress)

    def _promotion(self) -> MicroBatch:
        schemas = tuple(self._relations.schemas[name] for name in self._config.tables if name in self._handover.staged)
        newest = self._handover.promote()
        transaction = _snapshot_transaction(newest.number, newest.place, newest.taken_us)
        return self._batch(transaction, (), promote=schemas)

    def _start_tail(self) -> Tail:
        self._handover.skipped = False
        place = self._handover.place
        stream = Stream(self.name, self._config, self._slot, self._publication, place)
        self._advanced_at = time.monotonic()
        return Tail(self._config, stream, place, self._relations, self._handover.wanted)

    def _read_tail(self, tail: Tail) -> MicroBatch | None:
        tail.stream.acknowledge(self._acknowledged)
        before = self._handover.before
        outcome = tail.collect(before)
        if outcome is Outcome.BATCH:
            return self._take(tail, before)
        if before is not None and (outcome is Outcome.CUT or (tail.resting and tail.reached >= before)):
            return self._cross(tail, before)
        if before is not None:
            tail.stream.ask()
        return self._advance(tail) if tail.resting else None

    def _take(self, tail: Tail, before: int | None) -> MicroBatch:
        transactions, changes, whole = tail.take()
        self._move(tail, tail.position, before)
        included = self._handover.included_from(before)
        return self._batch(transactions, changes, whole=whole, included_from=included, received_at=tail.received_at)

    def _move(self, tail: Tail, reached: int, place: int | None) -> None:
        """All up to `reached` has been handed out. From a snapshot's place on, tables that were left out are wanted: the server has
        described them already, and only to a new session does it again."""
        self._handover.advance(reached)
        self._advanced_at = time.monotonic()
        if self._handover.skipped and place is not None and place <= self._handover.place:
            tail.stream.close()
            self._tail = None

    def _cross(self, tail: Tail, place: int) -> MicroBatch:
        """All that committed before a snapshot's place has been handed out."""
        self._move(tail, place, place)
        return self._promotion() if self._handover.due else self._batch(TRANSACTIONS.empty_table(), ())

    def _advance(self, tail: Tail) -> MicroBatch | None:
        """A new position without changes, now and then: others write to the log too, and the server keeps what we do not pass."""
        ahead, now = tail.reached - self._handover.place, time.monotonic()
        if ahead <= 0 or (ahead < ADVANCE_BYTES and now - self._advanced_at < ADVANCE_SECONDS):
            return None
        self._move(tail, tail.reached, None)
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
            identity=self._identity,
            transactions=transactions,
            changes=changes,
            position=lsn_text(self._handover.place),
            whole=whole,
            snapshot=snapshot,
            staged=frozenset(self._handover.staged) if snapshot is None else frozenset(),
            included_from=included_from,
            promote=promote,
            received_at=time.time() if received_at is None else received_at,
        )

    def acknowledge(self, position: Position) -> None:
        """See Source.acknowledge."""
        self._acknowledged = lsn_int(position)

    def keepalive(self) -> None:
        """See Source.keepalive."""
        if self._tail is not None:
            self._tail.stream.acknowledge(self._acknowledged)
            self._tail.stream.tell()

    def close(self) -> None:
        """See Source.close."""
        self._closing.set()
        if self._reader is not None:
            self._reader.close()
        if self._tail is not None:
            self._tail.stream.close()
        self._maker.release()
        if self._side is not None:
            self._side.close()


def _state(resume: Resume, table: str) -> str:
    known = resume.snapshots.get(table)
    return known.state if known else ""


def _staged(known: SnapshotProgress) -> Staged[int]:
    progress = parse(known.progress)
    return Staged(known.number, progress.sessions if progress else {known.number: (lsn_int(known.position), 0)})


def _snapshot_transaction(number: int, position: int, taken_us: int) -> pa.Table:
    return pa.table([[lsn_text(position)], [f"snapshot:{number}"], pa.array([taken_us], pa.timestamp("us", "UTC"))], schema=TRANSACTIONS)
