"""The pipeline on changes that are in memory already: a large set of rules (ten lines, two books, three lookups) beside the simple rule of
three lines. Each in a store of its own; best of several batches after the first."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa

from cdc.accounting.accountant import Accountant
from cdc.accounting.books import Book
from cdc.accounting.charts import codes_by_name, load_chart
from cdc.config import BookConfig, RuleConfig
from cdc.pipeline import Pipeline
from cdc.types import INSERT, OP, ORDINAL, TRANSACTIONS, TXN, Column, MicroBatch, TableChanges, TableSchema
from checkpoints.instore import InStore
from sinks.duckdb import DuckDBSink
from tests.benchmarks.figures import Figure, progress

NAME = "accounting"
CUSTOMERS, REGIONS, PRODUCTS = 5000, 40, 1000
BATCH, BATCHES = 20_000, 5
MONEY, TEXT, NUMBER = ("DECIMAL(18,2)", pa.decimal128(18, 2)), ("VARCHAR", pa.string()), ("BIGINT", pa.int64())


def _schema(table: str, **columns: tuple[str, pa.DataType]) -> TableSchema:
    made = tuple(Column(name, kind, store_type, store_type.lower()) for name, (store_type, kind) in columns.items())
    return TableSchema("shop", table, made, ("id",))


ORDERS = _schema("orders", id=NUMBER, customer=NUMBER, product=NUMBER, total=MONEY, tax=MONEY, freight=MONEY, cost=MONEY)
TABLES = {
    "customers": _schema("customers", id=NUMBER, name=TEXT, region=NUMBER),
    "regions": _schema("regions", id=NUMBER, name=TEXT, account=TEXT),
    "products": _schema("products", id=NUMBER, class_=TEXT, account=TEXT),
}
_HEAD = {"name": "sale", "book": "main", "table": "shop.orders", "date": "DATE '2026-01-31'", "summary": "'sale ' || id"}
SIMPLE = [
    RuleConfig(
        **_HEAD,
        lines=[
            {"account": "1122", "debit": "total", "dims": {"customer": "customer"}},
            {"account": "5001", "credit": "total - tax", "dims": {"product": "product"}},
            {"account": "2221", "credit": "tax"},
        ],
    )
]
RICH = [
    RuleConfig(
        **_HEAD,
        lookup={
            "buyer": {"table": "shop.customers", "on": {"id": "customer"}},
            "region": {"table": "shop.regions", "on": {"id": "buyer.region"}},
            "product": {"table": "shop.products", "on": {"id": "product"}},
        },
        lines=[
            {"account": "1122", "debit": "total", "dims": {"customer": "buyer.name", "region": "region.name"}},
            {"account": {"expr": "product.account"}, "credit": "total - tax - freight", "dims": {"class": "product.class_"}},
            {"account": "2221", "credit": "tax"},
            {"account": "5301", "credit": "freight"},
            {"account": "5401", "debit": "cost", "dims": {"class": "product.class_"}},
            {"account": "1405", "credit": "cost", "dims": {"region": "region.name"}},
        ],
        variants={
            "ifrs": {
                "lines": [
                    {"account": "1122", "debit": "total", "dims": {"customer": "buyer.name"}},
                    {"account": "5001", "credit": "total - tax", "dims": {"region": "region.name"}},
                    {"account": "2221", "credit": "tax"},
                    {"account": "5603", "rest": True},
                ]
            }
        },
    )
]


def measure(folder: Path) -> list[Figure]:
    """Rows accounted for and committed a second, by the large set and by the simple rule."""
    rich = _rate(folder / "rich.duckdb", [each for rule in RICH for each in rule.by_book()])
    simple = _rate(folder / "simple.duckdb", SIMPLE)
    what = "10 lines in 2 books by 3 lookups"
    return [Figure(NAME, what, "rows/s", rich, simple, "the simple rule")]


def _rate(path: Path, rules: list[RuleConfig]) -> float:
    progress(f"accounting: {path.stem}")
    with books(path, rules) as pipeline:
        taken = [_timed(pipeline, batch(number, [(ORDERS, orders(_ids(number)))])) for number in range(1, BATCHES + 1)]
    return BATCH / min(taken[1:])


@contextmanager
def books(path: Path, rules: list[RuleConfig]) -> Iterator[Pipeline]:
    """The pipeline into a new store, in which is what the rules look up."""
    settings = BookConfig(base_currency="CNY", chart="small-business-2013")
    chart = load_chart("main", settings.chart, Path())
    codes = frozenset(account.code for account in chart)
    kept = {name: Book(name, settings, codes, codes=codes_by_name(chart)) for name in ("main", "ifrs")}
    sink = DuckDBSink(str(path), 512 << 20)
    sink.prepare(chart)
    pipeline = Pipeline(sink, InStore(), Accountant(rules, kept))
    try:
        pipeline.check([ORDERS, *TABLES.values()])
        pipeline.apply([batch(0, _looked_up())])
        yield pipeline
    finally:
        pipeline.close()
        sink.close()


def _timed(pipeline: Pipeline, batch: MicroBatch) -> float:
    begun = time.perf_counter()
    pipeline.apply([batch])
    return time.perf_counter() - begun


def _looked_up() -> list[tuple[TableSchema, list[list[object]]]]:
    return [
        (TABLES["customers"], [list(range(CUSTOMERS)), [f"客户 {i}" for i in range(CUSTOMERS)], [i % REGIONS for i in range(CUSTOMERS)]]),
        (TABLES["regions"], [list(range(REGIONS)), [f"区域 {i}" for i in range(REGIONS)], ["1122"] * REGIONS]),
        (TABLES["products"], [list(range(PRODUCTS)), [f"类 {i % 7}" for i in range(PRODUCTS)], ["5001", "5051"] * (PRODUCTS // 2)]),
    ]


def _ids(number: int) -> Sequence[int]:
    return range(number * BATCH, (number + 1) * BATCH)


def orders(ids: Sequence[int], more: int = 0) -> list[list[object]]:
    """The columns of orders, `more` cents dearer than they were."""
    cents = [10_000 + i * 37 % 900_000 + more for i in ids]
    money = [[f"{c * share // 100 / 100:.2f}" for c in cents] for share in (100, 13, 2, 60)]
    return [list(ids), [i * 7 % CUSTOMERS for i in ids], [i * 11 % PRODUCTS for i in ids], *money]


def batch(number: int, tables: Iterable[tuple[TableSchema, list[list[object]]]], op: str = INSERT) -> MicroBatch:
    """Changes of one kind to tables, as one transaction."""
    parts, ordinal = [], 0
    for schema, columns in tables:
        count = len(columns[0])
        values = [pa.array(column).cast(field.type) for column, field in zip(columns, schema.arrow(), strict=True)]
        head = [pa.repeat(pa.scalar(op), count), pa.repeat(pa.scalar(0, pa.int32()), count), pa.arange(ordinal, ordinal + count)]
        parts.append(TableChanges(schema, pa.Table.from_arrays([*head, *values], names=[OP, TXN, ORDINAL, *schema.arrow().names])))
        ordinal += count
    at = datetime.combine(date(2026, 1, 31), datetime.min.time(), UTC)
    one = pa.Table.from_pylist([{"position": f"{number:08}", "txn": str(number), "committed_at": at}], TRANSACTIONS)
    return MicroBatch("shop", "here", one, tuple(parts), f"{number:08}")
