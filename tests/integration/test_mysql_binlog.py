"""Binlogs that real servers wrote, through the decoder: transactions, brackets, statements, damage."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Sequence
from contextlib import closing, nullcontext
from decimal import Decimal
from pathlib import Path

import pytest

from cdc.decode import aside
from cdc.decode.mysql.binlog import Decoder
from cdc.decode.mysql.captured import Effect, NewSchema, Resolved
from cdc.decode.mysql.wire import Statement, TableMap
from cdc.errors import SourceError
from cdc.types import TableSchema
from tests.integration.taps import Tap, changed, on_mariadb, run, setting
from tests.servers.mysql import MyDatabase, MySQLServer, rows
from tests.servers.mysql_binaries import FLAVOURS

pytestmark = pytest.mark.usefixtures("mysql_kernel")


@pytest.fixture
def tap(any_mysql_database: MyDatabase) -> Tap:
    return Tap(any_mysql_database)


@pytest.fixture
def mysql_tap(mysql_database: MyDatabase) -> Tap:
    return Tap(mysql_database)


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
    assert changed(made.take()[1][0]) == [("c", 0, 1)]


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


@pytest.mark.parametrize("in_memory", [1, aside.MEMORY_MAX])
def test_xa_that_is_decided_later(tap: Tap, in_memory: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it changed waits in memory, or in a file where it is much."""
    monkeypatch.setattr(aside, "MEMORY_MAX", in_memory)
    run(tap, "CREATE TABLE a (id INT PRIMARY KEY, note TEXT)", "CREATE TABLE other (id INT PRIMARY KEY)")
    server = tap.database.server
    with closing(server.connect(tap.database.name)) as first, closing(server.connect(tap.database.name)) as second:
        for connection, name, number in ((first, "'one'", 1), (second, "'two'", 2)):
            for statement in (f"XA START {name}", f"INSERT INTO a VALUES ({number}, 'x')", f"XA END {name}", f"XA PREPARE {name}"):
                rows(connection, statement)
        run(tap, "INSERT INTO a VALUES (3, 'between')")
        made, events = tap.decoder(), tap.events()
        assert made.feed(events) == len(events)
        assert [changed(one) for one in made.take()[1]] == [[("c", 0, 3, "between")]]
        open_xa, until, gtids = made.open_xa, made.position, made.gtids
        rows(second, "XA ROLLBACK 'two'")
        rows(first, "XA COMMIT 'one'")
    assert open_xa is not None
    tap.file, tap.offset = open_xa
    transactions, tables = tap.changes(skip_until=until, gtids=gtids)
    assert (tables, len(transactions)) == ({"a": [("c", 0, 1, "x")]}, 1)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_xa_over_a_crash_of_the_server(flavour: str) -> None:
    with MySQLServer(flavour) as server:
        name = server.create_database()
        with closing(server.connect(name)) as connection:
            tap = Tap(MyDatabase(server, name, connection))
            run(tap, "CREATE TABLE a (id INT PRIMARY KEY, note TEXT)")
            for number in (1, 2):
                with closing(server.connect(name)) as another:
                    for statement in ("XA START '{0}'", "INSERT INTO a VALUES ({0}, 'x')", "XA END '{0}'", "XA PREPARE '{0}'"):
                        rows(another, statement.format(number))
        server.kill()
        server.start()
        with closing(server.connect(name)) as connection:
            tap.database = MyDatabase(server, name, connection)
            run(tap, "INSERT INTO a VALUES (3, 'after')", "XA ROLLBACK '2'", "XA COMMIT '1'")
            transactions, tables = tap.changes()
            assert tables == {"a": [("c", 0, 3, "after"), ("c", 1, 1, "x")]}
            assert sorted(tap.database.execute("SELECT * FROM a")) == [(1, "x"), (3, "after")]
            assert {transaction["position"].rpartition(":")[0] for transaction in transactions} == {tap.place()[0]} != {tap.file}


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
        seen += [([column.name for column in one.schema.columns], changed(one)) for one in made.take()[1]]
    assert seen == [(["id", "b"], [("c", 0, 1, 1)]), (["id"], []), (["id", "c"], [("c", 0, 2, 2)])] or seen == [
        (["id", "b"], [("c", 0, 1, 1)]),
        (["id", "c"], [("c", 0, 2, 2)]),
    ]
