"""Tables that change while they are captured, on real servers: rows follow, or it halts and the remedy works.

The numbers are those of the hard cases.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from cdc.config import SourceConfig
from cdc.errors import SchemaUnknown
from cdc.protocols import Source
from tests.integration.replay import Twin, opened, streaming, until, until_equal
from tests.servers.mysql import MyDatabase
from tests.servers.mysql_binaries import FLAVOURS

# What servers can be told to log of columns: names and keys only with FULL, and with NO_LOG not even signs.
LEVELS = {name: ("FULL", "MINIMAL", "NO_LOG") if flavour.is_mariadb else ("FULL", "MINIMAL") for name, flavour in FLAVOURS.items()}
whatever_is_logged = pytest.mark.parametrize(
    ("any_mysql", "metadata"), [(name, level) for name, levels in LEVELS.items() for level in levels], indirect=["any_mysql"]
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


@whatever_is_logged
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
