"""The DuckDB sink and its transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

from cdc.errors import StoreError
from cdc.protocols import SinkTransaction
from cdc.types import Account, BatchLog, MirrorWrite, Postings, Promotion, Reference, TableSchema
from sinks.duckdb import journal, mirror, reference
from sinks.duckdb.faults import translated
from sinks.duckdb.file import connection_of, open_writer, store_path
from sinks.duckdb.session import Session
from sinks.duckdb.tables import make_tables
from sinks.duckdb.writer import Writer

CHECKPOINT_BYTES = 4 << 20  # a smaller log is not worth a checkpoint when idle
T = TypeVar("T")


class DuckDBTransaction:
    """`cdc.protocols.SinkTransaction` on the writer's connection.

    Postings belong to the batch that the next BatchLog closes; one transaction may hold several batches, none may stay open. What is
    applied is written while the caller goes on; what that raises, whatever is called next raises.
    """

    def __init__(self, session: Session, writer: Writer) -> None:
        self._session, self._writer = session, writer
        self._ended = self._begun = False
        self._fault: BaseException | None = None
        self._journal: journal.Journal | None = None
        writer.later(self._do, self._begin)

    def live(self, schema: TableSchema, keys: pa.Table) -> pa.Table:
        return self._now(journal.live, self._session, schema, keys)

    def standing(self, schema: TableSchema) -> Iterator[pa.Table]:
        return self._each(journal.standing(self._session, schema))

    def mirror(self, schema: TableSchema, keys: pa.Table | None, staged: bool = False) -> Iterator[pa.Table]:
        return self._each(mirror.read(self._session, schema, keys, staged))

    def reference(self, name: str) -> pa.Table:
        return self._now(reference.read, self._session, name)

    def rated(self, schema: TableSchema, rates: pa.Table) -> pa.Table:
        return self._now(reference.rated, self._session, schema, rates)

    def apply(self, part: MirrorWrite | Promotion | Postings | Reference | BatchLog) -> None:
        """Have a part written. Raises StoreError of a part before it; the transaction can then only be rolled back."""
        if self._fault is not None:
            raise self._fault
        self._writer.later(self._do, self._write, part)

    def make_tables(self, accounts: Sequence[Account]) -> None:
        """Make the store's own tables."""
        self._now(make_tables, self._session, accounts)

    def fit(self, schema: TableSchema, staged: bool) -> None:
        """Make a table's mirror or staged copy fit `schema`."""
        self._now(mirror.fit, self._session, schema, staged)

    def sql(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run SQL; select a TIMESTAMPTZ as text or number, as DuckDB's Python client needs pytz for it."""
        return self._now(self._session.rows, statement, parameters)

    def commit(self) -> Future[None]:
        assert not self._ended, "the transaction has ended"
        self._ended = True
        return self._writer.later(self._commit)

    def rollback(self) -> None:
        if not self._ended:
            self._ended = True
            self._writer.now(self._rollback)

    @property
    def ended(self) -> bool:
        """Rolled back, or told to commit."""
        return self._ended

    def _now(self, function: Callable[..., T], *args: Any) -> T:
        return self._writer.now(lambda: self._do(function, *args))

    def _each(self, pages: Iterator[pa.Table]) -> Iterator[pa.Table]:
        while (page := self._now(next, pages, None)) is not None:
            yield page

    def _do(self, function: Callable[..., T], *args: Any) -> T:
        """A call on the writer's thread: nothing is carried out after what has failed."""
        if self._fault is not None:
            raise self._fault
        try:
            return function(*args)
        except BaseException as fault:
            self._fault = fault
            raise

    def _begin(self) -> None:
        self._session.run("BEGIN TRANSACTION")
        self._begun = True

    def _write(self, part: MirrorWrite | Promotion | Postings | Reference | BatchLog) -> None:
        match part:
            case MirrorWrite():
                mirror.write(self._session, part)
            case Promotion():
                mirror.promote(self._session, part)
            case Postings():
                self._batch().post(part)
            case Reference():
                reference.write(self._session, part)
            case BatchLog():
                self._batch().close(part)

    def _batch(self) -> journal.Journal:
        if self._journal is None:
            self._journal = journal.Journal(self._session)
        return self._journal

    def _commit(self) -> None:
        try:
            assert self._journal is None or self._journal.closed, "postings without their batch's log"
            self._do(self._session.run, "COMMIT")
        except BaseException:
            self._rollback()
            raise

    def _rollback(self) -> None:
        with suppress(StoreError):  # a failed commit has rolled back already, and a broken store forgets by itself
            if self._begun:
                self._session.run("ROLLBACK")


class DuckDBSink:
    """`cdc.protocols.Sink` on a DuckDB file that no other process has open. `memory_limit` in bytes bounds DuckDB's buffers.

    Raises StoreError on opening: locked (with the holder's PID), foreign, newer, missing folder, no permission.
    """

    def __init__(self, url_or_path: str | Path, memory_limit: int) -> None:
        self.path = store_path(url_or_path)
        self._connection = open_writer(self.path, memory_limit)
        self._session, self._writer = Session(connection_of(self._connection), self.path), Writer()
        self._transaction: DuckDBTransaction | None = None

    def prepare(self, accounts: Sequence[Account]) -> None:
        transaction = self.begin()
        try:
            transaction.make_tables(accounts)
            transaction.commit().result()
        finally:
            transaction.rollback()

    def prepare_table(self, transaction: SinkTransaction, schema: TableSchema, staged: bool) -> None:
        """As the protocol says. Raises StoreError where names clash or values don't fit a column's new type."""
        assert transaction is self._transaction, "a transaction of another sink"
        self._transaction.fit(schema, staged)

    def begin(self) -> DuckDBTransaction:
        assert self._transaction is None or self._transaction.ended, "a transaction is open"
        self._transaction = DuckDBTransaction(self._session, self._writer)
        return self._transaction

    def reader(self) -> duckdb.DuckDBPyConnection:
        """A connection for one other thread, to be closed there. Inside `BEGIN TRANSACTION READ ONLY` all reads are of one state."""
        with translated(self.path):
            return connection_of(self._connection)

    def checkpoint_if_idle(self) -> bool:
        """Fold the log into the file if it has grown and nothing is going on; for the apply thread, when it has nothing to do."""
        log = self.path.with_name(self.path.name + ".wal")
        if (self._transaction and not self._transaction.ended) or not log.exists() or log.stat().st_size < CHECKPOINT_BYTES:
            return False
        try:
            self._writer.now(self._session.run, "CHECKPOINT")
        except StoreError as error:
            if isinstance(error.__cause__, duckdb.TransactionException):
                return False  # a reader is at work: later
            raise
        return True

    def close(self) -> None:
        if self._transaction is not None:
            self._transaction.rollback()
        self._writer.close()
        self._session.close()
        try:
            self._connection.close()
        except duckdb.Error:
            return  # a broken store can't fold its log into the file; the next opening replays it
