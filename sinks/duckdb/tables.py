"""The store's own tables. Their names and columns are a contract with the programs that read them; columns may only be added.

There are no primary keys and no indexes: they make appends several times slower and joins no faster; uniqueness comes from
the one writer and its checkpoint.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence

import pyarrow as pa

from cdc.errors import StoreError
from cdc.types import Account
from sinks.duckdb.session import Session

FORMAT = 4  # of the tables below; raised when a store of an older format has to be changed

_HEADER = """voucher_key VARCHAR, voucher_type VARCHAR, doc_date DATE NOT NULL, summary VARCHAR, attachments INTEGER, rule_version INTEGER,
    entry_date DATE NOT NULL, period VARCHAR NOT NULL"""
ENTRIES_COLUMNS = f"""
    entry_id UUID NOT NULL, book VARCHAR NOT NULL, rule VARCHAR NOT NULL, kind VARCHAR NOT NULL, reverses UUID, corrects UUID,
    {_HEADER},
    source VARCHAR NOT NULL, source_table VARCHAR NOT NULL, row_key VARCHAR NOT NULL, op VARCHAR NOT NULL, position VARCHAR NOT NULL,
    txn VARCHAR, ordinal BIGINT, committed_at TIMESTAMPTZ, batch_seq BIGINT NOT NULL, batch_row BIGINT NOT NULL"""
LINES_COLUMNS = """
    entry_id UUID NOT NULL, book VARCHAR NOT NULL, period VARCHAR NOT NULL, line_no INTEGER NOT NULL, account VARCHAR NOT NULL,
    debit DECIMAL(38,6), credit DECIMAL(38,6), currency VARCHAR NOT NULL, orig_amount DECIMAL(38,6), rate DECIMAL(38,12),
    quantity DECIMAL(38,6), unit VARCHAR, dims JSON, rate_type VARCHAR, rate_date DATE, origin VARCHAR,
    batch_seq BIGINT NOT NULL, batch_row BIGINT NOT NULL"""
_TABLES = f"""
CREATE SCHEMA IF NOT EXISTS ledger;
CREATE SCHEMA IF NOT EXISTS meta;
CREATE TABLE IF NOT EXISTS ledger.entries ({ENTRIES_COLUMNS});
CREATE TABLE IF NOT EXISTS ledger.lines ({LINES_COLUMNS});
CREATE OR REPLACE VIEW ledger.balances AS
    SELECT book, period, account, currency, coalesce(sum(debit), 0) AS debit, coalesce(sum(credit), 0) AS credit,
        coalesce(sum(debit), 0) - coalesce(sum(credit), 0) AS balance
    FROM ledger.lines GROUP BY book, period, account, currency;
CREATE TABLE IF NOT EXISTS ledger.accounts (
    book VARCHAR NOT NULL, code VARCHAR NOT NULL, name VARCHAR NOT NULL, category VARCHAR, normal_balance VARCHAR);
CREATE TABLE IF NOT EXISTS ledger.periods (book VARCHAR NOT NULL, period VARCHAR NOT NULL, state VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS ledger.rates (
    book VARCHAR NOT NULL, currency VARCHAR NOT NULL, rate_type VARCHAR NOT NULL, rate_date DATE NOT NULL, rate DECIMAL(38,12) NOT NULL);
CREATE TABLE IF NOT EXISTS ledger.period_log (
    book VARCHAR NOT NULL, period VARCHAR NOT NULL, state VARCHAR NOT NULL, "by" VARCHAR NOT NULL, "at" TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS ledger.vouchers (
    voucher_id UUID NOT NULL, book VARCHAR NOT NULL, period VARCHAR NOT NULL, voucher_type VARCHAR NOT NULL, number BIGINT,
    voucher_key VARCHAR, voucher_date DATE NOT NULL, summary VARCHAR, attachments INTEGER NOT NULL, documents INTEGER NOT NULL,
    entries INTEGER NOT NULL, summed BOOLEAN NOT NULL, sealed_at TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS ledger.voucher_entries (voucher_id UUID NOT NULL, entry_id UUID NOT NULL);
CREATE OR REPLACE VIEW ledger.voucher_lines AS
    SELECT v.voucher_id, v.book, v.period, v.voucher_type, v.number, CASE WHEN v.summed THEN v.summary ELSE e.summary END AS summary,
        l.account, CAST(l.dims AS VARCHAR) AS dims, l.currency, sum(l.debit) AS debit, sum(l.credit) AS credit,
        sum(l.orig_amount) AS orig_amount, list(DISTINCT l.entry_id) AS entries
    FROM ledger.vouchers v JOIN ledger.voucher_entries m USING (voucher_id) JOIN ledger.entries e USING (entry_id)
    JOIN ledger.lines l USING (entry_id)
    GROUP BY v.voucher_id, v.book, v.period, v.voucher_type, v.number, CASE WHEN v.summed THEN v.summary ELSE e.summary END, l.account,
        CAST(l.dims AS VARCHAR), l.currency, l.debit IS NULL
    HAVING coalesce(sum(l.debit), 0) <> 0 OR coalesce(sum(l.credit), 0) <> 0 OR sum(l.orig_amount) <> 0;
CREATE TABLE IF NOT EXISTS ledger.quarantine (
    id UUID NOT NULL, source VARCHAR NOT NULL, source_table VARCHAR NOT NULL, row_key VARCHAR, position VARCHAR, level INTEGER NOT NULL,
    reason VARCHAR NOT NULL, detail VARCHAR, payload VARCHAR, status VARCHAR NOT NULL, first_seen TIMESTAMPTZ NOT NULL,
    book VARCHAR, rule VARCHAR);
CREATE TABLE IF NOT EXISTS ledger.batches (
    batch_seq BIGINT NOT NULL, source VARCHAR NOT NULL, first_position VARCHAR, last_position VARCHAR, transactions BIGINT NOT NULL,
    changes BIGINT NOT NULL, entries BIGINT NOT NULL, lines BIGINT NOT NULL, first_commit_at TIMESTAMPTZ, last_commit_at TIMESTAMPTZ,
    applied_at TIMESTAMPTZ NOT NULL, hash VARCHAR NOT NULL, prev_hash VARCHAR NOT NULL);
CREATE TABLE IF NOT EXISTS meta.live (
    row_hash UBIGINT NOT NULL, source_table VARCHAR NOT NULL, row_key VARCHAR NOT NULL, book VARCHAR NOT NULL, rule VARCHAR NOT NULL,
    entry_id UUID NOT NULL, {_HEADER}, content VARCHAR, correction INTEGER NOT NULL, batch_seq BIGINT NOT NULL,
    first_line BIGINT NOT NULL, line_count BIGINT NOT NULL);
CREATE TABLE IF NOT EXISTS meta.checkpoints (
    source VARCHAR NOT NULL, position VARCHAR NOT NULL, epoch BIGINT NOT NULL, identity VARCHAR NOT NULL, applied_at TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS meta.snapshots (
    source VARCHAR NOT NULL, "table" VARCHAR NOT NULL, number BIGINT NOT NULL, position VARCHAR NOT NULL, state VARCHAR NOT NULL,
    progress VARCHAR NOT NULL, rows_done BIGINT NOT NULL, rows_estimated BIGINT NOT NULL, updated_at TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS meta.schema_history (
    source VARCHAR NOT NULL, "table" VARCHAR NOT NULL, version INTEGER NOT NULL, position VARCHAR NOT NULL, "schema" VARCHAR NOT NULL,
    recorded_at TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS meta.status (source VARCHAR NOT NULL, state VARCHAR NOT NULL, last_error VARCHAR, "at" TIMESTAMPTZ NOT NULL);
CREATE TABLE IF NOT EXISTS meta.store (store_id VARCHAR NOT NULL, format INTEGER NOT NULL);
"""


def make_tables(session: Session, accounts: Sequence[Account]) -> None:
    """Make what is missing and bring the charts up to date, inside the open transaction. Raises StoreError `store.format`."""
    session.rows(_TABLES)
    known = session.rows("SELECT format FROM meta.store")
    if not known:
        session.run("INSERT INTO meta.store VALUES (?, ?)", [str(uuid.uuid4()), FORMAT])
    elif known[0][0] != FORMAT:
        raise StoreError("store.format", path=session.path, found=known[0][0], known=FORMAT)
    wanted = [(a.book, a.code, a.name, a.category, a.normal_balance) for a in accounts]
    names = ["book", "code", "name", "category", "normal_balance"]
    if sorted(session.rows("SELECT book, code, name, category, normal_balance FROM ledger.accounts")) != sorted(wanted):
        charts = pa.table({name: pa.array([row[i] for row in wanted], pa.string()) for i, name in enumerate(names)})
        session.run("DELETE FROM ledger.accounts")
        session.run("INSERT INTO ledger.accounts BY NAME SELECT * FROM given", given=charts)
