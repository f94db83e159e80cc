"""A small shop under load: the schema, eight sessions that sell, change and give up, and the rules of its books.

What only whole transactions keep true, and what a reader of the store therefore checks at any moment: an order's total is the sum of its
lines; the wallets' balances add up to a constant; the receivables of the books are the totals of the paid orders.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from typing import Any

import psycopg

from tests.servers.postgres import Database

Connection = psycopg.Connection[tuple[Any, ...]]
WALLETS, BALANCE = 40, 1000
TABLES = ("orders", "order_lines", "wallets", "notes")

SCHEMA = f"""
CREATE TABLE orders (
    id bigint PRIMARY KEY, order_no text NOT NULL, status text NOT NULL, total numeric(18,2) NOT NULL, tax numeric(18,2) NOT NULL,
    paid_on date, remark text);
CREATE TABLE order_lines (
    order_id bigint REFERENCES orders ON UPDATE CASCADE ON DELETE CASCADE, line_no int, qty int NOT NULL, price numeric(12,2) NOT NULL,
    cost numeric(12,2), booked_on date NOT NULL, PRIMARY KEY (order_id, line_no));
CREATE TABLE wallets (id int PRIMARY KEY, balance numeric(18,2) NOT NULL);
CREATE TABLE notes (author text, amount numeric(12,2), noted_on date);
ALTER TABLE notes REPLICA IDENTITY FULL;
ALTER TABLE orders ALTER COLUMN remark SET STORAGE EXTERNAL;
CREATE SEQUENCE order_ids START 1000000;
INSERT INTO wallets SELECT i, {BALANCE} FROM generate_series(1, {WALLETS}) i;
INSERT INTO orders SELECT i, '单-' || i, CASE i % 3 WHEN 0 THEN 'paid' ELSE 'new' END, 0, 0, '2026-01-01'::date + i % 300,
    CASE WHEN i % 50 = 0 THEN repeat('长', 3000) END FROM generate_series(1, $orders) i;
INSERT INTO order_lines SELECT o.id, n, 1 + (o.id + n) % 3, 10.05 * n, 7.10 * n, '2026-02-01'::date FROM orders o, generate_series(1, 2) n;
UPDATE orders SET total = s.total, tax = round(s.total * 0.13, 2)
    FROM (SELECT order_id, sum(qty * price) AS total FROM order_lines GROUP BY 1) s WHERE s.order_id = orders.id;
"""

CONFIG = """
[store]
url = "duckdb:///{folder}/store.duckdb"
[books.main]
base_currency = "CNY"
chart = "small-business-2013"
[sources.shop]
url = "{url}"
tables = ["orders", "order_lines", "wallets", "notes"]
snapshot_chunk = "64KB"
[[rules]]
name = "sale"
book = "main"
table = "shop.orders"
when = "status = 'paid'"
date = "paid_on"
voucher_key = "order_no"
summary = "'销售 ' || order_no"
lines = [
  {{ account = "1122", debit = "total", dims = {{ order = "id" }} }},
  {{ account = "5001", credit = "total - tax" }},
  {{ account = "2221", credit = "tax" }},
]
[[rules]]
name = "cost"
book = "main"
table = "shop.order_lines"
when = "cost IS NOT NULL"
date = "booked_on"
lines = [ {{ account = "5401", debit = "qty * cost" }}, {{ account = "1405", credit = "qty * cost" }} ]
[[rules]]
name = "note"
book = "main"
table = "shop.notes"
date = "noted_on"
lines = [ {{ account = "5602", debit = "amount", dims = {{ author = "author" }} }}, {{ account = "1002", credit = "amount" }} ]
"""

# What the books must say, from the source alone.
RECOMPUTED = """
SELECT account, sum(debit) AS debit, sum(credit) AS credit FROM (
    SELECT '1122' AS account, total AS debit, NULL::numeric AS credit FROM orders WHERE status = 'paid'
    UNION ALL SELECT '5001', NULL, total - tax FROM orders WHERE status = 'paid'
    UNION ALL SELECT '2221', NULL, tax FROM orders WHERE status = 'paid'
    UNION ALL SELECT '5401', qty * cost, NULL FROM order_lines WHERE cost IS NOT NULL
    UNION ALL SELECT '1405', NULL, qty * cost FROM order_lines WHERE cost IS NOT NULL
    UNION ALL SELECT '5602', amount, NULL FROM notes
    UNION ALL SELECT '1002', NULL, amount FROM notes) l
GROUP BY account HAVING sum(coalesce(debit, 0)) <> 0 OR sum(coalesce(credit, 0)) <> 0 ORDER BY account
"""


def create(database: Database, orders: int) -> None:
    """Make the shop's tables with that many orders."""
    database.connection.execute(SCHEMA.replace("$orders", str(orders)))


class Load:
    """Sessions that write until `stop`, each in a thread of its own; `transactions` counts what they committed."""

    def __init__(self, database: Database, sessions: int, seed: int, pause_s: float) -> None:
        self._database, self._pause_s = database, pause_s
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._session, args=(seed * 1000 + i,)) for i in range(sessions)]
        self._lock = threading.Lock()
        self.transactions = 0
        self.errors: list[BaseException] = []

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _session(self, seed: int) -> None:
        rng = random.Random(seed)
        try:
            with self._database.server.connect(self._database.name, autocommit=False) as connection:
                while not self._stopping.wait(rng.random() * 2 * self._pause_s):
                    self._transaction(connection, rng)
        except BaseException as error:
            self.errors.append(error)
            raise

    def _transaction(self, connection: Connection, rng: random.Random) -> None:
        action: Callable[[Connection, random.Random], None] = rng.choice(ACTIONS)
        try:
            action(connection, rng)
            if rng.random() < 0.1:
                connection.rollback()
                return
            connection.commit()
        except (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure, psycopg.errors.ForeignKeyViolation):
            connection.rollback()
            return
        with self._lock:
            self.transactions += 1


def _some_order(connection: Connection, rng: random.Random) -> int | None:
    row = connection.execute(
        "SELECT id FROM orders WHERE id >= %s ORDER BY id LIMIT 1 FOR UPDATE",
        [rng.choice([rng.randrange(5000), 1000000 + rng.randrange(5000)])],
    ).fetchone()
    return row[0] if row else None


def _total(connection: Connection, order: int) -> None:
    connection.execute(
        """UPDATE orders SET total = s.total, tax = round(s.total * 0.13, 2)
        FROM (SELECT coalesce(sum(qty * price), 0) AS total FROM order_lines WHERE order_id = %s) s WHERE id = %s""",
        [order, order],
    )


def sell(connection: Connection, rng: random.Random) -> None:
    """A new order with its lines, paid or not."""
    (order,) = connection.execute("SELECT nextval('order_ids')").fetchall()[0]
    remark = "备注" * 2000 if rng.random() < 0.2 else None
    connection.execute(
        "INSERT INTO orders VALUES (%s, %s, %s, 0, 0, %s, %s)", [order, f"单-{order}", rng.choice(["new", "paid"]), "2026-03-05", remark]
    )
    for line in range(rng.randrange(1, 5)):
        connection.execute(
            "INSERT INTO order_lines VALUES (%s, %s, %s, %s, %s, '2026-03-05')",
            [order, line, rng.randrange(1, 9), f"{rng.randrange(1, 99999) / 100:.2f}", rng.choice([None, "3.33"])],
        )
    _total(connection, order)


def change(connection: Connection, rng: random.Random) -> None:
    """Other quantities, another status; the long remark stays as it is."""
    if (order := _some_order(connection, rng)) is not None:
        connection.execute("UPDATE order_lines SET qty = %s WHERE order_id = %s AND line_no <= 1", [rng.randrange(1, 9), order])
        connection.execute("UPDATE orders SET status = %s WHERE id = %s", [rng.choice(["new", "paid", "void"]), order])
        _total(connection, order)


def pay_twice(connection: Connection, rng: random.Random) -> None:
    """Many changes of one row in one transaction, some of them none."""
    if (order := _some_order(connection, rng)) is not None:
        for status in ("paid", "paid", "new", "paid"):
            connection.execute("UPDATE orders SET status = %s WHERE id = %s", [status, order])


def renumber(connection: Connection, rng: random.Random) -> None:
    """A key changes, and its lines' keys with it; sometimes two keys are swapped."""
    if (order := _some_order(connection, rng)) is None:
        return
    (fresh,) = connection.execute("SELECT nextval('order_ids')").fetchall()[0]
    connection.execute("UPDATE orders SET id = %s WHERE id = %s", [fresh, order])
    other = _some_order(connection, rng) if rng.random() < 0.5 else None
    if other is not None and other != fresh:
        connection.execute("UPDATE orders SET id = %s WHERE id = %s", [order, other])
        connection.execute("UPDATE orders SET id = %s WHERE id = %s", [other, fresh])


def drop(connection: Connection, rng: random.Random) -> None:
    """An order goes with its lines; sometimes it comes back in the same transaction."""
    if (order := _some_order(connection, rng)) is not None:
        connection.execute("DELETE FROM orders WHERE id = %s", [order])
        if rng.random() < 0.3:
            connection.execute("INSERT INTO orders VALUES (%s, '又来', 'paid', 0, 0, '2026-04-01', NULL)", [order])


def transfer(connection: Connection, rng: random.Random) -> None:
    """Money goes from one wallet to another; part of it is thought better of."""
    first, second = sorted(rng.sample(range(1, WALLETS + 1), 2))
    amount = f"{rng.randrange(1, 10000) / 100:.2f}"
    connection.execute("UPDATE wallets SET balance = balance - %s::numeric WHERE id = %s", [amount, first])
    connection.execute("SAVEPOINT thought")
    connection.execute("UPDATE wallets SET balance = balance - 1 WHERE id = %s", [second])
    connection.execute("ROLLBACK TO SAVEPOINT thought")
    connection.execute("UPDATE wallets SET balance = balance + %s::numeric WHERE id = %s", [amount, second])


def note(connection: Connection, rng: random.Random) -> None:
    """Rows of a table without key, often equal to each other."""
    author, amount = rng.choice(["甲", "乙", None]), f"{rng.randrange(1, 4)}.50"
    connection.execute("INSERT INTO notes VALUES (%s, %s, '2026-05-01')", [author, amount])
    roll = rng.random()
    if roll < 0.3:
        connection.execute("DELETE FROM notes WHERE ctid = (SELECT min(ctid) FROM notes WHERE amount = %s)", [amount])
    elif roll < 0.6:
        connection.execute("UPDATE notes SET amount = amount + 1 WHERE ctid = (SELECT max(ctid) FROM notes WHERE amount < 50)")
    elif roll < 0.62:
        connection.execute("TRUNCATE notes")


ACTIONS = (sell, sell, change, change, pay_twice, renumber, drop, transfer, transfer, note)
