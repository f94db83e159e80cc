"""Statements on real servers: what we make of them in the log is what the server made of the tables, and their rows hold what we say."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pymysql
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from cdc.decode.mysql.binlog import Decoder
from cdc.decode.mysql.columns import DeclaredType
from cdc.decode.mysql.ddl import Kind, TableEffect, effects
from cdc.decode.mysql.evolution import widened
from cdc.decode.mysql.fields import make_field
from cdc.decode.mysql.history import altered, filled, settled, traced
from cdc.decode.mysql.lexer import Dialect
from cdc.decode.mysql.types import MEMBERS, MyType, declared, fits_wire
from cdc.decode.mysql.wire import Statement, TableMap
from cdc.errors import SchemaUnknown
from tests.integration.test_mysql_types import logged
from tests.servers.mysql import MyDatabase

DEFINITION = """(
    rid INT NOT NULL, a VARCHAR(20) NOT NULL DEFAULT 'x', b TEXT, c DECIMAL(10,2) UNSIGNED, d ENUM('p','q') CHARACTER SET utf8mb3,
    e DATETIME, `f g` BIGINT UNSIGNED NOT NULL, 客户 VARBINARY(9), h CHAR(5) CHARACTER SET gbk, i INT,
    PRIMARY KEY (rid, a), KEY kd (d)) CHARACTER SET latin1"""
ROWS = """(1, 'one', 'text', 1.25, 'p', '2024-01-02 03:04:05', 7, 'raw', '甲', 5), (2, 'two', NULL, NULL, NULL, NULL, 0, NULL, NULL, NULL),
    (3, '', '', 0, 'q', '1999-12-31 23:59:59', 9, '', 'ab', 0)"""


class Followed:
    """A table whose alterations are followed in the log. `shape` is what we know of it."""

    def __init__(self, database: MyDatabase, table: str = "t", charset: str | None = "latin1", rows: str = ROWS) -> None:
        self.database, self.table = database, table
        self.dialect = dialect(database)
        database.execute(f"DROP TABLE IF EXISTS {table}")
        database.execute(f"CREATE TABLE {table} {DEFINITION}")
        database.execute(f"INSERT INTO {table} VALUES {rows}")
        self.shape = traced("shop", table, self.columns(), self.key(), charset)
        self.place = end(self.database)

    def columns(self) -> list[tuple[str, MyType]]:
        """As the server has them now."""
        return [(name, my_type) for name, my_type, _ in self._catalog()]

    def _catalog(self) -> list[tuple[str, MyType, bool]]:
        query = """SELECT column_name, column_type, character_set_name, is_nullable FROM information_schema.columns
            WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position"""
        found = self.database.execute(query, [self.database.name, self.table])
        return [(name, with_charset(declared(kind, charset)), nullable == "YES") for name, kind, charset, nullable in found]

    def key(self) -> tuple[str, ...]:
        query = """SELECT column_name FROM information_schema.statistics
            WHERE table_schema = %s AND table_name = %s AND index_name = 'PRIMARY' ORDER BY seq_in_index"""
        return tuple(name for (name,) in self.database.execute(query, [self.database.name, self.table]))

    def rows(self) -> dict[str, list[Any]]:
        """All columns' values, in the order of `rid`."""
        names = [name for name, _ in self.columns()]
        listed = ", ".join("`" + name.replace("`", "``") + "`" for name in names)
        found = self.database.execute(f"SELECT {listed} FROM {self.table} ORDER BY rid")
        return {name: [row[at] for row in found] for at, name in enumerate(names)}

    def log(self) -> tuple[list[Statement], list[TableMap]]:
        """What the log has since the last time."""
        statements, maps = read_log(self.database, self.place)
        self.place = end(self.database)
        return statements, [table_map for table_map in maps if table_map.table == self.table]

    def execute(self, sql: str) -> list[TableEffect]:
        """Runs a statement and follows it in the log."""
        self.database.execute(sql)
        return self.follow()

    def follow(self) -> list[TableEffect]:
        """Carries the shape on by what the log has now; returns all that happened to the table."""
        found = []
        for statement in self.log()[0]:
            for effect in effects(statement, {(self.database.name, self.table)}, self.dialect):
                found.append(effect)
                if effect.kind is Kind.ALTERED:
                    self.shape = altered(self.shape, effect.alterations, statement.strict)
        return found

    def check(self, sql: str) -> None:
        """What we know is what the server has. Types that can't be known are None."""
        catalog = self._catalog()
        unknown = {column.name for column in self.shape.columns if column.type is None}
        known = [(name, None if name in unknown else kind) for name, kind, _ in catalog]
        assert [(column.name, column.type) for column in self.shape.columns] == known, sql
        assert self.shape.key == self.key(), sql
        told = [column.nullable for column in self.shape.columns]
        assert [was is None or was == now for was, (_, _, now) in zip(told, catalog, strict=True)] == [True] * len(told), (sql, told)

    def check_rows(self, sql: str, before: dict[str, list[Any]], known: dict[str, MyType]) -> None:
        """The columns that are not `filled` hold what they held, or NULL."""
        after, refilled = self.rows(), filled(self.shape)
        unknown = {column.name for column in self.shape.columns if column.type is None}
        for name, my_type in self.columns():
            if name in refilled | unknown:
                continue
            if name not in known:
                assert after[name] == [None] * len(after[name]), (sql, name)
            elif widened(make_field(name, known[name], None).columns[0], make_field(name, my_type, None).columns[0]):
                assert after[name] == before[name], (sql, name)


def dialect(database: MyDatabase) -> Dialect:
    return Dialect(mariadb=database.server.is_mariadb)


def end(database: MyDatabase) -> tuple[str, int]:
    """The end of the log."""
    row = database.execute("SHOW MASTER STATUS" if database.server.is_mariadb else "SHOW BINARY LOG STATUS")[0]
    return row[0], row[1]


def read_log(database: MyDatabase, place: tuple[str, int]) -> tuple[list[Statement], list[TableMap]]:
    """The statements and table maps from a place to the end."""
    statements: list[Statement] = []
    maps: list[TableMap] = []

    def told(statement: Statement) -> tuple[()]:
        statements.append(statement)
        return ()

    decoder = Decoder(maps.append, told, mariadb=database.server.is_mariadb, file=place[0], offset=place[1])
    events = list(logged(database, place))
    assert decoder.feed(events) == len(events)
    return statements, maps


def effects_since(database: MyDatabase, place: tuple[str, int], captured: set[tuple[str, str]]) -> list[TableEffect]:
    """What the statements from a place on do to tables."""
    return [effect for statement in read_log(database, place)[0] for effect in effects(statement, captured, dialect(database))]


def with_charset(my_type: MyType) -> MyType:
    """MySQL shows no character set for an ENUM of bytes."""
    binary = my_type.name in MEMBERS and my_type.charset is None
    return MyType(my_type.name, members=my_type.members, charset="binary") if binary else my_type


BOTH = """
ADD n INT
ADD COLUMN n INT UNSIGNED NOT NULL
ADD n INT NULL DEFAULT NULL
ADD n INT DEFAULT 5
ADD n INT DEFAULT -5 COMMENT 'a, b' FIRST
ADD n INT(5) ZEROFILL AFTER a
add column(n int, m varchar(3), primary_ int, index (n), unique key u (m), constraint ck check (n > 0))
ADD n BOOL, ADD m BOOLEAN, ADD o TINYINT(1), ADD p INT1, ADD q INT2, ADD r INT3, ADD s INT4, ADD u INT8, ADD v MIDDLEINT, ADD w INTEGER
ADD n DEC, ADD m DECIMAL(5), ADD o NUMERIC(7,3), ADD p FIXED(4,4) UNSIGNED, ADD q DECIMAL(65,30), ADD r DEC(0), ADD s DECIMAL(5,2) ZEROFILL
ADD n FLOAT, ADD m FLOAT(24), ADD o FLOAT(25), ADD p FLOAT(7,4)
ADD q DOUBLE PRECISION, ADD r REAL UNSIGNED, ADD s DOUBLE(9,3), ADD t FLOAT4, ADD u FLOAT8
ADD n BIT, ADD m BIT(17), ADD o YEAR, ADD p YEAR(4), ADD q DATE
ADD r TIME, ADD s TIME(3), ADD t DATETIME(6), ADD u TIMESTAMP NULL, ADD v TIMESTAMP(2) NULL
ADD n TIMESTAMP
ADD n TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP
ADD n DATETIME(3) DEFAULT CURRENT_TIMESTAMP(3) ON UPDATE CURRENT_TIMESTAMP(3)
ADD n CHAR, ADD m CHAR(7) BINARY, ADD o CHARACTER(3)
ADD p NCHAR(4), ADD q NATIONAL CHARACTER(2), ADD r NATIONAL CHAR VARYING(5), ADD s NVARCHAR(6)
ADD n VARCHAR(10), ADD m CHAR VARYING(11), ADD o CHARACTER VARYING(12)
ADD p VARCHARACTER(13), ADD q NCHAR VARCHAR(3), ADD r NATIONAL VARCHAR(4), ADD s NCHAR VARYING(5)
ADD n CHAR(3) ASCII, ADD m CHAR(3) UNICODE
ADD o CHAR(3) BYTE, ADD p VARCHAR(4) CHARSET utf8mb4, ADD q TEXT CHARACTER SET gbk COLLATE gbk_bin
ADD n VARCHAR(9) COLLATE utf8mb4_bin, ADD m TEXT COLLATE utf8_general_ci
ADD o VARCHAR(9) COLLATE binary, ADD p ENUM('x') COLLATE cp1251_bin
ADD n VARCHAR(9) CHARACTER SET binary, ADD m TEXT CHARACTER SET binary
ADD o CHAR(2) CHARACTER SET 'binary', ADD p ENUM('x','y') CHARACTER SET binary
ADD n TINYTEXT, ADD m TEXT, ADD o MEDIUMTEXT, ADD p LONGTEXT, ADD q LONG, ADD r LONG VARCHAR, ADD s LONG VARBINARY, ADD t LONG CHAR VARYING
ADD n TEXT(255), ADD m TEXT(256), ADD o TEXT(64) CHARSET utf8mb4, ADD p TEXT(63) CHARSET utf8mb4
ADD q TEXT(65536), ADD r BLOB(255), ADD s BLOB(256), ADD t BLOB(16777216)
ADD n TINYBLOB, ADD m BLOB, ADD o MEDIUMBLOB, ADD p LONGBLOB
ADD q BINARY, ADD r BINARY(16), ADD s VARBINARY(300), ADD t BINARY(0), ADD u CHAR(0)
ADD n ENUM('a ','b''c',"d\\\\e",'客') CHARSET utf8mb4 NOT NULL, ADD m SET('x','y ') DEFAULT 'x', ADD o ENUM('') DEFAULT ''
ADD n GEOMETRY, ADD m POINT, ADD o GEOMETRYCOLLECTION, ADD p MULTIPOLYGON, ADD q LINESTRING
ADD n JSON
ADD n JSON DEFAULT NULL COMMENT 'ümläut' AFTER `f g`
ADD n INT AS (i + 1), ADD m INT GENERATED ALWAYS AS (i * 2) STORED, ADD o VARCHAR(5) AS ('x') VIRTUAL COMMENT 'not null'
ADD n BIGINT UNSIGNED NOT NULL AUTO_INCREMENT UNIQUE
ADD n SERIAL
ADD n BIGINT NOT NULL SERIAL DEFAULT VALUE
ADD `first` INT, ADD after INT AFTER `first`, ADD `after ``x``.y` INT FIRST
ADD first INT FIRST, ADD comment VARCHAR(3) CHARSET ascii COMMENT 'after a' AFTER b
ADD n INT CHECK (n > 0), ADD m INT REFERENCES other (x) ON DELETE SET NULL, ADD CONSTRAINT cc CHECK (i < 100)
ADD n INT UNIQUE KEY COMMENT 'k', ADD KEY k1 (n), ADD UNIQUE u1 (i), ADD FULLTEXT INDEX f1 (b), ADD INDEX (e), ADD CONSTRAINT UNIQUE u2 (c)
DROP b
DROP COLUMN b, DROP e, DROP `f g`, DROP 客户
DROP b RESTRICT, DROP KEY kd
DROP a, DROP PRIMARY KEY
DROP a, ADD a CHAR(30) NOT NULL
DROP PRIMARY KEY
DROP PRIMARY KEY, ADD PRIMARY KEY (`f g`, rid)
DROP PRIMARY KEY, ADD CONSTRAINT pk PRIMARY KEY USING BTREE (rid DESC, a(3))
DROP PRIMARY KEY, ADD n INT NOT NULL AUTO_INCREMENT PRIMARY KEY FIRST
DROP PRIMARY KEY, ADD n INT AUTO_INCREMENT KEY
DROP PRIMARY KEY, MODIFY `f g` INT NOT NULL, ADD PRIMARY KEY (`F G`, A)
DROP INDEX `PRIMARY`
DROP i, ADD i INT
DROP i, ADD i INT NOT NULL FIRST
DROP i, CHANGE c i DECIMAL(12,2)
MODIFY a VARCHAR(30) NOT NULL
MODIFY a VARCHAR(30) NULL, DROP PRIMARY KEY
MODIFY COLUMN c DECIMAL(12,4) UNSIGNED AFTER i
MODIFY c DECIMAL(12,2), MODIFY e DATETIME(3) FIRST, MODIFY b MEDIUMTEXT CHARACTER SET latin1
MODIFY d ENUM('p','q','r') CHARACTER SET utf8mb4
MODIFY d ENUM('q','p')
MODIFY `f g` INT UNSIGNED, MODIFY i BIGINT
MODIFY h CHAR(9) CHARSET gbk, MODIFY 客户 VARBINARY(20)
MODIFY i INT AS (rid + 1) STORED
MODIFY rid BIGINT NOT NULL AUTO_INCREMENT
CHANGE a z VARCHAR(20)
CHANGE COLUMN `a` `A` VARCHAR(25) CHARACTER SET utf8mb4 NOT NULL FIRST
CHANGE b z TEXT AFTER rid, CHANGE c y DECIMAL(10,2) UNSIGNED AFTER z, ADD x INT AFTER y, ADD w INT AFTER x
CHANGE b c TEXT, CHANGE c b DECIMAL(10,2) UNSIGNED
CHANGE i j INT, ADD i VARCHAR(4)
RENAME COLUMN b TO z, RENAME COLUMN a TO `客 户`
RENAME COLUMN b TO c, RENAME COLUMN c TO b
RENAME COLUMN a TO z, ADD y INT AFTER z, DROP i
RENAME KEY kd TO ke, ADD n INT
ALTER i SET DEFAULT 5, ALTER COLUMN c DROP DEFAULT
ORDER BY i, c
ENGINE=InnoDB ROW_FORMAT=DYNAMIC COMMENT='add x int, drop b', AUTO_INCREMENT = 7
COMMENT 'x', MAX_ROWS=5, ADD n VARCHAR(3), STATS_PERSISTENT=1, KEY_BLOCK_SIZE 0
ALGORITHM=INPLACE, LOCK=NONE, ADD n INT
FORCE
DEFAULT CHARACTER SET utf8mb4
DEFAULT CHARSET = gbk COLLATE = gbk_bin, ADD n VARCHAR(3), MODIFY a VARCHAR(9) NOT NULL
CHARSET utf8mb4 ENGINE InnoDB, ADD n TEXT
COLLATE utf8mb4_bin, ADD n TEXT
CONVERT TO CHARACTER SET utf8mb4
CONVERT TO CHARSET utf8mb4 COLLATE utf8mb4_bin
CONVERT TO CHARACTER SET gbk, ADD n VARCHAR(3), ADD m TEXT
CONVERT TO CHARACTER SET ucs2, DROP d
CONVERT TO CHARACTER SET binary
ADD n VARCHAR(3) CHARACTER SET ascii, CONVERT TO CHARACTER SET utf8mb4
ADD n INT PARTITION BY HASH (rid) PARTITIONS 3
ADD n INT /* , ADD m INT */ , -- ADD o INT⏎ADD p INT # DROP rid
ADD n INT /*! UNSIGNED */ /*!50100 NOT NULL */ DEFAULT 1, /*!99999 DROP rid, */ ADD m INT
ADD n INT;
"""
MYSQL = """
ADD n VECTOR(4), ADD m VECTOR, ADD vector VECTOR(2)
ADD n GEOMETRY SRID 4326, ADD m GEOMCOLLECTION
ADD n VARCHAR(5) DEFAULT (concat('a', NULL)), ADD m TEXT DEFAULT ('x'), ADD o JSON DEFAULT (json_array())
ADD n INT INVISIBLE, ALTER COLUMN b SET INVISIBLE, ALTER INDEX kd INVISIBLE
ADD n INT, ALGORITHM=INSTANT
ADD n VARCHAR(3) CHARACTER SET gb18030, ADD m TEXT(16383) CHARSET utf16
ADD n INT COLUMN_FORMAT DEFAULT STORAGE DEFAULT
ADD n TEXT(0), ADD m BLOB(0)
DROP CONSTRAINT `PRIMARY`, ADD n INT
ADD INDEX fi ((i + 1)), ADD n INT
ADD CONSTRAINT ck CHECK (i < 1000) NOT ENFORCED, ADD n INT
ADD n INT /*M! UNSIGNED */
"""
MARIADB = """
ADD COLUMN IF NOT EXISTS b INT, ADD IF NOT EXISTS n INT
ADD COLUMN IF NOT EXISTS (b INT, n INT)
DROP COLUMN IF EXISTS b, DROP IF EXISTS nope, DROP KEY IF EXISTS nope
MODIFY IF EXISTS b LONGTEXT, MODIFY COLUMN IF EXISTS nope INT, CHANGE IF EXISTS nope x INT, CHANGE COLUMN IF EXISTS c y INT
ADD PRIMARY KEY IF NOT EXISTS (i), ADD INDEX IF NOT EXISTS kx (i)
ADD UNIQUE IF NOT EXISTS ux (i), ADD CONSTRAINT IF NOT EXISTS cx CHECK (i > -1)
RENAME COLUMN IF EXISTS nope TO z, RENAME COLUMN IF EXISTS b TO y
ADD n INET6, ADD m UUID, ADD o UUID DEFAULT uuid()
ADD n INET4
ADD n VECTOR(3) NOT NULL
ADD n VARCHAR(20) COMPRESSED, ADD m TEXT COMPRESSED=zlib CHARACTER SET latin1, ADD o BLOB COMPRESSED
ADD n VARCHAR(5) COLLATE uca1400_ai_ci, CHARSET utf8mb4
ADD n INT DEFAULT (i + 1), ADD m VARCHAR(40) DEFAULT concat('a', NULL)
ADD n INT INVISIBLE DEFAULT 4, ADD m INT AS (i) PERSISTENT
ADD n INT /*M! UNSIGNED */, ADD m INT /*M!100100 UNSIGNED */, ADD o INT /*!50701 UNSIGNED */
ADD n TEXT(0), ADD m BLOB(0), ADD o BIT(0)
ADD n GEOMETRY REF_SYSTEM_ID=4326
WAIT 5 ADD n INT
NOWAIT ADD n INT, DROP b CASCADE
"""


REFUSED = {"ADD n INET4": "10.11", "ADD n VECTOR(3) NOT NULL": "10.11"}  # by the servers of a series


def alterations(database: MyDatabase) -> list[str]:
    texts = BOTH + (MARIADB if database.server.is_mariadb else MYSQL)
    chosen = [line.replace("⏎", "\n") for line in texts.strip("\n").split("\n") if line]
    return [line for line in chosen if not database.server.version.startswith(REFUSED.get(line, "-"))]


def full_sql(alteration: str) -> str:
    return f"ALTER TABLE t {alteration}"


@pytest.fixture
def database(any_mysql_database: MyDatabase) -> MyDatabase:
    any_mysql_database.execute("SET SESSION foreign_key_checks = 0")
    return any_mysql_database


@pytest.mark.parametrize("strict", [True, False])
def test_every_alteration(database: MyDatabase, strict: bool) -> None:
    if not strict:
        database.execute("SET SESSION sql_mode = ''")
    for alteration in alterations(database):
        followed = Followed(database)
        before, known = followed.rows(), dict(followed.columns())
        followed.execute(full_sql(alteration))
        followed.check(alteration)
        followed.check_rows(alteration, before, known)


def test_modes(database: MyDatabase) -> None:
    """What the session's sql_mode makes of quotes, backslashes and types."""
    for mode, alteration in [
        ("ANSI_QUOTES", 'ADD "n ""m"".x" INT COMMENT \'"\', DROP "b"'),
        ("NO_BACKSLASH_ESCAPES", "ADD n ENUM('a\\','b') CHARSET ascii, ADD m INT COMMENT '\\', DROP b"),
        ("ANSI_QUOTES,NO_BACKSLASH_ESCAPES", "ADD \"n\\\" ENUM('\\\\') CHARSET ascii"),
        ("REAL_AS_FLOAT", "ADD n REAL, ADD m DOUBLE, DROP b"),
    ]:
        database.execute(f"SET SESSION sql_mode = '{mode}'")
        followed = Followed(database)
        followed.execute(full_sql(alteration))
        followed.check(alteration)


@pytest.mark.parametrize("setting", ["NO_LOG", "MINIMAL", "FULL"])
def test_types_that_depend_on_the_table(database: MyDatabase, setting: str) -> None:
    """A character set that neither history nor statement names comes from the table map, where that tells it."""
    if setting == "NO_LOG" and not database.server.is_mariadb:
        pytest.skip("MySQL tells at least MINIMAL")
    with metadata(database, setting):
        followed = Followed(database, charset=None)
        followed.execute(full_sql("ADD n VARCHAR(7), ADD m TEXT(300) AFTER rid, MODIFY a CHAR(30) NOT NULL, ADD o INT, ADD p TIMESTAMP"))
        assert [column.name for column in followed.shape.columns if isinstance(column.type, DeclaredType)] == ["m", "a", "n"]
        database.execute("INSERT INTO t (rid, a, `f g`) VALUES (10, 1, 1)")
        _, (table_map, *_) = followed.log()
    if setting == "NO_LOG":
        with pytest.raises(SchemaUnknown, match="'m'"):
            settled(followed.shape, table_map.columns)
        return
    followed.shape = settled(followed.shape, table_map.columns)
    followed.check(setting)
    assert all(fits_wire(kind, told) for (_, kind), told in zip(followed.columns(), table_map.columns, strict=True))
    assert filled(followed.shape) == set()


@contextmanager
def metadata(database: MyDatabase, setting: str) -> Iterator[None]:
    ((before,),) = database.execute("SELECT @@global.binlog_row_metadata")
    database.execute(f"SET GLOBAL binlog_row_metadata = '{setting}'")
    try:
        yield
    finally:
        database.execute(f"SET GLOBAL binlog_row_metadata = '{before}'")


PARTED = "(rid INT PRIMARY KEY) PARTITION BY RANGE (rid) (PARTITION p0 VALUES LESS THAN (2), PARTITION p1 VALUES LESS THAN (9))"
# Statements, what they do to table `t`, and how many of its three rows are there afterwards; None: there is no such table.
EFFECTS: list[tuple[str, list[Kind], int | None]] = [
    ("TRUNCATE t", [Kind.TRUNCATED], 0),
    ("truncate table `t`", [Kind.TRUNCATED], 0),
    ("ALTER TABLE t TRUNCATE PARTITION ALL", [Kind.TRUNCATED], 0),
    ("ALTER TABLE t TRUNCATE PARTITION p0", [Kind.UNLOGGED], 2),
    ("ALTER TABLE t TRUNCATE PARTITION p0, p1", [Kind.UNLOGGED], 0),
    ("ALTER TABLE t DROP PARTITION p1", [Kind.UNLOGGED], 1),
    ("ALTER TABLE t EXCHANGE PARTITION p1 WITH TABLE u", [Kind.UNLOGGED], 2),
    ("ALTER TABLE t REORGANIZE PARTITION p0, p1 INTO (PARTITION p2 VALUES LESS THAN (9))", [], 3),
    ("ALTER TABLE t ADD PARTITION (PARTITION p2 VALUES LESS THAN (20))", [], 3),
    ("ALTER TABLE t REMOVE PARTITIONING", [], 3),
    ("ALTER TABLE t REBUILD PARTITION ALL", [], 3),
    ("ALTER TABLE t ENGINE = InnoDB, COMMENT 'x'", [], 3),
    ("DROP TABLE t", [Kind.DROPPED], None),
    ("DROP TABLE IF EXISTS nope, t, other", [Kind.DROPPED], None),
    ("RENAME TABLE t TO gone, u TO t", [Kind.REPLACED], 1),
    ("RENAME TABLE t TO gone", [Kind.REPLACED], None),
    ("RENAME TABLE t TO gone, gone TO t", [], 3),
    ("ALTER TABLE t RENAME = gone, ALGORITHM=COPY", [Kind.REPLACED], None),
    ("CREATE TABLE IF NOT EXISTS t (a INT)", [Kind.CREATED], 3),
    ("CREATE TABLE w LIKE t", [], 3),
    ("CREATE TABLE w SELECT * FROM t", [], 3),
    ("CREATE VIEW v AS SELECT * FROM t", [], 3),
    ("CREATE TRIGGER tr BEFORE INSERT ON t FOR EACH ROW DELETE FROM u", [], 3),
    ("CREATE PROCEDURE p() DELETE FROM t", [], 3),
    ("CREATE EVENT e ON SCHEDULE AT '2037-01-01' DO TRUNCATE t", [], 3),
    ("CREATE TEMPORARY TABLE t (a INT)", [], 0),
    ("GRANT SELECT ON t TO cdc", [], 3),
    ("ANALYZE TABLE t", [], 3),
    ("CREATE INDEX i ON t (rid)", [], 3),
    ("INSERT INTO t SELECT rid FROM u", [], 4),
]


def test_effects(database: MyDatabase) -> None:
    """As the servers log the statements: the text of some is their own."""
    for sql, kinds, left in EFFECTS:
        database.execute("DROP TEMPORARY TABLE IF EXISTS t")
        database.execute("DROP TABLE IF EXISTS t, u, gone, other, w")
        database.execute("DROP VIEW IF EXISTS v")
        database.execute(f"CREATE TABLE t {PARTED}")
        database.execute("CREATE TABLE u (rid INT PRIMARY KEY)")
        database.execute("CREATE TABLE other (rid INT)")
        database.execute("INSERT INTO t VALUES (1), (2), (3)")
        database.execute("INSERT INTO u VALUES (4)")
        place = end(database)
        database.execute(sql)
        happened = [effect.kind for effect in effects_since(database, place, {(database.name, "t")})]
        # MariaDB does not log a CREATE that made nothing.
        assert happened == kinds or (database.server.is_mariadb and kinds == [Kind.CREATED] and not happened), sql
        found = database.execute("SHOW TABLES LIKE 't'")
        assert (database.execute("SELECT count(*) FROM t")[0][0] if found or left is not None else None) == left, sql


WRITING = [
    "INSERT INTO t VALUES (5)",
    "REPLACE t VALUES (5)",
    "UPDATE t SET rid = 7 WHERE rid = 1",
    "UPDATE u JOIN t ON u.rid > t.rid SET t.rid = t.rid + 100",
    "DELETE FROM t",
    "DELETE a FROM t AS a JOIN u ON a.rid < u.rid",
    "DELETE FROM a USING t a, u WHERE a.rid < u.rid",
    "CREATE TABLE t2 SELECT 'text' AS x",
    "LOAD DATA LOCAL INFILE '/etc/hostname' INTO TABLE t2 (x)",
]
READING = [
    "INSERT INTO u SELECT rid + 10 FROM t",
    "UPDATE u JOIN t ON u.rid > t.rid SET u.rid = 50",
    "DELETE u FROM u JOIN t ON u.rid > t.rid",
]


def test_rows_as_statements(database: MyDatabase) -> None:
    database.execute("CREATE TABLE t (rid INT PRIMARY KEY)")
    database.execute("CREATE TABLE u (rid INT PRIMARY KEY)")
    database.execute("CREATE FUNCTION f() RETURNS INT DETERMINISTIC BEGIN DELETE FROM t; RETURN 1; END")
    database.execute("SET SESSION binlog_format = STATEMENT")
    captured = {(database.name, "t"), (database.name, "t2")}
    for sql, kind in [*((sql, Kind.WRITTEN) for sql in WRITING), *((sql, None) for sql in READING), ("SELECT f()", Kind.UNKNOWN)]:
        database.execute("DELETE FROM t")
        database.execute("DELETE FROM u")
        database.execute("INSERT INTO t VALUES (1), (2)")
        database.execute("INSERT INTO u VALUES (3)")
        place = end(database)
        database.execute(sql)
        found = [effect.kind for effect in effects_since(database, place, captured)]
        assert set(found) - {Kind.CREATED} == ({kind} if kind else set()), sql


TABLES = ["a", "b", "c", "d", "e"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(TABLES), st.sampled_from(TABLES)), min_size=1, max_size=5))
def test_any_renaming(database: MyDatabase, pairs: list[tuple[str, str]]) -> None:
    """Which table bears a name in the end."""
    database.execute(f"DROP TABLE IF EXISTS {', '.join(TABLES)}")
    for name in TABLES[:3]:
        database.execute(f"CREATE TABLE {name} (was_{name} INT)")
    place = end(database)
    try:
        database.execute("RENAME TABLE " + ", ".join(f"{name} TO {to}" for name, to in pairs))
    except pymysql.MySQLError:
        return
    captured = {(database.name, name) for name in TABLES}
    bearers: dict[str, str | None] = {name: name if name in TABLES[:3] else None for name in TABLES}
    bearers |= {effect.table: effect.now[1] if effect.now else None for effect in effects_since(database, place, captured)}
    query = "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = %s"
    there = {name: column.removeprefix("was_") for name, column in database.execute(query, [database.name])}
    assert {name: bearer for name, bearer in bearers.items() if bearer} == there


NAMES = ["a", "b", "c", "d", "e", "`f g`", "客户", "h", "i", "n", "m", "`x.y`", "`first`", "AFTER", "B"]
TYPES = [
    *(
        "INT",
        "INT UNSIGNED",
        "BIGINT",
        "TINYINT(1)",
        "DECIMAL(12,3)",
        "FLOAT",
        "DOUBLE(9,2)",
        "DATE",
        "DATETIME(3)",
        "TIMESTAMP NULL",
        "TIME(6)",
    ),
    *("VARCHAR(20)", "VARCHAR(33) CHARACTER SET gbk", "VARCHAR(20) COLLATE utf8mb4_bin", "CHAR(9)", "CHAR(6) ASCII", "NCHAR VARYING(8)"),
    *("TEXT", "TEXT(70) CHARSET utf8mb4", "MEDIUMTEXT", "TINYTEXT CHARACTER SET utf8mb4", "LONG VARCHAR", "LONGTEXT CHARACTER SET binary"),
    *(
        "ENUM('p','q')",
        "ENUM('p','q','r ') CHARACTER SET utf8mb4",
        "SET('x','y,'' ')".replace(",''", "''"),
        "VARBINARY(40)",
        "BINARY(3)",
        "BLOB",
    ),
    *("BLOB(100)", "BIT(9)", "YEAR", "JSON", "SERIAL"),
]
ATTRIBUTES = [
    "",
    "",
    "",
    "NOT NULL",
    "NULL",
    "DEFAULT NULL",
    "COMMENT 'drop, b'",
    "UNIQUE",
    "PRIMARY KEY",
    "INVISIBLE",
    "AUTO_INCREMENT KEY",
    "NOT NULL DEFAULT '1'",
]
names, types, attributes = st.sampled_from(NAMES), st.sampled_from(TYPES), st.sampled_from(ATTRIBUTES)
places = st.one_of(st.just(""), st.just("FIRST"), names.map(lambda name: f"AFTER {name}"))
definitions = st.tuples(names, types, attributes).map(" ".join)
charsets = st.sampled_from(["utf8mb4", "utf8mb3", "gbk", "latin1", "binary", "ucs2"])
keys = st.lists(names.filter(lambda name: name not in ("b",)), min_size=1, max_size=2, unique=True).map(", ".join)
ALTERATIONS = st.one_of(
    st.tuples(st.sampled_from(["ADD", "ADD COLUMN", "add\n/* c */"]), definitions, places).map(" ".join),
    st.tuples(st.just("MODIFY"), definitions, places).map(" ".join),
    st.tuples(st.sampled_from(["CHANGE", "CHANGE COLUMN"]), names, definitions, places).map(" ".join),
    st.tuples(st.sampled_from(["DROP", "DROP COLUMN"]), names).map(" ".join),
    st.tuples(st.just("RENAME COLUMN"), names, st.just("TO"), names).map(" ".join),
    st.lists(definitions, min_size=1, max_size=3).map(lambda columns: f"ADD ({', '.join(columns)})"),
    st.sampled_from(["DROP PRIMARY KEY", "ENGINE=InnoDB", "ORDER BY rid", "ALTER COLUMN i SET DEFAULT 3", "DROP INDEX kd"]),
    keys.map(lambda columns: f"DROP PRIMARY KEY, ADD PRIMARY KEY (rid, {columns})"),
    charsets.map(lambda charset: f"DEFAULT CHARACTER SET {charset}"),
    charsets.map(lambda charset: f"CONVERT TO CHARACTER SET {charset}"),
)
STATEMENTS = (
    st.lists(ALTERATIONS, min_size=1, max_size=4)
    .map(", ".join)
    .filter(lambda text: text.count("CONVERT TO") + text.count("DEFAULT CHAR") < 2)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=1000)
@given(st.booleans(), st.lists(STATEMENTS, min_size=1, max_size=4))
@example(False, ["CONVERT TO CHARACTER SET utf8mb4, MODIFY b TEXT", "CONVERT TO CHARACTER SET gbk, CHANGE i j BLOB"])
def test_any_sequence_of_alterations(database: MyDatabase, strict: bool, statements: list[str]) -> None:
    database.execute("SET SESSION sql_mode = %s", ["STRICT_TRANS_TABLES" if strict else ""])
    followed = Followed(database)
    before, known = followed.rows(), dict(followed.columns())
    for statement in statements:
        try:
            database.execute(full_sql(statement))
        except pymysql.MySQLError:  # the server refused it, and the table is as it was
            continue
        try:
            followed.follow()
        except SchemaUnknown:  # MariaDB lets a statement change a column that it adds itself
            assert database.server.is_mariadb
            return
        followed.check(statement)
        followed.check_rows(statement, before, known)
