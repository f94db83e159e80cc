"""A small shop under load: the schema, eight sessions that sell, change and give up, and the rules of its books.

What only whole transactions keep true, and what a reader of the store therefore checks at any moment: an order's total is the sum of its
lines; the wallets' balances add up to a constant; the receivables of the books are the totals of the paid orders.
"""

from __future__ import annotations

import itertools
import random
import threading
from collections.abc import Callable

from tests.faults.dialects import MYSQL, POSTGRES, AnyDatabase, Session, gave_way
from tests.servers.postgres import Database

WALLETS, BALANCE = 40, 1000
TABLES = ("orders", "order_lines", "wallets", "notes")
IDS = itertools.count(1_000_000)

SCHEMA = """
CREATE TABLE orders (
    id bigint PRIMARY KEY, order_no {key_text} NOT NULL, status {key_text} NOT NULL, total numeric(18,2) NOT NULL,
    tax numeric(18,2) NOT NULL, paid_on date, remark text) {table_options};
CREATE TABLE order_lines (
    order_id bigint {foreign_key}, line_no int, qty int NOT NULL, price numeric(12,2) NOT NULL,
    cost numeric(12,2), booked_on date NOT NULL, PRIMARY KEY (order_id, line_no)) {table_options};
CREATE TABLE wallets (id int PRIMARY KEY, balance numeric(18,2) NOT NULL) {table_options};
CREATE TABLE notes (author {key_text}, amount numeric(12,2), noted_on date) {table_options};
INSERT INTO wallets SELECT i, {balance} FROM {wallets};
INSERT INTO orders SELECT i, concat('单-', i), CASE i % 3 WHEN 0 THEN 'paid' ELSE 'new' END, 0, 0, {paid_on},
    CASE WHEN i % 50 = 0 THEN repeat('长', 3000) END FROM {orders};
INSERT INTO order_lines SELECT o.id, l.i, 1 + (o.id + l.i) % 3, 10.05 * l.i, 7.10 * l.i, '2026-02-01'
    FROM orders o, (SELECT 1 AS i UNION SELECT 2) l;
UPDATE orders SET total = (SELECT sum(qty * price) FROM order_lines WHERE order_id = id),
    tax = round((SELECT sum(qty * price) FROM order_lines WHERE order_id = id) * 0.13, 2)
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
    SELECT '1122' AS account, total AS debit, CAST(NULL AS DECIMAL(18,2)) AS credit FROM orders WHERE status = 'paid'
    UNION ALL SELECT '5001', NULL, total - tax FROM orders WHERE status = 'paid'
    UNION ALL SELECT '2221', NULL, tax FROM orders WHERE status = 'paid'
    UNION ALL SELECT '5401', qty * cost, NULL FROM order_lines WHERE cost IS NOT NULL
    UNION ALL SELECT '1405', NULL, qty * cost FROM order_lines WHERE cost IS NOT NULL
    UNION ALL SELECT '5602', amount, NULL FROM notes
    UNION ALL SELECT '1002', NULL, amount FROM notes) l
GROUP BY account HAVING sum(coalesce(debit, 0)) <> 0 OR sum(coalesce(credit, 0)) <> 0 ORDER BY account
"""


def create(database: AnyDatabase, orders: int) -> None:
    """Make the shop's tables with that many orders."""
    dialect = POSTGRES if isinstance(database, Database) else MYSQL
    schema = SCHEMA.format(
        key_text=dialect.key_text,
        table_options=dialect.table_options,
        foreign_key=dialect.foreign_key,
        balance=BALANCE,
        wallets=dialect.numbers.format(count=WALLETS),
        orders=dialect.numbers.format(count=orders),
        paid_on=dialect.day.format(date="2026-01-01", days="i % 300"),
    )
    session = Session(database)
    try:
        session.allow_long_recursion(orders)
        for statement in [*schema.split(";\n"), *dialect.settings]:
            session.execute(statement)
        session.commit()
    finally:
        session.close()


class Load:
    """Sessions that write until `stop`, each in a thread of its own; `transactions` counts what they committed."""

    def __init__(self, database: AnyDatabase, sessions: int, seed: int, pause_s: float) -> None:
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
        rng, session = random.Random(seed), Session(self._database)
        try:
            while not self._stopping.wait(rng.random() * 2 * self._pause_s):
                self._transaction(session, rng)
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            session.close()

    def _transaction(self, session: Session, rng: random.Random) -> None:
        action: Callable[[Session, random.Random], None] = rng.choice(ACTIONS)
        try:
            action(session, rng)
            if rng.random() < 0.1:
                session.rollback()
                return
            session.commit()
        except Exception as error:
            session.rollback()
            if not gave_way(error):
                raise
            return
        with self._lock:
            self.transactions += 1


def _some_order(session: Session, rng: random.Random) -> int | None:
    start = rng.choice([rng.randrange(5000), 1000000 + rng.randrange(5000)])
    found = session.execute("SELECT id FROM orders WHERE id >= %s ORDER BY id LIMIT 1 FOR UPDATE", [start])
    return found[0][0] if found else None


def _total(session: Session, order: int) -> None:
    lines = "(SELECT coalesce(sum(qty * price), 0) FROM order_lines WHERE order_id = %s)"
    session.execute(f"UPDATE orders SET total = {lines}, tax = round({lines} * 0.13, 2) WHERE id = %s", [order, order, order])


def sell(session: Session, rng: random.Random) -> None:
    """A new order with its lines, paid or not."""
    order = next(IDS)
    remark = "备注" * 2000 if rng.random() < 0.2 else None
    session.execute(
        "INSERT INTO orders VALUES (%s, %s, %s, 0, 0, %s, %s)", [order, f"单-{order}", rng.choice(["new", "paid"]), "2026-03-05", remark]
    )
    for line in range(rng.randrange(1, 5)):
        session.execute(
            "INSERT INTO order_lines VALUES (%s, %s, %s, %s, %s, '2026-03-05')",
            [order, line, rng.randrange(1, 9), f"{rng.randrange(1, 99999) / 100:.2f}", rng.choice([None, "3.33"])],
        )
    _total(session, order)


def change(session: Session, rng: random.Random) -> None:
    """Other quantities, another status; the long remark stays as it is."""
    if (order := _some_order(session, rng)) is not None:
        session.execute("UPDATE order_lines SET qty = %s WHERE order_id = %s AND line_no <= 1", [rng.randrange(1, 9), order])
        session.execute("UPDATE orders SET status = %s WHERE id = %s", [rng.choice(["new", "paid", "void"]), order])
        _total(session, order)


def pay_twice(session: Session, rng: random.Random) -> None:
    """Many changes of one row in one transaction, some of them none."""
    if (order := _some_order(session, rng)) is not None:
        for status in ("paid", "paid", "new", "paid"):
            session.execute("UPDATE orders SET status = %s WHERE id = %s", [status, order])


def renumber(session: Session, rng: random.Random) -> None:
    """A key changes, and its lines' keys with it; sometimes two keys are swapped."""
    if (order := _some_order(session, rng)) is None:
        return
    fresh = next(IDS)
    _rekey(session, order, fresh)
    other = _some_order(session, rng) if rng.random() < 0.5 else None
    if other is not None and other != fresh:
        _rekey(session, other, order)
        _rekey(session, fresh, other)


def _rekey(session: Session, old: int, new: int) -> None:
    session.execute("UPDATE orders SET id = %s WHERE id = %s", [new, old])
    if not session.cascades:
        session.execute("UPDATE order_lines SET order_id = %s WHERE order_id = %s", [new, old])


def drop(session: Session, rng: random.Random) -> None:
    """An order goes with its lines; sometimes it comes back in the same transaction."""
    if (order := _some_order(session, rng)) is not None:
        if not session.cascades:
            session.execute("DELETE FROM order_lines WHERE order_id = %s", [order])
        session.execute("DELETE FROM orders WHERE id = %s", [order])
        if rng.random() < 0.3:
            session.execute("INSERT INTO orders VALUES (%s, '又来', 'paid', 0, 0, '2026-04-01', NULL)", [order])


def transfer(session: Session, rng: random.Random) -> None:
    """Money goes from one wallet to another; part of it is thought better of."""
    first, second = sorted(rng.sample(range(1, WALLETS + 1), 2))
    amount = f"{rng.randrange(1, 10000) / 100:.2f}"
    session.execute("UPDATE wallets SET balance = balance - CAST(%s AS DECIMAL(18,2)) WHERE id = %s", [amount, first])
    session.execute("SAVEPOINT thought")
    session.execute("UPDATE wallets SET balance = balance - 1 WHERE id = %s", [second])
    session.execute("ROLLBACK TO SAVEPOINT thought")
    session.execute("UPDATE wallets SET balance = balance + CAST(%s AS DECIMAL(18,2)) WHERE id = %s", [amount, second])


def note(session: Session, rng: random.Random) -> None:
    """Rows of a table without key, often equal to each other."""
    author, amount = rng.choice(["甲", "乙", None]), f"{rng.randrange(1, 4)}.50"
    session.execute("INSERT INTO notes VALUES (%s, %s, '2026-05-01')", [author, amount])
    roll = rng.random()
    if roll < 0.3:
        session.execute(session.dialect.remove_note, [amount])
    elif roll < 0.6:
        session.execute(session.dialect.raise_note)
    elif roll < 0.62:
        session.execute("TRUNCATE TABLE notes")


ACTIONS = (sell, sell, change, change, pay_twice, renumber, drop, transfer, transfer, note)
