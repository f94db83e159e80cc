"""A year of a shop in two currencies, copied and followed: the trial balance of each book is that of plain SQL over the source's tables, to
the cent.

`pytest -m slow tests/integration/test_year_of_a_shop.py` has a million orders; LEDGERTAIL_TEST_YEAR_ORDERS says how many.
"""

from __future__ import annotations

import os
import time
from decimal import Decimal
from pathlib import Path

import pytest

from tests.integration.installation import Installation
from tests.servers.postgres import Database

ORDERS = int(os.environ.get("LEDGERTAIL_TEST_YEAR_ORDERS", "1000000"))
TABLES = """
CREATE TABLE fx (id serial PRIMARY KEY, code text NOT NULL, day date NOT NULL, mid numeric(12,4) NOT NULL);
CREATE TABLE orders (id bigint PRIMARY KEY, code text NOT NULL, placed date NOT NULL, store text NOT NULL, freight numeric(12,2) NOT NULL);
CREATE TABLE lines (id bigint PRIMARY KEY, order_id bigint NOT NULL, class text NOT NULL, qty int NOT NULL, price numeric(12,2) NOT NULL,
    tax numeric(12,2) NOT NULL);
CREATE TABLE payments (id bigint PRIMARY KEY, order_id bigint NOT NULL, paid_on date NOT NULL, amount numeric(12,2) NOT NULL);
CREATE TABLE refunds (id bigint PRIMARY KEY, payment_id bigint NOT NULL, refunded_on date NOT NULL, amount numeric(12,2) NOT NULL);
"""
# Of every order i: two or three lines, a payment some days later, for every 20th a refund of a part of it. Every fifth is in USD.
FILL = """
INSERT INTO fx (code, day, mid) SELECT 'USD', '2025-12-29'::date + i, 700 + i * 37 % 50 + i % 7 * 0.1234 FROM generate_series(0, 420, 3) i;
INSERT INTO orders SELECT i, CASE i % 5 WHEN 0 THEN 'USD' ELSE 'CNY' END, '2026-01-01'::date + (i % 365)::int, 'S' || i % 40, i % 3 * 5.55
    FROM generate_series(1, {orders}) i;
INSERT INTO lines SELECT i * 4 + k, i, (ARRAY['book', 'toy', 'food'])[1 + (i + k) % 3], 1 + (i * k) % 4, 1 + i * 13 % 9000 / 7.0,
    i * k % 30 / 9.0
    FROM generate_series(1, {orders}) i, generate_series(1, 3) k WHERE k < 3 OR i % 2 = 0;
CREATE INDEX ON lines (order_id);
INSERT INTO payments SELECT o.id, o.id, o.placed + (o.id % 20)::int,
    o.freight + (SELECT sum(qty * price + tax) FROM lines WHERE order_id = o.id)
    FROM orders o WHERE o.id % 50 <> 0;
INSERT INTO refunds SELECT id, id, paid_on + 3, round(amount / 3, 2) FROM payments WHERE id % 20 = 0;
ANALYZE;
"""
# What happens while the daemon follows: rows change and go, and rates are corrected, come late and go.
CHANGES = [
    "UPDATE lines SET price = price + 0.01 WHERE id % 97 = 0",
    "UPDATE fx SET mid = mid + 1.5 WHERE id % 20 = 0",
    "DELETE FROM refunds WHERE id % 300 = 0",
    "UPDATE orders SET code = 'CNY' WHERE id % 1000 = 0",
    "UPDATE lines SET qty = qty WHERE order_id % 1000 = 0",  # what is looked up anew: the order's currency
    "UPDATE payments SET amount = amount WHERE order_id % 1000 = 0",
    "UPDATE refunds SET amount = amount WHERE payment_id % 1000 = 0",
    "INSERT INTO fx (code, day, mid) VALUES ('USD', '2026-07-02', 712.3456)",
    "DELETE FROM fx WHERE id = 31",
    "UPDATE payments SET paid_on = paid_on + 1 WHERE id % 53 = 0",
]
CONFIG = """
[store]
url = "duckdb:///{folder}/store.duckdb"
memory_limit = "1GB"
[books.main]
base_currency = "CNY"
chart = "small-business-2013"
[books.main.rates]
table = "shop.fx"
currency = "code"
date = "day"
rate = "mid * 0.01"
[books.group]
base_currency = "CNY"
chart = "small-business-2013"
corrections = "delta"
[books.group.rates]
table = "shop.fx"
currency = "code"
date = "day"
rate = "mid * 0.01"
[sources.shop]
url = "{url}"
tables = ["fx", "orders", "lines", "payments", "refunds"]

[[rules]]
name = "sale"
book = "main"
table = "shop.lines"
lookup.sold = {{ table = "shop.orders", on = {{ id = "order_id" }} }}
date = "sold.placed"
currency = "sold.code"
rate = {{ type = "spot" }}
lines = [
  {{ account = "1122", debit = "qty * price + tax", dims = {{ store = "sold.store" }} }},
  {{ account = {{ expr = "CASE class WHEN 'food' THEN '5051' ELSE '5001' END" }}, credit = "qty * price", quantity = "qty" }},
  {{ account = "2221", credit = "tax" }},
  {{ account = "5603", rest = "0.02" }},
]
[rules.variants.group]
lines = [{{ account = "1122", debit = "qty * price + tax" }}, {{ account = "5001", credit = "qty * price + tax" }}]

[[rules]]
name = "freight"
book = "main"
table = "shop.orders"
date = "placed"
currency = "code"
rate = {{ type = "spot" }}
lines = [{{ account = "1122", debit = "freight", dims = {{ store = "store" }} }}, {{ account = "5301", credit = "freight" }}]
variants.group = {{}}

[[rules]]
name = "payment"
book = "main"
table = "shop.payments"
lookup.sold = {{ table = "shop.orders", on = {{ id = "order_id" }} }}
date = "paid_on"
currency = "sold.code"
rate = {{ type = "spot" }}
lines = [
  {{ account = "1002", debit = "amount" }},
  {{ account = "1122", credit = "amount", rate = {{ type = "spot", date = "sold.placed" }}, dims = {{ store = "sold.store" }} }},
  {{ account = "5603", rest = true }},
]
variants.group = {{}}

[[rules]]
name = "refund"
book = "main"
table = "shop.refunds"
lookup.payment = {{ table = "shop.payments", on = {{ id = "payment_id" }} }}
lookup.sold = {{ table = "shop.orders", on = {{ id = "payment.order_id" }} }}
date = "refunded_on"
currency = "sold.code"
rate = {{ type = "spot" }}
lines = [{{ account = "1002", debit = "-amount" }}, {{ account = "5001", credit = "-amount" }}]
variants.group = {{}}
"""
BALANCE = """
WITH r AS MATERIALIZED (
    SELECT d::date AS day, (SELECT mid * 0.01 FROM fx WHERE fx.day BETWEEN d::date - 7 AND d::date ORDER BY fx.day DESC LIMIT 1) AS usd
    FROM generate_series('2026-01-01'::date, '2027-02-28'::date, interval '1 day') d),
o AS (SELECT o.*, CASE code WHEN 'CNY' THEN 1 ELSE r.usd END AS rate FROM orders o JOIN r ON r.day = o.placed),
p AS (SELECT p.*, CASE o.code WHEN 'CNY' THEN 1 ELSE r.usd END AS rate, o.rate AS earlier, o.code
    FROM payments p JOIN o ON o.id = p.order_id JOIN r ON r.day = p.paid_on),
f AS (SELECT f.*, CASE p.code WHEN 'CNY' THEN 1 ELSE r.usd END AS rate
    FROM refunds f JOIN p ON p.id = f.payment_id JOIN r ON r.day = f.refunded_on),
l AS (SELECT l.*, o.rate, round((qty * price + tax) * rate, 2) AS due, round(qty * price * rate, 2) AS net, round(tax * rate, 2) AS vat
    FROM lines l JOIN o ON o.id = l.order_id),
x (book, account, amount) AS (
    SELECT 'main', '1122', due FROM l UNION ALL SELECT 'main', CASE class WHEN 'food' THEN '5051' ELSE '5001' END, -net FROM l
    UNION ALL SELECT 'main', '2221', -vat FROM l UNION ALL SELECT 'main', '5603', net + vat - due FROM l
    UNION ALL SELECT 'group', '1122', due FROM l UNION ALL SELECT 'group', '5001', -due FROM l
    UNION ALL SELECT b, '1122', round(freight * rate, 2) FROM o, (VALUES ('main'), ('group')) b (b)
    UNION ALL SELECT b, '5301', -round(freight * rate, 2) FROM o, (VALUES ('main'), ('group')) b (b)
    UNION ALL SELECT b, '1002', round(amount * rate, 2) FROM p, (VALUES ('main'), ('group')) b (b)
    UNION ALL SELECT b, '1122', -round(amount * earlier, 2) FROM p, (VALUES ('main'), ('group')) b (b)
    UNION ALL SELECT b, '5603', round(amount * earlier, 2) - round(amount * rate, 2) FROM p, (VALUES ('main'), ('group')) b (b)
    UNION ALL SELECT b, '1002', -round(amount * rate, 2) FROM f, (VALUES ('main'), ('group')) b (b)
    UNION ALL SELECT b, '5001', round(amount * rate, 2) FROM f, (VALUES ('main'), ('group')) b (b))
SELECT book, account, sum(amount) FROM x GROUP BY 1, 2 ORDER BY 1, 2
"""
OURS = """SELECT book, account, CAST(sum(coalesce(debit, 0) - coalesce(credit, 0)) AS VARCHAR) AS balance FROM ledger.lines
    GROUP BY book, account ORDER BY book, account"""


def a_year(database: Database, folder: Path, orders: int) -> None:
    """Fill the shop's tables, copy them, go on writing, and compare twice."""
    database.connection.execute(TABLES)
    for statement in FILL.format(orders=orders).split(";\n"):
        if statement.strip():
            database.connection.execute(statement)
    ledgertail = Installation(folder, CONFIG.format(folder=folder, url=database.url))
    begun = time.monotonic()
    assert ledgertail.run(patience_s=3000).returncode == 0
    compare(database, ledgertail)
    print(f"{orders} orders copied and accounted for in {time.monotonic() - begun:.0f} s")
    for statement in CHANGES:
        database.connection.execute(statement)
    begun = time.monotonic()
    assert ledgertail.run(patience_s=3000).returncode == 0
    compare(database, ledgertail)
    kinds = ledgertail.query("SELECT kind, count(*) AS n FROM ledger.entries GROUP BY kind ORDER BY kind")
    print(f"changed in {time.monotonic() - begun:.0f} s: {kinds}")
    assert [kind for kind, _ in kinds] == ["adjust", "post", "reverse"]


def compare(database: Database, ledgertail: Installation) -> None:
    assert ledgertail.query("SELECT count(*) AS n FROM ledger.quarantine WHERE status = 'open'") == [[0]]
    ours = [(book, account, Decimal(balance)) for book, account, balance in ledgertail.query(OURS)]
    assert [row for row in ours if row[2]] == [row for row in database.connection.execute(BALANCE).fetchall() if row[2]]


def test_a_year_of_a_small_shop(database: Database, tmp_path: Path) -> None:
    a_year(database, tmp_path, 2000)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_year_of_a_shop(database: Database, tmp_path: Path) -> None:
    a_year(database, tmp_path, ORDERS)
