"""What is kept of the books besides the journal: periods and rates; and which rows asked for a rate."""

from __future__ import annotations

import pyarrow as pa

from cdc.types import LIVE_KEYS, REFERENCE, Reference, TableSchema
from sinks.duckdb.names import literal
from sinks.duckdb.session import TAKEN_IN, Session


def read(session: Session, name: str) -> pa.Table:
    """As `SinkTransaction.reference` says."""
    schema = REFERENCE[name]
    return session.table(f"SELECT {', '.join(schema.names)} FROM ledger.{name} ORDER BY ALL").cast(schema)


def write(session: Session, part: Reference) -> None:
    """Put what is given in the place of what is there."""
    names = ", ".join(REFERENCE[part.name].names)
    session.run(f"DELETE FROM ledger.{part.name}")
    session.run(f"INSERT INTO ledger.{part.name} ({names}) SELECT {names} FROM given", given=part.rows)


def rated(session: Session, schema: TableSchema, rates: pa.Table) -> pa.Table:
    """As `SinkTransaction.rated` says."""
    table = literal(schema.name)
    return session.table(
        f"""WITH r AS {TAKEN_IN},
        asked AS (
            SELECT DISTINCT l.entry_id FROM ledger.lines l JOIN r ON l.book = r.book AND l.currency = r.currency
            AND l.rate_type = r.rate_type AND l.rate_date BETWEEN r.first AND r.last WHERE l.rate_type IS NOT NULL)
        SELECT row_hash, row_key FROM meta.live v SEMI JOIN asked USING (entry_id) WHERE v.source_table = {table}
        UNION
        SELECT md5_number_lower(concat({table}, chr(0), row_key)) AS row_hash, row_key FROM ledger.quarantine
        WHERE source_table = {table} AND status = 'open' AND reason = 'quarantine.rate'
        ORDER BY row_key""",
        given=rates,
    ).cast(LIVE_KEYS)
