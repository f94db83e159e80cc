"""One suite over every store and its checkpoints. DuckDB's own tests are in test_duckdb.py."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cdc.errors import CheckpointConflict
from cdc.protocols import CheckpointStore, Sink
from cdc.types import LIVE, NUMBER, STAMP, Account, Checkpoint, Column, Promotion, SchemaVersion, SnapshotProgress, TableSchema
from checkpoints.file import FileCheckpoints
from checkpoints.instore import InStore
from sinks.duckdb import DuckDBSink
from sinks.memory import MemorySink
from tests.contract.samples import (
    ID,
    KEYLESS,
    LOG,
    NOON,
    ORDERS,
    TOTAL,
    all_live,
    committed,
    entry_id,
    fault,
    item,
    keys,
    lines_of,
    live_keys,
    mirrored,
    postings,
    row_hash,
    row_key,
    rows,
    write,
)

ODD = 'Größe "quoted".with.dots 订单\'s select'


@dataclass
class Store:
    """A sink with its checkpoints."""

    sink: Sink
    checkpoints: CheckpointStore

    def journal(self, table: str) -> list[dict[str, Any]]:
        """Rows of entries, lines, batches or quarantine, in the order they were written."""
        if isinstance(self.sink, MemorySink):
            state = self.sink.state
            return list(state.quarantine.values()) if table == "quarantine" else list(getattr(state, table))
        assert isinstance(self.sink, DuckDBSink)
        order = {"entries": "ORDER BY batch_seq, batch_row", "lines": "ORDER BY batch_seq, batch_row", "batches": "ORDER BY batch_seq"}
        with self.sink.reader() as reader:
            found: list[dict[str, Any]] = (
                reader.execute(f"SELECT * FROM ledger.{table} {order.get(table, '')}").to_arrow_table().to_pylist()
            )
        return found


@pytest.fixture(params=["duckdb", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "duckdb":
        made = Store(DuckDBSink(tmp_path / "ledger.duckdb", 256 << 20), InStore())
    else:
        made = Store(MemorySink(), FileCheckpoints(tmp_path / "checkpoints.json"))
    made.sink.prepare([Account("main", "1122", "应收账款")])
    yield made
    made.sink.close()


def prepared(store: Store, schema: TableSchema, *, staged: bool = False) -> Sink:
    """The sink, with a table's mirror fit for the schema, and its staged copy too if asked for."""
    with committed(store.sink) as transaction:
        store.sink.prepare_table(transaction, schema, False)
        if staged:
            store.sink.prepare_table(transaction, schema, True)
    return store.sink


def test_prepare_is_idempotent(store: Store) -> None:
    sink = prepared(store, ORDERS)
    with committed(sink) as transaction:
        transaction.apply(write(ORDERS, [(1, "a", Decimal("1.00"))]))
    sink.prepare([Account("main", "1122", "应收账款"), Account("main", "5001", "主营业务收入")])
    prepared(store, ORDERS)
    assert mirrored(sink, ORDERS) == [(1, "a", Decimal("1.00"))]


def test_mirror_not_yet_made_has_no_rows(store: Store) -> None:
    assert mirrored(store.sink, ORDERS) == []
    assert mirrored(store.sink, ORDERS, keys(ORDERS, [(1,)])) == []
    assert mirrored(store.sink, ORDERS, staged=True) == []


def test_mirror_is_written_net_and_read_by_key(store: Store) -> None:
    sink = prepared(store, ORDERS)
    with committed(sink) as transaction:
        transaction.apply(write(ORDERS, [(n, f"n{n}", Decimal(n)) for n in range(5)]))
    with committed(sink) as transaction:
        transaction.apply(write(ORDERS, [(2, None, None), (9, "new", Decimal("0.01"))], deletes=[(2,), (3,), (77,)]))
    all_rows = [(0, "n0", Decimal(0)), (1, "n1", Decimal(1)), (2, None, None), (4, "n4", Decimal(4)), (9, "new", Decimal("0.01"))]
    assert mirrored(sink, ORDERS) == all_rows
    assert mirrored(sink, ORDERS, keys(ORDERS, [(9,), (3,), (2,), (9,)])) == [all_rows[2], all_rows[4]]
    assert mirrored(sink, ORDERS, keys(ORDERS, [])) == []


def test_mirror_is_read_by_any_columns_and_lacks_new_ones(store: Store) -> None:
    sink = prepared(store, ORDERS)
    with committed(sink) as transaction:
        transaction.apply(write(ORDERS, [(1, "a", None), (2, "a", Decimal(2)), (3, "b", None), (4, None, None)]))
    names = pa.table({"name": pa.array(["a", None, "c", "a"], pa.string())})
    assert mirrored(sink, ORDERS, names) == [(1, "a", None), (2, "a", Decimal(2))]
    pairs = pa.table({"name": pa.array(["a", "b"], pa.string()), "id": pa.array([2, 2], pa.int64())})
    assert mirrored(sink, ORDERS, pairs) == [(2, "a", Decimal(2))]
    wider = replace(ORDERS, columns=(*ORDERS.columns, Column("note", pa.string(), "VARCHAR", "text")))
    assert mirrored(sink, wider, pairs) == [(2, "a", Decimal(2), None)]
    assert mirrored(sink, wider, pa.table({"note": pa.array(["x"], pa.string())})) == []


def test_mirror_has_the_columns_and_types_of_the_schema(store: Store) -> None:
    odd = replace(
        ORDERS,
        columns=(
            *(TOTAL, ID),
            Column("u", pa.string(), "UUID", "uuid"),
            Column("j", pa.string(), "JSON", "json"),
            Column("at", pa.timestamp("us", "UTC"), "TIMESTAMPTZ", "timestamptz"),
            Column("b", pa.binary(), "BLOB", "bytea"),
            Column("rowid", pa.int32(), "INTEGER", "int4"),
        ),
    )
    sink = prepared(store, odd, staged=True)
    value = (Decimal("1.10"), 7, entry_id(1), '{"a": 1}', NOON, b"\x00\xff", 5)
    with committed(sink) as transaction:
        transaction.apply(write(odd, [value]))
        transaction.apply(write(odd, [value], staged=3))
        for wanted in (None, keys(odd, [(7,)])):
            (found,) = transaction.mirror(odd, wanted)
            assert found.schema == odd.arrow()
            assert found.to_pylist() == rows(odd, [value]).to_pylist()
            (found,) = transaction.mirror(odd, wanted, staged=True)
            assert found.schema == pa.schema([*odd.arrow(), pa.field(STAMP, pa.int32())])
            assert found.column(STAMP).to_pylist() == [3]


def test_keyless_mirror_compares_whole_rows_and_nulls(store: Store) -> None:
    sink = prepared(store, KEYLESS)
    one = Decimal("1.00")
    with committed(sink) as transaction:
        transaction.apply(write(KEYLESS, [("a", None, 0), ("a", None, 1), ("a", one, 0), (None, None, 0)]))
    assert mirrored(sink, KEYLESS, keys(KEYLESS, [("a", None), ("a", None)])) == [("a", None, 0), ("a", None, 1)]
    with committed(sink) as transaction:
        transaction.apply(write(KEYLESS, [("b", one, 0)], deletes=[("a", None, 1), (None, None, 0)]))
    assert mirrored(sink, KEYLESS) == [("a", one, 0), ("a", None, 0), ("b", one, 0)]
    with committed(sink) as transaction:
        (found,) = transaction.mirror(KEYLESS, None)
        assert found.schema.names == ["name", "total", NUMBER]


def test_reads_in_a_transaction_see_its_writes_and_may_be_interleaved(store: Store) -> None:
    sink = prepared(store, ORDERS, staged=True)
    count = 120_000 if isinstance(sink, DuckDBSink) else 3000
    batch = pa.table({"id": pa.arange(0, count), "name": pa.repeat("x", count), "total": pa.nulls(count)}).cast(ORDERS.arrow())
    with committed(sink) as transaction:
        transaction.apply(replace(write(ORDERS, []), upserts=batch, staged=1))
        seen, pages = 0, 0
        for page in transaction.mirror(ORDERS, None, staged=True):
            seen, pages = seen + page.num_rows, pages + 1
            number = page.column("id")[0].as_py()
            transaction.apply(postings([(number, Decimal(1))]))
            assert transaction.live(ORDERS, live_keys([number])).num_rows == 1
        assert (seen, pages > 1) == (count, True)
        transaction.apply(LOG)


def test_staging_and_promotion(store: Store) -> None:
    sink = prepared(store, ORDERS, staged=True)
    with committed(sink) as transaction:
        transaction.apply(write(ORDERS, [(1, "old", None), (8, "gone", None)]))
        transaction.apply(write(ORDERS, [(1, "one", None), (2, "two", None)], staged=4))
    with committed(sink) as transaction:
        transaction.apply(write(ORDERS, [(2, "two again", None)], deletes=[(2,)], staged=0))
        transaction.apply(write(ORDERS, [(3, "three", None)], staged=5))
    assert mirrored(sink, ORDERS) == [(1, "old", None), (8, "gone", None)]
    assert mirrored(sink, ORDERS, staged=True) == [(1, "one", None, 4), (2, "two again", None, 0), (3, "three", None, 5)]
    assert mirrored(sink, ORDERS, keys(ORDERS, [(3,)]), staged=True) == [(3, "three", None, 5)]
    with committed(sink) as transaction:
        transaction.apply(Promotion(ORDERS))
    assert mirrored(sink, ORDERS) == [(1, "one", None), (2, "two again", None), (3, "three", None)]
    assert mirrored(sink, ORDERS, staged=True) == []
    with committed(sink) as transaction:
        transaction.apply(write(ORDERS, [(1, "streamed", None)], deletes=[(1,)]))
        sink.prepare_table(transaction, ORDERS, True)
        transaction.apply(write(ORDERS, [(5, "anew", None)], staged=6))
    assert mirrored(sink, ORDERS)[0] == (1, "streamed", None)
    assert mirrored(sink, ORDERS, staged=True) == [(5, "anew", None, 6)]


def test_keyless_promotion_keeps_numbers(store: Store) -> None:
    sink = prepared(store, KEYLESS, staged=True)
    with committed(sink) as transaction:
        transaction.apply(write(KEYLESS, [("a", None, 0), ("a", None, 1)], staged=1))
        transaction.apply(Promotion(KEYLESS))
    assert mirrored(sink, KEYLESS) == [("a", None, 0), ("a", None, 1)]


def test_a_copy_of_another_shape_is_promoted(store: Store) -> None:
    sink = prepared(store, ORDERS)
    with committed(sink) as transaction:
        transaction.apply(write(ORDERS, [(1, "old", None)]))
    narrow = replace(ORDERS, columns=ORDERS.columns[:2])
    with committed(sink) as transaction:
        sink.prepare_table(transaction, narrow, True)
        transaction.apply(write(narrow, [(2, "new")], staged=1))
    assert mirrored(sink, ORDERS) == [(1, "old", None)]
    with committed(sink) as transaction:
        transaction.apply(Promotion(narrow))
    assert mirrored(sink, narrow) == [(2, "new")]


def test_a_copy_is_begun_anew(store: Store) -> None:
    sink = prepared(store, ORDERS, staged=True)
    for number in (1, 2):
        with committed(sink) as transaction:
            transaction.apply(replace(write(ORDERS, [(number, "x", None)], staged=number), replace=True))
            transaction.apply(write(ORDERS, [(number + 10, "y", None)], staged=number))
    assert mirrored(sink, ORDERS, staged=True) == [(12, "y", None, 2), (2, "x", None, 2)]


def test_promotion_of_nothing_empties_the_mirror(store: Store) -> None:
    sink = prepared(store, ORDERS, staged=True)
    with committed(sink) as transaction:
        transaction.apply(write(ORDERS, [(1, "old", None)]))
        transaction.apply(Promotion(ORDERS))
    assert mirrored(sink, ORDERS) == []


def test_live_entries_come_back_as_they_were_begun(store: Store) -> None:
    sink = store.sink
    amounts = [Decimal("10.50"), Decimal("-0.000001")]
    first = postings(enumerate(amounts, 1))
    with committed(sink) as transaction:
        transaction.apply(first)
        transaction.apply(LOG)
    with committed(sink) as transaction:
        found = transaction.live(ORDERS, live_keys([2, 3, 2]))
        assert found.schema == LIVE
        begun = [{**row, "lines": lines_of(amount)} for row, amount in zip(first.live_begun.to_pylist(), amounts, strict=True)]
        assert found.to_pylist() == begun[1:]
        everything = all_live(transaction, ORDERS).to_pylist()
        assert sorted(everything, key=lambda e: e["row_key"]) == begun
        assert all_live(transaction, replace(ORDERS, table="others")).num_rows == 0


def test_live_entries_end_and_are_followed_by_others(store: Store) -> None:
    sink = store.sink
    with committed(sink) as transaction:
        transaction.apply(postings([(1, Decimal(1)), (2, Decimal(2))]))
        transaction.apply(LOG)
    with committed(sink) as transaction:
        transaction.apply(postings([(1, Decimal(5))], ended=[(1, entry_id(1, 0)), (2, entry_id(2, 0))], version=1))
        (one,) = transaction.live(ORDERS, live_keys([1, 2])).to_pylist()
        assert (one["entry_id"], one["lines"]) == (entry_id(1, 1), lines_of(Decimal(5)))
        transaction.apply(LOG)
    assert [row["row_key"] for row in store.journal("entries")] == [row_key(1), row_key(2), row_key(1)]


def test_live_entries_begin_and_end_in_one_transaction_whatever_their_hash(store: Store) -> None:
    numbers = range(1, 9)
    assert {row_hash(number) >> 63 for number in numbers} == {0, 1}, "hashes use all of 64 bits"
    with committed(store.sink) as transaction:
        transaction.apply(postings([(number, Decimal(number)) for number in numbers]))
        for number in numbers:
            assert transaction.live(ORDERS, live_keys([number])).num_rows == 1
            transaction.apply(postings(ended=[(number, entry_id(number, 0))]))
        assert all_live(transaction, ORDERS).num_rows == 0
        transaction.apply(LOG)


def test_batches_count_what_several_applies_wrote(store: Store) -> None:
    with committed(store.sink) as transaction:
        transaction.apply(postings([(1, Decimal(1))]))
        transaction.apply(postings([(2, Decimal(2))]))
        transaction.apply(LOG)
        transaction.apply(postings([(3, Decimal(3))]))
        transaction.apply(replace(LOG, source="other"))
    with committed(store.sink) as transaction:
        transaction.apply(LOG)
    told = [(b["batch_seq"], b["source"], b["entries"], b["lines"]) for b in store.journal("batches")]
    assert told == [(1, "shop", 2, 4), (2, "other", 1, 2), (3, "shop", 0, 0)]
    assert [e["batch_seq"] for e in store.journal("entries")] == [1, 1, 2]
    assert [(x["batch_seq"], x["line_no"], x["debit"]) for x in store.journal("lines")] == [
        (1, 1, Decimal(1)),
        (1, 2, None),
        (1, 1, Decimal(2)),
        (1, 2, None),
        (2, 1, Decimal(3)),
        (2, 2, None),
    ]


def test_a_transaction_may_begin_while_another_commits(store: Store) -> None:
    """It sees what that wrote, and is not of it: what it drops is only its own."""
    sink = prepared(store, ORDERS)
    first = sink.begin()
    first.apply(write(ORDERS, [(1, "first", None)]))
    committed = first.commit()
    second = sink.begin()
    second.apply(write(ORDERS, [(2, "second", None)]))
    assert [row["id"] for rows in second.mirror(ORDERS, None) for row in rows.to_pylist()] == [1, 2]
    committed.result()
    second.rollback()
    assert mirrored(sink, ORDERS) == [(1, "first", None)]


def test_rollback_leaves_nothing(store: Store) -> None:
    sink = prepared(store, ORDERS, staged=True)
    point = Checkpoint("shop", "0/1", 1, "server")
    transaction = sink.begin()
    transaction.apply(write(ORDERS, [(1, "a", None)]))
    transaction.apply(write(ORDERS, [(1, "a", None)], staged=1))
    transaction.apply(postings([(1, Decimal(1))], quarantined=[item(2)]))
    transaction.apply(LOG)
    store.checkpoints.advance(transaction, None, point)
    store.checkpoints.record(transaction, "shop", SchemaVersion(ORDERS, "0/1"))
    transaction.rollback()
    transaction.rollback()
    assert mirrored(sink, ORDERS) == mirrored(sink, ORDERS, staged=True) == []
    assert [store.journal(table) for table in ("entries", "lines", "batches", "quarantine")] == [[], [], [], []]
    with committed(sink) as after:
        resume = store.checkpoints.load(after, "shop")
        assert (resume.checkpoint, resume.schemas) == (None, {})
        assert all_live(after, ORDERS).num_rows == 0


def test_quarantine_items_are_kept_once_and_settled(store: Store) -> None:
    sink = store.sink

    def statuses() -> dict[str, str]:
        return {row["row_key"]: row["status"] for row in store.journal("quarantine")}

    for _ in range(2):
        with committed(sink) as transaction:
            transaction.apply(postings(quarantined=[item(1), item(2), item(1)]))
            transaction.apply(LOG)
        assert statuses() == {row_key(1): "open", row_key(2): "open"}
    with committed(sink) as transaction:
        transaction.apply(postings(settled=[fault(1), {**fault(2), "rule": "another"}, fault(3)]))
        transaction.apply(LOG)
    assert statuses() == {row_key(1): "resolved", row_key(2): "open"}
    with committed(sink) as transaction:
        transaction.apply(postings(quarantined=[item(1)]))
        transaction.apply(LOG)
    assert statuses() == {row_key(1): "open", row_key(2): "open"}
    assert len(store.journal("quarantine")) == 2


def test_a_mirror_follows_its_schema(store: Store) -> None:
    sink = prepared(store, ORDERS, staged=True)
    with committed(sink) as transaction:
        transaction.apply(write(ORDERS, [(1, "a", Decimal("1.50"))]))
        transaction.apply(write(ORDERS, [(2, "b", Decimal("2.50"))], staged=1))
    wider = replace(TOTAL, type=pa.decimal128(20, 4), store_type="DECIMAL(20,4)")
    added = Column("added", pa.int32(), "INTEGER", "int4")
    changed = TableSchema("shop", "orders", (ID, added, wider), ("id",))
    with committed(sink) as transaction:
        sink.prepare_table(transaction, changed, False)
        sink.prepare_table(transaction, changed, True)
        transaction.apply(write(changed, [(3, 4, Decimal("5.0001"))]))
    assert mirrored(sink, changed) == [(1, None, Decimal("1.5000")), (3, 4, Decimal("5.0001"))]
    assert mirrored(sink, changed, staged=True) == [(2, None, Decimal("2.5000"), 1)]
    narrow = TableSchema("shop", "orders", (ID,), ("id",))
    prepared(store, narrow)
    assert mirrored(sink, narrow) == [(1,), (3,)]


def test_a_mirror_gains_and_loses_its_key(store: Store) -> None:
    sink = prepared(store, ORDERS)
    with committed(sink) as transaction:
        transaction.apply(write(ORDERS, [(1, "a", None), (2, "a", None)]))
    without = replace(ORDERS, key=())
    prepared(store, without)
    assert mirrored(sink, without) == [(1, "a", None, 1), (2, "a", None, 1)]
    prepared(store, ORDERS)
    assert mirrored(sink, ORDERS) == [(1, "a", None), (2, "a", None)]


def test_odd_names(store: Store) -> None:
    columns = (Column("Id", pa.int64(), "BIGINT", "int8"), Column(ODD, pa.string(), "VARCHAR", "text"))
    long = "订" * 21  # 63 bytes, the most PostgreSQL takes
    for table in (ODD, "Sales.Orders", "select", long):
        schema = TableSchema("shop", table, columns, ("Id",))
        sink = prepared(store, schema, staged=True)
        with committed(sink) as transaction:
            transaction.apply(write(schema, [(1, "a"), (2, "b")]))
            transaction.apply(write(schema, [(1, "c")], deletes=[(1,)]))
            transaction.apply(write(schema, [(9, "s")], staged=1))
        assert mirrored(sink, schema) == [(1, "c"), (2, "b")]
        with committed(sink) as transaction:
            transaction.apply(Promotion(schema))
        assert mirrored(sink, schema) == [(9, "s")]


def test_checkpoint_is_compared_and_set(store: Store) -> None:
    one, two = Checkpoint("shop", "0/1", 1, "server"), Checkpoint("shop", "0/2", 2, "server")
    with committed(store.sink) as transaction:
        assert store.checkpoints.load(transaction, "shop").checkpoint is None
        store.checkpoints.advance(transaction, None, one)
    with committed(store.sink) as transaction:
        assert store.checkpoints.load(transaction, "shop").checkpoint == one
        assert store.checkpoints.load(transaction, "other").checkpoint is None
        store.checkpoints.advance(transaction, one, two)
    for stale in (None, one, replace(two, epoch=3)):
        transaction = store.sink.begin()
        with pytest.raises(CheckpointConflict) as caught:
            store.checkpoints.advance(transaction, stale, replace(two, epoch=9))
        transaction.rollback()
        assert "'shop'" in caught.value.message
    with committed(store.sink) as transaction:
        assert store.checkpoints.load(transaction, "shop").checkpoint == two


def test_snapshots_and_schemas_come_back_exactly(store: Store) -> None:
    odd = TableSchema(
        "shop",
        ODD,
        (
            Column("a", pa.decimal128(38, 9), "DECIMAL(38,9)", "numeric"),
            Column("b", pa.timestamp("us", "UTC"), "TIMESTAMPTZ", "timestamptz"),
            Column("c", pa.list_(pa.int32()), "INTEGER[]", "int4[]"),
            Column("d", pa.time64("us"), "TIME", "time"),
        ),
        ("a", "b"),
    )
    copying = SnapshotProgress(ODD, 3, "0/5", "copying", "chunk 7 '\"", 10, 20)
    with committed(store.sink) as transaction:
        for fact in (SchemaVersion(ORDERS, "0/1"), SchemaVersion(replace(odd, key=()), "0/1"), SchemaVersion(odd, "0/2"), copying):
            store.checkpoints.record(transaction, "shop", fact)
        seen = store.checkpoints.load(transaction, "shop")
        assert (seen.schemas, seen.snapshots) == ({"orders": ORDERS, ODD: odd}, {ODD: copying})
    done = replace(copying, state="done", rows_done=21)
    with committed(store.sink) as transaction:
        store.checkpoints.record(transaction, "shop", done)
    with committed(store.sink) as transaction:
        resume = store.checkpoints.load(transaction, "shop")
        assert (resume.schemas, resume.snapshots) == ({"orders": ORDERS, ODD: odd}, {ODD: done})
        assert resume.store_id == store.checkpoints.load(transaction, "other").store_id != ""
