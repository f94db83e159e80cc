"""The frozen values that pass between the rooms. No I/O here.

A table of changes (`TableChanges.rows`) is an Arrow table with one row per change, in log order:

    #op       string  'c' insert, 'u' update, 'd' delete, 'r' snapshot read, 't' truncate
    #txn      int32   index into MicroBatch.transactions
    #ordinal  int64   place of the change in its transaction, over all tables, from 0
    <column>  ...     one per TableSchema.columns, named and typed as there: the row after the change; for 'd' the row
                      before it as far as the log has it, at least the key; for 't' all null
    #absent   list<int16>, only if a row needs it: indexes into TableSchema.columns that the log did not carry (an
                      unchanged TOAST value); null where all are there
    #old:<k>  only if a row needs it, for every key column k: the key the row had before, null where it did not change

An update that changes the key is two changes, never in different batches: 'd' of the old key, then 'u' of the new one with
`#old:` set. (#txn, #ordinal) orders all changes of a batch over all its tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

OP, TXN, ORDINAL, ABSENT, OLD = "#op", "#txn", "#ordinal", "#absent", "#old:"
NUMBER, STAMP = "#n", "#stamp"  # only in mirrors: number among equal rows of a table without key; snapshot of a staged row
INSERT, UPDATE, DELETE, READ, TRUNCATE = "c", "u", "d", "r", "t"

# A place in a source's log, as text the source itself writes and orders: an LSN `0/16B3748`; a GTID set with file:offset.
Position = str

TRANSACTIONS = pa.schema(
    [
        pa.field("position", pa.string(), nullable=False),  # of its commit, the same in every part of a large one; PostgreSQL: commit LSN
        pa.field("txn", pa.string()),  # xid or GTID; `snapshot:<number>` for a snapshot
        pa.field("committed_at", pa.timestamp("us", "UTC"), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class Column:
    """A captured column. `type` is its Arrow type in changes, `store_type` the DuckDB type it has in the mirror."""

    name: str
    type: pa.DataType
    store_type: str
    source_type: str


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A captured table as it was at a place in the log. `table` is its name in the config (`orders`, `sales.orders`).

    An empty `key` means rows can only be told apart by their whole content (PostgreSQL: REPLICA IDENTITY FULL, no key).
    """

    source: str
    table: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name entries carry in `source_table`: `shop.orders`."""
        return f"{self.source}.{self.table}"

    def arrow(self) -> pa.Schema:
        """The captured columns as an Arrow schema."""
        return pa.schema([pa.field(c.name, c.type) for c in self.columns])


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """A table's schema from a position on: a row of `meta.schema_history`."""

    schema: TableSchema
    position: Position


@dataclass(frozen=True, slots=True)
class TableChanges:
    """The changes of one table in a batch; `rows` as this module's head says."""

    schema: TableSchema
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class SnapshotProgress:
    """How far the copy of one table is: a row of `meta.snapshots`.

    `number` counts the snapshots a source took, each of them of one position; rows staged by it carry the number.
    `state`: `copying`, `staged` (all its rows are staged), `done` (the mirror is the table, the stream keeps it so), `removed` (no
    longer in the config) or `wanted` (to be copied anew). `progress` is the source's own text.
    """

    table: str
    number: int
    position: Position
    state: str
    progress: str
    rows_done: int
    rows_estimated: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a source stands in the store. `identity` names the server and database the positions belong to."""

    source: str
    position: Position
    epoch: int
    identity: str


@dataclass(frozen=True, slots=True)
class Resume:
    """All that a source needs to know to go on; snapshots and last known schemas by the tables' names in the config."""

    store_id: str
    checkpoint: Checkpoint | None
    snapshots: Mapping[str, SnapshotProgress]
    schemas: Mapping[str, TableSchema]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Whole transactions of one source, columnar; also a snapshot's chunk, or nothing but a new position.

    - `position` is the checkpoint once the batch is committed, and is acknowledged then.
    - `whole` is False when the last transaction goes on in the next batch: both belong to one store transaction.
    - `snapshot` is set on a chunk of a snapshot: the rows ('r') are staged, not mirrored, and not accounted for yet.
    - `staged` names the tables whose changes go to the staged copy: those of rows staged by a snapshot numbered
      `included_from` or later are already in it and are dropped.
    - `promote` names the tables whose staged copy becomes the mirror at the end of this batch and is accounted for: the
      copies are then all of `position`. Such a batch has no changes and one transaction, the snapshot.
    A batch holds one schema per table: a schema change begins a new batch.
    """

    source: str
    identity: str
    transactions: pa.Table
    changes: tuple[TableChanges, ...]
    position: Position
    whole: bool = True
    snapshot: SnapshotProgress | None = None
    staged: frozenset[str] = frozenset()
    included_from: int = 0
    promote: tuple[TableSchema, ...] = ()
    received_at: float = 0.0

    @property
    def rows(self) -> int:
        """Changes in the batch."""
        return sum(changes.rows.num_rows for changes in self.changes)


@dataclass(frozen=True, slots=True)
class SourceLag:
    """How far a source's log has gone past a position, what the server keeps for us, and what it has not looked through for us yet.

    Bytes; None where unknown. `unsent_bytes` is 0 when every change the log holds for us has been handed over. `purged_in_seconds`: until
    the server throws away what is still needed; None where it does not.
    """

    head: Position
    lag_bytes: int | None
    retained_bytes: int | None
    unsent_bytes: int | None
    sampled_at: float
    purged_in_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What a preflight check found: `ok`, `warn` or `fail`, the text, and the exact SQL or setting that mends it."""

    level: str
    what: str
    mend: str = ""


AMOUNT, RATE = pa.decimal128(38, 6), pa.decimal128(38, 12)

LINE_FIELDS = [
    pa.field("line_no", pa.int32()),
    pa.field("account", pa.string()),
    pa.field("debit", AMOUNT),  # base currency; exactly one of debit and credit is set
    pa.field("credit", AMOUNT),
    pa.field("currency", pa.string()),
    pa.field("orig_amount", AMOUNT),
    pa.field("rate", RATE),
    pa.field("quantity", AMOUNT),
    pa.field("unit", pa.string()),
    pa.field("dims", pa.string()),  # JSON object of text to text, keys sorted
    pa.field("rate_type", pa.string()),  # of the rate the line was converted by, and the day it was asked for
    pa.field("rate_date", pa.date32()),
    pa.field("origin", pa.string()),  # JSON of what the line was made from besides its row; null if nothing
]
HEADER_FIELDS = [
    pa.field("voucher_key", pa.string()),
    pa.field("voucher_type", pa.string()),
    pa.field("doc_date", pa.date32()),  # by the rule
    pa.field("summary", pa.string()),
    pa.field("attachments", pa.int32()),
    pa.field("rule_version", pa.int32()),
    pa.field("entry_date", pa.date32()),  # the same, or, where its period is closed, the first day of the next open one
    pa.field("period", pa.string()),
]
ROW_FIELDS = [
    pa.field("source_table", pa.string()),
    pa.field("row_key", pa.string()),  # JSON object of the key columns
]

# One row per live entry, and one per difference posted to it. `row_hash` is what it is looked up by:
# the lower half of MD5(source_table, NUL, row_key).
BEGUN = pa.schema(
    [
        pa.field("row_hash", pa.uint64()),
        *ROW_FIELDS,
        pa.field("book", pa.string()),
        pa.field("rule", pa.string()),
        pa.field("entry_id", pa.string()),
        *HEADER_FIELDS,
        pa.field("content", pa.string()),  # of what the rule wants; null where the lines tell
        pa.field("correction", pa.int32()),  # 0, then that of each difference posted to it: all of them stand together
    ]
)
LIVE = BEGUN.append(pa.field("lines", pa.list_(pa.struct(LINE_FIELDS))))  # those of the journal
LIVE_KEYS = pa.schema([pa.field("row_hash", pa.uint64()), pa.field("row_key", pa.string())])
ENTRIES = pa.schema(
    [
        pa.field("entry_id", pa.string()),  # a UUID
        pa.field("book", pa.string()),
        pa.field("rule", pa.string()),
        pa.field("kind", pa.string()),  # post, reverse, adjust
        pa.field("reverses", pa.string()),
        pa.field("corrects", pa.string()),  # the entry that stood before this one
        *HEADER_FIELDS,
        pa.field("source", pa.string()),
        *ROW_FIELDS,
        pa.field("op", pa.string()),
        pa.field("position", pa.string()),
        pa.field("txn", pa.string()),
        pa.field("ordinal", pa.int64()),
        pa.field("committed_at", pa.timestamp("us", "UTC")),
    ]
)
LINES = pa.schema([pa.field("entry_id", pa.string()), pa.field("book", pa.string()), pa.field("period", pa.string()), *LINE_FIELDS])
QUARANTINED = pa.schema(
    [
        pa.field("id", pa.string()),  # a UUID, deterministic
        pa.field("source", pa.string()),
        *ROW_FIELDS,
        pa.field("position", pa.string()),
        pa.field("level", pa.int32()),  # 1 row, 2 rule, 3 entry, 4 book
        pa.field("reason", pa.string()),  # a code of the text catalogue
        pa.field("detail", pa.string()),
        pa.field("payload", pa.string()),  # JSON of the row
        pa.field("book", pa.string()),
        pa.field("rule", pa.string()),
    ]
)
ENDED = pa.schema([pa.field("row_hash", pa.uint64()), pa.field("entry_id", pa.string())])
SETTLED = pa.schema([*ROW_FIELDS, pa.field("book", pa.string()), pa.field("rule", pa.string())])

# What is kept of the books besides the journal, by its name.
REFERENCE = {
    "periods": pa.schema(
        [pa.field("book", pa.string()), pa.field("period", pa.string()), pa.field("state", pa.string())]  # `soft` or `closed`, else open
    ),
    "rates": pa.schema(
        [
            pa.field("book", pa.string()),
            pa.field("currency", pa.string()),
            pa.field("rate_type", pa.string()),
            pa.field("rate_date", pa.date32()),  # from which it holds
            pa.field("rate", RATE),  # base currency for one unit
        ]
    ),
}
# Of rates that are others than before, the days on which rows may have asked for them.
RATED = pa.schema(
    [
        pa.field("book", pa.string()),
        pa.field("currency", pa.string()),
        pa.field("rate_type", pa.string()),
        pa.field("first", pa.date32()),
        pa.field("last", pa.date32()),
    ]
)


@dataclass(frozen=True, slots=True)
class Reference:
    """All that is kept under a name of REFERENCE from now on."""

    name: str
    rows: pa.Table


@dataclass(frozen=True, slots=True)
class MirrorWrite:
    """The net effect of changes on one table's mirror, or on its staged copy when `staged` is given.

    `deletes` has the key columns (for a table without key all columns) and is carried out before `upserts`, whose rows are all the
    columns; a key that is in both is replaced. Where the table has no key both have `#n`, the row's number among its equals.
    `staged`: the snapshot number its rows are stamped with (0 for rows the stream changed); None for the mirror itself. With `replace` all
    rows that were there go first.
    """

    schema: TableSchema
    deletes: pa.Table
    upserts: pa.Table
    staged: int | None = None
    replace: bool = False


@dataclass(frozen=True, slots=True)
class Promotion:
    """The staged copy of a table becomes its mirror."""

    schema: TableSchema


@dataclass(frozen=True, slots=True)
class Postings:
    """What accounting makes of changes; each an Arrow table of the schema of its comment."""

    entries: pa.Table  # ENTRIES
    lines: pa.Table  # LINES
    live_ended: pa.Table  # ENDED
    live_begun: pa.Table  # BEGUN; an entry begun and ended in the same postings is in neither
    quarantined: pa.Table  # QUARANTINED
    settled: pa.Table  # SETTLED: rows and rules whose open quarantine items a good change has settled; carried out before `quarantined`


@dataclass(frozen=True, slots=True)
class BatchLog:
    """A row of `ledger.batches` without what the store adds (batch_seq, counts of entries and lines, applied_at, hashes)."""

    source: str
    first_position: Position
    last_position: Position
    transactions: int
    changes: int
    first_commit_at: datetime
    last_commit_at: datetime


@dataclass(frozen=True, slots=True)
class Account:
    """An account of a book's chart. `dims`: those a line of it must have; `currency`: that it is kept in, if in one only."""

    book: str
    code: str
    name: str
    category: str = ""
    normal_balance: str = ""
    name_en: str = ""
    dims: tuple[str, ...] = ()
    currency: str = ""
