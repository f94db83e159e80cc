"""What people do in the shop. Each function is (part of) one transaction and answers whether there was anything to do it to.

An order is taken with FOR UPDATE SKIP LOCKED, so sessions never wait for each other's orders.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]
Operation = Callable[[Connection, Random], bool]

_FEE_PERMILLE = {"bank": 0, "card": 6, "wallet": 6, "cash": 0}
_REASONS = ("七天无理由", "包装破损", "发错规格", "客户改变主意")
_NOTES = ("请开发票", "送到前台", "周末送货", "生日礼物")
_SETTLE = """
UPDATE orders o SET total = l.total, tax = l.tax, paid = coalesce(p.amount, 0) - coalesce(r.amount, 0), refunded = coalesce(r.amount, 0)
FROM (SELECT sum(amount) AS total, sum(tax) AS tax FROM order_lines WHERE order_id = %(order)s) l,
  (SELECT sum(amount) AS amount FROM payments WHERE order_id = %(order)s) p,
  (SELECT sum(amount) AS amount FROM refunds WHERE order_id = %(order)s) r
WHERE o.id = %(order)s
"""


def draft(connection: Connection, rng: Random) -> bool:
    """Somebody begins an order and may never finish it."""
    _place(connection, rng, "draft")
    return True


def confirm(connection: Connection, rng: Random) -> bool:
    """A new order; firms often pay a deposit with it."""
    order = _place(connection, rng, "confirmed")
    if rng.random() < 0.4:
        _pay(connection, rng, order, "deposit", 30)
    return True


def confirm_draft(connection: Connection, rng: Random) -> bool:
    """A draft becomes an order."""
    order = _pick(connection, rng, "status = 'draft'")
    if order:
        connection.execute("UPDATE orders SET status = 'confirmed' WHERE id = %s", [order])
    return order is not None


def counter_sale(connection: Connection, rng: Random) -> bool:
    """Goods over the counter: ordered, handed over and paid at once."""
    order = _place(connection, rng, "confirmed")
    _ship(connection, order)
    _pay(connection, rng, order, "payment", 100)
    return True


def ship(connection: Connection, rng: Random) -> bool:
    """The goods leave; a deposit becomes part of the price."""
    order = _pick(connection, rng, "status = 'confirmed'")
    if order:
        _ship(connection, order)
    return order is not None


def pay(connection: Connection, rng: Random) -> bool:
    """A customer pays what is due, or a part of it."""
    order = _pick(connection, rng, "status = 'shipped' AND paid + refunded < total")
    if order:
        _pay(connection, rng, order, "payment", rng.choice((50, 100, 100, 100)))
    return order is not None


def correct(connection: Connection, rng: Random) -> bool:
    """Quantity or price of a line was wrong; of an order with money on it only upwards, so that nothing is overpaid."""
    order = _pick(connection, rng, "status <> 'cancelled' AND refunded = 0")
    if not order:
        return False
    paid, line = _one(
        connection,
        "SELECT o.paid, l.line_no FROM orders o JOIN order_lines l ON l.order_id = o.id WHERE o.id = %s"
        " ORDER BY md5(l.line_no::text || %s) LIMIT 1",
        [order, str(rng.random())],
    )
    percent = rng.choice((85, 90, 100)) if paid == 0 else 100
    connection.execute(
        """
        UPDATE order_lines l
        SET quantity = n.quantity, unit_price = n.unit_price, amount = n.quantity * n.unit_price, cost = n.quantity * unit_cost,
          tax = round(n.quantity * n.unit_price * tax_percent / (100 + tax_percent), 2)
        FROM (
          SELECT quantity + %(more)s AS quantity, round(unit_price * %(percent)s / 100, 2) AS unit_price
          FROM order_lines WHERE order_id = %(order)s AND line_no = %(line)s
        ) n
        WHERE l.order_id = %(order)s AND l.line_no = %(line)s
        """,
        {"percent": percent, "more": int(percent == 100), "order": order, "line": line},
    )
    connection.execute(_SETTLE, {"order": order})
    return True


def change_customer(connection: Connection, rng: Random) -> bool:
    """The order was somebody else's."""
    order = _pick(connection, rng, "status <> 'cancelled'")
    if order:
        connection.execute("UPDATE orders SET customer_id = %s WHERE id = %s", [_customer(connection, rng), order])
    return order is not None


def renumber_lines(connection: Connection, rng: Random) -> bool:
    """An order's lines get new numbers: their primary key changes, and that of the refunds' reference with it."""
    order = _pick(connection, rng, "true")
    if order:
        connection.execute("UPDATE order_lines SET line_no = line_no + 100 WHERE order_id = %s", [order])
    return order is not None


def write_note(connection: Connection, rng: Random) -> bool:
    """A change that no rule sees and that must post nothing."""
    order = _pick(connection, rng, "true")
    if order:
        connection.execute("UPDATE orders SET note = %s WHERE id = %s", [rng.choice(_NOTES), order])
    connection.execute("UPDATE customers SET note = %s WHERE id = %s", [rng.choice(_NOTES), _customer(connection, rng)])
    return True


def refund(connection: Connection, rng: Random) -> bool:
    """A line of a paid order comes back and its money is returned."""
    order = _pick(connection, rng, "status = 'shipped' AND paid + refunded = total AND refunded = 0")
    if order:
        connection.execute(
            """
            INSERT INTO refunds (order_id, line_no, method, amount, tax, cost, restocked, reason)
            SELECT order_id, line_no, %s::payment_method, amount, tax, cost, NOT service AND %s, %s FROM order_lines WHERE order_id = %s
            ORDER BY line_no LIMIT 1
            """,
            [_method(rng)[0], rng.random() < 0.8, rng.choice(_REASONS), order],
        )
        connection.execute(_SETTLE, {"order": order})
    return order is not None


def change_method(connection: Connection, rng: Random) -> bool:
    """A payment was booked under the wrong method."""
    order = _pick(connection, rng, "paid > 0")
    if order:
        method, permille = _method(rng)
        connection.execute(
            "UPDATE payments SET method = %s::payment_method, fee = round(amount * %s / 1000, 2) WHERE order_id = %s",
            [method, permille, order],
        )
    return order is not None


def void_payment(connection: Connection, rng: Random) -> bool:
    """A payment that never came is struck out: its row is deleted."""
    order = _pick(connection, rng, "status = 'shipped' AND paid > 0 AND refunded = 0")
    if order:
        connection.execute("DELETE FROM payments WHERE order_id = %s", [order])
        connection.execute(_SETTLE, {"order": order})
    return order is not None


def cancel(connection: Connection, rng: Random) -> bool:
    """An order without money on it is called off, also after its goods were sent."""
    order = _pick(connection, rng, "status IN ('confirmed', 'shipped') AND paid = 0 AND refunded = 0")
    if order:
        connection.execute("UPDATE order_lines SET shipped_at = NULL WHERE order_id = %s", [order])
        connection.execute("UPDATE orders SET status = 'cancelled', shipped_at = NULL WHERE id = %s", [order])
    return order is not None


def delete_draft(connection: Connection, rng: Random) -> bool:
    """A draft is thrown away with its lines."""
    order = _pick(connection, rng, "status = 'draft'")
    if order:
        connection.execute("DELETE FROM orders WHERE id = %s", [order])
    return order is not None


def purchase(connection: Connection, rng: Random) -> bool:
    """Stock comes in, on account."""
    connection.execute(
        """
        INSERT INTO purchases (supplier, product_id, quantity, amount, tax)
        SELECT '示例供货' || %(supplier)s::int || '号', p.id, %(quantity)s::int, a.amount,
          round(a.amount * tax_percent / (100 + tax_percent), 2)
        FROM products p CROSS JOIN LATERAL (SELECT round(%(quantity)s * p.cost * (100 + tax_percent) / 100, 2) AS amount) a
        WHERE NOT p.service ORDER BY md5(p.id::text || %(pick)s) LIMIT 1
        """,
        {"supplier": rng.randint(1, 5), "quantity": rng.randint(10, 40), "pick": str(rng.random())},
    )
    return True


def pay_purchase(connection: Connection, rng: Random) -> bool:
    """A supplier is paid."""
    done = connection.execute(
        "UPDATE purchases SET paid_at = now() WHERE id ="
        " (SELECT id FROM purchases WHERE paid_at IS NULL ORDER BY id DESC LIMIT 1 FOR UPDATE SKIP LOCKED)"
    )
    return done.rowcount > 0


OPERATIONS: dict[Operation, int] = {
    counter_sale: 22,
    confirm: 16,
    ship: 16,
    pay: 14,
    correct: 10,
    draft: 6,
    confirm_draft: 3,
    delete_draft: 4,
    change_customer: 4,
    write_note: 4,
    refund: 5,
    void_payment: 2,
    change_method: 2,
    cancel: 4,
    renumber_lines: 1,
    purchase: 2,
    pay_purchase: 1,
}


def _one(connection: Connection, statement: str, parameters: list[object]) -> tuple[Any, ...]:
    row = connection.execute(statement, parameters).fetchone()
    assert row is not None
    return row


def _pick(connection: Connection, rng: Random, condition: str) -> int | None:
    """Lock an order, rather a young one; None if the first after a random place is not there."""
    from_ = max(0.0, 1 - rng.expovariate(6))
    row = connection.execute(
        "SELECT id FROM orders WHERE id >= (SELECT (max(id) * %s)::bigint FROM orders)"
        f" AND {condition} ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED",
        [from_],
    ).fetchone()
    return int(row[0]) if row else None


def _customer(connection: Connection, rng: Random) -> int:
    return int(_one(connection, "SELECT 1 + floor(max(id) * %s::float8)::int FROM customers", [rng.random()])[0])


def _method(rng: Random) -> tuple[str, int]:
    """A payment method and its fee in thousandths."""
    return rng.choice(list(_FEE_PERMILLE.items()))


def _place(connection: Connection, rng: Random, status: str) -> int:
    order = int(
        _one(
            connection,
            "INSERT INTO orders (store_id, customer_id, status) VALUES (%s, %s, %s::order_status) RETURNING id",
            [rng.randint(1, 4), _customer(connection, rng), status],
        )[0]
    )
    products = rng.sample(range(1, 25), rng.randint(1, 4))
    connection.execute(
        """
        INSERT INTO order_lines (order_id, line_no, product_id, quantity, unit_price, amount, tax_percent, tax, unit_cost, cost, service)
        SELECT %s, w.line_no, p.id, w.quantity, p.price, w.quantity * p.price, p.tax_percent,
          round(w.quantity * p.price * p.tax_percent / (100 + p.tax_percent), 2), p.cost, w.quantity * p.cost, p.service
        FROM unnest(%s::int[], %s::int[]) WITH ORDINALITY w (product_id, quantity, line_no) JOIN products p ON p.id = w.product_id
        """,
        [order, products, [rng.randint(1, 3) for _ in products]],
    )
    connection.execute(_SETTLE, {"order": order})
    return order


def _ship(connection: Connection, order: int) -> None:
    connection.execute("UPDATE order_lines SET shipped_at = now() WHERE order_id = %s", [order])
    connection.execute("UPDATE payments SET applied_at = now() WHERE order_id = %s AND kind = 'deposit'", [order])
    connection.execute("UPDATE orders SET status = 'shipped', shipped_at = now() WHERE id = %s", [order])


def _pay(connection: Connection, rng: Random, order: int, kind: str, percent: int) -> None:
    method, permille = _method(rng)
    connection.execute(
        """
        INSERT INTO payments (order_id, kind, method, amount, fee)
        SELECT id, %s::payment_kind, %s::payment_method, d.amount, round(d.amount * %s / 1000, 2)
        FROM orders CROSS JOIN LATERAL (SELECT round((total - paid - refunded) * %s / 100, 2) AS amount) d WHERE id = %s AND d.amount > 0
        """,
        [kind, method, permille, percent, order],
    )
    connection.execute(_SETTLE, {"order": order})
