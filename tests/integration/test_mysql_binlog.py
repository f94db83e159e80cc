"""Binlogs that real servers wrote, through the decoder."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pymysql.connections import Connection
from pymysqlreplication import BinLogStreamReader
from pymysqlreplication.row_event import DeleteRowsEvent, UpdateRowsEvent, WriteRowsEvent

from cdc.decode.mysql.binlog import Decoder, Effect, NewSchema, Resolved
from cdc.decode.mysql.fields import make_field
from cdc.decode.mysql.gtid import parse_gtids
from cdc.decode.mysql.types import declared, wire_type
from cdc.decode.mysql.wire import Statement, TableMap
from cdc.errors import SchemaUnknown, SourceError
from cdc.types import TableChanges, TableSchema
from tests.servers.mysql import MyDatabase, rows
from tests.servers.mysql_binaries import FLAVOURS

DUMP, NON_BLOCKING, ANNOTATE = 0x12, 0x01, 0x02
on_mariadb = pytest.mark.parametrize("any_mysql", [name for name, flavour in FLAVOURS.items() if flavour.is_mariadb], indirect=True)

Row = tuple[Any, ...]


class Tap:
    """A server's binlog from here on, and the changes that it has for one database."""

    def __init__(self, database: MyDatabase) -> None:
        self.database, self.mariadb = database, database.server.is_mariadb
        self.statements: list[str] = []
        self.maps: list[TableMap] = []
        self.start()

    def start(self) -> None:
        """From here on."""
        self.file, self.offset = self.place()
        self.gtids = self.executed()

    def place(self) -> tuple[str, int]:
        statement = "SHOW MASTER STATUS" if self.mariadb else "SHOW BINARY LOG STATUS"
        file, offset, *_ = self.database.execute(statement)[0]
        return file, offset

    def executed(self) -> Any:
        variable = "@@gtid_binlog_pos" if self.mariadb else "@@gtid_executed"
        return parse_gtids(self.database.execute(f"SELECT {variable}")[0][0])

    def events(self, checksum: str = "CRC32") -> list[bytes]:
        """All events there are now."""
        with closing(self.database.server.connect()) as connection:
            for name in ("master", "source"):
                rows(connection, f"SET @{name}_binlog_checksum = '{checksum}'")
            if self.mariadb:
                rows(connection, "SET @mariadb_slave_capability = 4")
            connection._next_seq_id = 0
            flags = NON_BLOCKING | (ANNOTATE if self.mariadb else 0)
            connection.write_packet(struct.pack("<BIHI", DUMP, self.offset, flags, 4711) + self.file.encode())
            return list(_packets(connection))

    def decoder(self, **options: Any) -> Decoder:
        file, offset = self.file, self.offset
        options = {"gtids": self.gtids} | options
        return Decoder(self.resolve, self.statement, mariadb=self.mariadb, file=file, offset=offset, **options)

    def resolve(self, table: TableMap) -> Resolved | None:
        """As the log describes the table, by FULL metadata; else by the server's catalog."""
        if table.database != self.database.name:
            return None
        self.maps.append(table)
        known = {} if table.full else self.declared(table.table)
        names = list(known) or [column.name or "" for column in table.columns]
        types = known.values() if known else map(wire_type, table.columns)
        fields = tuple(make_field(name, my_type, None) for name, my_type in zip(names, types, strict=True))
        key = tuple(names[index] for index in (table.key if table.key is not None else self.key(table.table)))
        columns = tuple(column for field in fields for column in field.columns)
        return Resolved(TableSchema("src", table.table, columns, key), fields, virtual=frozenset(self.virtual(table.table)))

    def declared(self, table: str) -> dict[str, Any]:
        return {name: declared(text, charset) for name, text, charset, _ in self.catalog(table)}

    def virtual(self, table: str) -> Iterator[int]:
        return (index for index, (*_, extra) in enumerate(self.catalog(table)) if "VIRTUAL" in extra)

    def catalog(self, table: str) -> list[Row]:
        return self.database.execute(
            "SELECT column_name, column_type, character_set_name, extra FROM information_schema.columns"
            " WHERE table_schema = DATABASE() AND table_name = %s ORDER BY ordinal_position",
            [table],
        )

    def key(self, table: str) -> list[int]:
        found = self.database.execute(
            "SELECT column_name FROM information_schema.key_column_usage"
            " WHERE table_schema = DATABASE() AND table_name = %s AND constraint_name = 'PRIMARY' ORDER BY ordinal_position",
            [table],
        )
        return [list(self.declared(table)).index(name) for (name,) in found]

    def statement(self, statement: Statement) -> Sequence[Effect]:
        if statement.database == self.database.name:
            self.statements.append(statement.text)
        return ()

    def changes(self, **options: Any) -> tuple[list[dict[str, Any]], dict[str, list[Row]]]:
        """The transactions, and per table: op, transaction and the row of each change."""
        made, least = self.decoder(**options), self.place()
        events = self.events()
        assert made.feed(events) == len(events)
        transactions, tables = made.take()
        assert least <= (made.file, made.position.offset) <= self.place()
        assert str(made.gtids) == str(self.executed())
        assert not made.in_transaction
        return transactions.to_pylist(), {one.schema.table: _rows(one) for one in tables}

    def mirrored(self, **options: Any) -> Mirror:
        made, mirror = self.decoder(**options), Mirror()
        events = self.events()
        assert made.feed(events) == len(events)
        for table in made.take()[1]:
            mirror.apply(table)
        return mirror


def _packets(connection: Connection) -> Iterator[bytes]:
    while not (packet := connection._read_packet()).is_eof_packet():
        yield packet._data[1:]


def _rows(changes: TableChanges) -> list[Row]:
    names = [name for name in changes.rows.column_names if not name.startswith("#")]
    return [(row["#op"], row["#txn"], *(row[name] for name in names)) for row in changes.rows.to_pylist()]


class Mirror:
    """Tables as their changes leave them."""

    def __init__(self) -> None:
        self.tables: dict[str, dict[Row, Row]] = {}

    def apply(self, changes: TableChanges) -> None:
        table, schema = self.tables.setdefault(changes.schema.table, {}), changes.schema
        names = [column.name for column in schema.columns]
        gone: dict[Row, Row] = {}
        for number, row in enumerate(changes.rows.to_pylist()):
            key = tuple(row[name] for name in schema.key) or (number,)
            if row["#op"] == "d":
                gone[key] = table.pop(key)
                continue
            old = tuple(row.get(f"#old:{name}") for name in schema.key)
            before = gone[old] if any(part is not None for part in old) else table.get(key, ())
            absent = row.get("#absent") or ()
            table[key] = tuple(before[at] if at in absent else row[name] for at, name in enumerate(names))

    def __getitem__(self, table: str) -> list[Row]:
        return sorted(self.tables[table].values())


@pytest.fixture
def tap(any_mysql_database: MyDatabase) -> Tap:
    return Tap(any_mysql_database)


@pytest.fixture
def mysql_tap(mysql_database: MyDatabase) -> Tap:
    return Tap(mysql_database)


@contextmanager
def setting(tap: Tap, name: str, value: str) -> Iterator[None]:
    """A global variable set for a while; the database's connection is made anew, as sessions keep theirs."""
    before = tap.database.execute(f"SELECT @@GLOBAL.{name}")[0][0]
    tap.database.execute(f"SET GLOBAL {name} = {value}")
    try:
        yield
    finally:
        tap.database.execute(f"SET GLOBAL {name} = %s", [before])


def run(tap: Tap, *statements: str) -> None:
    for statement in statements:
        tap.database.execute(statement)


def test_inserts_updates_and_deletes(tap: Tap) -> None:
    run(
        tap,
        "CREATE TABLE orders (id INT PRIMARY KEY, no VARCHAR(20), total DECIMAL(12,2))",
        "INSERT INTO orders VALUES (1, 'A-1', 12.50), (2, NULL, NULL)",
        "UPDATE orders SET no = '客户'",
        "UPDATE orders SET id = id + 10 ORDER BY id DESC",
        "DELETE FROM orders WHERE id = 12",
        "REPLACE INTO orders VALUES (11, 'new', 1), (3, 'x', 2)",
        "INSERT INTO orders VALUES (3, 'y', 9) ON DUPLICATE KEY UPDATE no = 'z'",
    )
    transactions, tables = tap.changes()
    assert tables == {
        "orders": [
            ("c", 0, 1, "A-1", Decimal("12.50")),
            ("c", 0, 2, None, None),
            ("u", 1, 1, "客户", Decimal("12.50")),
            ("u", 1, 2, "客户", None),
            ("d", 2, 2, "客户", None),
            ("u", 2, 12, "客户", None),
            ("d", 2, 1, "客户", Decimal("12.50")),
            ("u", 2, 11, "客户", Decimal("12.50")),
            ("d", 3, 12, "客户", None),
            ("u", 4, 11, "new", Decimal("1.00")),
            ("c", 4, 3, "x", Decimal("2.00")),
            ("u", 5, 3, "z", Decimal("2.00")),
        ]
    }
    assert len({transaction["txn"] for transaction in transactions}) == len(transactions) == 6
    assert tap.statements == ["CREATE TABLE orders (id INT PRIMARY KEY, no VARCHAR(20), total DECIMAL(12,2))"]
    assert tap.mirrored()["orders"] == sorted(tap.database.execute("SELECT * FROM orders"))


def test_places_are_those_the_server_shows(tap: Tap) -> None:
    run(
        tap,
        "CREATE TABLE orders (id INT PRIMARY KEY)",
        "INSERT INTO orders VALUES (1)",
        "FLUSH BINARY LOGS",
        "INSERT INTO orders VALUES (2)",
    )
    transactions, _ = tap.changes()
    shown = set()
    for file, *_ in tap.database.execute("SHOW BINARY LOGS"):
        shown |= {
            f"{file}:{row[1]}" for row in tap.database.execute(f"SHOW BINLOG EVENTS IN '{file}'") if row[2].lower().startswith("gtid")
        }
    assert {transaction["position"] for transaction in transactions} <= shown
    assert tap.place()[0] != tap.file


@pytest.mark.parametrize("checksum", ["NONE", "CRC32"])
def test_checksums(tap: Tap, checksum: str) -> None:
    run(tap, "CREATE TABLE orders (id INT PRIMARY KEY)", "INSERT INTO orders VALUES (1)")
    made = tap.decoder()
    assert made.feed(events := tap.events(checksum)) == len(events)
    assert _rows(made.take()[1][0]) == [("c", 0, 1)]


def test_rollbacks_and_savepoints(tap: Tap) -> None:
    run(
        tap,
        "CREATE TABLE a (id INT PRIMARY KEY)",
        "CREATE TABLE m (id INT PRIMARY KEY) ENGINE=MyISAM",
        "BEGIN",
        "INSERT INTO a VALUES (1)",
        "SAVEPOINT `first one`",
        "INSERT INTO a VALUES (2)",
        "CREATE TEMPORARY TABLE scratch (x INT)",
        "SAVEPOINT again",
        "INSERT INTO a VALUES (3)",
        "ROLLBACK TO `First ONE`",
        "INSERT INTO a VALUES (4)",
        "COMMIT",
        "SET SESSION sql_mode = CONCAT(@@sql_mode, ',ANSI_QUOTES')",
        "BEGIN",
        'SAVEPOINT "q""`uote"',
        "INSERT INTO a VALUES (5)",
        "DROP TEMPORARY TABLE scratch",
        'ROLLBACK TO "q""`uote"',
        "INSERT INTO a VALUES (6)",
        "COMMIT",
        "BEGIN",
        "INSERT INTO a VALUES (7)",
        "CREATE TEMPORARY TABLE scratch (x INT)",
        "ROLLBACK",
        "INSERT INTO m VALUES (1), (2)",
    )
    _, tables = tap.changes()
    assert [row[2] for row in tables["a"]] == [1, 4, 6]
    assert [row[2] for row in tables["m"]] == [1, 2]


@on_mariadb
def test_tables_without_transactions_within_a_transaction(tap: Tap) -> None:
    run(
        tap,
        "CREATE TABLE a (id INT PRIMARY KEY)",
        "CREATE TABLE m (id INT PRIMARY KEY) ENGINE=Aria TRANSACTIONAL=0",
        "BEGIN",
        "INSERT INTO a VALUES (1)",
        "SAVEPOINT s",
        "INSERT INTO a VALUES (2)",
        "INSERT INTO m VALUES (1)",
        "ROLLBACK TO s",
        "INSERT INTO a VALUES (3)",
        "COMMIT",
        "BEGIN",
        "INSERT INTO a VALUES (4)",
        "INSERT INTO m VALUES (2)",
        "ROLLBACK",
    )
    assert any(event[4] == 2 and b"ROLLBACK TO" in event for event in tap.events())
    _, tables = tap.changes()
    assert [row[2] for row in tables["a"]] == [1, 3]
    assert [row[2] for row in tables["m"]] == [1, 2]


def test_xa(tap: Tap) -> None:
    run(tap, "CREATE TABLE a (id INT PRIMARY KEY)", "CREATE TABLE b (id INT PRIMARY KEY)")
    for name, commands in {
        "'g\u00e4','b',7": ["XA PREPARE {0}", "XA COMMIT {0}"],
        "'second'": ["XA PREPARE {0}", "XA ROLLBACK {0}"],
        "X'00FF','',2147483647": ["XA COMMIT {0} ONE PHASE"],
        "'fourth'": ["XA ROLLBACK {0}"],
    }.items():
        number = len(name)
        run(tap, f"XA START {name}", f"INSERT INTO a VALUES ({number})", f"INSERT INTO b VALUES ({number})", f"XA END {name}")
        run(tap, *(command.format(name) for command in commands))
    transactions, tables = tap.changes()
    kept = sorted(tap.database.execute("SELECT * FROM a"))
    assert tables["a"] == [
        ("c", number, *row) for number, row in enumerate(sorted(kept, key=lambda row: row == (len("X'00FF','',2147483647"),)))
    ]
    assert tables["b"] == tables["a"]
    assert len(transactions) == 2


def test_xa_that_is_decided_later(tap: Tap) -> None:
    run(tap, "CREATE TABLE a (id INT PRIMARY KEY, note TEXT)", "CREATE TABLE other (id INT PRIMARY KEY)")
    server = tap.database.server
    with closing(server.connect(tap.database.name)) as first, closing(server.connect(tap.database.name)) as second:
        for connection, name, number in ((first, "'one'", 1), (second, "'two'", 2)):
            for statement in (f"XA START {name}", f"INSERT INTO a VALUES ({number}, 'x')", f"XA END {name}", f"XA PREPARE {name}"):
                rows(connection, statement)
        run(tap, "INSERT INTO a VALUES (3, 'between')")
        made, events = tap.decoder(), tap.events()
        assert made.feed(events) == len(events)
        assert [_rows(one) for one in made.take()[1]] == [[("c", 0, 3, "between")]]
        open_xa, until, gtids = made.open_xa, made.position, made.gtids
        rows(second, "XA ROLLBACK 'two'")
        rows(first, "XA COMMIT 'one'")
    assert open_xa is not None
    tap.file, tap.offset = open_xa
    transactions, tables = tap.changes(skip_until=until, gtids=gtids)
    assert (tables, len(transactions)) == ({"a": [("c", 0, 1, "x")]}, 1)


def test_compressed_transactions(mysql_tap: Tap) -> None:
    run(
        mysql_tap,
        "CREATE TABLE a (id INT PRIMARY KEY, note TEXT)",
        "SET SESSION binlog_transaction_compression = ON",
        "INSERT INTO a VALUES (1, REPEAT('x', 1000)), (2, NULL)",
        "UPDATE a SET note = 'y' WHERE id = 2",
        "XA START 'g'",
        "INSERT INTO a VALUES (3, 'xa')",
        "XA END 'g'",
        "XA PREPARE 'g'",
        "XA COMMIT 'g'",
    )
    assert sum(event[4] == 40 for event in mysql_tap.events()) >= 2
    transactions, tables = mysql_tap.changes()
    assert tables == {"a": [("c", 0, 1, "x" * 1000), ("c", 0, 2, None), ("u", 1, 2, "y"), ("c", 2, 3, "xa")]}
    assert len(transactions) == 3


def test_a_large_compressed_transaction_comes_in_parts(mysql_tap: Tap) -> None:
    run(mysql_tap, "SET SESSION binlog_transaction_compression = ON", "CREATE TABLE a (id INT PRIMARY KEY, note VARCHAR(200))", "BEGIN")
    for start in range(0, 20_000, 1_000):
        run(mysql_tap, "INSERT INTO a VALUES " + ",".join(f"({number}, REPEAT('n', 100))" for number in range(start, start + 1_000)))
    run(mysql_tap, "COMMIT")
    _cut_in_parts(mysql_tap, mysql_tap.events(), 20_000)


def test_a_large_transaction_comes_in_parts(tap: Tap) -> None:
    run(tap, "CREATE TABLE a (id INT PRIMARY KEY, note VARCHAR(200))", "BEGIN")
    for start in range(0, 20_000, 1_000):
        run(tap, "INSERT INTO a VALUES " + ",".join(f"({number}, REPEAT('n', 100))" for number in range(start, start + 1_000)))
    run(tap, "COMMIT")
    _cut_in_parts(tap, tap.events(), 20_000)


def _cut_in_parts(tap: Tap, events: list[bytes], count: int) -> None:
    made, at, positions, ids = tap.decoder(), 0, set(), []
    while at < len(events):
        at = made.feed(events, at, None, 100_000)
        assert made.pending_bytes < 300_000
        transactions, changes = made.take()
        positions |= set(transactions["position"].to_pylist())
        for one in changes:
            assert one.rows["#ordinal"].to_pylist() == one.rows["id"].to_pylist()
            ids += one.rows["id"].to_pylist()
    assert (ids, len(positions)) == (list(range(count)), 1)


@on_mariadb
def test_mariadb_compressed_events(tap: Tap) -> None:
    with setting(tap, "log_bin_compress", "ON"), setting(tap, "log_bin_compress_min_len", "10"):
        run(
            tap,
            "CREATE TABLE a (id INT PRIMARY KEY, note TEXT)",
            "INSERT INTO a VALUES (1, REPEAT('x', 1000)), (2, NULL)",
            "UPDATE a SET note = REPEAT('y', 500)",
            "DELETE FROM a WHERE id = 1",
        )
    assert {165, 166, 167, 168} <= {event[4] for event in tap.events()}
    _, tables = tap.changes()
    wide, long = "x" * 1000, "y" * 500
    assert tables == {"a": [("c", 0, 1, wide), ("c", 0, 2, None), ("u", 1, 1, long), ("u", 1, 2, long), ("d", 2, 1, long)]}
    assert tap.statements == ["CREATE TABLE a (id INT PRIMARY KEY, note TEXT)"]


@on_mariadb
def test_mariadb_compressed_columns(tap: Tap) -> None:
    run(
        tap,
        "CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(255) /*M!100301 COMPRESSED*/ DEFAULT 'd', w VARCHAR(256) COMPRESSED, x BLOB COMPRESSED,"
        " y LONGTEXT COMPRESSED)",
        "INSERT INTO a VALUES (1, REPEAT('v', 200), REPEAT('w', 250), REPEAT(X'00FF', 500), REPEAT('客户', 1000)), (2, '', 'w', '', NULL)",
        "ALTER TABLE a ADD z TEXT COMPRESSED",
        "UPDATE a SET z = REPEAT('z', 300)",
    )
    made, events = tap.decoder(), tap.events()
    at = made.feed(events)
    first = _rows(made.take()[1][0])
    assert made.feed(events, at) == len(events)
    full = (1, "v" * 200, "w" * 250, b"\0\xff" * 500, "客户" * 1000)
    assert first == [("c", 0, *full), ("c", 0, 2, "", "w", b"", None)]
    assert _rows(made.take()[1][0]) == [("u", 0, *full, "z" * 300), ("u", 0, 2, "", "w", b"", None, "z" * 300)]


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
        'INSERT INTO a VALUES (1, \'{"a": [1, 2, {"b": "客户"}], "c": 1.5}\', 1, \'[1, 2, 3]\', NULL), (2, \'{"a": 1}\', 2, \'[]\', \'"text"\')',
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


def test_tagged_gtids(mysql_tap: Tap) -> None:
    run(
        mysql_tap,
        "CREATE TABLE a (id INT PRIMARY KEY)",
        "SET SESSION gtid_next = 'AUTOMATIC:shop_floor'",
        "INSERT INTO a VALUES (1)",
        "INSERT INTO a VALUES (2)",
        "SET SESSION gtid_next = 'AUTOMATIC'",
        "INSERT INTO a VALUES (3)",
    )
    transactions, _ = mysql_tap.changes()
    uuid = mysql_tap.database.execute("SELECT @@server_uuid")[0][0]
    assert [transaction["txn"].startswith(f"{uuid}:shop_floor:") for transaction in transactions] == [True, True, False]
    assert all(transaction["committed_at"].microsecond for transaction in transactions)


def test_statements(tap: Tap, tmp_path: Path) -> None:
    file = tmp_path / "rows.txt"
    file.write_text("5\tx\n")
    run(
        tap,
        "CREATE TABLE a (id INT PRIMARY KEY AUTO_INCREMENT, note VARCHAR(20))",
        "SET SESSION binlog_format = STATEMENT",
        "SET @note = 'n'",
        "BEGIN",
        "INSERT INTO a (note) VALUES (@note)",
        "UPDATE a SET note = 'm'",
        "COMMIT",
        f"LOAD DATA LOCAL INFILE '{file}' INTO TABLE a",
        "TRUNCATE TABLE a",
        "SET SESSION binlog_format = ROW",
        "CREATE TABLE b AS SELECT 1 AS one",
        "RENAME TABLE a TO c",
    )
    _, tables = tap.changes()
    assert tables == {"b": [("c", 0, 1)]}
    told = [statement.split()[0] for statement in tap.statements]
    assert told == ["CREATE", "INSERT", "UPDATE", "LOAD", "TRUNCATE", "CREATE", "RENAME"]


@on_mariadb
def test_a_two_phase_alter_takes_effect_once(tap: Tap) -> None:
    run(
        tap,
        "SET SESSION binlog_alter_two_phase = 1",
        "CREATE TABLE a (id INT PRIMARY KEY, b INT)",
        "INSERT INTO a VALUES (1, 1), (2, 1)",
        "ALTER TABLE a ADD c INT",
        "INSERT INTO a VALUES (3, 1, 1)",
    )
    with pytest.raises(Exception, match="Duplicate"):
        run(tap, "ALTER TABLE a ADD UNIQUE (b)")
    made, events = tap.decoder(), tap.events()
    at = made.feed(events)
    made.take()
    assert made.feed(events, at) == len(events)
    assert [statement.split()[0] for statement in tap.statements] == ["CREATE", "ALTER"]


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
    assert [row[:3] for row in _rows(made.take()[1][1])] == [("c", 1, 1), ("d", 2, 1), ("u", 2, 2), ("c", 2, 1)]


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
        "CREATE TABLE a (id INT PRIMARY KEY, b BIGINT UNSIGNED, s SMALLINT, m MEDIUMINT UNSIGNED, d DECIMAL(20,4), f DOUBLE, v VARCHAR(300),"
        " c CHAR(10), t TEXT, x BLOB, da DATE, dt DATETIME(6), e ENUM('a','b'), y YEAR)",
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


DAMAGES = 300


def test_damaged_events_are_refused_or_read(tap: Tap) -> None:
    """Real events with changed bytes whose checksums fit: nothing but a SourceError comes out, and it comes to an end."""
    run(
        tap,
        "CREATE TABLE a (id INT PRIMARY KEY, v VARCHAR(300), d DECIMAL(20,4), e ENUM('a','b'), t TEXT, j JSON, x TIMESTAMP(3) NULL)",
        "INSERT INTO a VALUES (1, 'v', 1.5, 'a', NULL, '{\"a\": [1, 2, {\"b\": \"客户\"}]}', NOW()), (2, NULL, NULL, 'b', 't', '[]', NULL)",
        "UPDATE a SET v = REPEAT('w', 200)",
        "XA START 'g'",
        "DELETE FROM a WHERE id = 2",
        "XA END 'g'",
        "XA PREPARE 'g'",
        "XA COMMIT 'g'",
        "BEGIN",
        "INSERT INTO a (id) VALUES (3)",
        "SAVEPOINT s",
        "INSERT INTO a (id) VALUES (4)",
        "COMMIT",
        *(
            []
            if tap.mariadb
            else [
                "SET SESSION binlog_row_value_options = PARTIAL_JSON",
                "UPDATE a SET j = JSON_SET(j, '$.a[0]', 5)",
                "SET SESSION binlog_transaction_compression = ON",
            ]
        ),
    )
    with setting(tap, "log_bin_compress", "ON") if tap.mariadb else nullcontext():
        run(tap, "INSERT INTO a (id, t) VALUES (5, REPEAT('t', 1000))")
    events = tap.events()
    known = {table.table: tap.resolve(table) for table in _maps(tap, events)}
    ends = {"read": 0, "refused": 0}
    for _ in range(DAMAGES):
        damaged = list(events)
        index = random.randrange(2, len(events))
        damaged[index] = _damaged(events[index])
        made = Decoder(lambda table: known.get(table.table), lambda _: (), mariadb=tap.mariadb, file=tap.file, offset=tap.offset)
        ends[_ending(made, damaged)] += 1
    assert min(ends.values()) > DAMAGES // 100, ends


def _maps(tap: Tap, events: Sequence[bytes]) -> list[TableMap]:
    tap.decoder().feed(events)
    return list(tap.maps)


def _damaged(event: bytes) -> bytes:
    body = bytearray(event[:-4])
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        body[random.randrange(19, len(body))] = random.choice((0, 1, 2, 0x7F, 0xFB, 0xFC, 0xFE, 0xFF, random.randrange(256)))
    if random.random() < 0.2:
        del body[random.randrange(19, len(body)) :]
    body[9:13] = struct.pack("<I", len(body) + 4)
    return bytes(body) + struct.pack("<I", zlib.crc32(body))


def _ending(made: Decoder, events: Sequence[bytes]) -> str:
    at = 0
    try:
        for _ in range(10 * len(events)):
            if at == len(events):
                return "read"
            at = made.feed(events, at, None, 500)
            made.take()
    except SourceError:
        return "refused"
    raise AssertionError("it does not come to an end")


def test_a_schema_change_among_rows(tap: Tap) -> None:
    run(
        tap,
        "CREATE TABLE a (id INT PRIMARY KEY, b INT)",
        "INSERT INTO a VALUES (1, 1)",
        "ALTER TABLE a ADD c INT AFTER id, DROP b",
        "INSERT INTO a VALUES (2, 2)",
    )
    resolved: dict[str, Resolved] = {}

    def resolve(table: TableMap) -> Resolved | None:
        found = tap.resolve(table)
        return found and resolved.setdefault(",".join(column.name for column in found.schema.columns), found)

    def statement(told: Statement) -> Sequence[Effect]:
        schema = next(iter(resolved.values())).schema if resolved else None
        return (NewSchema(TableSchema("src", "a", schema.columns[:1], schema.key)),) if schema and told.text.startswith("ALTER") else ()

    made = Decoder(resolve, statement, mariadb=tap.mariadb, file=tap.file, offset=tap.offset)
    events, at, seen = tap.events(), 0, []
    while at < len(events):
        at = made.feed(events, at)
        seen += [([column.name for column in one.schema.columns], _rows(one)) for one in made.take()[1]]
    assert seen == [(["id", "b"], [("c", 0, 1, 1)]), (["id"], []), (["id", "c"], [("c", 0, 2, 2)])] or seen == [
        (["id", "b"], [("c", 0, 1, 1)]),
        (["id", "c"], [("c", 0, 2, 2)]),
    ]
