"""What lines are made from besides their row stands on them, and a change of that alone posts nothing."""

from __future__ import annotations

import json
from contextlib import closing
from typing import Any

from cdc.accounting.accountant import Accountant
from cdc.config import RuleConfig
from cdc.pipeline import Pipeline
from cdc.types import MicroBatch, TableChanges, TableSchema
from checkpoints.file import FileCheckpoints
from sinks.memory import MemorySink
from tests.changes import Change, book, changes, table, transactions

ORDERS = table("orders", ["no"], no="BIGINT", buyer="BIGINT")
BUYERS = table("buyers", ["id"], id="BIGINT", region="VARCHAR")
REGIONS = table("regions", ["country", "name"], country="VARCHAR", name="VARCHAR", account="VARCHAR")
RULE = RuleConfig(
    name="sale",
    book="main",
    table="shop.orders",
    date="DATE '2026-01-31'",
    lookup={
        "buyer": {"table": "shop.buyers", "on": {"id": "buyer"}, "optional": True},
        "region": {"table": "shop.regions", "on": {"country": "'中国'", "name": "buyer.region"}, "optional": True},
    },
    lines=[
        {"account": {"expr": "coalesce(region.account, '1122')"}, "debit": "10.00"},
        {"account": "5001", "credit": "10.00", "dims": {"buyer": "buyer.id"}},
        {"account": "1001", "debit": "1.00"},
        {"account": "1002", "credit": "1.00"},
    ],
)


def test_lookups_tell_the_row_they_found_and_those_it_was_found_by(tmp_path: Any) -> None:
    store = MemorySink()
    with closing(Pipeline(store, FileCheckpoints(tmp_path / "c.json"), Accountant([RULE], book()))) as pipeline:

        def apply(number: int, *rows: tuple[TableSchema, str, dict[str, Any]]) -> None:
            tables = {schema.name: schema for schema, _, _ in rows}
            parts = [
                TableChanges(schema, changes(schema, [(0, i, Change(op, row)) for i, (of, op, row) in enumerate(rows) if of is schema]))
                for schema in tables.values()
            ]
            pipeline.check([ORDERS, BUYERS, REGIONS])
            pipeline.apply([MicroBatch("shop", "here", transactions(1, number), tuple(parts), f"{number:08}")])

        region = {"country": "中国", "name": 'ea"st', "account": "1002"}
        apply(1, (BUYERS, "c", {"id": 7, "region": 'ea"st'}), (REGIONS, "c", region), (ORDERS, "c", {"no": 1, "buyer": 7}))
        apply(2, (ORDERS, "c", {"no": 2, "buyer": 9}))
        apply(3, (BUYERS, "c", {"id": 8, "region": 'ea"st'}), (ORDERS, "u", {"no": 1, "buyer": 8}))
    of_buyer = {"table": "shop.buyers", "row": {"id": 7}}
    of_region = {"table": "shop.regions", "row": {"country": "中国", "name": 'ea"st'}}
    told = [json.loads(line["origin"]) if line["origin"] else None for line in store.state.lines]
    assert told[:8] == [{"buyer": of_buyer, "region": of_region}, {"buyer": of_buyer}, *[None] * 6]
    assert [entry["kind"] for entry in store.state.entries] == ["post", "post", "reverse", "post"]
    reversal = store.state.entries[2]["entry_id"]
    assert [line["origin"] for line in store.state.lines if line["entry_id"] == reversal] == [
        line["origin"] for line in store.state.lines[:4]
    ]
