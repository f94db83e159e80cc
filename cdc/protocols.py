"""The contracts between the rooms. What holds on return, on retry and at shutdown stands in the docstrings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import pyarrow as pa

from cdc.types import (
    Account,
    BatchLog,
    Checkpoint,
    Finding,
    MicroBatch,
    MirrorWrite,
    Position,
    Postings,
    Promotion,
    Reference,
    Resume,
    SchemaVersion,
    SnapshotProgress,
    SourceLag,
    TableSchema,
)


class Source(Protocol):
    """One tailed database. Used by one reader thread, but for `acknowledge`, which any thread may call.

    Raises SourceUnavailable for what may pass (the daemon closes, makes a new Source and opens it from the store's checkpoint) and
    the other SourceErrors for what won't. Nothing is ever skipped to get past an error.
    """

    def open(self, resume: Resume) -> None:
        """Connect and go on after `resume`: finish open snapshots first, then stream from the checkpoint's position."""

    def read(self) -> MicroBatch | None:
        """What there is now, at most the configured bytes; waits up to a second for anything, None if nothing came.

        Batches follow each other in log order, each committed transaction whole and once. A batch that is never committed costs
        nothing: after a new `open` it comes again.
        """

    def acknowledge(self, position: Position) -> None:
        """All up to `position` is in the store: the server may forget it. Returns at once; sent with the next `keepalive` or `read`."""

    def keepalive(self) -> None:
        """Keep the connection alive while the reader thread waits for room in the queue; called every few seconds then."""

    def close(self) -> None:
        """Let go of every connection. Never raises; the slot or binlog position stays for the next `open`."""


class Inspection(Protocol):
    """Looks at a source without tailing it, over connections of its own: for `check`, `status` and the lag."""

    def check(self) -> list[Finding]:
        """Every prerequisite of the source; does not raise for what it can report."""

    def lag(self, position: Position | None) -> SourceLag:
        """How far the log has gone past `position`. Raises SourceUnavailable."""

    def schemas(self) -> Mapping[str, TableSchema]:
        """The captured tables as they are now, by name in the config; those that are missing left out. Raises SourceError."""

    def reached(self, position: Position, target: Position) -> bool:
        """Whether a position is at or past another of the same source. Asks nobody."""

    def close(self) -> None:
        """Let go of the connections. Never raises."""


class SinkTransaction(Protocol):
    """One open transaction of the store. Nothing of it is visible to readers before `commit` has returned."""

    def live(self, schema: TableSchema, keys: pa.Table) -> pa.Table:
        """The live entries (LIVE) of a table's rows whose LIVE_KEYS are given; sees this transaction's own."""

    def standing(self, schema: TableSchema) -> Iterator[pa.Table]:
        """The LIVE_KEYS of a table's rows that had live entries when the first of them were asked for, in tables of bounded size."""

    def mirror(self, schema: TableSchema, keys: pa.Table | None, staged: bool = False) -> Iterator[pa.Table]:
        """Rows of the mirror, or of the staged copy, that have the values of a row of `keys` in its columns, or all; in tables of
        bounded size.

        Columns: the schema's, and `#n` where the table has no key, and `#stamp` when staged. `keys` has the key columns, or others (for
        a table without key: all columns, and then NULL equals NULL), and may hold a row twice. A mirror that was not yet made has no
        rows; a column that it does not have yet is NULL.
        """

    def reference(self, name: str) -> pa.Table:
        """What is kept of the books under a name of REFERENCE, in the columns it has there."""

    def rated(self, schema: TableSchema, rates: pa.Table) -> pa.Table:
        """The keys (LIVE_KEYS, sorted) of a table's rows with a live entry that asked for one of the rates (RATED), or that lie in
        quarantine for want of a rate.
        """

    def apply(self, part: MirrorWrite | Promotion | Postings | Reference | BatchLog) -> None:
        """Write a part of a batch, at once or while the caller goes on: what writing raises is raised then or by what is called next. The
        BatchLog comes last and closes the batch: it takes the batch's sequence number and hash.
        """

    def sql(self, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Run SQL inside the transaction: how a CheckpointStore that lives in the store takes part in it."""

    def commit(self) -> Future[None]:
        """Begin to make all of it visible and durable at once. It is when the future is done; another transaction may be opened before,
        and what is read in that waits for it. When the future raises, whether it was committed is told by the checkpoint alone.
        """

    def rollback(self) -> None:
        """Drop it. Never raises; does nothing after `commit`."""


class Sink(Protocol):
    """A store. One writer: `begin` and its transactions belong to the apply thread."""

    def prepare(self, accounts: Sequence[Account]) -> None:
        """Make the store's own tables where they are missing, and bring the charts of accounts up to date. Idempotent."""

    def prepare_table(self, transaction: SinkTransaction, schema: TableSchema, staged: bool) -> None:
        """Make a table's mirror, or its staged copy, fit `schema`, inside the transaction: made empty if it is not there, new columns
        added as NULL, dropped ones dropped, types widened. Whether the rows there may be taken for that is the source's to know, which
        raises SchemaUnknown if not.
        """

    def begin(self) -> SinkTransaction:
        """Open a transaction. Raises StoreError or StoreUnavailable."""

    def close(self) -> None:
        """Drop an open transaction and let go of the store. Never raises."""


class CheckpointStore(Protocol):
    """Where the checkpoints lie: the truth about progress."""

    def load(self, transaction: SinkTransaction, source: str) -> Resume:
        """What the store knows of a source now."""

    def advance(self, transaction: SinkTransaction, old: Checkpoint | None, new: Checkpoint) -> None:
        """Compare-and-set on the epoch, in the transaction. Raises CheckpointConflict when `old` is not what the store has."""

    def record(self, transaction: SinkTransaction, source: str, fact: SnapshotProgress | SchemaVersion) -> None:
        """Keep how far the snapshot of a table is, or its schema from a position on, in the transaction."""
