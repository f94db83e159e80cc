"""The copy and its hand-over to the stream, against real servers: whatever happens in between, mirrors end as the tables."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest

from cdc.config import SourceConfig
from cdc.errors import PositionLost, SchemaUnknown, SourceError
from cdc.sources.postgres import PostgresSource, replication
from tests.integration.replay import Twin, opened, progress_of, step, streaming, until, until_equal
from tests.servers.postgres import Database

CHUNK = 64 << 10
WIDE = "repeat(md5(random()::text), 200)"  # 6400 bytes, stored external: an unchanged value is absent from the log


def config(database: Database, *tables: str, **options: Any) -> SourceConfig:
    return SourceConfig(url=database.url, tables=list(tables), **{"snapshot_chunk": CHUNK, **options})


def make_orders(database: Database, rows: int = 6000) -> None:
    database.connection.execute("CREATE TABLE orders (id int PRIMARY KEY, state text, total numeric(12,2), note text)")
    database.connection.execute("ALTER TABLE orders ALTER note SET STORAGE external")
    database.connection.execute(
        f"INSERT INTO orders SELECT g, 'new', g, CASE WHEN g % 50 = 0 THEN {WIDE} END FROM generate_series(1, {rows}) g"
    )


def write(connection: psycopg.Connection[Any], dice: random.Random) -> None:
    """One transaction of a shop: inserts, updates that move rows, key changes, deletes; sometimes rolled back."""
    with connection.transaction() as transaction:
        for _ in range(dice.randrange(1, 6)):
            one = dice.randrange(1, 9000)
            match dice.randrange(6):
                case 0:
                    connection.execute("INSERT INTO orders VALUES (%s, 'late', 1, NULL) ON CONFLICT DO NOTHING", (one,))
                case 1:
                    connection.execute("DELETE FROM orders WHERE id BETWEEN %s AND %s + 3", (one, one))
                case 2:
                    connection.execute(
                        "UPDATE orders SET id = -id WHERE id = %s AND NOT EXISTS (SELECT FROM orders WHERE id = -%s)", (one, one)
                    )
                case _:
                    connection.execute(
                        "UPDATE orders SET total = total + 1, state = state || '!' WHERE id BETWEEN %s AND %s + 9", (one, one)
                    )
        if dice.random() < 0.1:
            raise psycopg.Rollback(transaction)


@contextmanager
def writing(database: Database) -> Iterator[None]:
    """Sessions that go on writing meanwhile."""
    stop = threading.Event()

    def work(seed: int) -> None:
        dice = random.Random(seed)
        with database.server.connect(database.name) as connection:
            while not stop.is_set():
                write(connection, dice)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def test_a_table_being_written_to_is_handed_over(any_database: Database, twin: Twin) -> None:
    make_orders(any_database)
    with writing(any_database):
        source = streaming(config(any_database, "orders"), twin)
    until_equal(source, twin, any_database.connection, "orders")
    source.close()
    assert twin.snapshots["orders"].state == "done"


@pytest.mark.parametrize("chunks", [1, 3, 7])
def test_a_copy_broken_off_goes_on_where_it_was(database: Database, twin: Twin, chunks: int) -> None:
    make_orders(database)
    dice = random.Random(chunks)
    for _ in range(3):
        source = opened(config(database, "orders", snapshot_workers=1), twin)
        for _ in range(chunks):
            step(source, twin)
        source.close()
        for _ in range(30):
            write(database.connection, dice)
    copied = twin.ops["r"]
    assert twin.snapshots["orders"].state == "copying"
    source = streaming(config(database, "orders"), twin)
    until_equal(source, twin, database.connection, "orders")
    source.close()
    assert copied > 0
    assert set(progress_of(twin, "orders")["sessions"]) == {"1", "2", "3", "4"}


def test_a_resumed_copy_does_not_copy_again_what_did_not_change(database: Database, twin: Twin) -> None:
    make_orders(database)
    source = opened(config(database, "orders", snapshot_workers=1), twin)
    until(source, twin, lambda: twin.ops["r"] > 4000)
    source.close()
    database.connection.execute("UPDATE orders SET state = 'moved' WHERE id <= 10")
    source = streaming(config(database, "orders"), twin)
    until_equal(source, twin, database.connection, "orders")
    source.close()
    assert twin.ops["r"] <= 6000 + 10


def test_a_row_with_an_unchanged_toast_value_that_moves_into_a_copied_range_keeps_it(database: Database, twin: Twin) -> None:
    """The row leaves a range not copied yet for one that is: the stream's update lacks the value, so the copy must have it."""
    make_orders(database, rows=10_000)
    database.connection.execute("DELETE FROM orders WHERE id BETWEEN 1 AND 3000")
    database.connection.execute("VACUUM orders")
    source = opened(config(database, "orders", snapshot_workers=1), twin)
    until(source, twin, lambda: copied_blocks(twin) > 30)
    source.close()
    assert twin.snapshots["orders"].state == "copying"
    database.connection.execute("UPDATE orders SET state = 'moved' WHERE id IN (9000, 9050)")
    moved = database.connection.execute("SELECT (ctid::text::point)[0] FROM orders WHERE id = 9000").fetchone()
    assert moved is not None
    assert moved[0] < copied_blocks(twin), "the row did not move where it should"
    source = streaming(config(database, "orders"), twin)
    until_equal(source, twin, database.connection, "orders")
    source.close()


def copied_blocks(twin: Twin) -> int:
    """Blocks of the start of `orders` that are copied."""
    if "orders" not in twin.snapshots:
        return 0
    ((_, spans),) = progress_of(twin, "orders")["leaves"].values()
    return int(spans[0][1]) if spans and spans[0][0] == 0 else 0


def test_crashes_while_others_write(database: Database, twin: Twin) -> None:
    make_orders(database)
    dice = random.Random(7)
    with writing(database):
        while not twin.done("orders"):
            source = opened(config(database, "orders"), twin)
            for _ in range(dice.randrange(1, 12)):
                step(source, twin)
            source.close()
    source = opened(config(database, "orders"), twin)
    until_equal(source, twin, database.connection, "orders")
    source.close()


def test_a_slot_made_before_the_first_commit_is_used(database: Database, twin: Twin) -> None:
    make_orders(database, rows=100)
    opened(config(database, "orders"), twin).close()
    database.connection.execute("UPDATE orders SET state = 'between'; DELETE FROM orders WHERE id < 10")
    source = streaming(config(database, "orders"), twin)
    until_equal(source, twin, database.connection, "orders")
    source.close()
    assert database.connection.execute("SELECT count(*) FROM pg_replication_slots WHERE database = %s", (database.name,)).fetchone() == (1,)


def test_a_table_added_later_is_copied_while_the_others_stream(database: Database, twin: Twin) -> None:
    make_orders(database, rows=500)
    database.connection.execute("CREATE TABLE customers (id int PRIMARY KEY, name text); INSERT INTO customers VALUES (1, '王'), (2, NULL)")
    streaming(config(database, "orders"), twin).close()
    database.connection.execute("UPDATE orders SET state = 'meanwhile' WHERE id < 50; UPDATE customers SET name = '李' WHERE id = 1")
    source = opened(config(database, "orders", "customers"), twin)
    database.connection.execute("UPDATE orders SET state = 'after' WHERE id > 400; INSERT INTO customers VALUES (3, '')")
    until_equal(source, twin, database.connection, "orders", "customers")
    source.close()
    assert twin.snapshots["customers"].number == 2


def test_a_table_without_key_is_copied_from_the_start_again(database: Database, twin: Twin) -> None:
    database.connection.execute("CREATE TABLE log (line text, n int); ALTER TABLE log REPLICA IDENTITY FULL")
    database.connection.execute("INSERT INTO log SELECT repeat('x', 100), g % 500 FROM generate_series(1, 4000) g")
    source = opened(config(database, "log", snapshot_workers=1), twin)
    step(source, twin)
    source.close()
    assert twin.snapshots["log"].state == "copying"
    database.connection.execute(
        "DELETE FROM log WHERE n = 3; UPDATE log SET n = -1 WHERE n = 4; INSERT INTO log VALUES (NULL, NULL), (NULL, NULL)"
    )
    source = streaming(config(database, "log"), twin)
    until_equal(source, twin, database.connection, "log")
    database.connection.execute(
        "DELETE FROM log WHERE ctid IN (SELECT ctid FROM log WHERE n = -1 LIMIT 2); UPDATE log SET line = 'y' WHERE n = 5"
    )
    until_equal(source, twin, database.connection, "log")
    source.close()


@pytest.mark.parametrize(
    "rewrite", ["VACUUM FULL orders", "TRUNCATE orders", "DROP TABLE orders; CREATE TABLE orders (id int PRIMARY KEY, v text)"]
)
def test_a_table_rewritten_between_two_sessions_is_copied_from_the_start(database: Database, twin: Twin, rewrite: str) -> None:
    make_orders(database)
    source = opened(config(database, "orders", snapshot_workers=1), twin)
    step(source, twin)
    source.close()
    for statement in rewrite.split("; "):
        database.connection.execute(statement.encode())
    database.connection.execute("INSERT INTO orders (id) VALUES (7000)")
    source = streaming(config(database, "orders"), twin)
    until_equal(source, twin, database.connection, "orders")
    source.close()
    assert set(progress_of(twin, "orders")["sessions"]) == {"2"}


def test_a_table_rewritten_while_it_is_copied_is_noticed(database: Database, twin: Twin) -> None:
    make_orders(database)
    source = opened(config(database, "orders", snapshot_workers=1), twin)
    step(source, twin)
    database.connection.execute("VACUUM FULL orders")
    with pytest.raises(Exception, match="rewritten"):
        until(source, twin, lambda: False)
    source.close()
    source = streaming(config(database, "orders"), twin)
    until_equal(source, twin, database.connection, "orders")
    source.close()


def test_empty_tables_and_odd_values(database: Database, twin: Twin) -> None:
    database.connection.execute("CREATE TABLE nothing (id int PRIMARY KEY); CREATE TABLE odd (id int PRIMARY KEY, v text)")
    odd = ["", None, "a,b", 'a"b', "line\nbreak", "cr\rlf\r\n", "\\.", "\\N", "NULL", " ", "'", "汉字 😀", "\t", "x" * 300_000]
    with database.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO odd VALUES (%s, %s)", list(enumerate(odd)))
    database.connection.execute("CREATE TABLE single (v text); ALTER TABLE single REPLICA IDENTITY FULL")
    database.connection.execute("INSERT INTO single VALUES (NULL), (''), (NULL), ('\\.'), (E'a\nb')")
    source = streaming(config(database, "nothing", "odd", "single"), twin)
    until_equal(source, twin, database.connection, "nothing", "odd", "single")
    database.connection.execute(
        "INSERT INTO odd SELECT id + 100, v FROM odd; INSERT INTO single SELECT * FROM single; INSERT INTO nothing VALUES (1)"
    )
    until_equal(source, twin, database.connection, "nothing", "odd", "single")
    source.close()


def test_a_partitioned_table_is_one_table(any_database: Database, twin: Twin) -> None:
    connection = any_database.connection
    connection.execute("CREATE TABLE sales (id int, day date, v text, PRIMARY KEY (id, day)) PARTITION BY RANGE (day)")
    connection.execute("CREATE TABLE sales_1 PARTITION OF sales FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')")
    connection.execute("CREATE TABLE sales_2 (v text, day date NOT NULL, id int NOT NULL, PRIMARY KEY (id, day))")
    connection.execute("ALTER TABLE sales ATTACH PARTITION sales_2 FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')")
    connection.execute("INSERT INTO sales SELECT g, date '2026-01-01' + g % 50, 'x' FROM generate_series(1, 500) g")
    if any_database.server.major == 12:
        with pytest.raises(SourceError, match="partitioned"):
            opened(config(any_database, "sales"), twin)
        return
    source = streaming(config(any_database, "sales"), twin)
    until_equal(source, twin, connection, "sales")
    connection.execute("UPDATE sales SET day = day + 20 WHERE day < '2026-01-20' AND id % 3 = 0; DELETE FROM sales WHERE id % 7 = 0")
    connection.execute("CREATE TABLE sales_3 PARTITION OF sales FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')")
    connection.execute("INSERT INTO sales VALUES (1000, '2026-03-05', 'new partition'), (1001, '2026-01-05', 'old one')")
    until_equal(source, twin, connection, "sales")
    connection.execute("TRUNCATE sales")
    connection.execute("INSERT INTO sales VALUES (1, '2026-03-05', 'again')")
    until_equal(source, twin, connection, "sales")
    assert twin.ops["t"] > 0
    connection.execute("TRUNCATE sales_3")
    with pytest.raises(SchemaUnknown, match="truncated"):
        until(source, twin, lambda: False)
    source.close()
    twin.want("sales")
    source = streaming(config(any_database, "sales"), twin)
    until_equal(source, twin, connection, "sales")
    source.close()


def test_a_dropped_partition_is_noticed(database: Database, twin: Twin) -> None:
    connection = database.connection
    connection.execute("CREATE TABLE sales (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    connection.execute("CREATE TABLE sales_1 PARTITION OF sales FOR VALUES FROM (1) TO (10)")
    connection.execute("CREATE TABLE sales_2 PARTITION OF sales FOR VALUES FROM (10) TO (20)")
    connection.execute("INSERT INTO sales VALUES (1), (11)")
    streaming(config(database, "sales"), twin).close()
    connection.execute("DROP TABLE sales_1")
    with pytest.raises(SchemaUnknown, match="partition"):
        opened(config(database, "sales"), twin)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE orders RENAME COLUMN state TO status",
        "ALTER TABLE orders ALTER total TYPE text",
        "ALTER TABLE orders ADD COLUMN country text DEFAULT 'CN'",
        "ALTER TABLE orders DROP CONSTRAINT orders_pkey, ADD PRIMARY KEY (id, total)",
    ],
)
def test_after_a_change_that_rows_cannot_follow_the_remedy_works(database: Database, twin: Twin, change: str) -> None:
    make_orders(database, rows=300)
    source = streaming(config(database, "orders"), twin)
    database.connection.execute("UPDATE orders SET total = 0 WHERE id = 1")
    database.connection.execute(change.encode())
    database.connection.execute("UPDATE orders SET note = 'changed' WHERE id < 100")
    with pytest.raises(SchemaUnknown, match="orders"):
        until(source, twin, lambda: False)
    source.close()
    twin.want("orders")
    source = streaming(config(database, "orders"), twin)
    database.connection.execute("DELETE FROM orders WHERE id = 2")
    until_equal(source, twin, database.connection, "orders")
    source.close()


def test_a_lost_slot_is_recovered_by_a_new_snapshot(database: Database, twin: Twin) -> None:
    make_orders(database, rows=300)
    streaming(config(database, "orders"), twin).close()
    database.await_free_slots()
    database.connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")
    database.connection.execute("DELETE FROM orders WHERE id < 20")
    with pytest.raises(PositionLost, match="gone"):
        opened(config(database, "orders"), twin)
    twin.want("orders")
    source = streaming(config(database, "orders"), twin)
    until_equal(source, twin, database.connection, "orders")
    source.close()


def test_who_holds_up_the_slot_is_said(
    database: Database, twin: Twin, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replication, "SLOT_WARN_SECONDS", 0.05)
    make_orders(database, rows=10)
    source = PostgresSource("shop", config(database, "orders"))
    twin.sources.append(source)
    with database.server.connect(database.name) as other, caplog.at_level(logging.WARNING, "ledgertail.source"):
        other.execute("BEGIN")
        other.execute("UPDATE orders SET state = 'waiting' WHERE id = 1")
        thread = threading.Thread(target=source.open, args=(twin.resume(),))
        thread.start()
        poll(lambda: f"pid {other.info.backend_pid} " in caplog.text)
        other.execute("COMMIT")
        thread.join(60)
    until_equal(source, twin, database.connection, "orders")
    source.close()


def poll(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)
