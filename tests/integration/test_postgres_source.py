"""The stream, against real servers: what the log holds arrives whole, once and in order, whatever breaks in between."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from psycopg import sql

from cdc.config import SourceConfig
from cdc.decode.postgres.pgoutput import lsn_int
from cdc.errors import PositionLost, SchemaUnknown, SourceError, SourceUnavailable
from cdc.sources.postgres import PostgresInspection, PostgresSource, replication
from cdc.types import MicroBatch
from tests.integration.replay import Twin, opened, source_rows, step, streaming, until, until_equal
from tests.servers.certificates import certificate
from tests.servers.own_server import poll
from tests.servers.postgres import Database, PostgresServer, fresh_database
from tests.servers.postgres_binaries import DEFAULT_VERSION
from tests.servers.proxy import Proxy

WIDE = "repeat(md5(random()::text), 200)"
PATIENCE_SECONDS = 60
TLS_VERSION = 17  # the programs of the default one may be built without


def config(database: Database, *tables: str, **options: Any) -> SourceConfig:
    return SourceConfig(**{"url": database.url, "tables": list(tables), **options})


def make(database: Database, *statements: str) -> None:
    for statement in statements:
        database.connection.execute(statement.encode())


def batches(source: PostgresSource, twin: Twin, enough: Callable[[list[MicroBatch]], bool]) -> list[MicroBatch]:
    """Read until `enough`; what came, in order."""
    found: list[MicroBatch] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not enough(found):
        assert time.monotonic() < deadline
        if (batch := step(source, twin)) is not None:
            found.append(batch)
    return found


def raised(source: PostgresSource, twin: Twin, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        until(source, twin, lambda: False)


def slot_facts(database: Database) -> tuple[Any, ...]:
    row = database.connection.execute(
        "SELECT slot_name, confirmed_flush_lsn::text, active_pid FROM pg_replication_slots WHERE database = current_database()"
    ).fetchone()
    assert row is not None
    return row


VALUES = [
    ("bool", "true"),
    ("int2", "-32768"),
    ("int8", "9223372036854775807"),
    ("float4", "'1.1'"),
    ("float8", "'NaN'"),
    ("numeric", "'-123456789012345678901234567890123456789012.5'"),
    ("numeric(12,2)", "1.5"),
    ("money", "'1234.56'::numeric::money"),
    ("text", "E'a\\n\"b\",\\\\ 汉字'"),
    ("varchar(10)", "''"),
    ("char(5)", "'ab'"),
    ("bytea", "'\\x00ff0a'"),
    ("date", "'0044-03-15 BC'"),
    ("timestamp", "'infinity'"),
    ("timestamptz", "'2026-03-29 02:30:00.123456+08'"),
    ("time", "'24:00:00'"),
    ("timetz", "'12:00:00+08'"),
    ("interval", "'1 year -2 days 03:04:05.6'"),
    ("uuid", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'"),
    ("json", """'{"a": [1, null]}'"""),
    ("jsonb", """'{"b": "x"}'"""),
    ("int4[]", "'[0:1]={1,NULL}'"),
    ("text[]", """'{"a,b",NULL,""}'"""),
    ("int4range", "'[1,5)'"),
    ("inet", "'10.0.0.1/8'"),
    ("point", "'(1,2)'"),
    ("bit(3)", "'101'"),
    ("tsvector", "'a b:1'"),
    ("mood", "'glad'"),
    ("amount", "12.30"),
    ("pair", "'(1,x)'"),
]


def test_snapshot_and_stream_give_every_type_alike(any_database: Database, twin: Twin) -> None:
    columns = ", ".join(f"c{i} {kind}" for i, (kind, _) in enumerate(VALUES))
    row = ", ".join(value for _, value in VALUES)
    make(
        any_database,
        "CREATE TYPE mood AS ENUM ('sad', 'glad')",
        "CREATE DOMAIN base AS numeric(10,2)",
        "CREATE DOMAIN amount AS base",
        "CREATE TYPE pair AS (a int, b text)",
        f"CREATE TABLE everything (id int PRIMARY KEY, {columns})",
        f"INSERT INTO everything VALUES (1, {row})",
        "INSERT INTO everything (id) VALUES (2)",
    )
    source = streaming(config(any_database, "everything"), twin)
    make(any_database, f"INSERT INTO everything VALUES (3, {row})", "INSERT INTO everything (id) VALUES (4)")
    until(source, twin, lambda: len(twin.rows("everything")) == 4)
    rows = {r[0]: [str(value) for value in r[1:]] for r in twin.rows("everything")}
    assert rows[1] == rows[3]
    assert rows[2] == rows[4] == ["None"] * len(VALUES)
    assert [value for (kind, _), value in zip(VALUES, rows[1], strict=True) if kind in ("money", "amount", "mood")] == [
        "1234.56",
        "glad",
        "12.30",
    ]


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_an_unchanged_toast_value_stays(database: Database, twin: Twin, identity: str) -> None:
    make(database, "CREATE TABLE docs (id int PRIMARY KEY, n int, body text)", "ALTER TABLE docs ALTER body SET STORAGE external")
    make(database, f"ALTER TABLE docs REPLICA IDENTITY {identity}", f"INSERT INTO docs SELECT g, 0, {WIDE} FROM generate_series(1, 4) g")
    source = streaming(config(database, "docs"), twin)
    make(
        database,
        "UPDATE docs SET n = 1 WHERE id = 1",
        "UPDATE docs SET id = 22 WHERE id = 2",
        "UPDATE docs SET body = NULL WHERE id = 3",
        f"UPDATE docs SET body = {WIDE}, n = 7 WHERE id = 4",
    )
    until_equal(source, twin, database.connection, "docs")


def test_a_table_without_key_is_told_by_its_rows(database: Database, twin: Twin) -> None:
    make(
        database,
        "CREATE TABLE log (a int, b text)",
        "ALTER TABLE log REPLICA IDENTITY FULL",
        "INSERT INTO log VALUES (1, 'x'), (1, 'x'), (NULL, NULL)",
    )
    source = streaming(config(database, "log"), twin)
    make(
        database,
        "DELETE FROM log WHERE ctid IN (SELECT min(ctid) FROM log WHERE a = 1)",
        "UPDATE log SET b = 'y' WHERE a IS NULL",
        "INSERT INTO log VALUES (1, 'x')",
    )
    until_equal(source, twin, database.connection, "log")
    assert twin.schemas["log"].key == ()


def test_other_identities(database: Database, twin: Twin) -> None:
    make(
        database,
        "CREATE TABLE a (x int NOT NULL, y text NOT NULL, z int)",
        "CREATE UNIQUE INDEX a_key ON a (y, x)",
        "ALTER TABLE a REPLICA IDENTITY USING INDEX a_key",
        "CREATE TABLE b (z text, y int, x int, PRIMARY KEY (x, y))",
        "ALTER TABLE b REPLICA IDENTITY FULL",
        "INSERT INTO a VALUES (1, 'p', 1), (2, 'q', 2)",
        "INSERT INTO b VALUES ('a', 1, 1), ('b', 1, 2)",
    )
    source = streaming(config(database, "a", "b"), twin)
    make(database, "UPDATE a SET y = 'r' WHERE x = 1", "DELETE FROM a WHERE x = 2", "UPDATE b SET y = 9", "DELETE FROM b WHERE x = 1")
    until_equal(source, twin, database.connection, "a", "b")
    assert twin.schemas["a"].key == ("y", "x")
    assert twin.schemas["b"].key == ("x", "y")


@pytest.mark.parametrize("deferrable", [False, True])
def test_key_changes_swaps_and_lives_within_one_transaction(database: Database, twin: Twin, deferrable: bool) -> None:
    """While a deferrable key is not checked two rows may have one: then only whole rows tell them apart."""
    key = "PRIMARY KEY DEFERRABLE INITIALLY DEFERRED" if deferrable else "PRIMARY KEY"
    make(database, f"CREATE TABLE t (id int {key}, v text)", "INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three')")
    if deferrable:
        with pytest.raises(SourceError, match="no primary key"):
            opened(config(database, "t"), twin)
        make(database, "ALTER TABLE t REPLICA IDENTITY FULL")
    swap = ["UPDATE t SET id = 3 - id WHERE id < 3"]
    source = streaming(config(database, "t"), twin)
    with database.connection.transaction():
        make(database, *(swap if deferrable else [f"UPDATE t SET id = {new} WHERE id = {old}" for old, new in ((1, 0), (2, 1), (0, 2))]))
        make(database, "INSERT INTO t VALUES (9, 'brief')", "UPDATE t SET v = 'briefer' WHERE id = 9", "DELETE FROM t WHERE id = 9")
        make(database, "DELETE FROM t WHERE id = 3", "INSERT INTO t VALUES (3, 'again')")
    until_equal(source, twin, database.connection, "t")
    assert twin.rows("t") == [(1, "two"), (2, "one"), (3, "again")]
    assert twin.schemas["t"].key == (() if deferrable else ("id",))


def test_truncate_and_cascade(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE parent (id int PRIMARY KEY)", "CREATE TABLE child (id int PRIMARY KEY REFERENCES parent)")
    make(
        database,
        "CREATE TABLE other (id int PRIMARY KEY)",
        "INSERT INTO parent VALUES (1)",
        "INSERT INTO child VALUES (1)",
        "INSERT INTO other VALUES (1)",
    )
    source = streaming(config(database, "parent", "child", "other"), twin)
    with database.connection.transaction():
        make(database, "INSERT INTO parent VALUES (2)", "TRUNCATE parent CASCADE", "INSERT INTO parent VALUES (3)")
    make(database, "TRUNCATE other")
    until_equal(source, twin, database.connection, "parent", "child", "other")
    assert twin.ops["t"] == 3


def test_only_what_was_committed_arrives(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)")
    source = streaming(config(database, "t"), twin)
    with database.connection.transaction():
        make(database, "INSERT INTO t VALUES (1)", "SAVEPOINT a", "INSERT INTO t VALUES (2)", "SAVEPOINT b", "INSERT INTO t VALUES (3)")
        make(database, "ROLLBACK TO b", "INSERT INTO t VALUES (4)", "ROLLBACK TO a", "INSERT INTO t VALUES (5)", "RELEASE a")
    with database.connection.transaction(force_rollback=True):
        make(database, "INSERT INTO t VALUES (6)")
    make(database, "BEGIN", "INSERT INTO t VALUES (7)", "PREPARE TRANSACTION 'gone'", "ROLLBACK PREPARED 'gone'")
    make(database, "BEGIN", "INSERT INTO t VALUES (8)", "PREPARE TRANSACTION 'kept'", "INSERT INTO t VALUES (9)", "COMMIT PREPARED 'kept'")
    found = batches(source, twin, lambda _: len(twin.rows("t")) == 4)
    assert [row[0] for batch in found for changes in batch.changes for row in zip(changes.rows["id"].to_pylist(), strict=True)] == [
        1,
        5,
        9,
        8,
    ]


def test_several_tables_change_in_one_order(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)")
    source = streaming(config(database, "a", "b"), twin)
    with database.connection.transaction():
        make(database, "INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1)", "INSERT INTO a VALUES (2)")
    (batch,) = batches(source, twin, lambda found: bool(found))
    places = {changes.schema.table: changes.rows["#ordinal"].to_pylist() for changes in batch.changes}
    assert (batch.whole, batch.transactions.num_rows, places) == (True, 1, {"a": [0, 2], "b": [1]})


def test_a_large_transaction_comes_in_parts_and_again_whole_after_a_break(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    settings = config(database, "t", batch_size_max=200_000)
    source = streaming(settings, twin)
    make(database, "INSERT INTO t SELECT g, repeat('x', 50) FROM generate_series(1, 20000) g", "INSERT INTO t VALUES (0, 'after')")
    first = batches(source, twin, lambda found: len(found) == 3)
    assert [batch.whole for batch in first] == [False] * 3
    assert twin.rows("t") == []
    source.close()
    source = opened(settings, twin)
    found = batches(source, twin, lambda _: (0, "after") in twin.rows("t"))
    assert len(found) > 5
    assert {batch.transactions["txn"][0].as_py() for batch in found[:-2]} == {first[0].transactions["txn"][0].as_py()}
    assert twin.rows("t") == source_rows(database.connection, "t", twin.schemas["t"])
    assert twin.ops["c"] == 20001


@pytest.mark.parametrize("version", [14, DEFAULT_VERSION, 18])
def test_a_transaction_in_progress_is_here_before_it_commits(version: int, twin: Twin) -> None:
    """And others that commit meanwhile come in their turn. What it rolls back, to a savepoint or at the end, never comes."""
    with PostgresServer(version, {"logical_decoding_work_mem": "64kB"}) as server, fresh_database(server) as database:
        make(database, "CREATE TABLE orders (id int PRIMARY KEY, note text)", "INSERT INTO orders VALUES (0, 'old')")
        source = streaming(config(database, "orders"), twin)
        rows = "INSERT INTO orders SELECT i, repeat('x', 100) FROM generate_series({}, {}) i"
        with server.connect(database.name) as long, server.connect(database.name) as gone:
            for session in (long, gone):
                session.execute("BEGIN")
            gone.execute(rows.format(9001, 11000).encode())
            long.execute(rows.format(1, 2000).encode())
            long.execute("SAVEPOINT first")
            long.execute(rows.format(2001, 4000).encode())
            long.execute("ROLLBACK TO first")
            long.execute("UPDATE orders SET note = 'new' WHERE id = 0")
            long.execute(rows.format(4001, 6000).encode())
            make(database, "INSERT INTO orders VALUES (-1, 'meanwhile')")
            until(source, twin, lambda: len(twin.rows("orders")) == 2)
            sent = "SELECT stream_txns, stream_bytes > 400000 FROM pg_stat_replication_slots WHERE slot_name LIKE 'ledgertail%'"
            poll(lambda: database.connection.execute(sent).fetchall() == [(2, True)], "what is in progress was not sent")
            gone.execute("ROLLBACK")
            long.execute("COMMIT")
        until_equal(source, twin, database.connection, "orders")
        assert len(twin.rows("orders")) == 4002


def test_a_backlog_of_small_transactions_is_cut_between_them(database: Database, twin: Twin) -> None:
    """Or a backlog would become one store transaction, which a daemon that is killed now and then would never finish."""
    make(database, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    settings = config(database, "t", batch_size_max=100_000)
    streaming(settings, twin).close()
    for start in range(0, 6000, 100):
        make(database, f"INSERT INTO t SELECT g, repeat('x', 50) FROM generate_series({start}, {start + 99}) g")
    source = opened(settings, twin)
    found = batches(source, twin, lambda _: len(twin.rows("t")) == 6000)
    assert len(found) >= 6
    assert all(batch.whole for batch in found)


def test_a_restart_while_a_transaction_is_open_loses_nothing(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)")
    source = streaming(config(database, "t"), twin)
    with database.server.connect(database.name) as other:
        other.execute("BEGIN")
        other.execute("INSERT INTO t VALUES (1)")
        make(database, "INSERT INTO t VALUES (2)")
        until(source, twin, lambda: twin.rows("t") == [(2,)])
        source.close()
        make(database, "INSERT INTO t VALUES (3)")
        other.execute("INSERT INTO t VALUES (4)")
        other.execute("COMMIT")
    source = opened(config(database, "t"), twin)
    until_equal(source, twin, database.connection, "t")


def test_a_lock_on_a_table_does_not_hold_up_the_stream(database: Database, twin: Twin) -> None:
    """Of a TRUNCATE or ALTER TABLE that is not committed yet."""
    make(database, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    source = streaming(config(database, "t"), twin)
    source.close()
    make(database, "INSERT INTO t VALUES (2)")
    with database.server.connect(database.name) as other, other.transaction():
        other.execute("LOCK TABLE t IN ACCESS EXCLUSIVE MODE")
        source = opened(config(database, "t"), twin)
        until(source, twin, lambda: twin.rows("t") == [(1,), (2,)])
    source.close()


def test_a_batch_never_acknowledged_comes_again(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)")
    source = streaming(config(database, "t"), twin)
    make(database, "INSERT INTO t VALUES (1)")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ((batch := source.read()) and batch.rows):
        assert time.monotonic() < deadline
    source.close()
    source = opened(config(database, "t"), twin)
    until_equal(source, twin, database.connection, "t")


def test_the_position_advances_while_only_other_tables_are_written(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE busy (v text)")
    source = streaming(config(database, "t"), twin)
    make(database, "INSERT INTO busy SELECT repeat('x', 1000) FROM generate_series(1, 25000)")
    (head,) = database.connection.execute("SELECT pg_current_wal_lsn()::text").fetchone() or ("",)
    found = batches(source, twin, lambda found: bool(found) and lsn_int(found[-1].position) >= lsn_int(head) - (1 << 20))
    assert all(batch.rows == 0 and not batch.transactions.num_rows for batch in found)
    until(source, twin, lambda: lsn_int(slot_facts(database)[1]) >= lsn_int(found[-1].position))
    inspection = PostgresInspection("shop", config(database, "t"))
    lag = inspection.lag(found[-1].position)
    inspection.close()
    assert lag.lag_bytes is not None
    assert lag.lag_bytes <= 2 << 20
    assert lag.retained_bytes is not None


def test_an_idle_source_reads_nothing(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)")
    source = streaming(config(database, "t"), twin)
    assert [source.read() for _ in range(2)] == [None, None]
    source.keepalive()


def test_the_slot_missing_moved_or_in_use(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)")
    source = streaming(config(database, "t"), twin)
    assert source.read() is None
    slot, _, pid = slot_facts(database)
    with pytest.raises(SourceUnavailable, match=f"process {pid} "):
        opened(config(database, "t"), twin)
    source.close()
    database.await_free_slots()
    make(database, "INSERT INTO t VALUES (1)", f"SELECT pg_replication_slot_advance('{slot}', pg_current_wal_lsn())")
    with pytest.raises(PositionLost, match="somebody else"):
        opened(config(database, "t"), twin)
    make(database, f"SELECT pg_drop_replication_slot('{slot}')")
    with pytest.raises(PositionLost, match="gone"):
        opened(config(database, "t"), twin)
    make(database, f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    with pytest.raises(PositionLost, match="made it anew"):
        opened(config(database, "t"), twin)


def test_another_database_behind_the_same_name(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)")
    streaming(config(database, "t"), twin).close()
    with fresh_database(database.server) as other:
        make(other, "CREATE TABLE t (id int PRIMARY KEY)")
        with pytest.raises(PositionLost, match="behind the same name"):
            opened(config(other, "t"), twin)


@pytest.mark.parametrize("name", ["Orders", 'qu"ote', "with space", "select", "订单", "x" * 63, "it's"])
def test_names(database: Database, twin: Twin, name: str) -> None:
    connection = database.connection
    table, column = sql.Identifier(name), sql.Identifier(name[:-1] + "c" if len(name) == 63 else name + "列")
    connection.execute(sql.SQL("CREATE TABLE {} ({} int PRIMARY KEY, v text)").format(table, column))
    connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier("Sch " + name[:50])))
    nested = sql.Identifier("Sch " + name[:50], name)
    connection.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY)").format(nested))
    connection.execute(sql.SQL("INSERT INTO {} VALUES (1, 'x')").format(table))
    tables = (name, f"Sch {name[:50]}.{name}")
    source = streaming(config(database, *tables, publication=f"Pub {name[:50]}"), twin)
    connection.execute(sql.SQL("UPDATE {} SET {} = 2").format(table, column))
    connection.execute(sql.SQL("INSERT INTO {} VALUES (3)").format(nested))
    until_equal(source, twin, connection, *tables)


def test_changes_of_shape_that_rows_can_follow(database: Database, twin: Twin) -> None:
    make(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, a varchar(5), n numeric(8,2), gone int)",
        "INSERT INTO t VALUES (1, 'a', 1.5, 1), (2, 'b', 2.5, 2)",
    )
    source = streaming(config(database, "t"), twin)
    with database.connection.transaction():
        make(database, "UPDATE t SET gone = 3 WHERE id = 1", "ALTER TABLE t ADD COLUMN extra text")
        make(database, "INSERT INTO t VALUES (3, 'c', 3.5, 3, 'extra')")
    make(
        database,
        "ALTER TABLE t DROP COLUMN gone",
        "ALTER TABLE t ALTER a TYPE varchar(9), ALTER n TYPE numeric(12,3), ALTER id TYPE bigint",
    )
    make(database, "INSERT INTO t VALUES (4000000000, 'longer', 123456789.125, 'z')", "UPDATE t SET extra = 'late' WHERE id = 2")
    until_equal(source, twin, database.connection, "t")
    assert [column.name for column in twin.schemas["t"].columns] == ["id", "a", "n", "extra"]


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE t RENAME COLUMN v TO w",
        "ALTER TABLE t ALTER v TYPE int USING 1",
        "ALTER TABLE t ALTER n TYPE numeric(6,2)",
        "ALTER TABLE t ADD COLUMN d int DEFAULT 1",
        "ALTER TABLE t ADD COLUMN d serial",
    ],
)
def test_changes_of_shape_that_rows_cannot_follow_halt(database: Database, twin: Twin, change: str) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY, v text, n numeric(8,2))", "INSERT INTO t VALUES (1, '1')")
    source = streaming(config(database, "t"), twin)
    make(database, change, "INSERT INTO t VALUES (2)")
    raised(source, twin, SchemaUnknown, "'t' was changed")


def test_a_table_created_anew_under_its_name_halts(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")
    source = streaming(config(database, "t"), twin)
    make(
        database,
        "DROP TABLE t",
        "CREATE TABLE t (id int PRIMARY KEY)",
        "ALTER PUBLICATION ledgertail_shop ADD TABLE t",
        "INSERT INTO t VALUES (2)",
    )
    raised(source, twin, SchemaUnknown, "created anew")
    source.close()
    with pytest.raises(SchemaUnknown, match="created anew"):
        opened(config(database, "t"), twin)


def test_a_table_that_left_the_publication_for_a_while_halts(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY)")
    streaming(config(database, "t", "u"), twin).close()
    make(
        database,
        "ALTER PUBLICATION ledgertail_shop DROP TABLE t",
        "INSERT INTO t VALUES (1)",
        "ALTER PUBLICATION ledgertail_shop ADD TABLE t",
    )
    with pytest.raises(SchemaUnknown, match="out of publication"):
        opened(config(database, "t", "u"), twin)


def test_generated_columns_are_left_out(any_database: Database, twin: Twin) -> None:
    make(
        any_database,
        "CREATE TABLE t (id int PRIMARY KEY, a int, twice int GENERATED ALWAYS AS (a * 2) STORED)",
        "INSERT INTO t VALUES (1, 1)",
    )
    source = streaming(config(any_database, "t"), twin)
    make(any_database, "INSERT INTO t VALUES (2, 2)", "UPDATE t SET a = 3 WHERE id = 1")
    until_equal(source, twin, any_database.connection, "t")
    assert twin.rows("t") == [(1, 3), (2, 2)]


def test_a_connection_reset_is_passing_and_the_slot_is_taken_over(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)")
    with Proxy(database.server.host, database.server.port) as proxy:
        url = f"postgres://postgres@127.0.0.1:{proxy.port}/{database.name}"
        source = streaming(config(database, "t", url=url), twin)
        make(database, "INSERT INTO t VALUES (1)")
        until_equal(source, twin, database.connection, "t")
        proxy.reset()
        raised(source, twin, SourceUnavailable, "can't be reached")
        source.close()
        make(database, "INSERT INTO t VALUES (2)")
        source = reopened(config(database, "t", url=url), twin)
        until_equal(source, twin, database.connection, "t")
        proxy.refuse()
        with pytest.raises(SourceUnavailable):
            opened(config(database, "t", url=url), twin)


def reopened(settings: SourceConfig, twin: Twin) -> PostgresSource:
    """Open as the daemon does: again while it may pass."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return opened(settings, twin)
        except SourceUnavailable:
            assert time.monotonic() < deadline


def test_a_peer_that_falls_silent_is_noticed(database: Database, twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)")
    monkeypatch.setattr(replication, "DEAD_SECONDS", 3.0)
    monkeypatch.setattr(replication, "STATUS_SECONDS", 0.5)
    with Proxy(database.server.host, database.server.port) as proxy:
        source = streaming(config(database, "t", url=f"postgres://postgres@127.0.0.1:{proxy.port}/{database.name}"), twin)
        begun = time.monotonic()
        while time.monotonic() - begun < 4:
            step(source, twin)  # idle, yet alive: the server answers when asked
        proxy.freeze()
        raised(source, twin, SourceUnavailable, "has sent nothing")
        proxy.thaw()


def test_errors_have_their_class_and_no_password(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)")
    good = database.url
    cases: list[tuple[str, type[SourceError], str]] = [
        (good.replace(f"/{database.name}", "/nowhere"), SourceError, "nowhere"),
        (good.replace("postgres@", "nobody_at_all@"), SourceError, "nobody_at_all"),
        (good.replace(f":{database.server.port}", ":1"), SourceUnavailable, "refused"),
    ]
    for url, error, match in cases:
        with pytest.raises(error, match=match) as caught:
            opened(config(database, "t", url=url), twin)
        assert type(caught.value) is error
    with pytest.raises(SourceError, match="no table 'missing'"):
        opened(config(database, "t", "missing"), twin)
    with pytest.raises(SourceError, match="view"):
        make(database, "CREATE VIEW seen AS SELECT * FROM t")
        opened(config(database, "seen"), twin)


def test_what_must_not_be_made_is_asked_for_with_its_sql(database: Database, twin: Twin) -> None:
    make(database, "CREATE TABLE t (id int PRIMARY KEY)")
    settings = config(database, "t", create=False)
    with pytest.raises(SourceError, match="no publication") as publication:
        opened(settings, twin)
    make(database, publication.value.hint)
    with pytest.raises(SourceError, match="no usable replication slot") as slot:
        opened(settings, twin)
    make(database, slot.value.hint.split(";")[0])
    make(database, "INSERT INTO t VALUES (1)")
    source = streaming(settings, twin)
    until_equal(source, twin, database.connection, "t")


def test_a_partial_publication_is_refused(database: Database, twin: Twin) -> None:
    make(
        database,
        "CREATE TABLE t (id int PRIMARY KEY, v int)",
        "CREATE PUBLICATION ledgertail_shop FOR TABLE t WHERE (v > 1) WITH (publish = 'insert')",
    )
    for _ in range(2):
        with pytest.raises(SourceError, match="leaves changes out") as caught:
            opened(config(database, "t"), twin)
        for statement in filter(None, map(str.strip, caught.value.hint.split(";"))):
            make(database, statement)
    streaming(config(database, "t"), twin)


def test_a_publication_of_all_tables_serves(database: Database, twin: Twin) -> None:
    make(
        database,
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE TABLE not_ours (id int PRIMARY KEY)",
        "CREATE PUBLICATION ledgertail_shop FOR ALL TABLES",
    )
    source = streaming(config(database, "t"), twin)
    make(database, "INSERT INTO not_ours VALUES (1)", "INSERT INTO t VALUES (2)", "TRUNCATE not_ours")
    until_equal(source, twin, database.connection, "t")
    assert twin.ops["t"] == 0


def test_the_server_restarting_is_passing(twin: Twin) -> None:
    with PostgresServer(16) as server:
        with server.connect() as connection:
            connection.execute("CREATE TABLE t (id int PRIMARY KEY)")
        settings = SourceConfig(url=server.url(), tables=["t"])
        source = streaming(settings, twin)
        server.stop("immediate")
        raised(source, twin, SourceUnavailable, "can't be reached")
        source.close()
        with pytest.raises(SourceUnavailable):
            opened(settings, twin)
        server.start()
        with server.connect() as connection:
            connection.execute("INSERT INTO t VALUES (1)")
            source = reopened(settings, twin)
            until_equal(source, twin, connection, "t")
        source.close()


def test_a_stream_over_tls(twin: Twin) -> None:
    """What TLS has decrypted before it was asked for is not forgotten, however long the messages are."""
    server = PostgresServer(TLS_VERSION)
    authority, key, _ = certificate("an authority", None)
    for name, pem in (("cert", authority), ("key", key)):
        file = server.folder / f"{name}.pem"
        file.write_bytes(pem)
        file.chmod(0o600)
        server.account.own(file)
        server.settings[f"ssl_{name}_file"] = str(file)
    server.settings["ssl"] = "on"
    with server, fresh_database(server) as database:
        make(database, "CREATE TABLE docs (id int PRIMARY KEY, body text)", "ALTER TABLE docs ALTER body SET STORAGE external")
        source = streaming(config(database, "docs", options={"sslmode": "require"}), twin)
        for size in (1, 8_000, 12_000, 16_000, 20_000, 33_000, 65_000, 5_000_000):
            make(database, f"INSERT INTO docs SELECT {size} + g, repeat('x', {size} + g * 97) FROM generate_series(1, 9) g")
            until_equal(source, twin, database.connection, "docs")
        encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)"
        assert database.connection.execute(encrypted).fetchone() == (True,)
        source.close()
