"""What people do to the books, besides what sources tell: close periods, put in rates, seal vouchers, revalue, settle what lies in
quarantine, have tables copied anew.

Each is asked for by a request (`do`, and what it needs) and done on the apply thread, between two store transactions; by the daemon if it
runs, else by the command itself.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from cdc import build
from cdc.accounting import revaluation, vouchers
from cdc.accounting.rates import RATES, read_rates
from cdc.config import BookConfig, Config, load
from cdc.errors import ConfigError, StoreError
from cdc.paths import places
from cdc.pipeline import Pipeline
from cdc.protocols import SinkTransaction
from cdc.texts import text

if TYPE_CHECKING:
    from sinks.duckdb import DuckDBSink

OPEN, SOFT, CLOSED = "open", "soft", "closed"
Request = Mapping[str, Any]
_TELLING = """SELECT DISTINCT period FROM ledger.entries WHERE book = $1 AND period {0} $2
    AND period NOT IN (SELECT period FROM ledger.periods WHERE book = $1 AND state = 'closed') ORDER BY period LIMIT 1"""


def set_period(config: Config, store: DuckDBSink, pipeline: Pipeline, request: Request) -> dict[str, Any]:
    """Close a period (its vouchers are sealed first), or open it again; in the order of time. Raises StoreError."""
    name, book = _book(config, request)
    period, state = str(request["period"]), str(request["state"])
    sealed = 0
    with store.reader() as reader:
        if state == CLOSED:
            earlier = reader.execute(_TELLING.format("<"), [name, period]).fetchone()
            if earlier is not None:
                raise StoreError("books.earlier_open", book=name, period=period, other=earlier[0])
        later = "SELECT min(period) FROM ledger.periods WHERE book = $1 AND period > $2 AND state = 'closed'"
        closed = reader.execute(later, [name, period]).fetchone()
        if state != CLOSED and closed is not None and closed[0] is not None:
            raise StoreError("books.later_closed", book=name, period=period, other=closed[0])
    if state == CLOSED:
        sealed = _seal(store, name, book, period)
    pipeline.set_period(name, period, state)
    with build.committed(store) as transaction:
        transaction.sql(
            'INSERT INTO ledger.period_log (book, period, state, "by", "at") VALUES ($1, $2, $3, $4, now())',
            [name, period, state, str(request.get("by", ""))],
        )
    return {"book": name, "period": period, "state": state, "sealed": sealed}


def seal(config: Config, store: DuckDBSink, _: Pipeline, request: Request) -> dict[str, Any]:
    """Seal the vouchers of a period's entries that are in none yet."""
    name, book = _book(config, request)
    return {"book": name, "period": str(request["period"]), "sealed": _seal(store, name, book, str(request["period"]))}


def put_rates(config: Config, store: DuckDBSink, pipeline: Pipeline, request: Request) -> dict[str, Any]:
    """Add rates to those a book keeps in the store, in place of those of the same day; what they change is posted anew."""
    name, book = _book(config, request)
    if book.rates.table is not None:
        raise StoreError("books.rates_elsewhere", book=name, table=book.rates.table)
    given = {(str(currency), str(kind), date.fromisoformat(day)): Decimal(rate) for currency, kind, day, rate in request["rates"]}
    with build.committed(store) as transaction:
        rows = [row for row in transaction.reference("rates").to_pylist() if row["book"] == name]
    kept = {(row["currency"], row["rate_type"], row["rate_date"]): row["rate"] for row in rows}
    rates = given if request.get("replace") else kept | given
    if rates == kept:
        return {"book": name, "rates": 0, "rows": 0}
    rows = [{"book": name, "currency": c, "rate_type": t, "rate_date": d, "rate": rate} for (c, t, d), rate in sorted(rates.items())]
    anew = pipeline.set_rates(list(config.sources), name, pa.Table.from_pylist(rows, RATES))
    return {"book": name, "rates": sum(kept.get(key) != rate for key, rate in rates.items()), "rows": anew}


def revalue(config: Config, store: DuckDBSink, pipeline: Pipeline, request: Request) -> dict[str, Any]:
    """Bring balances in other currencies to what they are worth by a period's closing rates; what it posted before is corrected."""
    name, book = _book(config, request)
    period = str(request["period"])
    with store.reader() as reader:
        states = reader.execute("SELECT state FROM ledger.periods WHERE book = $1 AND period = $2", [name, period]).fetchone()
        if states is not None and states[0] == CLOSED:
            raise StoreError("books.closed", book=name, period=period)
        if book.revaluation is None:
            raise StoreError("books.no_revaluation", book=name)
        balances = reader.execute(revaluation.balances(name, book, period)).to_arrow_table()
    return {"book": name, "period": period, "lines": pipeline.revalue(name, period, balances, text("books.revaluation"))}


def settle_quarantine(_: Config, store: DuckDBSink, pipeline: Pipeline, request: Request) -> dict[str, Any]:
    """`retry` or `ignore` open quarantine items; how many were open, and how many of the rows are in quarantine after it."""
    action, ids = str(request["action"]), [str(item) for item in request["ids"]]
    asked = "status = 'open' AND list_contains($1, CAST(id AS VARCHAR))"
    with store.reader() as cursor:
        items = cursor.execute(f"SELECT source, source_table, row_key FROM ledger.quarantine WHERE {asked}", [ids]).fetchall()

    def resolve(transaction: SinkTransaction, source: str) -> None:
        transaction.sql(f"UPDATE ledger.quarantine SET status = 'resolved' WHERE {asked} AND source = $2", [ids, source])

    if action == "retry":
        for name in sorted({item[0] for item in items}):
            pipeline.retry(name, [(table, key) for owner, table, key in items if owner == name], partial(resolve, source=name))
    else:
        with build.committed(store) as transaction:
            transaction.sql(f"UPDATE ledger.quarantine SET status = 'ignored' WHERE {asked}", [ids])
    rows = {(table, key) for _, table, key in items}
    with store.reader() as cursor:
        still = cursor.execute("SELECT DISTINCT source_table, row_key FROM ledger.quarantine WHERE status = 'open'").fetchall()
    return {"items": len(items), "still_quarantined": len(rows & set(still))}


def want_snapshot(config: Config, _: DuckDBSink, pipeline: Pipeline, request: Request) -> dict[str, Any]:
    """Mark tables of a source (all, if none are named) to be copied anew; it posts only what differs. Raises ConfigError."""
    name = str(request["source"])
    if name not in config.sources:
        raise ConfigError("config.key", path=config.path, key=f"sources.{name}", fault="there is no such source")
    captured = config.sources[name].tables
    wanted = [str(table) for table in request["tables"]] or captured
    for table in wanted:
        if table not in captured:
            raise ConfigError("config.key", path=config.path, key=f"sources.{name}.tables", fault=f"'{table}' is not captured")
    pipeline.want_snapshot(name, wanted)
    return {"tables": list(wanted)}


ACTIONS: dict[str, Callable[[Config, DuckDBSink, Pipeline, Request], dict[str, Any]]] = {
    "period": set_period,
    "seal": seal,
    "rates": put_rates,
    "revalue": revalue,
    "quarantine": settle_quarantine,
    "snapshot": want_snapshot,
}


def ask(path: str | Path | None, request: dict[str, Any]) -> dict[str, Any]:
    """Have a request done, by the daemon if it runs; what came of it, with `daemon`: `up` or `down`. Raises LedgertailError."""
    from cdc.serving.client import Down
    from cdc.serving.client import ask as ask_daemon

    request = {**request, "by": _user()}
    try:
        return {"daemon": "up", **ask_daemon(places(path).socket, request)}
    except Down:
        config = load(path)
        with build.offline(config) as (store, pipeline):
            return {"daemon": "down", **ACTIONS[request["do"]](config, store, pipeline, request)}


def _user() -> str:
    """Who asks."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        return str(os.getuid())


def import_rates(config: Config, store: DuckDBSink, pipeline: Pipeline) -> None:
    """Take over the rates of every book's CSV as they are now. Raises ConfigError for one that can't be read."""
    for name, book in config.books.items():
        if book.rates.csv is not None:
            rows = read_rates(name, config.path.parent / book.rates.csv)
            put_rates(config, store, pipeline, {"book": name, "rates": rows, "replace": True})


def _book(config: Config, request: Request) -> tuple[str, BookConfig]:
    name = str(request["book"])
    if name not in config.books:
        raise StoreError("books.unknown", book=name, known=", ".join(config.books))
    return name, config.books[name]


def _seal(store: DuckDBSink, name: str, book: BookConfig, period: str) -> int:
    with build.committed(store) as transaction:
        for statement in vouchers.SEAL.format(vouchers=vouchers.seal(name, book.vouchers, period)).split(";\n"):
            transaction.sql(statement)
        count = transaction.sql("SELECT count(*) FROM sealed")[0][0]
        transaction.sql("DROP TABLE sealed")
    return int(count)
