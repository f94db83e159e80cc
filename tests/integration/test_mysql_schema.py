"""Tables that change while they are captured, on real servers: rows follow, or it halts and the remedy works.

The numbers are those of the hard cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from cdc.config import SourceConfig
from cdc.errors import SchemaUnknown, SourceError, SourceUnavailable, ValueUnfit
from cdc.protocols import Source
from tests.integration.installation import Installation
from tests.integration.replay import Twin, opened, step, streaming, until, until_equal
from tests.servers.mysql import MyDatabase, rows
from tests.servers.mysql_binaries import DEFAULT_FLAVOUR, FLAVOURS

# What servers can be told to log of columns: names and keys only with FULL, and with NO_LOG not even signs.
LEVELS = {name: ("FULL", "MINIMAL", "NO_LOG") if flavour.is_mariadb else ("FULL", "MINIMAL") for name, flavour in FLAVOURS.items()}
whatever_is_logged = pytest.mark.parametrize(
    ("any_mysql", "metadata"), [(name, level) for name, levels in LEVELS.items() for level in levels], indirect=["any_mysql"]
)


each_level = pytest.mark.parametrize(
    ("any_mysql", "metadata"), [("mysql-9", "FULL"), ("mysql-9", "MINIMAL"), ("mariadb-11.8", "NO_LOG")], indirect=["any_mysql"]
)


@pytest.fixture
def metadata() -> str:
    return "FULL"


@pytest.fixture
def database(any_mysql_database: MyDatabase, metadata: str) -> Iterator[MyDatabase]:
    """A database of a server that logs so much of columns."""
    ((before,),) = any_mysql_database.execute("SELECT @@GLOBAL.binlog_row_metadata")
    any_mysql_database.execute("SET GLOBAL binlog_row_metadata = %s", [metadata])
    yield any_mysql_database
    any_mysql_database.execute("SET GLOBAL binlog_row_metadata = %s", [before])


def config(database: MyDatabase, *tables: str, **options: Any) -> SourceConfig:
    return SourceConfig(**{"url": database.url, "tables": list(tables), **options})


def run(database: MyDatabase, *statements: str) -> None:
    for statement in statements:
        database.execute(statement)


def halted(source: Source, twin: Twin, match: str) -> None:
    with pytest.raises(SchemaUnknown, match=match):
        until(source, twin, lambda: False)
    source.close()


def mended(database: MyDatabase, twin: Twin, match: str, *tables: str) -> Source:
    """It halts, after a restart too; copying the tables anew brings them level."""
    settings = config(database, *twin.schemas)
    halted(opened(settings, twin), twin, match)
    twin.want(*(tables or twin.schemas))
    source = streaming(settings, twin)
    until_equal(source, twin, database.connection, *twin.schemas)
    return source


def passed(database: MyDatabase, source: Source, twin: Twin) -> None:
    """All that is in the log now has been read, and is in the store."""
    run(database, "INSERT INTO mark VALUES (NULL)")
    until_equal(source, twin, database.connection, "mark")


MARK = "CREATE TABLE mark (n int AUTO_INCREMENT PRIMARY KEY)"


@whatever_is_logged
def test_23_tables_renamed(database: MyDatabase, twin: Twin) -> None:
    """As gh-ost and pt-online-schema-change do it, and two captured tables that change places."""
    run(database, "CREATE TABLE t (id int PRIMARY KEY, v int)", "CREATE TABLE u (id int PRIMARY KEY, v int)", MARK)
    run(database, "INSERT INTO t VALUES (1, 1), (2, 2)", "INSERT INTO u VALUES (7, 7)")
    source = streaming(config(database, "t", "u", "mark"), twin)
    run(database, "CREATE TABLE _t_gho LIKE t", "ALTER TABLE _t_gho ADD note varchar(20) DEFAULT 'ghost' AFTER id, ENGINE = InnoDB")
    run(
        database,
        "INSERT INTO _t_gho (id, v) SELECT id, v FROM t",
        "INSERT INTO t VALUES (3, 3)",
        "REPLACE INTO _t_gho (id, v) VALUES (3, 3)",
    )
    passed(database, source, twin)
    run(database, "RENAME TABLE t TO _t_del, _t_gho TO t", "INSERT INTO t (id, v) VALUES (4, 4)", "DROP TABLE _t_del")
    halted(source, twin, "renamed")
    source = mended(database, twin, "renamed", "t")
    run(database, "CREATE TABLE _t_new LIKE t", "ALTER TABLE _t_new DROP note, ADD w bigint unsigned NOT NULL DEFAULT 9")
    for event, row, action in (
        ("del", "DELETE", "DELETE FROM _t_new WHERE id = OLD.id"),
        ("ins", "INSERT", "REPLACE INTO _t_new (id, v) VALUES (NEW.id, NEW.v)"),
    ):
        run(database, f"CREATE TRIGGER pt_osc_{event} AFTER {row} ON t FOR EACH ROW {action}")
    run(
        database, "INSERT LOW_PRIORITY IGNORE INTO _t_new (id, v) SELECT id, v FROM t LOCK IN SHARE MODE", "INSERT INTO t VALUES (5, '', 5)"
    )
    run(database, "RENAME TABLE t TO _t_old, _t_new TO t", "DROP TABLE IF EXISTS _t_old", "UPDATE t SET v = 6 WHERE id = 5")
    halted(source, twin, "renamed")
    source = mended(database, twin, "renamed", "t")
    run(database, "ALTER TABLE t DROP w", "RENAME TABLE t TO swap, u TO t, swap TO u", "DELETE FROM t", "INSERT INTO u VALUES (8, 8)")
    halted(source, twin, "renamed")
    run(database, "INSERT INTO t VALUES (8, 8)")
    mended(database, twin, "renamed").close()


@whatever_is_logged
def test_24_columns_that_come_and_go_between_rows(database: MyDatabase, twin: Twin) -> None:
    """While nobody reads; and with a restart between the change and the next row."""
    run(
        database, MARK, "CREATE TABLE t (id int PRIMARY KEY, a varchar(5), b int unsigned, c decimal(8,2), gone enum('x', 'y') DEFAULT 'x')"
    )
    run(database, "INSERT INTO t VALUES (1, 'a', 4294967295, 1.5, 'x'), (2, 'b', 2, 2.5, 'y')")
    settings = config(database, "t", "mark")
    streaming(settings, twin).close()
    run(
        database,
        "UPDATE t SET b = 3 WHERE id = 1",
        "ALTER TABLE t ADD COLUMN x varchar(10) AFTER a, ADD first_ int FIRST",
        "INSERT INTO t VALUES (9, 3, 'c', 'new', 3, 3.5, 'y')",
        "ALTER TABLE t DROP COLUMN gone, DROP first_",
        "UPDATE t SET x = 'late' WHERE id = 2",
        "ALTER TABLE t MODIFY c decimal(12,3), MODIFY COLUMN a varchar(9) AFTER c, CHANGE b b bigint unsigned FIRST",
        "INSERT INTO t (id, a, b, c) VALUES (4, 'longer', 18446744073709551615, 123456789.125)",
    )
    source = opened(settings, twin)
    until_equal(source, twin, database.connection, "t")
    assert [column.name for column in twin.schemas["t"].columns] == ["b", "id", "x", "c", "a"]
    for change in ("ADD y tinyint unsigned AFTER id", "DROP x", "MODIFY y int unsigned", "ADD z datetime(3)", "DROP y"):
        run(database, f"ALTER TABLE t {change}")
        passed(database, source, twin)
        source.close()
        source = opened(settings, twin)
        run(database, "UPDATE t SET c = c + 1 WHERE id = 1")
        until_equal(source, twin, database.connection, "t")
    run(database, "INSERT INTO t VALUES (1, 5, 1.5, 'e', '2026-01-01 00:00:00.125')")
    until_equal(source, twin, database.connection, "t")


DIFFERENT = [
    ["RENAME COLUMN v TO w"],
    ["MODIFY v int"],
    ["MODIFY n decimal(6,2)"],
    ["ADD d int DEFAULT 1"],
    ["ADD d int DEFAULT 1", "ALTER d DROP DEFAULT"],
    ["ADD d int NOT NULL", "MODIFY d int"],
    ["ADD s int AS (id + 1) STORED"],
    ["DROP v, ADD v varchar(20)"],
    ["DROP n, ADD n decimal(8,2)"],
    ["DROP PRIMARY KEY, ADD PRIMARY KEY (id, n)"],
    ["DROP PRIMARY KEY"],
]


@each_level
@pytest.mark.parametrize("changes", DIFFERENT, ids="; ".join)
def test_24_changes_that_rows_can_not_follow_halt(database: MyDatabase, twin: Twin, changes: list[str]) -> None:
    """Also where they are read, or were made, one by one with restarts between and no row after any of them."""
    run(database, MARK, "CREATE TABLE t (id int PRIMARY KEY, v varchar(20), n decimal(8,2) NOT NULL)", "INSERT INTO t VALUES (1, '1', 1)")
    settings = config(database, "t", "mark")
    source = streaming(settings, twin)
    with pytest.raises(SchemaUnknown, match="'t'"):
        for change in changes:
            run(database, f"ALTER TABLE t {change}")
            passed(database, source, twin)
            source.close()
            source = opened(settings, twin)
        run(database, "INSERT INTO t (id, n) VALUES (2, 2)")
        passed(database, source, twin)
    source.close()
    mended(database, twin, "'t'", "t").close()


@whatever_is_logged
def test_24_a_key_that_is_none_any_more(database: MyDatabase, twin: Twin) -> None:
    """A table whose key is a UNIQUE index: what makes it no key halts, also when it was dropped while nobody read."""
    run(
        database, "CREATE TABLE t (a int NOT NULL, b int NOT NULL, v int, UNIQUE u (b, a), KEY other (v))", "INSERT INTO t VALUES (1, 1, 1)"
    )
    settings = config(database, "t")
    source = streaming(settings, twin)
    run(database, "ALTER TABLE t DROP KEY other", "ALTER TABLE t RENAME INDEX u TO w", "INSERT INTO t VALUES (1, 2, 1)")
    until_equal(source, twin, database.connection, "t")
    run(database, "ALTER TABLE t DROP KEY w", "INSERT INTO t VALUES (1, 2, 1)")
    halted(source, twin, "the key changed")
    mended(database, twin, "the key changed").close()
    run(database, "TRUNCATE t", "ALTER TABLE t ADD UNIQUE u (b, a)")
    twin.want("t")
    streaming(settings, twin).close()
    assert twin.schemas["t"].key == ("b", "a")
    run(database, "DROP INDEX u ON t", "INSERT INTO t VALUES (1, 2, 1), (1, 2, 1)")
    mended(database, twin, "the key changed").close()
    run(database, "ALTER TABLE t ADD id int AUTO_INCREMENT PRIMARY KEY FIRST")
    mended(database, twin, "'id'").close()
    assert twin.schemas["t"].key == ("id",)


@each_level
def test_29_a_value_without_faithful_target(database: MyDatabase, twin: Twin) -> None:
    """It halts and says which; told in the config how to keep the column, and copied anew, the table goes on."""
    run(database, "SET SESSION sql_mode = ''", "CREATE TABLE t (id int PRIMARY KEY, d date)", "INSERT INTO t VALUES (1, '2026-01-01')")
    source = streaming(config(database, "t"), twin)
    run(database, "INSERT INTO t VALUES (2, '2026-02-00')")
    for _ in range(2):
        with pytest.raises(ValueUnfit, match=r"'d'.*2026-02-00"):
            until(source, twin, lambda: False)
        source.close()
        source = opened(config(database, "t"), twin)
    source.close()
    twin.want("t")
    source = streaming(config(database, "t", types={"t.d": "text"}), twin)
    run(database, "UPDATE t SET d = '0000-00-00' WHERE id = 1")
    until(source, twin, lambda: twin.rows("t") == [(1, "0000-00-00"), (2, "2026-02-00")])


@whatever_is_logged
def test_25_statements_however_they_are_written(database: MyDatabase, twin: Twin) -> None:
    """Quotes, comments, procedures, other default databases; and what names a captured table without being about it."""
    mariadb = database.server.is_mariadb
    run(database, "CREATE TABLE `select` (id int PRIMARY KEY, v text)", "CREATE TABLE t (id int PRIMARY KEY, v varchar(9))", MARK)
    run(database, "INSERT INTO `select` VALUES (1, 'one')", "INSERT INTO t VALUES (1, 'one')")
    source = streaming(config(database, "select", "t", "mark"), twin)
    run(
        database,
        "SET SESSION sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES')",
        'ALTER TABLE "select" ADD COLUMN "a ""b"" `c`" int COMMENT \'DROP COLUMN v, "x"\' AFTER id',
        f'/*! ALTER */ TABLE "{database.name}" . "select" -- a comment, ADD x int\n ADD /* , */ "ä;" varchar(20) # DROP v\n',
        "INSERT INTO \"select\" VALUES (2, 5, 'two', 'x')",
        "SET SESSION sql_mode = REPLACE(@@sql_mode, 'ANSI_QUOTES', 'NO_BACKSLASH_ESCAPES')",
        "ALTER TABLE t ADD c enum('\\', 'x') AFTER id, ADD COLUMN (d int, e int)",
        "INSERT INTO t (id, c, d) VALUES (2, '\\', 2)",
        "SET SESSION sql_mode = DEFAULT",
        "CREATE PROCEDURE p() BEGIN ALTER TABLE t DROP COLUMN D; ALTER TABLE t ADD f decimal(4,1);"
        " INSERT INTO t (id, f) VALUES (3, 1.5); END",
        "CALL p()",
        "USE mysql",
        f"alter table {database.name}.t modify v varchar(12)",
        f"INSERT INTO {database.name}.t (id, V) VALUES (4, 'longer than')",
        f"USE {database.name}",
        "CREATE TABLE copied SELECT * FROM t",
        "CREATE TABLE alike LIKE t",
        "ALTER TABLE alike DROP v, COMMENT = 'ALTER TABLE t DROP v'",
        "CREATE TEMPORARY TABLE t (x int)",
        "INSERT INTO t VALUES (1)",
        "ALTER TABLE t ADD y int",
        "TRUNCATE TABLE t",
        "DROP TEMPORARY TABLE t",
        "CREATE TABLE IF NOT EXISTS t (z int)",
        "CREATE VIEW seen AS SELECT * FROM t",
        "ALTER TABLE t ADD KEY by_f (f), ALTER c SET DEFAULT 'x', COMMENT 'DROP'",
        "CREATE INDEX by_v ON t (v)",
        "ANALYZE TABLE t",
        "OPTIMIZE TABLE t",
        "INSERT INTO t (id) VALUES (5)",
        "RENAME TABLE copied TO other, alike TO copied",
        "DROP TABLE other, copied",
        *(
            ["ALTER TABLE t ADD COLUMN IF NOT EXISTS f int, DROP COLUMN IF EXISTS nothing, ADD g inet6"]
            if mariadb
            else ["ALTER TABLE t ADD g int INVISIBLE"]
        ),
        "DELETE FROM t WHERE id = 1",
    )
    with closing(database.server.connect(database.name, charset="gbk")) as other:
        rows(other, "ALTER TABLE t ADD 列 varchar(9) COMMENT '\\\\誠' AFTER id")
        rows(other, "INSERT INTO t (id, 列) VALUES (6, '誠')")
    passed(database, source, twin)
    until_equal(source, twin, database.connection, "select", "t")
    run(database, "DROP TABLE t, mark", "CREATE TABLE t AS SELECT 1 AS id", "INSERT INTO t VALUES (2)", MARK)
    halted(source, twin, "'t' was dropped")
    halted(opened(config(database, "select", "t", "mark"), twin), twin, "'t' was dropped")


@pytest.mark.parametrize(
    "change",
    ["TRUNCATE PARTITION p1", "DROP PARTITION p1", "EXCHANGE PARTITION p1 WITH TABLE plain"],
)
def test_25_partitions(database: MyDatabase, twin: Twin, change: str) -> None:
    """Rows of partitions are rows of the table; what takes them without a row in the log halts, and the remedy works."""
    partitions = "PARTITION BY RANGE (id) (PARTITION p1 VALUES LESS THAN (10), PARTITION p2 VALUES LESS THAN MAXVALUE)"
    run(database, f"CREATE TABLE t (id int PRIMARY KEY, v int) {partitions}", "CREATE TABLE plain (id int PRIMARY KEY, v int)", MARK)
    run(database, "INSERT INTO t VALUES (1, 1), (11, 1)")
    source = streaming(config(database, "t", "mark"), twin)
    run(database, "UPDATE t SET id = 12 WHERE id = 1", "INSERT INTO t VALUES (2, 2)", "UPDATE t SET id = 3 WHERE id = 11")
    run(database, "ALTER TABLE t REORGANIZE PARTITION p2 INTO (PARTITION p3 VALUES LESS THAN (20), PARTITION p2 VALUES LESS THAN MAXVALUE)")
    run(database, "ALTER TABLE plain ENGINE = InnoDB", "INSERT INTO t VALUES (30, 30)")
    until_equal(source, twin, database.connection, "t")
    run(database, f"ALTER TABLE t {change}", "INSERT INTO t VALUES (31, 31)")
    halted(source, twin, "PARTITION")
    mended(database, twin, "PARTITION", "t").close()


@pytest.mark.parametrize("until_staged", [False, True], ids=["copying", "staged"])
def test_24_a_table_altered_while_it_is_copied(database: MyDatabase, twin: Twin, until_staged: bool) -> None:
    """Before and after its last row was read; in one run, and after a restart."""
    run(database, "CREATE TABLE t (id int PRIMARY KEY, v text)", "CREATE TABLE u (id int PRIMARY KEY, v int DEFAULT 1)", MARK)
    with database.connection.cursor() as cursor:
        cursor.executemany("INSERT INTO t VALUES (%s, %s)", [(n, "x" * 100) for n in range(4000)])
    settings = config(database, "t", "u", "mark", snapshot_chunk=64 << 10, snapshot_workers=1)
    for change in ("ADD a int DEFAULT 3 AFTER id", "DROP a"):
        source = opened(settings, twin)
        until(source, twin, lambda: states(twin).get("t") == ("staged" if until_staged else "copying"))
        run(database, f"ALTER TABLE t {change}", "UPDATE t SET v = 'after' WHERE id < 10", f"ALTER TABLE u {change}")
        run(database, "INSERT INTO u (id) SELECT COUNT(*) FROM u")
        try:
            step(source, twin)
        except SourceUnavailable as error:
            assert error.code in ("source.table_changed", "mysql_snapshot.gave_way")
        source.close()
    source = opened(settings, twin)
    with suppress(SchemaUnknown):
        until_equal(source, twin, database.connection, "t", "u")
        source.close()
        return
    source.close()
    assert until_staged, "a copy that had not ended begins anew by itself"
    mended(database, twin, "'[tu]' was changed").close()


def states(twin: Twin) -> dict[str, str]:
    return {table: progress.state for table, progress in twin.snapshots.items()}


# Tables that come and go


def test_43_a_table_added_to_the_config(database: MyDatabase, twin: Twin) -> None:
    """While changes of it and of others are unread, and of a shape that is gone by then."""
    run(
        database,
        "CREATE TABLE t (id int PRIMARY KEY)",
        "CREATE TABLE u (id int PRIMARY KEY, v varchar(5))",
        "INSERT INTO u VALUES (1, '王')",
    )
    streaming(config(database, "t"), twin).close()
    run(
        database,
        "INSERT INTO t VALUES (1)",
        "INSERT INTO u VALUES (2, NULL)",
        "ALTER TABLE u DROP v, ADD w int",
        "INSERT INTO u VALUES (3, 3)",
    )
    run(database, "TRUNCATE u", "INSERT INTO u VALUES (4, 4)")
    source = opened(config(database, "t", "u"), twin)
    run(database, "INSERT INTO t VALUES (2)", "INSERT INTO u VALUES (5, 5)")
    until_equal(source, twin, database.connection, "t", "u")
    assert twin.snapshots["u"].number == 2
    assert (twin.ops["r"], twin.ops["c"]) == (1, 3)


@whatever_is_logged
def test_43_a_table_dropped_and_created_anew(database: MyDatabase, twin: Twin) -> None:
    """While it is read and while nobody reads: with the same columns, too, it is another table."""
    run(database, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)", MARK)
    source = streaming(config(database, "t", "mark"), twin)
    run(database, "DROP TABLE t", "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (2)")
    halted(source, twin, "'t' was dropped")
    mended(database, twin, "'t' was dropped", "t").close()
    run(database, "DROP TABLE t")
    with pytest.raises(SourceError, match="no table 't'"):
        opened(config(database, "t", "mark"), twin)
    run(database, "CREATE TABLE t (id varchar(9) PRIMARY KEY)", "INSERT INTO t VALUES ('a')")
    source = mended(database, twin, "'t' was dropped", "t")
    if database.server.is_mariadb:
        run(database, "CREATE OR REPLACE TABLE t (id int PRIMARY KEY)")
        halted(source, twin, "'t' was dropped")


def test_43_a_table_named_twice(mysql_database: MyDatabase, twin: Twin) -> None:
    """Changes would go to one of its names."""
    run(mysql_database, "CREATE TABLE t (id int PRIMARY KEY)")
    streaming(config(mysql_database, "t"), twin).close()
    with pytest.raises(SourceError, match="are one table"):
        opened(config(mysql_database, "t", f"{mysql_database.name}.t"), twin)


CONFIG = """
[store]
url = "duckdb:///{folder}/books.duckdb"
[books.main]
base_currency = "CNY"
chart = "small-business-2013"
[sources.shop]
url = "{url}"
tables = ["orders"]
[[rules]]
name = "sale"
book = "main"
table = "shop.orders"
when = "paid_on IS NOT NULL"
date = "paid_on"
lines = [ {{ account = "1122", debit = "total" }}, {{ account = "5001", credit = "total" }} ]
"""
SALES = "SELECT count(*), coalesce(sum(debit), 0) FROM ledger.lines WHERE account = '1122'"


@pytest.mark.parametrize("any_mysql", [DEFAULT_FLAVOUR], indirect=True)
def test_the_books_as_shapes_change_and_tables_come_and_go(database: MyDatabase, tmp_path: Path) -> None:
    """As its user sees it: rows follow, or the command says what to do; what is copied anew posts only differences."""
    run(database, "CREATE TABLE orders (id int PRIMARY KEY, total decimal(18,2) NOT NULL, paid_on date, remark text)")
    run(database, "CREATE TABLE fees (id int PRIMARY KEY, amount decimal(10,2))", "INSERT INTO fees VALUES (1, 2)")
    run(database, "INSERT INTO orders VALUES (1, 10.50, '2026-01-01', NULL), (2, 1, NULL, NULL)")
    books = Installation(tmp_path, CONFIG.format(folder=tmp_path, url=database.url))
    assert books.run().returncode == 0
    run(database, "ALTER TABLE orders ADD COLUMN store text AFTER id", "UPDATE orders SET store = '店' WHERE id = 1")
    run(database, "ALTER TABLE orders DROP COLUMN remark", "INSERT INTO orders VALUES (3, '东', 7, '2026-01-03')")
    books.change('tables = ["orders"]', 'tables = ["orders", "fees"]')
    assert books.run().returncode == 0
    assert books.query("SELECT id, store, total FROM mirror_shop.orders ORDER BY id") == [
        [1, "店", "10.50"],
        [2, None, "1.00"],
        [3, "东", "7.00"],
    ]
    assert books.query(SALES) == [[2, "17.500000"]]
    books.change('tables = ["orders", "fees"]', 'tables = ["orders"]')
    run(
        database,
        "INSERT INTO fees VALUES (2, 3)",
        "ALTER TABLE orders RENAME COLUMN store TO shop",
        "INSERT INTO orders VALUES (5, 'x', 1, '2026-01-05')",
    )
    halted = books.run()
    assert halted.returncode == 1
    assert "ledgertail snapshot shop.orders" in halted.stderr
    assert books.ledgertail("snapshot", "shop.orders").returncode == 0
    books.change('tables = ["orders"]', 'tables = ["orders", "fees"]')
    assert books.run().returncode == 0
    assert books.query("SELECT id, shop FROM mirror_shop.orders WHERE id <> 2 ORDER BY id") == [[1, "店"], [3, "东"], [5, "x"]]
    assert books.query("SELECT * FROM mirror_shop.fees ORDER BY id") == [[1, "2.00"], [2, "3.00"]]
    assert books.query(SALES) == [[3, "18.500000"]]
