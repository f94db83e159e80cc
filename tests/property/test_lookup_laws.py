"""What rules look up is as of the end of each change's own transaction, however the stream is cut. The model is plain Python."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.accounting.accountant import Accountant
from cdc.config import RuleConfig
from cdc.types import MicroBatch, TableChanges, TableSchema
from checkpoints.file import FileCheckpoints
from checkpoints.instore import InStore
from sinks.duckdb import DuckDBSink
from sinks.memory import MemorySink
from tests.changes import Change, Row, book, changes, table, transactions
from tests.property.test_laws import Store

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

Tables = dict[str, dict[Any, Row]]
Logged = tuple[str, Change]


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


def expected(logs: Sequence[Sequence[Logged]]) -> tuple[Counter[tuple[Any, ...]], set[tuple[str, int, str]]]:
    """What is posted, without order; and what lies in quarantine in the end: rule, order and detail."""
    tables: Tables = {name: {} for name in SCHEMAS}
    stands: dict[tuple[str, int], Wanted] = {}
    posted: Counter[tuple[Any, ...]] = Counter()
    faulty: dict[tuple[str, int], str] = {}
    for log in logs:
        for name, change in log:
            key = change.values[SCHEMAS[name].key[0]]
            if change.op == "d":
                del tables[name][key]
            else:
                tables[name][key] = change.values
        for name, change in log:
            if name != "orders":
                continue
            for rule in ("sale", "coded", "paid"):
                at = (rule, change.values["no"])
                want = wanted(rule, change.values, tables) if change.op != "d" else None
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
_STEP = st.one_of(
    st.tuples(
        st.just("orders"),
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
    st.tuples(
        st.just("buyers"),
        st.fixed_dictionaries({"id": _IDS, "code": _CODES, "region": st.sampled_from([None, "east", "west", "none"])}),
    ),
    st.tuples(
        st.just("regions"),
        st.fixed_dictionaries({"name": st.sampled_from(["east", "west"]), "account": st.sampled_from(["1001", "1002"])}),
    ),
    st.tuples(st.just("delete"), st.tuples(st.sampled_from(list(SCHEMAS)), st.integers(0, 5))),
)


@st.composite
def histories(draw: st.DrawFn) -> list[list[Logged]]:
    """Transactions, each the changes that it made."""
    logs, tables = [], {name: dict[Any, Row]() for name in SCHEMAS}
    for steps in draw(st.lists(st.lists(_STEP, min_size=1, max_size=8), min_size=1, max_size=6)):
        log: list[Logged] = []
        for name, given_row in steps:
            if name == "delete":
                name, pick = given_row
                if not tables[name]:
                    continue
                key = sorted(tables[name])[pick % len(tables[name])]
                log.append((name, Change("d", tables[name].pop(key))))
            else:
                key = given_row[SCHEMAS[name].key[0]]
                log.append((name, Change("u" if key in tables[name] else "c", given_row)))
                tables[name][key] = given_row
        if log:
            logs.append(log)
    return logs


def batches(logs: Sequence[Sequence[Logged]], cuts: Sequence[int], schemas: Mapping[str, TableSchema]) -> Iterator[MicroBatch]:
    """The changes in batches, cut anywhere: within a transaction into parts."""
    flat = [(n, ordinal, name, change) for n, log in enumerate(logs) for ordinal, (name, change) in enumerate(log)]
    edges = sorted({0, len(flat), *(cut % (len(flat) + 1) for cut in cuts)})
    for start, end in itertools.pairwise(edges):
        part = flat[start:end]
        whole = end == len(flat) or flat[end][0] != part[-1][0]
        first, last = part[0][0], part[-1][0]
        tables = []
        for name, schema in schemas.items():
            rows = [(n - first, ordinal, change) for n, ordinal, at, change in part if at == name]
            if rows:
                tables.append(TableChanges(schema, changes(schema, rows)))
        listed = transactions(last - first + 1, first + 1)
        yield MicroBatch("shop", "here", listed, tuple(tables), f"{last + 1 if whole else last:08}", whole)


@pytest.fixture(scope="module")
def accountant() -> Iterator[Accountant]:
    with closing(Accountant(RULES, book())) as made:
        made.check(SCHEMAS.values())
        yield made


@pytest.fixture(scope="module", params=["memory", "duckdb"])
def store(request: pytest.FixtureRequest, accountant: Accountant, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Store]:
    numbers, folder = itertools.count(), tmp_path_factory.mktemp("stores")

    def new() -> Store:
        path = folder / str(next(numbers))
        in_memory = request.param == "memory"
        sink: Any = MemorySink() if in_memory else DuckDBSink(f"{path}.duckdb", 64 << 20)
        sink.prepare([])
        return Store(sink, FileCheckpoints(Path(f"{path}.json")) if in_memory else InStore(), accountant)

    return new


def posted(store: Store) -> Counter[tuple[Any, ...]]:
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in sorted(store.lines(), key=lambda line: int(line["line_no"])):
        if line["debit"] is not None:
            lines.setdefault(line["entry_id"], []).append(line)
    found: Counter[tuple[Any, ...]] = Counter()
    for entry in store.entries():
        debited, number = lines[entry["entry_id"]], int(entry["row_key"].removeprefix('{"no": ').removesuffix("}"))
        accounts, total = " ".join(line["account"] for line in debited), abs(sum(line["debit"] for line in debited))
        found[(entry["kind"], entry["rule"], number, entry["summary"], accounts, total)] += 1
    return found


@given(logs=histories(), cuts=st.lists(st.integers(0, 60), max_size=8), crash=st.integers(0, 8))
@settings(max_examples=200)
def test_lookups_are_as_of_the_transaction(store: Callable[[], Store], logs: list[list[Logged]], cuts: list[int], crash: int) -> None:
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
        open_items = {(i["rule"], int(i["row_key"][7:-1]), i["detail"]) for i in made.quarantine() if i["status"] == "open"}
        assert open_items >= faulty
        assert {item[:2] for item in open_items} == {item[:2] for item in faulty}
    finally:
        made.pipeline.forget()
        made.sink.close()
