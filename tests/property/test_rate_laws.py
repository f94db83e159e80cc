"""Rates out of a captured table are as of the end of each change's own transaction, and one that changes reposts what asked for it, however
the stream is cut. The model is plain Python."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.accounting.accountant import Accountant
from cdc.config import RuleConfig
from tests.changes import Row, book, table
from tests.property.stores import Store
from tests.property.streams import CRASHES, CUTS, Tables, Transaction, delete, histories, put, stream

ORDERS = table("orders", ["no"], no="BIGINT", cur="VARCHAR", day="DATE", total="DECIMAL(12,2)")
FX = table("fx", ["id"], id="BIGINT", cur="VARCHAR", day="DATE", mid="DECIMAL(12,4)")
SCHEMAS = {schema.table: schema for schema in (ORDERS, FX)}
RATES = {"table": "shop.fx", "currency": "cur", "date": "day", "rate": "mid * 0.01", "when": "mid < 900", "max_age": "2d"}
RULES = [
    RuleConfig(
        name="sale",
        book="main",
        table="shop.orders",
        date="day",
        currency="cur",
        rate={"type": "spot"},
        lines=[{"account": "1122", "debit": "total"}, {"account": "5001", "credit": "total"}],
    )
]


def wanted(order: Row, tables: Tables) -> tuple[Decimal, Decimal] | None:
    """The amount in base currency and the rate; None where there is none."""
    if order["cur"] == "CNY":
        return order["total"], Decimal(1)
    taken: dict[date, set[Decimal]] = {}
    for row in tables["fx"].values():
        if row["cur"] == order["cur"] and order["day"] - timedelta(2) <= row["day"] <= order["day"] and 0 < row["mid"] < 900:
            taken.setdefault(row["day"], set()).add(row["mid"])
    latest = taken[max(taken)] if taken else set()
    if len(latest) != 1:
        return None
    rate = latest.pop() / 100
    return (order["total"] * rate).quantize(Decimal("0.01"), ROUND_HALF_UP), rate


def expected(history: Sequence[Transaction]) -> tuple[Counter[tuple[Any, ...]], set[int]]:
    """What is posted, without order; and the orders that lie in quarantine in the end."""
    stands: dict[int, tuple[Any, ...]] = {}
    posted: Counter[tuple[Any, ...]] = Counter()
    faulty: set[int] = set()

    def consider(number: int, tables: Tables, order: Row | None) -> None:
        want = None if order is None else wanted(order, tables)
        if order is not None and want is None:
            faulty.add(number)
            return
        faulty.discard(number)
        new = None if order is None or want is None else (order["day"], order["cur"], order["total"], *want)
        if stands.get(number) == new:
            return
        if number in stands:
            posted[("reverse", number, *stands.pop(number))] += 1
        if new is not None:
            stands[number] = new
            posted[("post", number, *new)] += 1

    for transaction in history:
        for name, change in transaction.changes:
            if name == "orders":
                consider(change.values["no"], transaction.tables, None if change.op == "d" else change.values)
        if any(name == "fx" for name, _ in transaction.changes):
            for number, order in transaction.tables["orders"].items():
                consider(number, transaction.tables, order)
    return posted, faulty


_IDS, _DAYS = st.integers(1, 3), st.dates(date(2026, 1, 30), date(2026, 2, 3))
_CURRENCIES = st.sampled_from(["USD", "EUR", "CNY"])
_STEPS = st.one_of(
    put(
        "orders",
        st.fixed_dictionaries(
            {"no": _IDS, "cur": _CURRENCIES, "day": _DAYS, "total": st.sampled_from([Decimal("1.00"), Decimal("33.33"), Decimal("-2.50")])}
        ),
    ),
    put(
        "fx",
        st.fixed_dictionaries(
            {
                "id": _IDS,
                "cur": st.sampled_from(["USD", "EUR"]),
                "day": _DAYS,
                "mid": st.sampled_from([Decimal("712.3456"), Decimal("780.0000"), Decimal("0.0000"), Decimal("999.0000")]),
            }
        ),
    ),
    delete(*SCHEMAS),
)


@pytest.fixture(scope="module")
def accountant() -> Iterator[Accountant]:
    with closing(Accountant([each for rule in RULES for each in rule.by_book()], book(rates=RATES))) as made:
        made.check(SCHEMAS.values())
        yield made


def posted(store: Store) -> Counter[tuple[Any, ...]]:
    lines = {line["entry_id"]: line for line in store.lines() if line["debit"] is not None}
    found: Counter[tuple[Any, ...]] = Counter()
    for entry in store.entries():
        line, number = lines[entry["entry_id"]], json.loads(entry["row_key"])["no"]
        sign = -1 if entry["kind"] == "reverse" else 1
        amounts = line["currency"], sign * line["orig_amount"], sign * line["debit"], line["rate"]
        found[(entry["kind"], number, entry["entry_date"], *amounts)] += 1
    return found


@given(history=histories(SCHEMAS, _STEPS, steps_max=6), cuts=CUTS, crash=CRASHES)
@settings(max_examples=200)
def test_rates_are_as_of_the_transaction_and_repost(
    store: Callable[[], Any], history: list[Transaction], cuts: list[int], crash: int
) -> None:
    wanted_posts, faulty = expected(history)
    with store() as made:
        made.apply(stream(SCHEMAS, history, cuts), crash)
        assert posted(made) == wanted_posts
        assert {json.loads(item["row_key"])["no"] for item in made.open_items()} == faulty
