"""Revaluation: what balances in other currencies are worth at a period's end, as an entry for each.

The gain or loss is what the balance in its own currency is worth by the closing rate, less what it stands at in base currency. Nothing is
taken back in the next period: the next revaluation starts from what stands then, so that a balance that has been paid ends at nothing.
"""

from __future__ import annotations

import pyarrow as pa

from cdc.accounting.rates import rate_on
from cdc.accounting.sql import literal
from cdc.config import BookConfig
from cdc.types import Column, TableSchema

RULE = "revaluation"
SCHEMA = TableSchema(
    "ledger",
    "revaluation",
    tuple(Column(name, pa.string(), "VARCHAR", "text") for name in ("book", "period", "account", "currency", "dims")),
    ("book", "period", "account", "currency", "dims"),
)


def balances(book: str, config: BookConfig, period: str) -> str:
    """SQL for the balances to be revalued: account, currency, dims, their amounts in that currency and in base currency, without what the
    period's own revaluation posted; and the day."""
    assert config.revaluation is not None
    accounts = " OR ".join(f"starts_with(l.account, {literal(code)})" for code in config.revaluation.accounts)
    return f"""SELECT l.account, l.currency, CAST(l.dims AS VARCHAR) AS dims,
            CAST(sum(CASE WHEN l.debit IS NULL THEN -l.orig_amount ELSE l.orig_amount END) AS DECIMAL(38,6)) AS orig,
            CAST(coalesce(sum(l.debit), 0) - coalesce(sum(l.credit), 0) AS DECIMAL(38,6)) AS base,
            last_day(CAST({literal(period)} || '-01' AS DATE)) AS day
        FROM ledger.lines l JOIN ledger.entries e USING (entry_id)
        WHERE l.book = {literal(book)} AND l.period <= {literal(period)} AND l.currency <> {literal(config.base_currency)} AND ({accounts})
            AND NOT (e.rule = {literal(RULE)} AND e.source = 'ledger' AND strftime(e.doc_date, '%Y-%m') = {literal(period)})
        GROUP BY ALL HAVING orig <> 0 OR base <> 0 ORDER BY ALL"""


def worth(book: str, config: BookConfig, period: str) -> str:
    """SQL over `balances` and `rates` for the key of each (SCHEMA's columns), its currency's closing rate, null if there is none, and what
    the balance gained."""
    assert config.revaluation is not None
    rate = rate_on(book, config, config.revaluation.type, "b.currency", "b.day")
    return f"""SELECT {literal(book)} AS book, {literal(period)} AS period, account, currency, dims, day, rate,
            round(orig * rate, {config.decimals}) - base AS gained
        FROM (SELECT b.*, {rate} AS rate FROM balances b)"""


def wanted(config: BookConfig, summary: str) -> str:
    """SQL over `c`, keyed rows of `worth`, for what is to stand of each."""
    assert config.revaluation is not None
    gain, loss, kind = literal(config.revaluation.gain), literal(config.revaluation.loss), literal(config.revaluation.type)
    none, zero = "CAST(NULL AS DECIMAL(38,6))", "CAST(0 AS DECIMAL(38,6))"
    amount = "CAST(abs(gained) AS DECIMAL(38,6))"

    def line(number: int, account: str, debit: str, *values: str) -> str:
        currency, orig, rate, dims, rate_type, rate_date = values
        return f"""struct_pack(line_no := {number}, account := {account}, debit := CASE WHEN {debit} THEN {amount} END,
            credit := CASE WHEN NOT ({debit}) THEN {amount} END, currency := {currency}, orig_amount := {orig},
            rate := CAST({rate} AS DECIMAL(38,12)), quantity := {none}, unit := CAST(NULL AS VARCHAR), dims := {dims},
            rate_type := CAST({rate_type} AS VARCHAR), rate_date := CAST({rate_date} AS DATE), origin := CAST(NULL AS VARCHAR))"""

    own = line(1, "account", "gained > 0", "currency", zero, "rate", "coalesce(dims, '{}')", kind, "day")
    other = f"CASE WHEN gained > 0 THEN {gain} ELSE {loss} END"
    result = line(2, other, "gained < 0", literal(config.base_currency), amount, "1", "'{}'", "NULL", "NULL")
    return f"""SELECT book, {literal(RULE)} AS rule, 1 AS rule_version, "#rid", "#ordinal", "#op", "#hash", "#key", "#position", "#xid",
            "#committed_at", CAST(md5(concat_ws('|', 'post', book, {literal(RULE)}, "#key", "#xid")) AS UUID)::VARCHAR AS entry_id,
            {literal(RULE)} || ' ' || period AS voucher_key, CAST(NULL AS VARCHAR) AS voucher_type, day AS doc_date,
            {literal(summary)} || ' ' || currency AS summary, CAST(NULL AS INTEGER) AS attachments, CAST(NULL AS VARCHAR) AS fault,
            CASE WHEN gained <> 0 THEN [{own}, {result}] END AS lines
        FROM c"""
