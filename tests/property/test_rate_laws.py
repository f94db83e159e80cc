"""Rates out of a captured table are as of the end of each change's own transaction, and one that changes reposts what asked for it, however
the stream is cut. The model is plain Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import date, timedelta
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.accounting.accountant import Accountant
from cdc.config import RuleConfig
from checkpoints.file import FileCheckpoints
from checkpoints.instore import InStore
from sinks.duckdb import DuckDBSink
from sinks.memory import MemorySink
from tests.changes import Change, Row, book, table
from tests.property.test_laws import Store
from tests.property.test_lookup_laws import Logged, batches

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
Tables = dict[str, dict[int, Row]]


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


def expected(logs: Sequence[Sequence[Logged]]) -> tuple[Counter[tuple[Any, ...]], set[int]]:
    """What is posted, without order; and the orders that lie in quarantine in the end."""
    tables: Tables = {name: {} for name in SCHEMAS}
    stands: dict[int, tuple[Any, ...]] = {}
    posted: Counter[tuple[Any, ...]] = Counter()
    faulty: set[int] = set()

    def consider(number: int, order: Row | None) -> None:
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

    for log in logs:
        for name, change in log:
            if change.op == "d":
                del tables[name][change.values[SCHEMAS[name].key[0]]]
            else:
                tables[name][change.values[SCHEMAS[name].key[0]]] = change.values
        for name, change in log:
            if name == "orders":
                consider(change.values["no"], None if change.op == "d" else change.values)
        if any(name == "fx" for name, _ in log):
            for number, order in tables["orders"].items():
                consider(number, order)
    return posted, faulty


_IDS, _DAYS = st.integers(1, 3), st.dates(date(2026, 1, 30), date(2026, 2, 3))
_CURRENCIES = st.sampled_from(["USD", "EUR", "CNY"])
_STEP = st.one_of(
    st.tuples(
        st.just("orders"),
        st.fixed_dictionaries(
            {"no": _IDS, "cur": _CURRENCIES, "day": _DAYS, "total": st.sampled_from([Decimal("1.00"), Decimal("33.33"), Decimal("-2.50")])}
        ),
    ),
    st.tuples(
        st.just("fx"),
        st.fixed_dictionaries(
            {
                "id": _IDS,
                "cur": st.sampled_from(["USD", "EUR"]),
                "day": _DAYS,
                "mid": st.sampled_from([Decimal("712.3456"), Decimal("780.0000"), Decimal("0.0000"), Decimal("999.0000")]),
            }
        ),
    ),
    st.tuples(st.just("delete"), st.tuples(st.sampled_from(list(SCHEMAS)), st.integers(0, 5))),
)


@st.composite
def histories(draw: st.DrawFn) -> list[list[Logged]]:
    """Transactions, each the changes that it made."""
    logs, tables = [], {name: dict[Any, Row]() for name in SCHEMAS}
    for steps in draw(st.lists(st.lists(_STEP, min_size=1, max_size=6), min_size=1, max_size=6)):
        log: list[Logged] = []
        for name, given_row in steps:
            if name == "delete":
                name, pick = given_row
                if tables[name]:
                    key = sorted(tables[name])[pick % len(tables[name])]
                    log.append((name, Change("d", tables[name].pop(key))))
            else:
                key = given_row[SCHEMAS[name].key[0]]
                log.append((name, Change("u" if key in tables[name] else "c", given_row)))
                tables[name][key] = given_row
        if log:
            logs.append(log)
    return logs


@pytest.fixture(scope="module")
def accountant() -> Iterator[Accountant]:
    with closing(Accountant([each for rule in RULES for each in rule.by_book()], book(rates=RATES))) as made:
        made.check(SCHEMAS.values())
        yield made


@pytest.fixture(scope="module", params=["memory", "duckdb"])
def store(request: pytest.FixtureRequest, accountant: Accountant, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Store]:
    folder = tmp_path_factory.mktemp("stores")

    def new() -> Store:
        path = folder / str(len(list(folder.iterdir())))
        in_memory = request.param == "memory"
        sink: Any = MemorySink() if in_memory else DuckDBSink(f"{path}.duckdb", 64 << 20)
        sink.prepare([])
        return Store(sink, FileCheckpoints(Path(f"{path}.json")) if in_memory else InStore(), accountant)

    return new


def posted(store: Store) -> Counter[tuple[Any, ...]]:
    lines = {line["entry_id"]: line for line in store.lines() if line["debit"] is not None}
    found: Counter[tuple[Any, ...]] = Counter()
    for entry in store.entries():
        line, number = lines[entry["entry_id"]], int(entry["row_key"].removeprefix('{"no": ').removesuffix("}"))
        sign = -1 if entry["kind"] == "reverse" else 1
        amounts = line["currency"], sign * line["orig_amount"], sign * line["debit"], line["rate"]
        found[(entry["kind"], number, entry["entry_date"], *amounts)] += 1
    return found


@given(logs=histories(), cuts=st.lists(st.integers(0, 60), max_size=8), crash=st.integers(0, 8))
@settings(max_examples=200)
def test_rates_are_as_of_the_transaction_and_repost(
    store: Callable[[], Store], logs: list[list[Logged]], cuts: list[int], crash: int
) -> None:
    wanted_posts, faulty = expected(logs)
    made = store()
    try:
        parts = list(batches(logs, cuts, SCHEMAS))
        for number, batch in enumerate(parts):
            if number == crash:  # what was not committed comes again
                made.reopen()
                begun = next(i for i in range(number, -1, -1) if i == 0 or parts[i - 1].whole)
                for again in parts[begun:number]:
                    made.pipeline.apply([again])
            made.pipeline.apply([batch])
        assert posted(made) == wanted_posts
        assert {int(i["row_key"][7:-1]) for i in made.quarantine() if i["status"] == "open"} == faulty
    finally:
        made.pipeline.forget()
        made.sink.close()
