"""Reports over the journal, as one SELECT each over the store, and the crosswalks between charts."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from cdc.accounting.charts import chart_text
from cdc.accounting.sql import literal, quote
from cdc.errors import ConfigError

_SHIPPED = files("cdc.accounting").joinpath("crosswalks")


@dataclass(frozen=True, slots=True)
class Scope:
    """What a report is of: a book, its periods (`2026-01`) from the first to the last, both included, and accounts by how they begin."""

    book: str
    first: str
    last: str
    account: str = ""


@dataclass(frozen=True, slots=True)
class Crosswalk:
    """The accounts of another chart in place of a book's: code here, code there and a note each; and the names of those there."""

    pairs: Sequence[tuple[str, str, str]]
    names: Mapping[str, str]


def trial_balance(scope: Scope, dims: Sequence[str], decimals: int, total: str | None, crosswalk: Crosswalk | None = None) -> str:
    """SQL for opening balance, debits, credits and closing balance by account, and by dimensions; with a last row called `total`, if it is.

    Balances are debit less credit, in base currency, of `decimals` places. By a crosswalk accounts are those of the other chart, each
    with the notes on what was put into it; an account without a counterpart keeps its code.
    """
    before = f"l.period < {literal(scope.first)}"
    sums = {
        "opening": f"CASE WHEN {before} THEN coalesce(l.debit, 0) - coalesce(l.credit, 0) ELSE 0 END",
        "debit": f"CASE WHEN {before} THEN 0 ELSE coalesce(l.debit, 0) END",
        "credit": f"CASE WHEN {before} THEN 0 ELSE coalesce(l.credit, 0) END",
        "closing": "coalesce(l.debit, 0) - coalesce(l.credit, 0)",
    }
    keys = {"account": "l.account", **{quote(name): f"coalesce(json_extract_string(l.dims, {_path(name)}), '')" for name in dims}}
    names, mapped, notes = f"SELECT code, name FROM ledger.accounts WHERE book = {literal(scope.book)}", "", {}
    if crosswalk is not None:
        keys["account"] = "coalesce(w.there, l.account)"
        names = f"SELECT * FROM (VALUES {_rows(crosswalk.names.items())})"
        mapped = f"LEFT JOIN (VALUES {_rows(crosswalk.pairs)}) w (here, there, note) ON w.here = l.account"
        notes = {"notes": "string_agg(DISTINCT nullif(w.note, ''), '; ' ORDER BY nullif(w.note, ''))"}
    taken = ", ".join(f"{sql} AS {name}" for name, sql in [*keys.items(), *((n, f"sum({sql})") for n, sql in sums.items()), *notes.items()])
    last = [literal(total or ""), *["''"] * len(dims), *(f"coalesce(sum({name}), 0)" for name in sums), *["NULL"] * len(notes)]
    name = "coalesce(n.name, '') AS name"
    shown = ["account", name, *list(keys)[1:], *(f"CAST({column} AS DECIMAL(38,{decimals})) AS {column}" for column in sums), *notes]
    return f"""WITH s AS (
            SELECT {taken} FROM ledger.lines l {mapped}
            WHERE l.book = {literal(scope.book)} AND l.period <= {literal(scope.last)} AND starts_with(l.account, {literal(scope.account)})
            GROUP BY {", ".join(keys.values())}),
        n (code, name) AS ({names}),
        t AS (
            SELECT 0 AS place, * FROM s WHERE {" OR ".join(f"{name} <> 0" for name in sums)}
            {f"UNION ALL SELECT 1, {', '.join(last)} FROM s" if total is not None else ""})
    SELECT {", ".join(shown)} FROM t LEFT JOIN n ON n.code = t.account ORDER BY place, {", ".join(keys)}"""


def ledger(scope: Scope, dims: Mapping[str, str], decimals: int, opening: str) -> str:
    """SQL for the lines of accounts in the order of their dates, with a running balance per account, after a row called `opening`.

    `dims`: only lines whose dimensions have these values. Each line names its entry, its rule and the source row it came from.
    """
    money = f"DECIMAL(38,{decimals})"
    only = "".join(f" AND json_extract_string(l.dims, {_path(name)}) = {literal(value)}" for name, value in dims.items())
    order = "place, period, entry_date, batch_seq, batch_row, line_no"
    return f"""WITH x AS (
            SELECT l.account, e.entry_date, l.period, e.voucher_key, e.summary, e.kind, coalesce(l.debit, 0) AS debit,
                coalesce(l.credit, 0) AS credit, l.dims, e.rule, e.source_table, e.row_key, e.entry_id, l.line_no, e.batch_seq, e.batch_row
            FROM ledger.lines l JOIN ledger.entries e ON e.entry_id = l.entry_id AND e.batch_seq = l.batch_seq
            WHERE l.book = {literal(scope.book)} AND l.period <= {literal(scope.last)}
                AND starts_with(l.account, {literal(scope.account)}){only}),
        t AS (
            SELECT 1 AS place, debit - credit AS moved, * FROM x WHERE period >= {literal(scope.first)}
            UNION ALL BY NAME
            SELECT 0 AS place, sum(debit) - sum(credit) AS moved, account, {literal(opening)} AS summary
            FROM x WHERE period < {literal(scope.first)} GROUP BY account)
    SELECT account, entry_date, voucher_key, summary, kind, CAST(debit AS {money}) AS debit, CAST(credit AS {money}) AS credit,
        CAST(sum(moved) OVER (PARTITION BY account ORDER BY {order} ROWS UNBOUNDED PRECEDING) AS {money}) AS balance,
        dims, rule, source_table, row_key, entry_id
    FROM t ORDER BY account, {order}"""


def crosswalk(book: str, chart: str, other: str) -> Crosswalk:
    """The crosswalk that ships between a book's chart and another. Raises ConfigError if none does."""
    path = _SHIPPED.joinpath(f"{chart}.{other}.csv")
    if not path.is_file():
        known = sorted(file.name.removesuffix(".csv").replace(".", " -> ") for file in _SHIPPED.iterdir() if file.name.endswith(".csv"))
        raise ConfigError("rules.crosswalk", book=book, chart=chart, other=other, known=", ".join(known))
    rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8"), newline="")))
    names = {row["code"]: row["name"] for row in csv.DictReader(io.StringIO(chart_text(other), newline=""))}
    return Crosswalk([(row["from_code"], row["to_code"], row["note"]) for row in rows], names)


def _rows(rows: Iterable[Iterable[str]]) -> str:
    """Texts as the rows of VALUES."""
    return ", ".join(f"({', '.join(map(literal, row))})" for row in rows)


def _path(name: str) -> str:
    """A dimension's place in the JSON of a line."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return literal(f'$."{escaped}"')
