"""What rules look up is as of the end of each change's own transaction, however the stream is cut. The model is plain Python."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.accounting.accountant import Accountant
from cdc.config import RuleConfig
from tests.changes import Row, book, table
from tests.property.stores import Store
from tests.property.streams import CRASHES, CUTS, Tables, Transaction, delete, histories, put, stream

ORDERS = table("orders", ["no"], no="BIGINT", buyer="BIGINT", code="VARCHAR", total="DECIMAL(12,2)", payers="JSON")
BUYERS = table("buyers", ["id"], id="BIGINT", code="VARCHAR", region="VARCHAR")
REGIONS = table("regions", ["name"], name="VARCHAR", account="VARCHAR")
SCHEMAS = {schema.table: schema for schema in (ORDERS, BUYERS, REGIONS)}
_LINES = [{"account": "1122", "debit": "total"}, {"account": "5001", "credit": "total"}]
RULES = [
    RuleConfig(
        name="sale",
        book="main",
        table="shop.orders",
        date="DATE '2026-11-01'",
        summary="buyer.region",
        lookup={
            "buyer": {"table": "shop.buyers", "on": {"id": "buyer"}},
            "region": {"table": "shop.regions", "on": {"name": "buyer.region"}, "optional": True},
        },
        lines=[{"account": {"expr": "coalesce(region.account, '1122')"}, "debit": "total"}, {"account": "5001", "credit": "total"}],
    ),
    RuleConfig(
        name="coded",
        book="main",
        table="shop.orders",
        when="buyer.region <> 'none'",
        date="DATE '2026-11-01'",
        summary="CAST(buyer.id AS VARCHAR)",
        lookup={"buyer": {"table": "shop.buyers", "on": {"code": "code"}}},
        lines=_LINES,
    ),
    RuleConfig(
        name="paid",
        book="main",
        table="shop.orders",
        date="DATE '2026-11-01'",
        each={"payer": "payers"},
        lookup={
            "buyer": {"table": "shop.buyers", "on": {"id": "CAST(payer.id AS BIGINT)"}},
            "region": {"table": "shop.regions", "on": {"name": "buyer.region"}, "optional": True},
        },
        lines=[
            {"each": "payer", "account": {"expr": "coalesce(region.account, '1122')"}, "debit": "total", "by": "1"},
            {"account": "5001", "credit": "total", "when": "payers IS NOT NULL"},
        ],
    ),
]


class Wanted(NamedTuple):
    """Of an entry: its summary, the accounts that are debited, how much."""

    summary: str | None
    account: str
    total: Decimal


def wanted(rule: str, order: Row, tables: Tables) -> Wanted | str | None:
    """What a rule wants of an order; a text if it can't tell."""
    if rule == "paid":
        return paid(order, tables)
    if rule == "sale":
        buyer = tables["buyers"].get(order["buyer"])
        if buyer is None:
            return f"buyer: 0 rows with id = {'NULL' if order['buyer'] is None else order['buyer']}"
        region = tables["regions"].get(buyer["region"])
        return Wanted(buyer["region"], region["account"] if region else "1122", order["total"])
    found = [row for row in tables["buyers"].values() if row["code"] == order["code"] and order["code"] is not None]
    if len(found) != 1:
        return f"buyer: {len(found)} rows with code = {order['code'] or 'NULL'}"
    buyer = found[0]
    return Wanted(str(buyer["id"]), "1122", order["total"]) if buyer["region"] not in (None, "none") else None


def paid(order: Row, tables: Tables) -> Wanted | str | None:
    """What is wanted where several pay an order; a text for the first of them that is not there."""
    accounts = []
    for number, payer in enumerate(json.loads(order["payers"] or "[]"), 1):
        buyer = tables["buyers"].get(payer["id"])
        if buyer is None:
            return f"payer {number}, buyer: 0 rows with id = {payer['id']}"
        region = tables["regions"].get(buyer["region"])
        accounts.append(region["account"] if region else "1122")
    return Wanted(None, " ".join(accounts), order["total"]) if accounts else None


def expected(history: Sequence[Transaction]) -> tuple[Counter[tuple[Any, ...]], set[tuple[str, int, str]]]:
    """What is posted, without order; and what lies in quarantine in the end: rule, order and detail."""
    stands: dict[tuple[str, int], Wanted] = {}
    posted: Counter[tuple[Any, ...]] = Counter()
    faulty: dict[tuple[str, int], str] = {}
    for transaction in history:
        for name, change in transaction.changes:
            if name != "orders":
                continue
            for rule in ("sale", "coded", "paid"):
                at = (rule, change.values["no"])
                want = wanted(rule, change.values, transaction.tables) if change.op != "d" else None
                if isinstance(want, str):
                    faulty[at] = want
                    continue
                faulty.pop(at, None)
                if stands.get(at) == want:
                    continue
                if at in stands:
                    posted[("reverse", *at, *stands.pop(at))] += 1
                if want is not None:
                    stands[at] = want
                    posted[("post", *at, *want)] += 1
    return posted, {(*at, detail) for at, detail in faulty.items()}


def payers(ids: Sequence[int]) -> str:
    """Some buyers as the column has them."""
    return json.dumps([{"id": number} for number in ids])


_IDS, _CODES = st.integers(1, 3), st.sampled_from([None, "a", "b"])
_STEPS = st.one_of(
    put(
        "orders",
        st.fixed_dictionaries(
            {
                "no": _IDS,
                "buyer": st.one_of(st.none(), _IDS),
                "code": _CODES,
                "total": st.sampled_from([Decimal("1.00"), Decimal("2.00")]),
                "payers": st.one_of(st.none(), st.lists(_IDS, min_size=1, max_size=4).map(payers)),
            }
        ),
    ),
    put("buyers", st.fixed_dictionaries({"id": _IDS, "code": _CODES, "region": st.sampled_from([None, "east", "west", "none"])})),
    put("regions", st.fixed_dictionaries({"name": st.sampled_from(["east", "west"]), "account": st.sampled_from(["1001", "1002"])})),
    delete(*SCHEMAS),
)


@pytest.fixture(scope="module")
def accountant() -> Iterator[Accountant]:
    with closing(Accountant(RULES, book())) as made:
        made.check(SCHEMAS.values())
        yield made


def posted(store: Store) -> Counter[tuple[Any, ...]]:
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in sorted(store.lines(), key=lambda line: int(line["line_no"])):
        if line["debit"] is not None:
            lines.setdefault(line["entry_id"], []).append(line)
    found: Counter[tuple[Any, ...]] = Counter()
    for entry in store.entries():
        debited, number = lines[entry["entry_id"]], json.loads(entry["row_key"])["no"]
        accounts, total = " ".join(line["account"] for line in debited), abs(sum(line["debit"] for line in debited))
        found[(entry["kind"], entry["rule"], number, entry["summary"], accounts, total)] += 1
    return found


@given(history=histories(SCHEMAS, _STEPS), cuts=CUTS, crash=CRASHES)
@settings(max_examples=200)
def test_lookups_are_as_of_the_transaction(store: Callable[[], Any], history: list[Transaction], cuts: list[int], crash: int) -> None:
    wanted_posts, faulty = expected(history)
    with store() as made:
        made.apply(stream(SCHEMAS, history, cuts), crash)
        assert posted(made) == wanted_posts
        open_items = {(item["rule"], json.loads(item["row_key"])["no"], item["detail"]) for item in made.open_items()}
        assert open_items >= faulty
        assert {item[:2] for item in open_items} == {item[:2] for item in faulty}
