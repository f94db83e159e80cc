"""What the demo reads: the books from the daemon, the shop's figures from PostgreSQL, and the comparison of the two."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from importlib.resources import files
from typing import Any, Protocol

import pyarrow as pa

from cdc.demo.trade import Connection

BOOK = "main"
_TRIAL_BALANCE = f"""
SELECT b.account, coalesce(max(a.name), '') AS name, sum(b.debit) AS debit, sum(b.credit) AS credit
FROM ledger.balances b LEFT JOIN ledger.accounts a ON a.book = b.book AND a.code = b.account
WHERE b.book = '{BOOK}' GROUP BY b.account ORDER BY b.account
"""
_COUNTS = f"""
SELECT count(*) AS entries, count(*) FILTER (kind = 'reverse') AS reversals,
  (SELECT count(*) FROM ledger.quarantine WHERE status = 'open') AS quarantined
FROM ledger.entries WHERE book = '{BOOK}'
"""
# The voucher with the most to show: reversals first, then many rules, seen in the log and not in the snapshot, and short enough to print.
_STORY = f"""
WITH chosen AS (
  SELECT voucher_key FROM ledger.entries WHERE book = '{BOOK}' AND voucher_key LIKE 'XS-%' GROUP BY 1 HAVING count(*) <= 14
  ORDER BY bool_and(op <> 'r') DESC, count_if(kind = 'reverse') > 0 DESC, count(DISTINCT rule) DESC, count(*) DESC, 1 LIMIT 1
)
SELECT e.voucher_key, CAST(e.entry_id AS VARCHAR) AS entry_id, e.kind, CAST(e.reverses AS VARCHAR) AS reverses, e.rule, e.summary,
  e.source_table, e.row_key, e.position, e.txn, e.ordinal, l.account, coalesce(a.name, '') AS name, l.debit, l.credit
FROM ledger.entries e JOIN chosen USING (voucher_key) JOIN ledger.lines l ON l.entry_id = e.entry_id
LEFT JOIN ledger.accounts a ON a.book = e.book AND a.code = l.account
WHERE e.book = '{BOOK}'
ORDER BY e.batch_seq, e.committed_at, e.txn, e.ordinal, e.kind DESC, e.rule, l.line_no
"""


class Reader(Protocol):
    """What the demo needs of `cdc.connect`."""

    def query(self, sql: str) -> pa.Table: ...

    def status(self) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class AccountTotal:
    """An account's turnover on both sides, in the base currency."""

    account: str
    name: str
    debit: Decimal
    credit: Decimal

    @property
    def balance(self) -> Decimal:
        """Debit less credit."""
        return self.debit - self.credit


@dataclass(frozen=True, slots=True)
class Counts:
    entries: int
    reversals: int
    quarantined: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """An account's balance in the books and as recomputed from the shop's tables."""

    account: str
    name: str
    books: Decimal
    shop: Decimal


@dataclass(frozen=True, slots=True)
class Sales:
    """Shipped orders and what they come to, with tax."""

    orders: int
    total: Decimal


def trial_balance(reader: Reader) -> list[AccountTotal]:
    return [AccountTotal(**row) for row in reader.query(_TRIAL_BALANCE).to_pylist()]


def counts(reader: Reader) -> Counts:
    return Counts(**reader.query(_COUNTS).to_pylist()[0])


def story(reader: Reader) -> list[dict[str, Any]]:
    """One order's entries, a row per line, in the order of the log."""
    rows: list[dict[str, Any]] = reader.query(_STORY).to_pylist()
    return rows


def sales(connection: Connection) -> Sales:
    row = connection.execute("SELECT count(*), coalesce(sum(total), 0) FROM orders WHERE status = 'shipped'").fetchone()
    assert row is not None
    return Sales(*row)


def recompute(connection: Connection) -> dict[str, Decimal]:
    """The balance of every account that has one, from the shop's tables in plain SQL."""
    return dict(connection.execute(files(__package__).joinpath("proof.sql").read_bytes()).fetchall())


def compare(totals: list[AccountTotal], shop: Mapping[str, Decimal]) -> list[Comparison]:
    """All accounts that have a balance on either side."""
    names = {total.account: total.name for total in totals}
    books = {total.account: total.balance for total in totals if total.balance}
    zero = Decimal()
    return [
        Comparison(account, names.get(account, ""), books.get(account, zero), shop.get(account, zero))
        for account in sorted(books.keys() | shop.keys())
    ]


def proven(comparison: list[Comparison], totals: list[AccountTotal], quarantined: int) -> bool:
    """Same balances, debits equal to credits, nothing set aside, and something was there to compare."""
    balanced = sum(total.debit for total in totals) == sum(total.credit for total in totals)
    return bool(comparison) and balanced and not quarantined and all(line.books == line.shop for line in comparison)
