"""The stream of MySQL and MariaDB into a store, against real servers. The numbers are those of the hard cases."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC
from typing import Any

import pymysql
import pytest

from cdc.config import SourceConfig
from cdc.decode.mysql.gtid import GtidSet
from cdc.decode.mysql.position import BinlogPosition
from cdc.errors import SchemaUnknown, SourceError
from cdc.protocols import Source
from cdc.sources.mysql import MysqlInspection
from cdc.types import MicroBatch
from tests.integration.replay import Twin, opened, step, streaming, until, until_equal
from tests.servers.mysql import MyDatabase, MySQLServer, fresh_database, identifier, rows
from tests.servers.mysql_binaries import FLAVOURS

PATIENCE_SECONDS = 60
on_mariadb = pytest.mark.parametrize("any_mysql", [name for name, flavour in FLAVOURS.items() if flavour.is_mariadb], indirect=True)


def config(database: MyDatabase, *tables: str, **options: Any) -> SourceConfig:
    return SourceConfig(**{"url": database.url, "tables": list(tables), **options})


def run(database: MyDatabase, *statements: str) -> None:
    for statement in statements:
        database.execute(statement)


@contextmanager
def setting(database: MyDatabase, name: str, value: Any) -> Iterator[None]:
    """A global variable set for a while; sessions that are open keep what they have."""
    before = database.execute(f"SELECT @@GLOBAL.{name}")[0][0]
    database.execute(f"SET GLOBAL {name} = %s", [value])
    try:
        yield
    finally:
        database.execute(f"SET GLOBAL {name} = %s", [before])


def fill(database: MyDatabase, first: int, count: int) -> None:
    """Many rows in one transaction."""
    run(database, "BEGIN")
    with database.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(n, "x" * 50) for n in range(first, first + count)])
    run(database, "COMMIT")


def batches(source: Source, twin: Twin, enough: Callable[[list[MicroBatch]], bool]) -> list[MicroBatch]:
    """Read until `enough`; what came, in order."""
    found: list[MicroBatch] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not enough(found):
        assert time.monotonic() < deadline
        if (batch := step(source, twin)) is not None:
            found.append(batch)
    return found


def halted(source: Source, twin: Twin, error: type[Exception], match: str) -> None:
    """It halts, and would again: what it says is not passed over by a restart."""
    with pytest.raises(error, match=match):
        until(source, twin, lambda: False)
    source.close()


def txns(found: list[MicroBatch]) -> list[str | None]:
    return [txn for batch in found for txn in batch.transactions["txn"].to_pylist()]


# Transactions


def broken_off_inside(database: MyDatabase, twin: Twin) -> None:
    """A transaction of many batches, begun again after a break inside it and gone on behind after another."""
    settings = config(database, "t", batch_size_max=100_000)
    source = streaming(settings, twin)
    fill(database, 1, 6000)
    fill(database, 0, 1)
    first = batches(source, twin, lambda found: len(found) == 2)
    assert [batch.whole for batch in first] == [False] * 2
    assert twin.rows("t") == []
    source.close()
    source = opened(settings, twin)
    found = batches(source, twin, lambda _: (0, "x" * 50) in twin.rows("t"))
    assert len(found) > 3
    assert {batch.transactions["position"][0].as_py() for batch in found[:2]} == {first[0].transactions["position"][0].as_py()}
    source.close()
    fill(database, 7000, 2)
    source = opened(settings, twin)
    until_equal(source, twin, database.connection, "t")
    assert twin.ops["c"] == 6003


def test_18_compressed_transactions(mysql_database: MyDatabase, twin: Twin) -> None:
    run(mysql_database, "SET SESSION binlog_transaction_compression = ON", "CREATE TABLE t (id int PRIMARY KEY, v text)")
    broken_off_inside(mysql_database, twin)


@on_mariadb
def test_21_compressed_row_events(any_mysql_database: MyDatabase, twin: Twin) -> None:
    database = any_mysql_database
    run(database, "CREATE TABLE t (id int PRIMARY KEY, v text)")
    with setting(database, "log_bin_compress", "ON"), setting(database, "log_bin_compress_min_len", 10):
        broken_off_inside(database, twin)


@pytest.mark.parametrize("phases", ["", "XA "])
def test_only_what_was_committed_arrives(any_mysql_database: MyDatabase, twin: Twin, phases: str) -> None:
    """Also of transactions in two phases, whose order is that of their commits."""
    database = any_mysql_database
    run(database, "CREATE TABLE t (id int PRIMARY KEY)")
    source = streaming(config(database, "t"), twin)
    run(database, "BEGIN", "INSERT INTO t VALUES (1)", "SAVEPOINT a", "INSERT INTO t VALUES (2)", "SAVEPOINT b", "INSERT INTO t VALUES (3)")
    run(database, "ROLLBACK TO b", "INSERT INTO t VALUES (4)", "ROLLBACK TO a", "INSERT INTO t VALUES (5)", "COMMIT")
    run(database, "BEGIN", "INSERT INTO t VALUES (6)", "ROLLBACK")
    for number, end in ((7, "ROLLBACK 'x'"), (8, "COMMIT 'x'"), (9, "COMMIT 'x' ONE PHASE")):
        run(database, "XA START 'x'", f"INSERT INTO t VALUES ({number})", "XA END 'x'")
        run(database, *([] if "ONE" in end else ["XA PREPARE 'x'"]), f"XA {end}")
    found = batches(source, twin, lambda _: len(twin.rows("t")) == 4)
    assert [n for batch in found for changes in batch.changes for n in changes.rows["id"].to_pylist()] == [1, 5, 8, 9]


def test_20_an_incident(any_mysql_database: MyDatabase, twin: Twin) -> None:
    """A change of a table without transactions that the server could not log: it halts, and the remedy works."""
    database = any_mysql_database
    run(database, "CREATE TABLE t (id int PRIMARY KEY, v text) ENGINE = MyISAM")
    source = streaming(config(database, "t"), twin)
    with (
        setting(database, "max_binlog_stmt_cache_size", 4096),
        closing(database.server.connect(database.name)) as other,
        pytest.raises(pymysql.OperationalError, match="max_binlog_stmt_cache_size"),
    ):
        rows(other, "INSERT INTO t VALUES (1, REPEAT('x', 60000)), (2, REPEAT('x', 60000)), (3, REPEAT('x', 60000))")
    halted(source, twin, SourceError, "incident")
    halted(opened(config(database, "t"), twin), twin, SourceError, "incident")
    twin.want("t")
    until_equal(streaming(config(database, "t"), twin), twin, database.connection, "t")


def test_41_and_42_several_changes_of_a_key(any_mysql_database: MyDatabase, twin: Twin) -> None:
    """Swaps, chains and whole lives within one transaction; the same once more as single transactions."""
    database = any_mysql_database
    run(database, "CREATE TABLE t (id int PRIMARY KEY, v text)", "INSERT INTO t VALUES (1, 'one'), (2, 'two'), (3, 'three'), (4, 'four')")
    source = streaming(config(database, "t"), twin)
    for begin, commit in (("BEGIN", "COMMIT"), ("DO 0", "DO 0")):
        run(database, begin, *(f"UPDATE t SET id = {new} WHERE id = {old}" for old, new in ((1, 0), (2, 1), (0, 2))))
        run(database, "INSERT INTO t VALUES (9, 'brief')", "UPDATE t SET v = 'briefer' WHERE id = 9", "DELETE FROM t WHERE id = 9")
        run(
            database, "DELETE FROM t WHERE id = 3", "INSERT INTO t VALUES (3, 'again')", "UPDATE t SET id = id + 1 ORDER BY id DESC", commit
        )
        until_equal(source, twin, database.connection, "t")
        run(database, "UPDATE t SET id = id - 1 ORDER BY id")
    until_equal(source, twin, database.connection, "t")
    assert twin.rows("t") == [(1, "one"), (2, "two"), (3, "again"), (4, "four")]


def test_several_tables_change_in_one_order(any_mysql_database: MyDatabase, twin: Twin) -> None:
    database = any_mysql_database
    run(database, "CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)")
    source = streaming(config(database, "a", "b"), twin)
    run(database, "BEGIN", "INSERT INTO a VALUES (1)", "INSERT INTO b VALUES (1)", "INSERT INTO a VALUES (2)", "COMMIT")
    (batch,) = batches(source, twin, lambda found: bool(found))
    places = {changes.schema.table: changes.rows["#ordinal"].to_pylist() for changes in batch.changes}
    assert (batch.whole, batch.transactions.num_rows, places) == (True, 1, {"a": [0, 2], "b": [1]})


def test_the_position_advances_while_only_other_tables_are_written(
    any_mysql_database: MyDatabase, twin: Twin, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = any_mysql_database
    monkeypatch.setattr("cdc.sources.mysql.source.ADVANCE_BYTES", 100_000)
    run(database, "CREATE TABLE seen (id int PRIMARY KEY)", "CREATE TABLE t (id int PRIMARY KEY, v text)")
    source = streaming(config(database, "seen"), twin)
    fill(database, 1, 3000)
    inspection = MysqlInspection("shop", config(database, "seen"))
    target = inspection.lag(None).head
    found = batches(source, twin, lambda found: bool(found) and inspection.reached(found[-1].position, target))
    assert all(batch.rows == 0 and not batch.transactions.num_rows for batch in found)
    assert inspection.lag(found[-1].position).lag_bytes == 0
    inspection.close()
    assert [source.read() for _ in range(2)] == [None, None]


@pytest.mark.parametrize("taken", [True, False], ids=["applied", "lost"])
def test_a_batch_never_acknowledged_comes_again(mysql_database: MyDatabase, twin: Twin, taken: bool) -> None:
    run(mysql_database, "CREATE TABLE t (id int PRIMARY KEY)")
    source = streaming(config(mysql_database, "t"), twin)
    run(mysql_database, "INSERT INTO t VALUES (1)")
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ((batch := source.read()) and batch.rows):
        assert time.monotonic() < deadline
    if taken:
        twin.apply(batch)
    source.close()
    run(mysql_database, "INSERT INTO t VALUES (2)")
    until_equal(opened(config(mysql_database, "t"), twin), twin, mysql_database.connection, "t")
    assert twin.ops["c"] == 2


# GTIDs


def test_26_gaps_and_tags(mysql_database: MyDatabase, twin: Twin) -> None:
    """Numbers that are missing, come late or have a tag; each is where a restart goes on from."""
    database, uuid = mysql_database, "11111111-2222-4333-8444-555555555555"
    run(database, "CREATE TABLE t (id int PRIMARY KEY)")
    source = streaming(config(database, "t"), twin)
    gtids = [f"{uuid}:1", f"{uuid}:3", f"{uuid}:shop:7", f"{uuid}:2", f"{uuid}:shop:5"]
    for number, gtid in enumerate(gtids):
        run(database, f"SET gtid_next = '{gtid}'", f"INSERT INTO t VALUES ({number})", "SET gtid_next = 'AUTOMATIC:till'")
        found = batches(source, twin, lambda found: bool(txns(found)))
        assert txns(found) == [gtid]
        source.close()
        known = BinlogPosition.parse(found[-1].position).gtids
        assert isinstance(known, GtidSet)
        (executed,) = database.execute("SELECT @@GLOBAL.gtid_executed")[0]
        assert str(known) == str(GtidSet.parse(executed))
        source = opened(config(database, "t"), twin)
    run(database, "INSERT INTO t VALUES (9)", "SET gtid_next = 'AUTOMATIC'")
    until_equal(source, twin, database.connection, "t")
    assert (twin.ops["r"], twin.ops["c"]) == (0, 6)


@on_mariadb
def test_26_domains(any_mysql_database: MyDatabase, twin: Twin) -> None:
    """Several domains, and numbers of one that leave gaps."""
    database = any_mysql_database
    run(database, "CREATE TABLE t (id int PRIMARY KEY)")
    source = streaming(config(database, "t"), twin)
    ((server_id,),) = database.execute("SELECT @@server_id")
    gtids = [f"7-{server_id}-10", f"8-{server_id}-1", f"7-{server_id}-50", f"9-{server_id}-3"]
    for number, gtid in enumerate(gtids):
        domain, _, sequence = gtid.split("-")
        run(database, f"SET SESSION gtid_domain_id = {domain}", f"SET SESSION gtid_seq_no = {sequence}", f"INSERT INTO t VALUES ({number})")
        found = batches(source, twin, lambda found: bool(txns(found)))
        assert txns(found) == [gtid]
        assert gtid in str(BinlogPosition.parse(found[-1].position).gtids)
        source.close()
        source = opened(config(database, "t"), twin)
    run(database, "SET SESSION gtid_domain_id = 0", "INSERT INTO t VALUES (9)")
    until_equal(source, twin, database.connection, "t")
    assert twin.ops["c"] == 5


def test_26_and_35_anonymous_transactions_and_engines_mixed() -> None:
    """Without GTIDs: a restart goes on by file and offset. What a rollback leaves of a table without transactions is there."""
    twin = Twin()
    with MySQLServer("mysql-9", {"gtid_mode": "OFF", "enforce_gtid_consistency": "OFF"}) as server, fresh_database(server) as database:
        mixed(database, twin)
        run(database, "FLUSH BINARY LOGS", "INSERT INTO t VALUES (5)")
        source = opened(config(database, "t", "m"), twin)
        found = batches(source, twin, lambda found: bool(txns(found)))
        assert txns(found) == [None]
        until_equal(source, twin, database.connection, "t", "m")
        twin.close()


@on_mariadb
@pytest.mark.parametrize("engine", ["MyISAM", "Aria"])
def test_35_engines_mixed(any_mysql_database: MyDatabase, twin: Twin, engine: str) -> None:
    mixed(any_mysql_database, twin, engine)


def mixed(database: MyDatabase, twin: Twin, engine: str = "MyISAM") -> None:
    """Transactions over a table with transactions and one without."""
    run(database, "CREATE TABLE t (id int PRIMARY KEY)", f"CREATE TABLE m (id int PRIMARY KEY, v text) ENGINE = {engine}")
    run(database, "INSERT INTO m VALUES (1, 'before')")
    source = streaming(config(database, "t", "m"), twin)
    run(database, "BEGIN", "INSERT INTO t VALUES (1)", "INSERT INTO m VALUES (2, 'stays')", "ROLLBACK")
    run(database, "BEGIN", "INSERT INTO m VALUES (3, 'stays')")
    if engine == "MyISAM":
        run(database, "SAVEPOINT a", "INSERT INTO t VALUES (2)", "UPDATE m SET v = 'too'", "ROLLBACK TO a")
    run(database, "INSERT INTO t VALUES (3)", "COMMIT")
    with pytest.raises(pymysql.IntegrityError):
        run(database, "INSERT INTO m VALUES (4, 'comes'), (1, 'fails'), (5, 'never')")
    with pytest.raises(pymysql.IntegrityError):
        run(database, "INSERT INTO t VALUES (4), (3), (5)")
    run(database, "DELETE FROM m WHERE id = 1", "INSERT INTO t VALUES (6)")
    until_equal(source, twin, database.connection, "t", "m")
    source.close()


# Columns and values


@pytest.mark.parametrize("image", ["FULL", "MINIMAL"])
def test_22_generated_and_invisible_columns(any_mysql_database: MyDatabase, twin: Twin, image: str) -> None:
    database = any_mysql_database
    run(
        database,
        f"SET SESSION binlog_row_image = {image}",
        "CREATE TABLE t (id int PRIMARY KEY, a int, hidden int DEFAULT 5 INVISIBLE, twice int AS (a * 2) VIRTUAL,"
        " thrice int AS (a * 3) STORED)",
        "CREATE TABLE u (id int AUTO_INCREMENT PRIMARY KEY INVISIBLE, v text, w int AS (length(v)) VIRTUAL, INDEX (w))",
        "INSERT INTO t (id, a) VALUES (1, 1), (2, NULL)",
        "INSERT INTO u (v) VALUES ('a')",
    )
    source = streaming(config(database, "t", "u"), twin)
    run(
        database,
        "INSERT INTO t (id, a, hidden) VALUES (3, 3, 3), (4, 4, NULL)",
        "UPDATE t SET a = 7 WHERE id = 1",
        "UPDATE t SET hidden = 8 WHERE id = 2",
        "INSERT INTO u (v) VALUES ('b'), ('cc')",
        "UPDATE u SET v = 'longer' WHERE v = 'a'",
        "DELETE FROM u WHERE v = 'b'",
    )
    if image == "MINIMAL" and database.server.is_mariadb:
        return halted(source, twin, SchemaUnknown, "does not tell the value of column 'twice'")
    until_equal(source, twin, database.connection, "t", "u")
    assert twin.schemas["u"].key == ("id",)
    return None


def test_22_a_primary_key_the_server_made(mysql_database: MyDatabase, twin: Twin) -> None:
    database = mysql_database
    run(database, "SET SESSION sql_generate_invisible_primary_key = ON", "CREATE TABLE t (v text)", "INSERT INTO t VALUES ('a'), ('a')")
    source = streaming(config(database, "t"), twin)
    run(database, "INSERT INTO t VALUES ('a')", "UPDATE t SET v = 'b' LIMIT 1", "DELETE FROM t WHERE v = 'a' LIMIT 1")
    until_equal(source, twin, database.connection, "t")
    assert twin.schemas["t"].key == ("my_row_id",)
    assert len(twin.rows("t")) == 2


def test_28_moments_whatever_the_time_zones(any_mysql_database: MyDatabase, twin: Twin) -> None:
    """The server's zone, the writer's and ours differ; the hour that summer time has twice, which some servers tell apart in that zone."""
    database = any_mysql_database
    run(database, "SET time_zone = '+00:00'", "CREATE TABLE t (id int PRIMARY KEY, zone text, at timestamp(6) NULL, s timestamp(3) NULL)")
    moments = [1793511000, 1793514600, 1774765800, 1]  # 1 November 2026 in New York: 01:30 twice; a day in spring; the first second
    told: dict[str, list[tuple[Any, ...]]] = {}
    with setting(database, "time_zone", "Asia/Shanghai"):
        for zone in ("SYSTEM", "America/New_York", "+05:45"):
            with closing(database.server.connect(database.name)) as session:
                rows(session, f"SET time_zone = '{zone}'")
                for number, at in enumerate(moments):
                    rows(session, f"REPLACE INTO t VALUES ({number}, '{zone}', FROM_UNIXTIME({at}.123456), FROM_UNIXTIME({at}.5))")
            source = opened(config(database, "t"), twin)
            until(source, twin, lambda zone=zone: [row[1] for row in twin.rows("t")] == [zone] * 4)  # type: ignore[misc]
            source.close()
            told[zone] = [(at.replace(tzinfo=UTC), s.replace(tzinfo=UTC)) for at, s in database.execute("SELECT at, s FROM t ORDER BY id")]
            assert [(at, s) for *_, at, s in twin.rows("t")] == told[zone]
    assert [at.timestamp() for _, at in told["SYSTEM"]] == [at + 0.5 for at in moments]
    assert twin.ops["r"] == 4


WIDE = [
    ("bigint unsigned", "18446744073709551615"),
    ("bit(64)", "b'1000000000000000000000000000000000000000000000000000000000000001'"),
    ("enum('', 'a''b', '汉')", "'汉'"),
    ("enum('x')", "''"),
    ("set('a', 'b')", "''"),
    ("year", "0"),
    ("decimal(65,30)", "-12345678901234567890123456789012345.123456789012345678901234567891"),
    ("float", "1.1"),
    ("double", "-1.7976931348623157e308"),
    ("text CHARACTER SET utf8mb3", "'é汉'"),
    ("varchar(20) CHARACTER SET latin1", "'é'"),
    ("text CHARACTER SET gbk", "'汉字'"),
    ("varchar(20) COLLATE utf8mb4_bin", "'a '"),
    ("char(10) CHARACTER SET utf8mb4", "'😀'"),
    ("binary(4)", "X'00ff'"),
    ("varbinary(4)", "X'ff00'"),
    ("blob", "X'00ff0a5c27'"),
    ("longtext", "'line\\nbreak\\\\N'"),
    ("json", """'{"b": [1, 2.50, "é"], "a": null}'"""),
    ("geometry", "ST_GeomFromText('POINT(1 2)')"),
    ("time(6)", "'-838:59:59.000000'"),
    ("date", "'9999-12-31'"),
    ("datetime(6)", "'1000-01-01 00:00:00.000001'"),
]


def test_29_to_31_snapshot_and_stream_give_every_type_alike(any_mysql_database: MyDatabase, twin: Twin) -> None:
    """Values at the edges of their types, as they are and as the server's own text. (In full: test_mysql_types.)"""
    database = any_mysql_database
    columns = ", ".join(f"c{n} {kind}" for n, (kind, _) in enumerate(WIDE))
    row = ", ".join(value for _, value in WIDE)
    run(database, "SET SESSION sql_mode = ''")
    for table in ("t", "texts"):
        run(database, f"CREATE TABLE {table} (id int PRIMARY KEY, {columns})", f"INSERT INTO {table} VALUES (1, {row})")
        run(database, f"INSERT INTO {table} (id) VALUES (2)")
    binary = {"bit(64)", "binary(4)", "varbinary(4)", "blob", "geometry"}
    as_text = [n for n, (kind, _) in enumerate(WIDE) if kind not in binary]
    source = streaming(config(database, "t", "texts", types={f"texts.c{n}": "text" for n in as_text}), twin)
    for table in ("t", "texts"):
        run(database, f"INSERT INTO {table} VALUES (3, {row})", f"INSERT INTO {table} (id) VALUES (4)")
    until(source, twin, lambda: len(twin.rows("t")) == len(twin.rows("texts")) == 4)
    for table in ("t", "texts"):
        copied, empty, streamed, last = (row[1:] for row in twin.rows(table))
        assert copied == streamed
        assert empty == last == (None,) * len(WIDE)
    texts = ", ".join(f"CAST(c{n} AS CHAR)" for n in as_text)
    assert [tuple(row[1 + n] for n in as_text) for row in twin.rows("texts")[:1]] == database.execute(f"SELECT {texts} FROM texts LIMIT 1")
    assert twin.rows("t")[0][1:7:3] == (18446744073709551615, "")


# What the log lacks


@pytest.mark.parametrize("image", ["MINIMAL", "NOBLOB"])
def test_32_images_that_are_not_whole(any_mysql_database: MyDatabase, twin: Twin, image: str) -> None:
    """MySQL leaves out what did not change. MariaDB may leave out more: an update that lacks a column halts, and the remedy works."""
    database = any_mysql_database
    run(database, "CREATE TABLE t (id int PRIMARY KEY, a int, b varchar(9) NOT NULL, note text)")
    run(database, "CREATE TABLE u (x int NOT NULL, y varchar(9) NOT NULL, v int, note text, UNIQUE (y, x))")
    run(database, "INSERT INTO t VALUES (1, 1, 'b', 'n'), (2, 2, 'b', NULL), (3, 3, '', 'n')")
    run(database, "INSERT INTO u VALUES (1, 'p', 1, 'n'), (2, 'q', 2, 'n')")
    source = streaming(config(database, "t", "u"), twin)
    run(
        database,
        f"SET SESSION binlog_row_image = {image}",
        "UPDATE t SET id = 33, a = 4, b = 'd', note = NULL WHERE id = 3",
        "INSERT INTO t VALUES (5, 5, 'e', 'n'), (6, NULL, '', NULL)",
        "UPDATE u SET x = 3, y = 'z', v = NULL, note = 'o' WHERE x = 2",
        "DELETE FROM t WHERE id = 5",
        "DELETE FROM u WHERE x = 1",
    )
    until_equal(source, twin, database.connection, "t", "u")
    run(
        database,
        "UPDATE t SET a = NULL WHERE id = 1",
        "UPDATE t SET id = 22 WHERE id = 2",
        "INSERT INTO t VALUES (1, 9, 'x', 'y') ON DUPLICATE KEY UPDATE a = 10, b = 'longer'",
        "UPDATE u SET y = 'y' WHERE x = 3",
    )
    if database.server.is_mariadb:
        halted(source, twin, SchemaUnknown, "table 't': a row was written, but the binlog does not tell the value of column")
        run(database, "SET SESSION binlog_row_image = FULL")
        twin.want("t", "u")
        source = streaming(config(database, "t", "u"), twin)
        run(database, "UPDATE t SET a = 11 WHERE id = 1")
    until_equal(source, twin, database.connection, "t", "u")
    assert twin.schemas["u"].key == ("y", "x")


def test_32_rows_without_key_are_logged_whole_by_any_setting(any_mysql_database: MyDatabase, twin: Twin) -> None:
    database = any_mysql_database
    run(database, "CREATE TABLE t (a int, note text)", "INSERT INTO t VALUES (1, 'x'), (1, 'x'), (NULL, NULL)")
    source = streaming(config(database, "t"), twin)
    for image in ("FULL", "NOBLOB", "MINIMAL"):
        run(database, f"SET SESSION binlog_row_image = {image}", "INSERT INTO t VALUES (1, 'x'), (1, 'y')")
        run(
            database,
            "DELETE FROM t WHERE a = 1 LIMIT 1",
            "UPDATE t SET note = 'y' WHERE a IS NULL",
            "UPDATE t SET a = 2 WHERE a = 1 LIMIT 1",
        )
    until_equal(source, twin, database.connection, "t")
    assert twin.schemas["t"].key == ()


@pytest.mark.parametrize("log_format", ["STATEMENT", "MIXED"])
def test_32_changes_logged_as_statements(any_mysql_database: MyDatabase, twin: Twin, log_format: str) -> None:
    database = any_mysql_database
    run(database, "CREATE TABLE t (id int PRIMARY KEY, v int)", "CREATE TABLE other (id int)", "INSERT INTO t VALUES (1, 1)")
    source = streaming(config(database, "t"), twin)
    run(database, f"SET SESSION binlog_format = {log_format}", "INSERT INTO other VALUES (1)", "INSERT INTO t VALUES (2, 2)")
    run(database, "SET SESSION binlog_format = ROW", "INSERT INTO t VALUES (3, 3)")
    halted(source, twin, SchemaUnknown, r"'t' was changed by a statement .*INSERT INTO t VALUES \(2, 2\)")
    halted(opened(config(database, "t"), twin), twin, SchemaUnknown, "statement")
    twin.want("t")
    source = streaming(config(database, "t"), twin)
    run(database, "UPDATE t SET v = v + 1")
    until_equal(source, twin, database.connection, "t")


def test_34_a_large_event(any_mysql_database: MyDatabase, twin: Twin) -> None:
    """Of 100 MB, far more than a batch: the stand-in for 1 GB, which two of these make no different."""
    database = any_mysql_database
    run(database, "CREATE TABLE t (id int PRIMARY KEY, v longblob)")
    with setting(database, "max_allowed_packet", 1 << 30), closing(database.server.connect(database.name)) as session:
        rows(session, "INSERT INTO t VALUES (1, REPEAT(X'00FF', 20 << 20))")
        source = streaming(config(database, "t", batch_size_max=1 << 20, snapshot_chunk=1 << 20), twin)
        rows(session, "INSERT INTO t VALUES (2, REPEAT(X'00FE0A', 33 << 20))")
        rows(session, "INSERT INTO t VALUES (3, '')")
        until(source, twin, lambda: len(twin.mirrors["t"]) == 3)
        told = rows(session, "SELECT id, LENGTH(v), SHA2(v, 256) FROM t ORDER BY id")
        values = [row for kept in twin.mirrors["t"].values() for row, _ in kept]
        assert [(n, len(v), hashlib.sha256(v).hexdigest()) for n, v in sorted(values)] == told
    source.close()


# What changes rows


def test_35_foreign_keys_that_change_rows(any_mysql_database: MyDatabase, twin: Twin) -> None:
    """MySQL 9.7 logs what a cascade does. MariaDB does not: `check` warns, the child's mirror keeps what it had, a new copy mends it."""
    database = any_mysql_database
    run(database, "CREATE TABLE parent (id int PRIMARY KEY)", "INSERT INTO parent VALUES (1), (2), (3)")
    run(
        database,
        "CREATE TABLE child (id int PRIMARY KEY, p int, FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE ON UPDATE CASCADE)",
    )
    run(database, "INSERT INTO child VALUES (10, 1), (20, 2), (30, 3)")
    settings = config(database, "parent", "child")
    source = streaming(settings, twin)
    run(database, "DELETE FROM parent WHERE id = 1", "UPDATE parent SET id = 22 WHERE id = 2")
    until_equal(source, twin, database.connection, "parent")
    if database.server.is_mariadb:
        inspection = MysqlInspection("shop", settings)
        assert any("foreign key" in finding.what for finding in inspection.check())
        assert twin.rows("child") == [(10, 1), (20, 2), (30, 3)]
        source.close()
        twin.want("child")
        source = streaming(settings, twin)
    until_equal(source, twin, database.connection, "parent", "child")


def test_35_triggers_and_statements_that_change_several_rows(any_mysql_database: MyDatabase, twin: Twin) -> None:
    database = any_mysql_database
    run(
        database,
        "CREATE TABLE t (id int PRIMARY KEY AUTO_INCREMENT, k int UNIQUE, v int)",
        "CREATE TABLE u (id int PRIMARY KEY, v int)",
        "CREATE TABLE log (n int AUTO_INCREMENT PRIMARY KEY, what varchar(20), v int)",
        "CREATE TRIGGER t_in AFTER INSERT ON t FOR EACH ROW INSERT INTO log (what, v) VALUES ('in', NEW.v)",
        "CREATE TRIGGER t_up BEFORE UPDATE ON t FOR EACH ROW SET NEW.v = NEW.v + 100",
        "CREATE TRIGGER t_out AFTER DELETE ON t FOR EACH ROW UPDATE w SET v = v - 1",
        "CREATE TABLE w (v int) SELECT 10 AS v",
        "INSERT INTO t (k, v) VALUES (1, 1), (2, 2), (3, 3)",
        "INSERT INTO u VALUES (1, 1), (2, 2), (3, 3)",
    )
    source = streaming(config(database, "t", "u", "w", "log"), twin)
    run(
        database,
        "UPDATE t JOIN u ON t.id = u.id SET t.v = 50, u.v = t.k + 5 WHERE u.id < 3",
        "REPLACE INTO t (id, k, v) VALUES (1, 3, 7)",
        "INSERT INTO t (k, v) VALUES (3, 9), (4, 4) ON DUPLICATE KEY UPDATE v = VALUES(v) * 2",
        "INSERT IGNORE INTO t (k, v) VALUES (4, 1), (5, 1)",
        "DELETE t, u FROM t JOIN u ON t.id = u.id WHERE u.id = 2",
        "CREATE PROCEDURE p() BEGIN UPDATE u SET v = 0; INSERT INTO t (k, v) VALUES (6, 6); END",
        "CALL p()",
    )
    until_equal(source, twin, database.connection, "t", "u", "w", "log")


def test_truncate(any_mysql_database: MyDatabase, twin: Twin) -> None:
    database = any_mysql_database
    run(
        database,
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE TABLE log (v int)",
        "INSERT INTO t VALUES (1)",
        "INSERT INTO log VALUES (1), (1)",
    )
    source = streaming(config(database, "t", "log"), twin)
    run(database, "INSERT INTO t VALUES (2)", "TRUNCATE t", "INSERT INTO t VALUES (3)", "TRUNCATE TABLE log", "INSERT INTO log VALUES (2)")
    until_equal(source, twin, database.connection, "t", "log")
    assert twin.ops["t"] == 2


# Keys and names


KEYS: dict[str, tuple[str, list[str], str]] = {
    "decimal": ("decimal(20,4)", ["1.5", "-0.0001", "9999999999999999.9999"], "2.5"),
    "datetime": ("datetime(6)", ["'2026-01-01'", "'1000-01-01 00:00:00.000001'", "'2026-01-01 00:00:00.5'"], "'2026-01-02'"),
    "text": ("varchar(20) COLLATE utf8mb4_general_ci", ["'a'", "'é'", "''"], "'A'"),
    "padded": ("char(5) CHARACTER SET latin1", ["'a'", "'b'", "'é'"], "'A'"),
    "binary": ("binary(4)", ["X'00'", "X'ff00'", "X'61'"], "X'6100ff'"),
    "unsigned": ("bigint unsigned", ["1", "0", "18446744073709551615"], "9223372036854775808"),
    "enum": ("enum('b', 'a', '')", ["'a'", "'b'", "''"], "'a'"),
    "date": ("date", ["'2026-01-01'", "'1000-01-01'", "'9999-12-31'"], "'2026-02-01'"),
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("key", ["PRIMARY KEY", "UNIQUE"])
def test_keys_of_every_kind(mysql_database: MyDatabase, twin: Twin, kind: str, key: str) -> None:
    """A key that changes to one its collation takes for the same ('a' to 'A'); one that is no primary key, but as good."""
    (declared, values, other), database = KEYS[kind], mysql_database
    run(database, f"CREATE TABLE t (k {declared} NOT NULL, v int, {key} (k))", *(f"INSERT INTO t VALUES ({v}, 0)" for v in values))
    source = streaming(config(database, "t"), twin)
    run(database, f"UPDATE t SET v = 1 WHERE k = {values[1]}", f"DELETE FROM t WHERE k = {values[2]}")
    run(database, f"UPDATE t SET k = {other} WHERE k = {values[0]}", f"REPLACE INTO t VALUES ({values[0]}, 3), ({values[2]}, 4)")
    until_equal(source, twin, database.connection, "t")
    assert twin.schemas["t"].key == ("k",)


NAMES = ["Orders", "qu`ote", 'dou"ble', "with space", "select", "订单", "x" * 64, "it's", "per%cent", "d.o.t", "#ordinal", "back\\slash"]


def test_44_names(any_mysql: Any, twin: Twin) -> None:
    """Of tables, columns and databases; in another database than the url's, too."""
    import secrets

    unique = secrets.token_hex(3)
    database_name = f'S h`o"p-订%{unique}'
    any_mysql.create_database(database_name)
    try:
        with closing(any_mysql.connect(database_name)) as connection, fresh_database(any_mysql) as default:
            for name in NAMES:
                column = name if name.startswith("x") else f"{name}列"
                rows(connection, f"CREATE TABLE {identifier(name)} ({identifier(column)} int PRIMARY KEY, v text)")
                rows(connection, f"INSERT INTO {identifier(name)} VALUES (1, 'x')")
            tables = [f"{database_name}.{name}" for name in NAMES]
            source = streaming(SourceConfig(url=default.url, tables=tables), twin)
            for name in NAMES:
                column = name if name.startswith("x") else f"{name}列"
                rows(connection, f"UPDATE {identifier(name)} SET {identifier(column)} = 2")
                rows(connection, f"INSERT INTO {identifier(name)} VALUES (3, NULL)")
                rows(connection, f"ALTER TABLE {identifier(name)} ADD {identifier(column[:-1] + 'n')} int")
                rows(connection, f"UPDATE {identifier(name)} SET {identifier(column[:-1] + 'n')} = 4")
            for name, table in zip(NAMES, tables, strict=True):
                until(
                    source,
                    twin,
                    lambda name=name, table=table: (
                        twin.rows(table) == sorted(rows(connection, f"SELECT * FROM {identifier(name)}"), key=repr)
                    ),
                )  # type: ignore[misc]
            source.close()
    finally:
        any_mysql.drop_database(database_name)


@pytest.mark.parametrize("flavour", ["mysql-9", "mariadb-11.8"])
def test_44_names_that_the_server_folds(flavour: str, twin: Twin) -> None:
    """And an odd name of its log."""
    with MySQLServer(flavour, {"lower_case_table_names": 1, "log_bin": "it's a:log=%"}) as server, fresh_database(server) as database:
        run(
            database,
            "SET GLOBAL binlog_row_metadata = MINIMAL",
            "CREATE TABLE Orders (id int PRIMARY KEY)",
            "INSERT INTO ORDERS VALUES (1)",
        )
        streaming(config(database, "orders"), twin).close()
        source = opened(config(database, "orders"), twin)
        run(database, "INSERT INTO oRders VALUES (2)", "ALTER TABLE ORDERS ADD v int", "UPDATE Orders SET v = 3")
        until_equal(source, twin, database.connection, "orders")
        run(database, "RENAME TABLE ORDERS TO other, other TO Orders", "RENAME TABLE Orders TO Gone")
        halted(source, twin, SchemaUnknown, "renamed")
