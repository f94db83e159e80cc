"""Vouchers (凭证): entries that share a voucher key, numbered without gaps by book, period and type when they are sealed.

Sealing a period takes all its entries that are in no voucher yet, key by key, in the order of their dates. What comes later under a key
becomes a voucher of its own. Of entries that have cancelled each other before they were sealed nothing is left to tell: their voucher gets
no number. All of it is SQL for the store.
"""

from __future__ import annotations

from cdc.accounting.sql import literal
from cdc.config import VouchersConfig

GENERAL = "记"
CASH_TYPES = ("收", "付", "转")  # receipts, payments, transfers


def seal(book: str, config: VouchersConfig, period: str) -> str:
    """SQL that gives the vouchers of a period's entries that are in none yet, as `ledger.vouchers` has them, each with its entries' ids."""
    cash = " OR ".join(f"starts_with(l.account, {literal(code)})" for code in config.cash_accounts) or "false"
    by_cash = "CASE WHEN n.cash > 0 AND n.paid = 0 THEN '收' WHEN n.paid > 0 THEN '付' ELSE '转' END"
    summed = ", ".join(map(literal, config.summary_rules))
    entries = f"""SELECT e.*, coalesce(e.voucher_key, CAST(e.entry_id AS VARCHAR)) AS "key"
        FROM ledger.entries e
        WHERE e.book = {literal(book)} AND e.period = {literal(period)}
            AND e.entry_id NOT IN (SELECT entry_id FROM ledger.voucher_entries)"""
    return f"""WITH e AS MATERIALIZED ({entries}),
        lines AS (
            SELECT e."key", l.account, l.currency, CAST(l.dims AS VARCHAR) AS dims,
                coalesce(sum(l.debit), 0) AS debit, coalesce(sum(l.credit), 0) AS credit,
                coalesce(sum(CASE WHEN l.debit IS NULL THEN -l.orig_amount ELSE l.orig_amount END), 0) AS orig
            FROM e JOIN ledger.lines l USING (entry_id) GROUP BY ALL),
        n AS (
            SELECT "key", bool_or(l.debit <> l.credit OR l.orig <> 0) AS tells,
                count(*) FILTER (({cash}) AND l.debit > l.credit) AS cash, count(*) FILTER (({cash}) AND l.credit > l.debit) AS paid
            FROM lines l GROUP BY "key"),
        v AS (
            SELECT "key", arg_min(e.voucher_key, e.batch_seq * 1000000 + e.batch_row) AS voucher_key,
                max(e.entry_date) AS voucher_date, any_value(e.voucher_type ORDER BY e.batch_seq, e.batch_row) AS given,
                first(e.summary ORDER BY e.entry_date, e.batch_seq, e.batch_row) AS summary,
                coalesce(sum(e.attachments) FILTER (e.kind <> 'reverse' AND e.entry_id NOT IN (
                    SELECT reverses FROM ledger.entries WHERE reverses IS NOT NULL)), 0) AS attachments,
                count(DISTINCT e.source_table || e.row_key) AS documents, count(*) AS entries,
                coalesce(bool_and(e.rule IN ({summed or "NULL"})), false) AS summed, min(e.entry_date) AS first_date,
                min(e.batch_seq) AS first_batch, min((e.batch_seq, e.batch_row)) AS place, list(e.entry_id) AS ids
            FROM e GROUP BY "key"),
        typed AS (
            SELECT v.*, n.tells, coalesce(v.given, {by_cash if config.types == "cash" else literal(GENERAL)}) AS voucher_type
            FROM v JOIN n USING ("key"))
        SELECT CAST(md5(concat_ws('|', 'voucher', {literal(book)}, {literal(period)}, "key", id)) AS UUID) AS voucher_id,
            {literal(book)} AS book, {literal(period)} AS period, voucher_type,
            CASE WHEN tells THEN row_number() OVER (PARTITION BY voucher_type, tells ORDER BY first_date, place) + coalesce((
                SELECT max(number) FROM ledger.vouchers o
                WHERE o.book = {literal(book)} AND o.period = {literal(period)} AND o.voucher_type = t.voucher_type), 0) END AS number,
            voucher_key, voucher_date, summary, CAST(attachments AS INTEGER) AS attachments, CAST(documents AS INTEGER) AS documents,
            CAST(entries AS INTEGER) AS entries, summed, now() AS sealed_at, ids
        FROM (SELECT *, list_min(ids) AS id FROM typed) t"""


SEAL = """CREATE OR REPLACE TEMP TABLE sealed AS {vouchers};
INSERT INTO ledger.vouchers BY NAME SELECT * EXCLUDE (ids) FROM sealed;
INSERT INTO ledger.voucher_entries SELECT voucher_id, unnest(ids) FROM sealed"""
