"""The loop's work: a micro-batch of a source becomes one transaction of the store. Read this first.

    reader thread (cdc.daemon)   source.read()          frames -> Arrow columns, whole transactions
    apply thread                 Pipeline.write:
                                   complete             absent values, truncates, rows without key   (accounting.complete)
                                   mirror               all tables of the batch; what rules look up is noted (accounting.lookups)
                                   account, diff, check rules against live entries                   (accounting.accountant)
    store's thread (sinks)       sink transaction     mirror + entries + lines + live + quarantine + batch log + checkpoint,
                                                      written while the apply thread accounts for what comes next
    apply thread                 source.acknowledge() after the commit

Nothing here knows which kind of source or store it serves. After any exception the pipeline has forgotten everything: the store is asked
again (`resume`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc

from cdc.accounting import revaluation
from cdc.accounting.accountant import Accountant
from cdc.accounting.complete import Completer
from cdc.accounting.deferred import Deferred
from cdc.accounting.lookups import BEFORE_ALL, States
from cdc.protocols import CheckpointStore, Sink, SinkTransaction
from cdc.types import (
    LIVE,
    LIVE_KEYS,
    OP,
    ORDINAL,
    READ,
    REFERENCE,
    STAMP,
    TRANSACTIONS,
    TRUNCATE,
    TXN,
    BatchLog,
    Checkpoint,
    MicroBatch,
    MirrorWrite,
    Position,
    Promotion,
    Reference,
    Resume,
    SchemaVersion,
    SnapshotProgress,
    TableChanges,
    TableSchema,
)

PAGE_ROWS = 50_000
PART_ROWS = 10_000  # accounted for at a time, while what comes of those before is written
_Part = tuple[TableSchema, pa.Table]


@dataclass(frozen=True, slots=True)
class _Span:
    """What a batch, or the parts of a large transaction so far, will be logged with."""

    first_position: Position
    transactions: int
    changes: int
    first_commit_at: datetime


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Part of a batch: its changes, and the index of its one transaction if that changes rates."""

    changes: Sequence[TableChanges]
    turning: int | None = None


class Pipeline:
    """Applies micro-batches to one store. Belongs to the apply thread."""

    def __init__(self, sink: Sink, checkpoints: CheckpointStore, accountant: Accountant) -> None:
        self._sink, self._checkpoints, self._accountant = sink, checkpoints, accountant
        self._completer, self._deferred = Completer(), Deferred()
        self._transaction: SinkTransaction | None = None
        self._committing: Future[None] | None = None
        self.forget()

    def forget(self) -> None:
        """Drop an open transaction and all that is remembered of the store."""
        if self._transaction is not None:
            self._transaction.rollback()
        self._transaction = self._committing = None
        self._deferred.forget()
        self._known: dict[str, Checkpoint | None] = {}
        self._prepared: dict[tuple[str, bool], TableSchema] = {}
        self._copying: dict[str, int] = {}
        self._span: _Span | None = None
        self._referred = False
        self._turning: pa.Table | None = None
        self.unfinished: str | None = None

    def close(self) -> None:
        """Drop an open transaction and let go of the memory. The sink stays open."""
        self.forget()
        self._accountant.close()
        self._completer.close()

    def resume(self, source: str, tables: Sequence[str] | None = None) -> Resume:
        """What the store knows of a source; what it is held to have from then on.

        Mirrors of tables that are no longer among `tables` stay as they are, and are marked as removed: to capture them again takes
        a new copy.
        """
        transaction = self._sink.begin()
        try:
            resume = self._checkpoints.load(transaction, source)
            gone = [known for known in resume.snapshots.values() if tables is not None and known.table not in tables]
            for known in gone:
                self._checkpoints.record(transaction, source, replace(known, state="removed"))
            if gone:
                transaction.commit().result()
        finally:
            transaction.rollback()
        self._known[source] = resume.checkpoint
        self._accountant.know(_mirrored(resume))
        self._prepared = {key: schema for key, schema in self._prepared.items() if schema.source != source}
        self._copying = {}
        return resume

    def want_snapshot(self, source: str, tables: Sequence[str]) -> None:
        """Have tables of a source copied anew, from when the source is next resumed on."""
        transaction = self._sink.begin()
        try:
            known = self._checkpoints.load(transaction, source).snapshots
            for table in tables:
                former = known.get(table) or SnapshotProgress(table, 0, "", "wanted", "", 0, 0)
                self._checkpoints.record(transaction, source, replace(former, state="wanted", progress="", rows_done=0))
            transaction.commit().result()
        finally:
            transaction.rollback()

    def check(self, schemas: Iterable[TableSchema]) -> None:
        """Compile the rules of tables as they are at the source now. Raises ConfigError where one does not fit."""
        self._accountant.check(schemas)

    def apply(self, batches: Sequence[MicroBatch]) -> bool:
        """As `write`, waiting for the commit. True when it is committed, False after the part of a large transaction."""
        committed = self.write(batches)
        if committed is not None:
            committed.result()
        return committed is not None

    def write(self, batches: Sequence[MicroBatch]) -> Future[None] | None:
        """Apply batches of different sources in one store transaction. The future of its commit, during which others may be applied.

        None after the part of a large transaction: the store transaction stays open, `unfinished` names its source, and nothing but
        that source's next batch may follow. Raises whatever source data, rules or store raise, or the commit before did; then nothing of
        it is in the store. When the future raises, `forget` has to be called.
        """
        assert len(batches) == 1 or all(batch.whole for batch in batches), "the part of a large transaction comes alone"
        try:
            transaction = self._transaction or self._sink.begin()
            self._transaction = transaction
            advanced = {batch.source: self._apply(transaction, batch) for batch in batches}
            if not batches[-1].whole:
                self.unfinished = batches[-1].source
                return None
            for source, checkpoint in advanced.items():
                self._checkpoints.advance(transaction, self._known[source], checkpoint)
            if self._committing is not None:
                self._committing.result()
            self._committing = transaction.commit()
        except BaseException:
            self.forget()
            raise
        self._transaction, self.unfinished = None, None
        self._known |= advanced
        return self._committing

    def _apply(self, transaction: SinkTransaction, batch: MicroBatch) -> Checkpoint:
        self._refer(transaction)
        states = self._accountant.states(transaction.mirror)
        for changes in batch.changes:
            self._prepare(
                transaction, changes.schema, batch.position, staged=batch.snapshot is not None or changes.schema.table in batch.staged
            )
            if batch.snapshot is not None:
                self._copy(transaction, changes, batch.snapshot)
            elif changes.schema.table in batch.staged:
                self._catch_up(transaction, changes, batch.included_from)
        if batch.snapshot is not None:
            self._checkpoints.record(transaction, batch.source, batch.snapshot)
        else:
            for stretch in self._stretches(batch):
                self._follow(transaction, batch, stretch, states)
            for schema in batch.promote:
                self._promote(transaction, schema, batch)
            others = self._take_rates(transaction) if any(schema.name in self._accountant.rate_tables for schema in batch.promote) else None
            promoted = sum([self._post_copy(transaction, schema, batch, states) for schema in batch.promote])
            if others is not None:
                self._convert_anew(transaction, batch.source, batch.transactions, others, but=batch.promote)
            self._log(transaction, batch, promoted)
        if batch.source not in self._known:
            self._known[batch.source] = self._checkpoints.load(transaction, batch.source).checkpoint
        old = self._known[batch.source]
        return Checkpoint(batch.source, batch.position, old.epoch + 1 if old else 1, batch.identity)

    def _refer(self, transaction: SinkTransaction) -> None:
        """Let the accountant know the books' periods and rates as the store has them."""
        if not self._referred:
            periods = transaction.reference("periods").to_pylist()
            self._accountant.set_periods({(row["book"], row["period"]): row["state"] for row in periods})
            self._accountant.forget_rates()
            self._take_rates(transaction)
            self._referred = True

    def _take_rates(self, transaction: SinkTransaction) -> pa.Table:
        """Let the accountant know the rates as the store has them now. The days (RATED) on which one is another than before."""

        def rows(schema: TableSchema) -> pa.Table:
            return pa.concat_tables([schema.arrow().empty_table(), *transaction.mirror(schema, None)], promote_options="permissive")

        return self._accountant.set_rates(transaction.reference("rates"), rows)

    def set_period(self, book: str, period: str, state: str) -> None:
        """Close a period of a book (`closed`, `soft`) or open it again (`open`)."""
        transaction = self._sink.begin()
        try:
            others = [row for row in transaction.reference("periods").to_pylist() if (row["book"], row["period"]) != (book, period)]
            rows = others + ([] if state == "open" else [{"book": book, "period": period, "state": state}])
            transaction.apply(Reference("periods", pa.Table.from_pylist(rows, REFERENCE["periods"])))
            transaction.commit().result()
        finally:
            transaction.rollback()
        self._referred = False

    def _stretches(self, batch: MicroBatch) -> Iterator[_Stretch]:
        """The batch cut before and after each transaction that changes rates, as what comes after it goes by the new ones.

        One that goes on in the next batch changes them there.
        """
        changes = [part for part in batch.changes if part.schema.table not in batch.staged]
        turning = {
            txn
            for part in changes
            if part.schema.name in self._accountant.rate_tables
            for txn in pc.unique(part.rows.column(TXN)).to_pylist()
        }
        if self._turning is not None:
            turning.add(0 if batch.transactions.slice(0, 1) == self._turning else BEFORE_ALL)
        self._turning, start, count = None, 0, batch.transactions.num_rows
        for txn in sorted(turning):
            if txn > start:
                yield _Stretch(_between(changes, start, txn))
            done = batch.whole or txn < count - 1
            yield _Stretch(_between(changes, txn, txn + 1), txn if done else None)
            if not done:
                self._turning = batch.transactions.slice(txn)
            start = txn + 1
        if start < count:
            yield _Stretch(_between(changes, start, count) if turning else changes)

    def _follow(self, transaction: SinkTransaction, batch: MicroBatch, stretch: _Stretch, states: States) -> None:
        """Mirror a stretch's changes and account for them; and anew for the other rows whose rates it changes."""
        mirrored = [part for changes in stretch.changes for part in self._mirror(transaction, changes, states)]
        if stretch.turning is None:
            self._post(transaction, batch, mirrored, states)
            return
        others = self._take_rates(transaction)
        self._post(transaction, batch, mirrored, states)
        self._convert_anew(transaction, batch.source, batch.transactions.slice(max(stretch.turning, 0), 1), others)

    def _convert_anew(
        self, transaction: SinkTransaction, source: str, turning: pa.Table, rates: pa.Table, but: Sequence[TableSchema] = ()
    ) -> int:
        """Account anew, by a transaction, for the rows of a source that asked for rates (RATED) which it changed. How many they are.

        `but`: tables that were accounted for by the new rates already.
        """
        count = 0
        states = self._accountant.states(transaction.mirror)
        for schema in self._accountant.schemas(source):
            if rates.num_rows and schema not in but and self._accountant.converts(schema):
                rated = transaction.rated(schema, rates)
                for start in range(0, rated.num_rows, PAGE_ROWS):
                    rows = self._rows_of(transaction, schema, rated.slice(start, PAGE_ROWS).column("row_key").to_pylist())
                    transaction.apply(self._accountant.account(schema, _as_reads(rows, None), turning, transaction.live, states))
                    count += rows.num_rows
        return count

    def _prepare(self, transaction: SinkTransaction, schema: TableSchema, position: Position, *, staged: bool) -> None:
        if self._prepared.get((schema.name, staged)) != schema:
            if not staged:
                self._accountant.know([schema])
            self._accountant.compile(schema)
            self._sink.prepare_table(transaction, schema, staged)
            self._checkpoints.record(transaction, schema.source, SchemaVersion(schema, position))
            self._prepared[schema.name, staged] = schema

    def _mirror(self, transaction: SinkTransaction, changes: TableChanges, states: States) -> Iterator[_Part]:
        """Bring the mirror up to date. Gives the changes, complete."""
        schema = changes.schema
        for rows in self._completer.segments(changes.rows):
            for part in self._whole(transaction, schema, rows, staged=False):
                if schema.name in self._accountant.looked_up:
                    states.note(schema, part)
                transaction.apply(self._completer.net(schema, part))
                yield schema, part

    def _post(self, transaction: SinkTransaction, batch: MicroBatch, mirrored: Sequence[_Part], states: States) -> None:
        """Account for changes that are in the mirror. Rules that look something up wait for the end of the transaction."""
        account, txns, last = self._accountant.account, batch.transactions, batch.transactions.num_rows - 1
        large = self._deferred.transaction
        if large is not None and (batch.whole or txns.slice(last) != large):
            place = 0 if txns.slice(0, 1) == large else BEFORE_ALL
            for schema, rows in self._deferred.take():
                transaction.apply(account(schema, _of_transaction(rows, place), large, transaction.live, states))
        for schema, rows in mirrored:
            if not batch.whole and self._accountant.asks(schema):
                unfinished = pc.equal(rows.column(TXN), last)
                self._deferred.add(schema, rows.filter(unfinished), txns.slice(last))
                rows = rows.filter(pc.invert(unfinished))
            for start in range(0, rows.num_rows, PART_ROWS):
                transaction.apply(account(schema, rows.slice(start, PART_ROWS), txns, transaction.live, states))

    def _copy(self, transaction: SinkTransaction, changes: TableChanges, progress: SnapshotProgress) -> None:
        """Stage a snapshot's chunk. Rows that an earlier, interrupted snapshot staged under the same keys are replaced."""
        schema, rows = changes.schema, changes.rows
        first = progress.rows_done == rows.num_rows
        if first:
            self._copying[schema.name] = progress.number
        if not schema.key:
            rows = self._completer.number(schema, rows, lambda keys: transaction.mirror(schema, keys, True) if not first else iter(()))
        upserts = rows.drop([OP, TXN, ORDINAL])
        deletes = upserts.select(list(schema.key) or upserts.column_names)
        if self._copying.get(schema.name) == progress.number:
            deletes = deletes.slice(0, 0)
        transaction.apply(MirrorWrite(schema, deletes, upserts, progress.number, replace=first))

    def _catch_up(self, transaction: SinkTransaction, changes: TableChanges, included_from: int) -> None:
        """Bring a staged copy forward by changes that its rows do not have yet. Nothing is accounted for."""
        schema = changes.schema
        for rows in self._completer.segments(changes.rows):
            if rows.column(OP)[0].as_py() != TRUNCATE:
                keys = rows.select(list(schema.key) or [column.name for column in schema.columns])
                staged = list(transaction.mirror(schema, keys, True))
                rows = self._completer.newer(schema, rows, pa.concat_tables(staged), included_from) if staged else rows
            for part in self._whole(transaction, schema, rows, staged=True, older_than=included_from):
                transaction.apply(self._completer.net(schema, part, staged=0))

    def _whole(
        self, transaction: SinkTransaction, schema: TableSchema, rows: pa.Table, *, staged: bool, older_than: int | None = None
    ) -> list[pa.Table]:
        """A segment's changes with nothing left to look up: a truncate as deletes, else absent values and row numbers filled in."""
        if rows.num_rows and rows.column(OP)[0].as_py() == TRUNCATE:
            mirrored = list(transaction.mirror(schema, None, staged))
            if older_than is not None:
                mirrored = [chunk.filter(pc.less(chunk.column(STAMP), older_than)) for chunk in mirrored]
            return [self._completer.deletes(schema, rows, chunk) for chunk in mirrored if chunk.num_rows]
        if schema.key:
            return [self._completer.fill(schema, rows, lambda keys: transaction.mirror(schema, keys, staged), staged)]
        return [self._completer.number(schema, rows, lambda keys: transaction.mirror(schema, keys, staged))]

    def _promote(self, transaction: SinkTransaction, schema: TableSchema, batch: MicroBatch) -> None:
        """A finished copy becomes the mirror."""
        self._prepare(transaction, schema, batch.position, staged=True)
        transaction.apply(Promotion(schema))
        self._prepared[schema.name, False] = self._prepared.pop((schema.name, True))
        self._accountant.know([schema])
        progress = self._checkpoints.load(transaction, batch.source).snapshots[schema.table]
        self._checkpoints.record(transaction, batch.source, replace(progress, state="done"))

    def _post_copy(self, transaction: SinkTransaction, schema: TableSchema, batch: MicroBatch, states: States) -> int:
        """Each row of a mirror that was a copy is accounted for as read; rows that are gone end their entries. How many rows there are."""
        standing, count = transaction.standing(schema), 0
        first = next(standing, None)
        live = _nothing_stands if first is None else transaction.live
        for rows in transaction.mirror(schema, None):
            transaction.apply(self._accountant.account(schema, _as_reads(rows, count), batch.transactions, live, states))
            count += rows.num_rows
        for keys in chain([] if first is None else [first], standing):
            rows = self._rows_of(transaction, schema, keys.column("row_key").to_pylist())
            gone = self._accountant.missing(schema, keys, rows)
            if gone.num_rows:
                transaction.apply(self._accountant.end(schema, transaction.live(schema, gone), batch.transactions))
        return count

    def _rows_of(self, transaction: SinkTransaction, schema: TableSchema, row_keys: Sequence[str]) -> pa.Table:
        """The mirrored rows of some row_keys."""
        return self._completer.rows_of(schema, row_keys, lambda keys: transaction.mirror(schema, keys))

    def _log(self, transaction: SinkTransaction, batch: MicroBatch, promoted: int) -> None:
        """Write the batch log once the last part of the batch is there. A batch that only moves the position leaves none."""
        if not batch.transactions.num_rows:
            return
        positions, times = batch.transactions.column("position"), batch.transactions.column("committed_at")
        span = self._span or _Span(positions[0].as_py(), 0, 0, times[0].as_py())
        more = batch.transactions.num_rows - (1 if self._span else 0)
        span = replace(span, transactions=span.transactions + more, changes=span.changes + batch.rows + promoted)
        self._span = None if batch.whole else span
        if batch.whole:
            transaction.apply(
                BatchLog(
                    batch.source,
                    span.first_position,
                    positions[-1].as_py(),
                    span.transactions,
                    span.changes,
                    span.first_commit_at,
                    times[-1].as_py(),
                )
            )

    def retry(self, source: str, quarantined: Sequence[tuple[str, str]], first: Callable[[SinkTransaction], None] | None = None) -> None:
        """Account anew for the rows (table, row_key) of a source as they are in the mirror now; settles what is sound. All in one
        transaction of the store that begins with `first`.
        """
        mirrored = _mirrored(self.resume(source))

        def anew(transaction: SinkTransaction, _: str, one: pa.Table) -> int:
            states, count = self._accountant.states(transaction.mirror), 0
            for schema in mirrored:
                if row_keys := sorted({key for name, key in quarantined if name == schema.name}):
                    rows = self._rows_of(transaction, schema, row_keys)
                    transaction.apply(self._accountant.account(schema, _as_reads(rows, count), one, transaction.live, states))
                    count += rows.num_rows
            return count

        self._by_hand([source], "retry", anew, first)

    def set_rates(self, sources: Sequence[str], book: str, rates: pa.Table) -> int:
        """Put a book's rates (REFERENCE) in the place of those the store keeps. How many rows were accounted for anew."""
        others: list[pa.Table] = []

        def put(transaction: SinkTransaction) -> None:
            kept = transaction.reference("rates")
            kept = kept.filter(pc.not_equal(kept.column("book"), book))
            transaction.apply(Reference("rates", pa.concat_tables([kept, rates])))
            others.append(self._take_rates(transaction))

        def anew(transaction: SinkTransaction, source: str, one: pa.Table) -> int:
            return self._convert_anew(transaction, source, one, others[0])

        return self._by_hand(sources, "rates", anew, put)

    def revalue(self, book: str, period: str, balances: pa.Table, summary: str) -> int:
        """Post what balances gained or lost by a period's closing rates. How many balances there are. Raises StoreError."""
        transaction, now = self._sink.begin(), datetime.now(UTC)
        try:
            self._refer(transaction)
            one = {"position": "", "txn": f"revaluation:{now.isoformat()}", "committed_at": now}
            standing = pa.concat_tables([LIVE_KEYS.empty_table(), *transaction.standing(revaluation.SCHEMA)])
            former = transaction.live(revaluation.SCHEMA, standing)
            transactions = pa.Table.from_pylist([one], schema=TRANSACTIONS)
            transaction.apply(self._accountant.revalue(book, period, balances, transactions, former, summary))
            transaction.apply(BatchLog(revaluation.SCHEMA.source, "", "", 0, balances.num_rows, now, now))
            transaction.commit().result()
        finally:
            transaction.rollback()
        return int(balances.num_rows)

    def _by_hand(
        self,
        sources: Sequence[str],
        what: str,
        work: Callable[[SinkTransaction, str, pa.Table], int],
        first: Callable[[SinkTransaction], None] | None = None,
    ) -> int:
        """Let something account for rows of sources anew, in one transaction of the store that begins with `first`; each source's are
        a batch of their own. `work` is given the source and the one transaction it stands for, and tells how many rows there were.
        """
        begun = {source: checkpoint for source in sources if (checkpoint := self.resume(source).checkpoint) is not None}
        transaction, now, total = self._sink.begin(), datetime.now(UTC), 0
        try:
            self._refer(transaction)
            if first is not None:
                first(transaction)
            for source, checkpoint in begun.items():
                position, epoch = checkpoint.position, checkpoint.epoch + 1
                one = {"position": position, "txn": f"{what}:{epoch}", "committed_at": now}
                count = work(transaction, source, pa.Table.from_pylist([one], schema=TRANSACTIONS))
                transaction.apply(BatchLog(source, position, position, 0, count, now, now))
                self._checkpoints.advance(transaction, checkpoint, replace(checkpoint, epoch=epoch))
                total += count
            transaction.commit().result()
        except BaseException:
            transaction.rollback()
            self.forget()
            raise
        for source in begun:
            self.resume(source)
        return total


def _nothing_stands(schema: TableSchema, keys: pa.Table) -> pa.Table:
    return LIVE.empty_table()


def _mirrored(resume: Resume) -> list[TableSchema]:
    """The tables whose mirrors are theirs."""
    return [schema for table, schema in resume.schemas.items() if table in resume.snapshots and resume.snapshots[table].state == "done"]


def _between(changes: Iterable[TableChanges], start: int, end: int) -> list[TableChanges]:
    """Those of transactions from an index up to, but without, another."""
    parts = []
    for part in changes:
        txn = part.rows.column(TXN)
        rows = part.rows.filter(pc.and_(pc.greater_equal(txn, start), pc.less(txn, end)))
        if rows.num_rows:
            parts.append(TableChanges(part.schema, rows))
    return parts


def _of_transaction(rows: pa.Table, place: int) -> pa.Table:
    """Changes as of the transaction at a place of the batch."""
    return rows.set_column(rows.column_names.index(TXN), TXN, pa.repeat(pa.scalar(place, pa.int32()), rows.num_rows))


def _as_reads(rows: pa.Table, start: int | None) -> pa.Table:
    """Mirrored rows as snapshot reads of transaction 0, ordinals from `start`, or none."""
    count = rows.num_rows
    columns = {
        OP: pa.repeat(pa.scalar(READ, pa.string()), count),
        TXN: pa.repeat(pa.scalar(0, pa.int32()), count),
        ORDINAL: pa.nulls(count, pa.int64()) if start is None else pa.arange(start, start + count),
    }
    for name in rows.column_names:
        columns[name] = rows.column(name)
    return pa.table(columns)
