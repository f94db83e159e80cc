"""Entries, lines, live entries, quarantine and the batch log."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from cdc.types import BEGUN, LINE_FIELDS, LIVE, LIVE_KEYS, QUARANTINED, BatchLog, Postings, TableSchema
from sinks.duckdb.chain import BatchHash
from sinks.duckdb.names import literal
from sinks.duckdb.session import TAKEN_IN, Session

_TEXT_HERE = {"entry_id": "UUID", "reverses": "UUID", "corrects": "UUID", "id": "UUID"}
_BATCH = """batch_seq, source, first_position, last_position, transactions, changes, entries, lines, first_commit_at, last_commit_at,
    applied_at, hash, prev_hash"""
PAGE_ROWS = 50_000
_LINE = ", ".join(f"l.{field.name}" for field in LINE_FIELDS)
# The lines of live entries are the journal's own: kept a second time they would cost as much again. They lie in it one after the other, and
# as nothing is ever deleted there, where they are is known; where it can't be, in this transaction, their batch leads to them.
_LINES_BY_PLACE = f"""WITH g AS {TAKEN_IN}, p AS MATERIALIZED (
        SELECT CAST(entry_id AS UUID) AS entry_id, number, unnest(range(first_line, first_line + line_count)) AS place FROM g)
    SELECT p.number, {_LINE} FROM ledger.lines l JOIN p ON l.rowid = p.place
    WHERE l.entry_id = p.entry_id ORDER BY p.number, l.line_no"""
_LINES_BY_BATCH = f"""WITH g AS {TAKEN_IN}, h AS MATERIALIZED (SELECT CAST(entry_id AS UUID) AS entry_id, number, batch_seq FROM g)
    SELECT h.number, {_LINE} FROM ledger.lines l JOIN h ON l.batch_seq = h.batch_seq AND l.entry_id = h.entry_id
    ORDER BY h.number, l.line_no"""


def live(session: Session, schema: TableSchema, keys: pa.Table) -> pa.Table:
    """The live entries as `SinkTransaction.live` says.

    Columns are read for those only that have the hash, and lines where they lie, so that a few keys cost little in a large ledger.
    """
    places = session.table(
        f"WITH k AS {TAKEN_IN} SELECT v.rowid AS place FROM meta.live v SEMI JOIN k ON v.row_hash = k.row_hash", given=keys
    )
    found = session.table(f"WITH p AS {TAKEN_IN} SELECT v.* FROM meta.live v SEMI JOIN p ON v.rowid = p.place", given=places)
    asked = pc.is_in(found.column("row_key"), value_set=keys.column("row_key").combine_chunks())
    found = found.filter(pc.and_(asked, pc.equal(found.column("source_table"), schema.name)))
    return found.select(BEGUN.names).append_column("lines", _lines_of(session, found)).cast(LIVE)


def _lines_of(session: Session, found: pa.Table) -> pa.Array:
    """The lines of each of these rows of meta.live."""
    found = found.append_column("number", pa.arange(0, found.num_rows))
    lines = session.table(_LINES_BY_PLACE, given=found)
    whole = pc.equal(_counts(lines, found), found.column("line_count").combine_chunks())
    if not pc.all(whole).as_py():
        here = lines.filter(whole.take(lines.column("number").combine_chunks()))
        elsewhere = session.table(_LINES_BY_BATCH, given=found.filter(pc.invert(whole)))
        lines = pa.concat_tables([here, elsewhere]).sort_by([("number", "ascending"), ("line_no", "ascending")])
    ends = pc.cumulative_sum(_counts(lines, found)).cast(pa.int32())
    structs = lines.drop(["number"]).to_struct_array().combine_chunks()
    return pa.ListArray.from_arrays(pa.concat_arrays([pa.array([0], pa.int32()), ends]), structs)


def _counts(lines: pa.Table, found: pa.Table) -> pa.Array:
    """How many lines there are of each row, by its number."""
    numbers = pa.concat_arrays([*lines.column("number").chunks, *found.column("number").chunks])
    return pc.subtract(numbers.value_counts().sort().field("counts"), 1)


def standing(session: Session, schema: TableSchema) -> Iterator[pa.Table]:
    """As `SinkTransaction.standing` says. A row with entries in several places of the table may come more than once."""
    of_table = f"FROM meta.live WHERE source_table = {literal(schema.name)}"
    for (page,) in session.rows(f"SELECT DISTINCT rowid // {PAGE_ROWS} {of_table} ORDER BY 1"):
        within = f"rowid >= {page * PAGE_ROWS} AND rowid < {(page + 1) * PAGE_ROWS}"
        yield session.table(f"SELECT DISTINCT row_hash, row_key {of_table} AND {within}").cast(LIVE_KEYS)


class Journal:
    """What one store transaction adds to the journal: batch after batch, each of postings and the log that closes it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._open_items: int | None = None
        self._places = int(session.rows("SELECT count(*) FROM ledger.lines")[0][0])
        self._begin(*self._last())

    @property
    def closed(self) -> bool:
        """No postings wait for their batch's log."""
        return not self._postings

    def post(self, part: Postings) -> None:
        """Write postings into the batch that is open."""
        session, seq = self._session, self._seq
        self._postings += 1
        if part.live_ended.num_rows:
            session.run(
                f"""WITH e AS {TAKEN_IN}
                DELETE FROM meta.live v USING e WHERE v.row_hash = e.row_hash AND v.entry_id = CAST(e.entry_id AS UUID)""",
                given=part.live_ended,
            )
        if part.entries.num_rows:
            self._hash.entries(part.entries)
            self._append("ledger.entries", part.entries, self._entries)
            self._entries += part.entries.num_rows
        if part.lines.num_rows:
            self._hash.lines(part.lines)
            self._append("ledger.lines", part.lines, self._lines)
            self._lines += part.lines.num_rows
            self._places += part.lines.num_rows
        if part.live_begun.num_rows:
            _insert(session, "meta.live", self._placed(part.live_begun, part.lines), {"batch_seq": str(seq)})
        self._settle(part.settled)
        self._quarantine(part.quarantined)

    def close(self, log: BatchLog) -> None:
        """Write the open batch's log, and begin the next one."""
        digest = self._hash.hex(self._prev_hash)
        texts = (log.source, log.first_position, log.last_position)
        counts = (log.transactions, log.changes, self._entries, self._lines)
        moments = (log.first_commit_at, log.last_commit_at, datetime.now(UTC))
        values = [
            str(self._seq),
            *(literal(text) for text in texts),
            *(str(count) for count in counts),
            *(f"TIMESTAMPTZ {literal(moment.isoformat())}" for moment in moments),
            *(literal(text) for text in (digest, self._prev_hash)),
        ]
        self._session.run(f"INSERT INTO ledger.batches ({_BATCH}) VALUES ({', '.join(values)})")
        self._begin(self._seq, digest)

    def _last(self) -> tuple[int, str]:
        last = self._session.rows("SELECT batch_seq, hash FROM ledger.batches ORDER BY batch_seq DESC LIMIT 1")
        return last[0] if last else (0, "")

    def _begin(self, last_seq: int, prev_hash: str) -> None:
        self._seq, self._prev_hash = last_seq + 1, prev_hash
        self._hash = BatchHash()
        self._postings = self._entries = self._lines = 0

    def _append(self, table: str, rows: pa.Table, start: int) -> None:
        numbered = rows.append_column("batch_row", pa.arange(start, start + rows.num_rows))
        _insert(self._session, table, numbered, {"batch_seq": str(self._seq)})

    def _placed(self, begun: pa.Table, lines: pa.Table) -> pa.Table:
        """Live entries with the place of their first line in `ledger.lines`, and how many follow each other there."""
        runs = pc.run_end_encode(lines.column("entry_id").combine_chunks())
        ends = pc.cast(runs.run_ends, pa.int64())
        counts = pc.pairwise_diff(pa.concat_arrays([pa.array([0], pa.int64()), ends])).slice(1)
        firsts = pc.add(pc.subtract(ends, counts), self._places - lines.num_rows)
        run = pc.index_in(begun.column("entry_id"), value_set=runs.values)
        placed = begun.append_column("first_line", pc.fill_null(firsts.take(run.combine_chunks()), 0))
        return placed.append_column("line_count", pc.fill_null(counts.take(run.combine_chunks()), 0))

    def _settle(self, settled: pa.Table) -> None:
        if settled.num_rows and self._open():
            self._session.run(
                """UPDATE ledger.quarantine q SET status = 'resolved' FROM given s WHERE q.status = 'open'
                AND q.source_table = s.source_table AND q.row_key = s.row_key AND q.book = s.book AND q.rule = s.rule""",
                given=settled,
            )
            self._open_items = None

    def _quarantine(self, rows: pa.Table) -> None:
        """Add items; one that is there stays as it is, but for a resolved one, which is open again."""
        if not rows.num_rows:
            return
        session = self._session
        session.run(
            """UPDATE ledger.quarantine q SET status = 'open' FROM given i
            WHERE q.id = CAST(i.id AS UUID) AND q.status = 'resolved'""",
            given=rows,
        )
        names = ", ".join(name for name in QUARANTINED.names if name != "id")
        session.run(
            f"""INSERT INTO ledger.quarantine BY NAME SELECT DISTINCT ON (i.id) CAST(i.id AS UUID) AS id, {names}, 'open' AS status,
            now() AS first_seen FROM given i WHERE CAST(i.id AS UUID) NOT IN (SELECT q.id FROM ledger.quarantine q)""",
            given=rows,
        )
        self._open_items = None

    def _open(self) -> int:
        """Open quarantine items; there are seldom any, and then nothing needs to be settled."""
        if self._open_items is None:
            self._open_items = int(self._session.rows("SELECT count(*) FROM ledger.quarantine WHERE status = 'open'")[0][0])
        return self._open_items


def _insert(session: Session, table: str, rows: pa.Table, constants: dict[str, str]) -> None:
    values = [f"CAST({name} AS {_TEXT_HERE[name]})" if name in _TEXT_HERE else name for name in rows.column_names]
    names = ", ".join([*rows.column_names, *constants])
    session.run(f"INSERT INTO {table} ({names}) SELECT {', '.join([*values, *constants.values()])} FROM given", given=rows)
