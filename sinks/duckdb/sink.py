"""The DuckDB sink and its transaction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

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

CHECKPOINT_BYTES = 4 << 20  # a smaller log is not worth a checkpoint when idle


class DuckDBTransaction:
    """`cdc.protocols.SinkTransaction` on the writer's connection.

    Postings belong to the batch that the next BatchLog closes; one transaction may hold several batches, none may stay open.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._done = False
        self._journal: journal.Journal | None = None
        session.run("BEGIN TRANSACTION")

    def live(self, schema: TableSchema, keys: pa.Table) -> pa.Table:
        return journal.live(self._session, schema, keys)

    def standing(self, schema: TableSchema) -> Iterator[pa.Table]:
        return journal.standing(self._session, schema)

    def mirror(self, schema: TableSchema, keys: pa.Table | None, staged: bool = False) -> Iterator[pa.Table]:
        return mirror.read(self._session, schema, keys, staged)

    def reference(self, name: str) -> pa.Table:
        return reference.read(self._session, name)

    def rated(self, schema: TableSchema, rates: pa.Table) -> pa.Table:
        return reference.rated(self._session, schema, rates)

    def apply(self, part: MirrorWrite | Promotion | Postings | Reference | BatchLog) -> None:
        """Write a part. Raises StoreError; the transaction can then only be rolled back."""
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

    def fit(self, schema: TableSchema, staged: bool) -> None:
        """Make a table's mirror or staged copy fit `schema`."""
        mirror.fit(self._session, schema, staged)

    def sql(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run SQL; select a TIMESTAMPTZ as text or number, as DuckDB's Python client needs pytz for it."""
        return self._session.rows(statement, parameters)

    def commit(self) -> None:
        assert not self._done, "the transaction has ended"
        assert self._journal is None or self._journal.closed, "postings without their batch's log"
        try:
            self._session.run("COMMIT")
        except StoreError:
            self.rollback()
            raise
        self._done = True

    def rollback(self) -> None:
        if self._done:
            return
        self._done = True
        try:
            self._session.run("ROLLBACK")
        except StoreError:
            return  # a failed commit has rolled back already, and a broken store forgets by itself

    @property
    def done(self) -> bool:
        """Committed or rolled back."""
        return self._done

    def _batch(self) -> journal.Journal:
        if self._journal is None:
            self._journal = journal.Journal(self._session)
        return self._journal


class DuckDBSink:
    """`cdc.protocols.Sink` on a DuckDB file that no other process has open. `memory_limit` in bytes bounds DuckDB's buffers.

    Raises StoreError on opening: locked (with the holder's PID), foreign, newer, missing folder, no permission.
    """

    def __init__(self, url_or_path: str | Path, memory_limit: int) -> None:
        self.path = store_path(url_or_path)
        self._connection = open_writer(self.path, memory_limit)
        self._session = Session(connection_of(self._connection), self.path)
        self._transaction: DuckDBTransaction | None = None

    def prepare(self, accounts: Sequence[Account]) -> None:
        transaction = self.begin()
        try:
            make_tables(self._session, accounts)
            transaction.commit()
        finally:
            transaction.rollback()

    def prepare_table(self, transaction: SinkTransaction, schema: TableSchema, staged: bool) -> None:
        """As the protocol says. Raises StoreError where names clash or values don't fit a column's new type."""
        assert transaction is self._transaction, "a transaction of another sink"
        self._transaction.fit(schema, staged)

    def begin(self) -> DuckDBTransaction:
        assert self._transaction is None or self._transaction.done, "a transaction is open"
        self._transaction = DuckDBTransaction(self._session)
        return self._transaction

    def reader(self) -> duckdb.DuckDBPyConnection:
        """A connection for one other thread, to be closed there. Inside `BEGIN TRANSACTION READ ONLY` all reads are of one state."""
        with translated(self.path):
            return connection_of(self._connection)

    def checkpoint_if_idle(self) -> bool:
        """Fold the log into the file if it has grown and nothing is going on; for the apply thread, when it has nothing to do."""
        log = self.path.with_name(self.path.name + ".wal")
        if (self._transaction and not self._transaction.done) or not log.exists() or log.stat().st_size < CHECKPOINT_BYTES:
            return False
        try:
            self._session.run("CHECKPOINT")
        except StoreError as error:
            if isinstance(error.__cause__, duckdb.TransactionException):
                return False  # a reader is at work: later
            raise
        return True

    def close(self) -> None:
        if self._transaction is not None:
            self._transaction.rollback()
        self._session.close()
        try:
            self._connection.close()
        except duckdb.Error:
            return  # a broken store can't fold its log into the file; the next opening replays it
