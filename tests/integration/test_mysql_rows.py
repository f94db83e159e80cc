"""Rows that real servers logged, through the decoder: images, values, which columns there are."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing

import pytest
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

from cdc.errors import SchemaUnknown
from tests.integration.taps import Row, Tap, changed, on_mariadb, run, setting
from tests.servers.mysql import MyDatabase

pytestmark = pytest.mark.usefixtures("mysql_kernel")


@pytest.fixture
def tap(any_mysql_database: MyDatabase) -> Tap:
    return Tap(any_mysql_database)


@pytest.fixture
def mysql_tap(mysql_database: MyDatabase) -> Tap:
    return Tap(mysql_database)


@on_mariadb
def test_mariadb_compressed_columns(tap: Tap) -> None:
    run(
        tap,
        "CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(255) COMPRESSED DEFAULT 'd', w VARCHAR(256) COMPRESSED, x BLOB COMPRESSED,"
        " y LONGTEXT COMPRESSED)",
        "INSERT INTO a VALUES (1, REPEAT('v', 200), REPEAT('w', 250), REPEAT(X'00FF', 500), REPEAT('客户', 1000)), (2, '', 'w', '', NULL)",
        "ALTER TABLE a ADD z TEXT COMPRESSED",
        "UPDATE a SET z = REPEAT('z', 300)",
    )
    made, events = tap.decoder(), tap.events()
    at = made.feed(events)
    first = changed(made.take()[1][0])
    assert made.feed(events, at) == len(events)
    full = (1, "v" * 200, "w" * 250, b"\0\xff" * 500, "客户" * 1000)
    assert first == [("c", 0, *full), ("c", 0, 2, "", "w", b"", None)]
    assert changed(made.take()[1][0]) == [("u", 0, *full, "z" * 300), ("u", 0, 2, "", "w", b"", None, "z" * 300)]


IMAGED = (
    "CREATE TABLE a (id INT PRIMARY KEY AUTO_INCREMENT, n INT, v INT AS (n + 1) VIRTUAL, s INT AS (n + 2) STORED, z INT DEFAULT 7,"
    " note TEXT, changed TIMESTAMP(6) DEFAULT CURRENT_TIMESTAMP(6) ON UPDATE CURRENT_TIMESTAMP(6))",
    "INSERT INTO a (n, z, note, changed) VALUES (1, 5, 'a', '2024-01-01'), (2, 6, 'b', '2024-01-01')",
    "UPDATE a SET n = 5 WHERE id = 1",
    "UPDATE a SET note = 'longer' WHERE id = 2",
    "UPDATE a SET note = NULL, z = 8 WHERE id = 1",
    "UPDATE a SET id = 9 WHERE id = 2",
    "REPLACE INTO a (id, n, z, note, changed) VALUES (9, 4, 3, 'replaced', '2024-01-01')",
    "INSERT INTO a (id, n, z, note, changed) VALUES (9, 4, 3, 'c', '2024-01-02') ON DUPLICATE KEY UPDATE n = 11",
    "DELETE FROM a WHERE id = 1",
)


@pytest.mark.parametrize("image", ["MINIMAL", "NOBLOB"])
def test_mysql_row_images(mysql_tap: Tap, image: str) -> None:
    run(mysql_tap, f"SET SESSION binlog_row_image = {image}", *IMAGED)
    shown = mysql_tap.database.execute("SELECT id, n, v, s, z, note FROM a")
    assert [row[:6] for row in mysql_tap.mirrored()["a"]] == shown == [(9, 11, 12, 13, 3, "replaced")]


def test_mysql_leaves_out_texts_that_are_null(mysql_tap: Tap) -> None:
    run(
        mysql_tap,
        "CREATE TABLE a (id INT PRIMARY KEY, t TEXT, j JSON, e TEXT DEFAULT ('made'), g POINT, s TEXT)",
        "CREATE TRIGGER set_s BEFORE INSERT ON a FOR EACH ROW SET NEW.s = CONCAT('row ', NEW.id)",
        "SET SESSION binlog_row_image = NOBLOB",
        "INSERT INTO a (id) VALUES (1)",
        "SET SESSION binlog_row_image = MINIMAL",
        "INSERT INTO a (id) VALUES (2)",
        "INSERT INTO a (id) SELECT id + 2 FROM a",
    )
    expected = [(number, None, None, "made", None, f"row {number}") for number in range(1, 5)]
    assert mysql_tap.mirrored()["a"] == expected == mysql_tap.database.execute("SELECT * FROM a")
    run(mysql_tap, "ALTER TABLE a ADD z INT DEFAULT 7", "INSERT INTO a (id) VALUES (9)")
    with pytest.raises(SchemaUnknown) as caught:
        mysql_tap.decoder().feed(mysql_tap.events())
    assert (caught.value.code, caught.value.values["column"]) == ("binlog.image", "z")


@on_mariadb
@pytest.mark.parametrize("image", ["MINIMAL", "NOBLOB"])
def test_mariadb_row_images(tap: Tap, image: str) -> None:
    """REPLACE is an update that leaves out what it set to its default, so what an update leaves out is not known to be the same."""
    run(
        tap,
        "CREATE TABLE a (id INT PRIMARY KEY, n INT, z INT DEFAULT 7, note TEXT)",
        "INSERT INTO a VALUES (1, 1, 5, 'a')",
        f"SET SESSION binlog_row_image = {image}",
    )
    tap.start()
    run(tap, "REPLACE INTO a (id, n) VALUES (1, 2)")
    assert tap.database.execute("SELECT z, note FROM a") == [(7, None)]
    with pytest.raises(SchemaUnknown) as caught:
        tap.decoder().feed(tap.events())
    assert caught.value.code == "binlog.image"


@pytest.mark.parametrize("any_mysql", ["mariadb-11.8"], indirect=True)
def test_mariadb_row_images_without_duplicates(tap: Tap) -> None:
    """The image before has all; that after leaves out what is the same, and virtual columns even if they are not."""
    run(tap, "CREATE TABLE a (id INT PRIMARY KEY, n INT, z INT DEFAULT 7)", "INSERT INTO a VALUES (1, 1, 5)")
    tap.start()
    run(tap, "SET SESSION binlog_row_image = FULL_NODUP", "UPDATE a SET n = 2", "REPLACE INTO a (id, n) VALUES (1, 3)")
    assert tap.changes()[1] == {"a": [("u", 0, 1, 2, 5), ("u", 1, 1, 3, 7)]}
    run(tap, "ALTER TABLE a ADD v INT AS (n + 1) VIRTUAL")
    tap.start()
    run(tap, "UPDATE a SET n = 9")
    with pytest.raises(SchemaUnknown) as caught:
        tap.decoder().feed(tap.events())
    assert (caught.value.code, caught.value.values["column"]) == ("binlog.image", "v")


def test_partial_updates_of_json(mysql_tap: Tap) -> None:
    run(
        mysql_tap,
        "CREATE TABLE a (id INT PRIMARY KEY, one JSON, n INT, two JSON, three JSON)",
        'INSERT INTO a VALUES (1, \'{"a": [1, 2, {"b": "客户"}], "c": 1.5}\', 1, \'[1, 2, 3]\', NULL)',
        "INSERT INTO a VALUES (2, '{\"a\": 1}', 2, '[]', '\"text\"')",
        "SET SESSION binlog_row_value_options = PARTIAL_JSON",
        "UPDATE a SET one = JSON_SET(one, '$.a[2].b', 'x', '$.\"d e\"', CAST('2024-01-02' AS DATE))",
        "UPDATE a SET two = JSON_REMOVE(two, '$[1]'), n = n + 1 WHERE id = 1",
        "UPDATE a SET one = JSON_REPLACE(one, '$.a', 7), three = JSON_OBJECT('new', n)",
        "UPDATE a SET two = JSON_ARRAY_INSERT(two, '$[0]', JSON_OBJECT('k', NULL))",
    )
    assert any(event[4] == 39 for event in mysql_tap.events())
    shown = mysql_tap.database.execute("SELECT id, CAST(one AS CHAR), n, CAST(two AS CHAR), CAST(three AS CHAR) FROM a")
    assert mysql_tap.mirrored()["a"] == sorted(shown)
    mysql_tap.start()
    run(mysql_tap, "SET SESSION binlog_row_image = MINIMAL", "UPDATE a SET one = JSON_SET(one, '$.a', 8)")
    with pytest.raises(SchemaUnknown) as caught:
        mysql_tap.changes()
    assert caught.value.code == "binlog.partial"


def test_which_columns_rows_have(tap: Tap) -> None:
    generated = "v INT AS (id + 1) VIRTUAL, s INT AS (id + 2) STORED, i INT INVISIBLE DEFAULT 3"
    run(tap, f"CREATE TABLE a (id INT PRIMARY KEY, {generated})", "INSERT INTO a (id) VALUES (1)")
    assert tap.changes()[1] == {"a": [("c", 0, 1, 2, 3, 3)]}
    assert [column.visible for column in tap.maps[0].columns] == ([None] * 4 if tap.mariadb else [True, True, True, False])


def test_which_columns_rows_of_mysql_have(mysql_tap: Tap) -> None:
    run(
        mysql_tap,
        "CREATE TABLE a (id INT PRIMARY KEY, j JSON, k VARCHAR(10), KEY ((UPPER(k))), KEY ((CAST(j->'$.x' AS UNSIGNED ARRAY))))",
        "INSERT INTO a VALUES (1, '{\"x\": [1, 2]}', 'k')",
        "SET SESSION sql_generate_invisible_primary_key = ON",
        "CREATE TABLE b (n INT)",
        "INSERT INTO b VALUES (5)",
    )
    _, tables = mysql_tap.changes()
    assert tables == {"a": [("c", 0, 1, '{"x": [1, 2]}', "k")], "b": [("c", 1, 1, 5)]}
    assert [column.name for column in mysql_tap.maps[1].columns] == ["my_row_id", "n"]


@on_mariadb
def test_which_columns_rows_of_mariadb_have(tap: Tap) -> None:
    """The hash of a long unique key is a hidden column that no catalog shows; a versioned table has rows of its history."""
    run(
        tap,
        "CREATE TABLE a (id INT PRIMARY KEY, note TEXT, UNIQUE (note))",
        "INSERT INTO a VALUES (1, 'x')",
        "CREATE TABLE b (id INT PRIMARY KEY) WITH SYSTEM VERSIONING",
        "INSERT INTO b VALUES (1)",
        "UPDATE b SET id = 2",
    )
    made, events = tap.decoder(), tap.events()
    assert made.feed(events) == len(events)
    assert [[column.name for column in table.columns] for table in tap.maps[:2]] == [
        ["id", "note", "DB_ROW_HASH_1"],
        ["id", "row_start", "row_end"],
    ]
    assert [row[:3] for row in changed(made.take()[1][1])] == [("c", 1, 1), ("d", 2, 1), ("u", 2, 2), ("c", 2, 1)]


@pytest.mark.parametrize("metadata", ["FULL", "less"])
def test_values_of_every_width(tap: Tap, metadata: str) -> None:
    """All types in one row, in an order that shifts what a wrong width leaves, against what the server says."""
    columns = {
        "ti TINYINT": ("-128", "127"),
        "si SMALLINT UNSIGNED": ("0", "65535"),
        "v1 VARCHAR(63)": ("''", "'客户'"),
        "mi MEDIUMINT": ("-8388608", "8388607"),
        "v2 VARCHAR(64)": ("'x'", "REPEAT('y', 64)"),
        "bi BIGINT UNSIGNED": ("0", "18446744073709551615"),
        "c1 CHAR(3)": ("''", "'abc'"),
        "f FLOAT": ("0", "1.5"),
        "c2 CHAR(255)": ("'x'", "REPEAT('z', 255)"),
        "db DOUBLE": ("-0.25", "1e300"),
        "tb TINYBLOB": ("''", "REPEAT('t', 255)"),
        "d1 DECIMAL(1,0)": ("-9", "9"),
        "bb BLOB": ("''", "REPEAT('b', 300)"),
        "d2 DECIMAL(38,10)": ("0", "-1234567890123456789012345678.0123456789"),
        "mb MEDIUMBLOB": ("'m'", "REPEAT('m', 70000)"),
        "d3 DECIMAL(10,9)": ("-0.000000001", "9.999999999"),
        "lt LONGTEXT": ("'l'", "REPEAT('l', 300)"),
        "b1 BIT(1)": ("0", "1"),
        "vb VARBINARY(300)": ("X'00'", "X'FF'"),
        "b2 BIT(33)": ("0", "8589934591"),
        "da DATE": ("'1000-01-01'", "'9999-12-31'"),
        "t0 TIME": ("'-838:59:59'", "'838:59:59'"),
        "t6 TIME(6)": ("'-00:00:00.000001'", "'01:02:03.45'"),
        "d0 DATETIME": ("'1000-01-01 00:00:00'", "'9999-12-31 23:59:59'"),
        "d5 DATETIME(5)": ("'2024-01-02 03:04:05.67891'", "NULL"),
        "s0 TIMESTAMP NULL": ("'1970-01-02 00:00:01'", "'2038-01-18 03:14:07'"),
        "s3 TIMESTAMP(3) NULL": ("'2024-01-02 03:04:05.678'", "NULL"),
        "ye YEAR": ("1901", "2155"),
        "e1 ENUM('a','b')": ("'a'", "'b'"),
        "e2 ENUM(" + ",".join(f"'m{n}'" for n in range(300)) + ")": ("'m0'", "'m299'"),
        "st SET(" + ",".join(f"'s{n}'" for n in range(20)) + ")": ("''", "'s0,s19'"),
        "js JSON": ("'[]'", "'{\"a\": 1}'"),
        "gm GEOMETRY": ("NULL", "ST_GeomFromText('POINT(1 2)')"),
        "bn BINARY(5)": ("''", "'ab'"),
    }
    names = [column.split()[0] for column in columns]
    values = [f"({number}, {', '.join(pair[number] for pair in columns.values())})" for number in (0, 1)]
    nothing = f"(2{', NULL' * len(columns)})"
    more = [f"({number}, {', '.join(random.choice((*pair, 'NULL')) for pair in columns.values())})" for number in range(3, 40)]
    level = metadata if metadata == "FULL" else "NO_LOG" if tap.mariadb else "MINIMAL"
    run(tap, f"CREATE TABLE a (id INT PRIMARY KEY, {', '.join(columns)}) CHARACTER SET utf8mb4")
    with setting(tap, "binlog_row_metadata", level):
        run(tap, f"INSERT INTO a VALUES {', '.join([*values, nothing, *more])}", "UPDATE a SET id = id + 100 ORDER BY id DESC")
    as_text = ("t0", "t6", "js", "st")
    chosen = (f"CAST({name} AS CHAR)" if name in as_text else f"{name} + 0" if name in ("b1", "b2") else name for name in names)
    run(tap, "SET SESSION time_zone = '+00:00'")
    shown = tap.database.execute(f"SELECT id, {', '.join(chosen)} FROM a ORDER BY id")
    found = sorted(tap.mirrored()["a"])
    assert len(found) == len(shown) == 40
    for name, ours, theirs in zip(["id", *names], zip(*found, strict=True), zip(*shown, strict=True), strict=True):
        assert [one.replace(tzinfo=None) if name in ("s0", "s3") and one else one for one in ours] == list(theirs), name


@pytest.mark.filterwarnings("ignore:'db' is deprecated:DeprecationWarning")
def test_an_oracle(tap: Tap) -> None:
    """Where python-mysql-replication is right, values are the same."""
    run(
        tap,
        "CREATE TABLE a (id INT PRIMARY KEY, b BIGINT UNSIGNED, s SMALLINT, m MEDIUMINT UNSIGNED, d DECIMAL(20,4), f DOUBLE,"
        " v VARCHAR(300), c CHAR(10), t TEXT, x BLOB, da DATE, dt DATETIME(6), e ENUM('a','b'), y YEAR)",
    )
    tap.start()
    for start in range(0, 300, 100):
        rows_ = ", ".join(
            f"({n}, {n * 10**15}, {-n}, {n * 1000}, {n}.{n:04}, {n}.5, REPEAT('客', {n}), 'c{n}', NULLIF('{n % 3}', '0'), X'{n:04x}',"
            f" '20{n % 90 + 10}-01-02', '2024-01-02 03:04:05.{n:06}', '{'ab'[n % 2]}', {1950 + n % 100})"
            for n in range(start, start + 100)
        )
        run(tap, f"INSERT INTO a VALUES {rows_}")
    run(tap, "UPDATE a SET t = v, s = NULL WHERE id % 2", "DELETE FROM a WHERE id % 5 = 0")
    _, tables = tap.changes()
    assert [row[2:] for row in tables["a"]] == list(_theirs(tap))


def _theirs(tap: Tap) -> Iterator[Row]:
    server = tap.database.server
    stream = BinLogStreamReader(
        connection_settings={"host": server.host, "port": server.port, "user": server.admin, "password": server.password},
        server_id=4712,
        log_file=tap.file,
        log_pos=tap.offset,
        resume_stream=True,
        blocking=False,
        only_events=[WriteRowsEvent, UpdateRowsEvent, DeleteRowsEvent],
        only_schemas=[tap.database.name],
    )
    with closing(stream):
        for event in stream:
            for row in event.rows:
                yield tuple((row.get("after_values") or row["values"]).values())
