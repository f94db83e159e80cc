"""What people do to the books by commands, on a store that a daemon has left: periods, vouchers, rates, revaluation, explanations."""

from __future__ import annotations

import json
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cdc import build
from cdc.accounting.accountant import Accountant
from cdc.cli import main
from cdc.config import load
from cdc.errors import StoreError
from cdc.types import MicroBatch, SnapshotProgress, TableChanges
from checkpoints.instore import InStore
from tests.changes import Change, changes, table, transactions

ORDERS = table("orders", ["no"], no="BIGINT", shop="VARCHAR", cur="VARCHAR", day="DATE", total="DECIMAL(12,2)", paid="BOOLEAN")
CONFIG = """
[store]
url = "duckdb://{folder}/books.duckdb"
[sources.shop]
url = "postgres://nobody@localhost:1/shop"
tables = ["orders"]
[books.main]
base_currency = "CNY"
chart = "small-business-2013"
[books.main.vouchers]
types = "cash"
summary_rules = ["sale"]
[books.main.revaluation]
accounts = ["1122"]
gain = "5301"
loss = "5711"
type = "spot"
[[rules]]
name = "sale"
book = "main"
table = "shop.orders"
date = "day"
voucher_key = "shop || ' ' || day"
summary = "'Sales ' || shop || ' ' || day"
currency = "cur"
rate = {{ type = "spot" }}
lines = [{{ account = "1122", debit = "total", dims = {{ shop = "shop" }} }}, {{ account = "5001", credit = "total" }}]
[[rules]]
name = "payment"
book = "main"
table = "shop.orders"
when = "paid"
date = "day"
summary = "'Payment ' || no"
attachments = "2"
currency = "cur"
rate = {{ type = "spot" }}
lines = [{{ account = "1002", debit = "total" }}, {{ account = "1122", credit = "total", dims = {{ shop = "shop" }} }}]
"""
RATES = "currency,rate_date,rate\nUSD,2026-01-05,7\nUSD,2026-01-31,7.5\n"


def order(number: int, day: str, total: str, cur: str = "CNY", shop: str = "S1", paid: bool = False) -> dict[str, Any]:
    return {"no": number, "shop": shop, "cur": cur, "day": date.fromisoformat(day), "total": Decimal(total), "paid": paid}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "ledgertail.toml"
    path.write_text(CONFIG.format(folder=tmp_path), "utf-8")
    apply(
        path,
        1,
        ("c", order(1, "2026-01-05", "10.00")),
        ("c", order(2, "2026-01-05", "20.00")),
        ("c", order(3, "2026-01-06", "5.00", paid=True)),
    )
    return path


def apply(path: Path, number: int, *rows: tuple[str, dict[str, Any]]) -> None:
    """A transaction, as the daemon applies it."""
    loaded = load(path)
    with build.offline(loaded) as (_, pipeline):
        pipeline.resume("shop")
        rows_ = changes(ORDERS, [(0, ordinal, Change(op, values)) for ordinal, (op, values) in enumerate(rows)])
        pipeline.apply([MicroBatch("shop", "here", transactions(1, number), (TableChanges(ORDERS, rows_),), f"{number:08}")])
    if number == 1:
        store = build.sink(loaded)
        with build.committed(store) as transaction:
            InStore().record(transaction, "shop", SnapshotProgress("orders", 1, "", "done", "", 3, 3))
        store.close()


def run(config: Path, *arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["--config", str(config), *arguments], env={"LEDGERTAIL_LANG": "en", "COLUMNS": "200"})
    assert result.exit_code == code, result.output
    return result.output


def rows(config: Path, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(config, *arguments, "--format", "json"))
    return found


def test_a_period_is_closed_and_opened_in_the_order_of_time(config: Path) -> None:
    apply(config, 2, ("c", order(4, "2026-02-01", "1.00")))
    assert "close 2026-01 first" in run(config, "period", "close", "2026-02", code=1)
    assert run(config, "period", "close", "2026-01") == "book 'main': 2026-01 is closed, 3 vouchers sealed\n"
    assert run(config, "period", "close", "2026-02", "--soft") == "book 'main': 2026-02 takes corrections only\n"
    told = [(row["period"], row["state"], row["entries"], row["vouchers"], row["unsealed"]) for row in rows(config, "period", "list")]
    assert told == [("2026-01", "closed", 4, 3, 0), ("2026-02", "soft", 1, 0, 1)]
    apply(config, 3, ("u", order(1, "2026-01-05", "11.00")), ("c", order(5, "2026-01-07", "9.00")))
    where = rows(config, "query", "SELECT kind, period, doc_date, row_key FROM ledger.entries WHERE batch_seq = 3 ORDER BY batch_row")
    assert [(row["kind"], row["period"], row["row_key"]) for row in where] == [
        ("reverse", "2026-02", '{"no": 1}'),
        ("post", "2026-02", '{"no": 1}'),
        ("post", "2026-03", '{"no": 5}'),
    ]
    assert run(config, "period", "close", "2026-02") == "book 'main': 2026-02 is closed, 2 vouchers sealed\n"
    assert "open 2026-02 first" in run(config, "period", "open", "2026-01", code=1)
    assert run(config, "period", "open", "2026-02") == "book 'main': 2026-02 is open\n"
    log = rows(config, "query", 'SELECT period, state, length("by") > 0 AS told FROM ledger.period_log ORDER BY "at"')
    assert [(row["period"], row["state"]) for row in log] == [
        ("2026-01", "closed"), ("2026-02", "soft"), ("2026-02", "closed"), ("2026-02", "open")]  # fmt: skip
    assert all(row["told"] for row in log)


def test_vouchers_are_numbered_without_gaps_and_lead_back_to_entries(config: Path) -> None:
    apply(config, 2, ("c", order(7, "2026-01-08", "3.00")))
    apply(config, 3, ("d", order(7, "2026-01-08", "3.00")))
    assert run(config, "voucher", "seal", "2026-01") == "book 'main': 2026-01: 4 vouchers sealed\n"
    columns = ("voucher_type", "number", "voucher_date", "voucher_key", "summary", "attachments", "documents", "entries", "total")
    told = [tuple(row[name] for name in columns) for row in rows(config, "voucher", "list", "2026-01")]
    assert told == [
        ("收", 1, "2026-01-06", None, "Payment 3", 2, 1, 1, "5.00"),
        ("转", 1, "2026-01-05", "S1 2026-01-05", "Sales S1 2026-01-05", 0, 2, 2, "30.00"),
        ("转", 2, "2026-01-06", "S1 2026-01-06", "Sales S1 2026-01-06", 0, 1, 1, "5.00"),
    ]  # what cancelled itself has no number
    shown = rows(config, "voucher", "show", "2026-01", "转-1")
    assert [(row["account"], row["debit"], row["credit"], len(row["entries"].split())) for row in shown] == [
        ("1122", "30.00", None, 2),
        ("5001", None, "30.00", 2),
    ]
    assert run(config, "voucher", "seal", "2026-01") == "book 'main': 2026-01: 0 vouchers sealed\n"
    apply(config, 4, ("u", order(2, "2026-01-05", "21.00")))
    assert run(config, "voucher", "seal", "2026-01") == "book 'main': 2026-01: 1 vouchers sealed\n"
    late = rows(config, "voucher", "list", "2026-01")[-1]
    assert (late["voucher_type"], late["number"], late["voucher_key"], late["entries"]) == ("转", 3, "S1 2026-01-05", 2)
    net = rows(config, "voucher", "show", "2026-01", "转-3")
    assert [(row["account"], row["debit"], row["credit"]) for row in net] == [("1122", "1.00", None), ("5001", None, "1.00")]
    assert "no voucher's number" in run(config, "voucher", "show", "2026-01", "x", code=2)


def test_imported_rates_post_what_waited_and_repost_what_changes(config: Path, tmp_path: Path) -> None:
    apply(config, 2, ("c", order(8, "2026-01-06", "100.00", "USD")))
    assert rows(config, "quarantine", "list")[0]["reason"] == "quarantine.rate"
    file = tmp_path / "rates.csv"
    file.write_text(RATES, "utf-8")
    assert run(config, "rates", "import", str(file)) == "book 'main': 2 rates are new or others, 1 rows accounted for anew\n"
    assert rows(config, "quarantine", "list") == []
    assert [(row["rate_date"], row["rate"]) for row in rows(config, "rates", "list")] == [
        ("2026-01-05", "7.000000000000"), ("2026-01-31", "7.500000000000")]  # fmt: skip
    file.write_text("currency,rate_date,rate\nUSD,2026-01-05,7.1\n", "utf-8")
    assert run(config, "rates", "import", str(file)) == "book 'main': 1 rates are new or others, 1 rows accounted for anew\n"
    assert run(config, "rates", "import", str(file)) == "book 'main': 0 rates are new or others, 0 rows accounted for anew\n"
    converted = "SELECT kind, debit FROM ledger.lines l JOIN ledger.entries e USING (entry_id) WHERE rate <> 1 AND debit IS NOT NULL "
    told = rows(config, "query", converted + "ORDER BY e.batch_seq, e.batch_row")
    assert [(row["kind"], row["debit"]) for row in told] == [("post", "700.000000"), ("reverse", "-700.000000"), ("post", "710.000000")]
    explained = run(config, "explain", "shop.orders", "8")
    assert "100.00 USD at 7.10 (spot, 2026-01-06)" in explained
    assert explained.count("reversed by") == 1
    head = "currency,rate_date,rate\n"
    for text, line in (
        ("usd,2026-01-05,7", 2),
        ("USD,2026-01-05,0", 2),
        ("USD,05.01.2026,7", 2),
        ("USD,2026-01-05,7\nUSD,2026-01-05,8", 3),
    ):
        file.write_text(head + text, "utf-8")
        assert f"line {line}" in run(config, "rates", "import", str(file), code=2)


def test_what_could_not_be_retried_stays_in_quarantine(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise StoreError("store.failed", path="books.duckdb", detail="no room")

    def statuses() -> set[Any]:
        return {item["status"] for item in rows(config, "query", "SELECT status FROM ledger.quarantine")}

    apply(config, 2, ("c", order(4, "2026-01-06", "1.00", "USD")))
    assert statuses() == {"open"}, "dollars without a rate"
    with monkeypatch.context() as patched:
        patched.setattr(Accountant, "account", fails)
        run(config, "quarantine", "retry", "--all", code=1)
    assert statuses() == {"open"}


def test_balances_are_revalued_and_corrected(config: Path, tmp_path: Path) -> None:
    file = tmp_path / "rates.csv"
    file.write_text(RATES, "utf-8")
    apply(config, 2, ("c", order(8, "2026-01-06", "100.00", "USD")))
    run(config, "rates", "import", str(file))
    assert run(config, "period", "revalue", "2026-01") == "book 'main': 2026-01: 1 balances revalued\n"
    of_rule = "SELECT kind, period, account, debit, credit, l.currency, orig_amount FROM ledger.lines l "
    of_rule += "JOIN ledger.entries e USING (entry_id, period) "
    of_rule += "WHERE rule = 'revaluation' ORDER BY e.batch_seq, e.batch_row, line_no"
    assert [tuple(row.values()) for row in rows(config, "query", of_rule)] == [
        ("post", "2026-01", "1122", "50.000000", None, "USD", "0.000000"),
        ("post", "2026-01", "5301", None, "50.000000", "CNY", "50.000000"),
    ]
    run(config, "period", "revalue", "2026-01")
    assert len(rows(config, "query", of_rule)) == 2, "nothing is posted twice"
    apply(config, 3, ("u", order(8, "2026-01-06", "100.00", "USD", paid=True)))
    run(config, "period", "revalue", "2026-01")
    assert len(rows(config, "query", of_rule)) == 4, "the balance is nothing now, so what it gained is taken back"
    balance = "SELECT sum(coalesce(debit, 0) - coalesce(credit, 0)) AS b FROM ledger.lines WHERE account = '1122' AND currency = 'USD'"
    assert rows(config, "query", balance)[0]["b"] == "0.000000"
    assert "no rate of type 'spot' for USD 2026-03-31" in run_after(config, "2026-03")


def run_after(config: Path, period: str) -> str:
    apply(config, 4, ("c", order(9, "2026-01-06", "1.00", "USD")))
    return run(config, "period", "revalue", period, code=1)


def test_explanations(config: Path) -> None:
    apply(config, 2, ("u", order(1, "2026-01-05", "12.00")))
    run(config, "voucher", "seal", "2026-01")
    of_row = json.loads(run(config, "explain", "shop.orders", '{"no": 1}', "--json"))["entries"]
    assert [(entry["kind"], entry["op"], entry["batch_seq"]) for entry in of_row] == [
        ("post", "c", 1),
        ("reverse", "u", 2),
        ("post", "u", 2),
    ]
    first, second, third = of_row
    assert (first["reversed_by"], second["reverses"], third["corrects"]) == (second["entry_id"], first["entry_id"], first["entry_id"])
    assert third["voucher"] == "main/2026-01/转-1"
    assert first["lines"][0]["dims"] == {"shop": "S1"}
    same = json.loads(run(config, "explain", third["entry_id"][:13], "--json"))["entries"]
    assert [entry["entry_id"] for entry in same] == [third["entry_id"]]
    voucher = json.loads(run(config, "explain", "main/2026-01/转-1", "--json"))["entries"]
    assert len(voucher) == 4
    assert "there is nothing to explain" in run(config, "explain", "shop.orders", "99", code=1)
    assert "explain takes" in run(config, "explain", "what", code=2)
