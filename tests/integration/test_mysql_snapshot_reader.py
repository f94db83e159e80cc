"""Copies against real servers: whatever the key, whoever writes meanwhile, every row of one place of the log comes once and as it is."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pytest

from cdc.config import SourceConfig
from cdc.decode.mysql.events import Reader as EventReader
from cdc.decode.mysql.position import BinlogPosition
from cdc.decode.mysql.table_map import read_table_map
from cdc.decode.mysql.wire import TableMap
from cdc.errors import SourceError, SourceUnavailable
from cdc.sources.mysql import lock, snapshot
from cdc.sources.mysql.catalog import Catalog, Table
from cdc.sources.mysql.chunks import blocks, selection
from cdc.sources.mysql.connection import connect, hang_up, query, translated
from cdc.sources.mysql.progress import parse
from cdc.sources.mysql.replication import FromFile, Stream, replica
from cdc.sources.mysql.server import head, identify
from cdc.types import OP, ORDINAL, TXN, SnapshotProgress
from tests.servers.mysql import PASSWORD, USER, MyDatabase, MySQLServer, fresh_database
from tests.servers.mysql_binaries import FLAVOURS
from tests.servers.own_server import poll

Row = tuple[Any, ...]
TABLE_MAP, HEADER, CHECKSUM = 19, 19, 4


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_PASSWORD", PASSWORD)


def config(database: MyDatabase, *tables: str, **options: Any) -> SourceConfig:
    """Of a user with nothing but the privileges that are needed; sees far fewer rows at a time than one would."""
    url = database.server.url(database.name, USER)
    return SourceConfig(**{"url": url, "password_env": "CDC_PASSWORD", "tables": list(tables), "snapshot_chunk": 4096, **options})


def tables_of(settings: SourceConfig) -> dict[str, Table]:
    with translated("shop", settings), closing(connect("shop", settings)) as side:
        return Catalog("shop", settings.types).tables(side, settings.tables)


@dataclass
class Copied:
    """What readers have handed out: rows by key in the order in which they came, or the rows of a table without key."""

    rows: dict[str, dict[Row, Row]] = field(default_factory=dict)
    progress: dict[str, SnapshotProgress] = field(default_factory=dict)
    read: int = 0

    def take(self, reader: snapshot.Reader, pieces: int | None = None) -> Copied:
        """All that a reader has, or some pieces of it."""
        for _ in range(pieces) if pieces is not None else count():
            if reader.finished:
                break
            while (piece := reader.read(1.0)) is None:
                pass
            copy, changes, progress = piece
            assert set(changes[OP].to_pylist()) <= {"r"}
            assert set(changes[TXN].to_pylist()) <= {0}
            assert changes[ORDINAL].to_pylist() == list(range(self.read, self.read + changes.num_rows))
            self.read += changes.num_rows
            self._stage(copy, changes, progress)
        return self

    def _stage(self, copy: snapshot.Copy, changes: Any, progress: SnapshotProgress) -> None:
        if progress.rows_done == changes.num_rows:
            self.rows[progress.table] = {}
        staged, names = self.rows[progress.table], [column.name for column in copy.schema.columns]
        for row in zip(*(changes[name].to_pylist() for name in names), strict=True):
            key = tuple(row[names.index(name)] for name in copy.schema.key) or (len(staged),)
            staged[key] = row
        self.progress[progress.table] = progress

    def of(self, table: str) -> list[Row]:
        assert self.progress[table].state == "staged"
        return sorted(self.rows[table].values(), key=repr)

    def all(self, settings: SourceConfig) -> dict[str, list[Row]]:
        return {name: self.of(name) for name in settings.tables}


@contextmanager
def reading(settings: SourceConfig, number: int = 1, known: Mapping[str, SnapshotProgress] | None = None) -> Iterator[snapshot.Reader]:
    """A reader of all tables of the config that has started; `known`: what it goes on from."""
    tables, catalog = tables_of(settings), Catalog("shop", settings.types)
    with translated("shop", settings), closing(connect("shop", settings)) as side:
        server = identify(side)
    reader = snapshot.Reader("shop", settings, server, list(tables.values()), number)
    try:
        copies = []
        for name, table in tables.items():
            if known is None:
                copies.append(snapshot.begin(table, catalog, reader.session))
            else:
                copies.append(snapshot.resume(table, catalog, known[name], parse(known[name].progress), reader.session))
        reader.start(copies)
        yield reader
    finally:
        reader.close()


def copied(settings: SourceConfig) -> Copied:
    with reading(settings) as reader:
        return Copied().take(reader)


def as_they_are(settings: SourceConfig) -> dict[str, list[Row]]:
    """The rows of every table, by one SELECT of all."""
    found, catalog = {}, Catalog("shop", settings.types)
    tables = tables_of(settings)
    with closing(connect("shop", settings, raw=True)) as connection:
        for name, table in tables.items():
            whole, fields = replace(table, order=None), catalog.fields(table)
            statement = selection(whole, fields, None, None, None)
            (block,) = blocks(connection, whole, catalog.schema(table), fields, statement, 1 << 40)
            ((count,),) = query(connection, f"SELECT COUNT(*) FROM {table.sql}")
            assert block.rows.num_rows == int(count)
            found[name] = sorted(zip(*(column.to_pylist() for column in block.rows.columns), strict=True), key=repr)
    return found


KEYS = {
    "int": ["-2147483648", "-5", "0", "7", "42", "2147483647"],
    "bigint": ["-9223372036854775808", "-1", "0", "1", "9223372036854775807"],
    "bigint unsigned": ["0", "1", "9223372036854775807", "9223372036854775808", "18446744073709551615"],
    "int zerofill": ["0", "1", "42"],
    "decimal(20,4)": ["-12345.6789", "-0.0001", "0", "0.0001", "99999999999.9999"],
    "decimal(65,30)": ["-1.5", "0", "1e-30", "99999999999999999999999999999999999.999999999999999999999999999999"],
    "varchar(20) character set utf8mb4": ["''", "'a'", "'b'", "'é'", "'z'", "'中'", "'😀'", "'a b'", "'a-'", "'O''x'", "'back\\\\slash'"],
    "varchar(20) character set utf8mb4 collate utf8mb4_bin": ["''", "'a'", "'A'", "'á'", "'\\0'", "'中'"],
    "varchar(20) character set gbk": ["''", "'a'", "'b'", "'中文'", "'汉'", "'\\\\'"],
    "varchar(20) character set latin1": ["''", "'a'", "'ä'", "'z'", "'o'''"],
    "varchar(20) character set utf16": ["''", "'a'", "'中'", "'😀'"],
    "char(10) character set utf8mb4": ["''", "'a'", "'a b'", "'ab'", "'中'"],
    "char(10) character set utf8mb4 collate utf8mb4_bin": ["''", "'a'", "'A'", "'a\\t'", "'ab'"],
    "varbinary(20)": ["''", "x'00'", "x'0000'", "x'27'", "x'5c'", "x'ff'", "'a'"],
    "binary(4)": ["''", "x'00ff'", "x'ff'", "'a'"],
    "datetime(6)": ["'2020-01-01 00:00:00.000001'", "'2020-01-01 00:00:00.000002'", "'1000-01-01'", "'9999-12-31 23:59:59.999999'"],
    "timestamp(3)": ["'1970-01-01 00:00:01'", "'2020-01-01 00:00:00.001'", "'2038-01-19 03:14:07.999'"],
    "date": ["'1000-01-01'", "'2020-01-01'", "'2020-02-29'", "'9999-12-31'"],
    "time(6)": ["'-838:59:59'", "'-00:00:00.000001'", "'00:00:00'", "'838:59:59'"],
    "year": ["0", "1901", "2000", "2155"],
    "enum('z','a','m','','x''y')": ["'z'", "'a'", "'m'", "''", "'x''y'"],
    "set('z','a','m')": ["''", "'z'", "'a'", "'z,a'", "'m'", "'z,m'"],
    "bit(12)": ["b'0'", "b'1'", "b'101010101010'", "b'111111111111'"],
    "bit(64)": ["0", "1", "18446744073709551615"],
    "double": ["-1.5", "0", "0.1", "1e300"],
}
MARIADB_KEYS = {
    "uuid": ["'00000000-0000-0000-0000-000000000001'", "'123e4567-e89b-12d3-a456-426655440000'", "'ffffffff-e89b-12d3-a456-426655440000'"],
    "inet6": ["'::'", "'::5'", "'2001:db8::1'"],
}
COMPOSED = {
    "mixed": "a int NOT NULL, b varchar(9) NOT NULL, c datetime(3) NOT NULL, v int, PRIMARY KEY (b, a DESC, c)",
    "enums": "a enum('z','m','a') NOT NULL, b bit(3) NOT NULL, c varbinary(5) NOT NULL, PRIMARY KEY (a, b, c)",
    "unique_only": "n int, a int NOT NULL, b char(5) NOT NULL, UNIQUE (n), UNIQUE both_of_them (b, a)",
}
FILL = {
    "mixed": "SELECT n % 5, CONCAT('K', n % 7), '2026-01-01' + INTERVAL n SECOND, NULLIF(n % 3, 0) FROM numbers",
    "enums": "SELECT n % 3 + 1, n % 8, CHAR(n DIV 24, 0, 39) FROM numbers",
    "unique_only": "SELECT NULLIF(n, 17), n % 11, CHAR(65 + n DIV 11 USING utf8mb4) FROM numbers",
}


def make_numbers(database: MyDatabase, rows: int) -> None:
    """A table of the numbers from 0."""
    database.execute("CREATE TABLE numbers (n int PRIMARY KEY)")
    for first in range(0, rows, 1000):
        database.execute(f"INSERT INTO numbers VALUES {', '.join(f'({n})' for n in range(first, min(rows, first + 1000)))}")


def make_orders(database: MyDatabase, rows: int = 4000) -> None:
    make_numbers(database, rows)
    database.execute("CREATE TABLE orders (id int PRIMARY KEY, state varchar(20), total decimal(12,2), note text)")
    database.execute(f"INSERT INTO orders SELECT n * 3 - {rows}, CONCAT('state ', n % 7), n / 4, REPEAT('x', n % 300) FROM numbers")


def test_every_kind_of_key(any_mysql_database: MyDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """In chunks of one or two rows, by two threads."""
    database = any_mysql_database
    monkeypatch.setattr(snapshot, "FIRST_ROWS", 2)
    names = []
    for number, (kind, values) in enumerate((KEYS | (MARIADB_KEYS if database.server.is_mariadb else {})).items()):
        names.append(f"k{number}")
        database.execute(f"CREATE TABLE k{number} (k {kind} NOT NULL PRIMARY KEY, v int)")
        for place, value in enumerate(values):
            database.execute(f"INSERT INTO k{number} VALUES ({value}, {place})")
    database.execute("SET SESSION sql_mode = ''")
    for kind in ("date", "datetime", "timestamp"):
        names.append(f"zero_{kind}")
        database.execute(f"CREATE TABLE zero_{kind} (k {kind} NOT NULL PRIMARY KEY)")
        database.execute(f"INSERT INTO zero_{kind} VALUES ('0000-00-00'), ('2020-01-01'), ('2021-01-01')")
    settings = config(database, *names, snapshot_chunk=64, types={f"{name}.k": "text" for name in names if name.startswith("zero")})
    found = copied(settings)
    assert found.all(settings) == as_they_are(settings)
    walked = {name: table.order is not None for name, table in tables_of(settings).items()}
    assert [name for name, walks in walked.items() if not walks] == [f"k{list(KEYS).index('double')}"]


def test_composed_keys(any_mysql_database: MyDatabase) -> None:
    database = any_mysql_database
    make_numbers(database, 250)
    for name, columns in COMPOSED.items():
        database.execute(f"CREATE TABLE {name} ({columns})")
        database.execute(f"INSERT INTO {name} {FILL[name]}")
    wide = [f"c{n}" for n in range(16)]
    database.execute(f"CREATE TABLE sixteen ({', '.join(f'{c} tinyint NOT NULL' for c in wide)}, PRIMARY KEY ({', '.join(wide)}))")
    database.execute(f"INSERT INTO sixteen SELECT {', '.join(f'(n >> {15 - n}) & 1' for n in range(16))} FROM numbers")
    settings = config(database, *COMPOSED, "sixteen", snapshot_chunk=200)
    found, tables = copied(settings), tables_of(settings)
    assert found.all(settings) == as_they_are(settings)
    assert {len(rows) for rows in found.all(settings).values()} == {250}
    assert tables["unique_only"].key == ("b", "a")
    assert tables["mixed"].order is not None
    assert tables["mixed"].order.sql == "`b`, `a` DESC, `c`"


def test_a_chunk_reads_no_more_of_the_index_than_it_hands_out(any_mysql_database: MyDatabase) -> None:
    """However the key is composed, and however far the walk is."""
    database = any_mysql_database
    make_numbers(database, 3000)
    database.execute("CREATE TABLE t (a int NOT NULL, b varchar(9) NOT NULL, c int NOT NULL, PRIMARY KEY (a, b DESC, c))")
    database.execute("INSERT INTO t SELECT n % 4, CONCAT('k', n % 5), n FROM numbers")
    settings = config(database, "t")
    table, catalog = tables_of(settings)["t"], Catalog("shop", settings.types)
    statement = selection(table, catalog.fields(table), (b"2", b"k3", b"1500"), (b"3", b"k2", b"900"), 100)
    database.execute("FLUSH STATUS")
    assert len(database.execute(statement)) == 100
    status = dict(database.execute("SHOW SESSION STATUS LIKE 'Handler_read%'"))
    assert sum(int(value) for value in status.values()) < 110


def test_a_large_table_is_copied_by_several_threads(any_mysql_database: MyDatabase) -> None:
    make_orders(any_mysql_database, rows=12_000)
    any_mysql_database.execute("ANALYZE TABLE orders")
    settings = config(any_mysql_database, "orders", "numbers", snapshot_workers=4, snapshot_chunk=16 << 10)
    with reading(settings) as reader:
        found = Copied().take(reader, pieces=8)
        ranges = parse(found.progress["orders"].progress)
        found.take(reader)
    assert ranges is not None
    assert len(ranges.left) > 4
    assert found.read == 24_000
    assert found.all(settings) == as_they_are(settings)


def test_empty_tables_and_names_of_any_letters(any_mysql_database: MyDatabase) -> None:
    database, odd = any_mysql_database, "Od`d \"'汉字 select"
    database.execute("CREATE TABLE nothing (id int PRIMARY KEY)")
    database.execute("CREATE TABLE nothing_keyless (v text)")
    database.execute(f"CREATE TABLE `{odd.replace('`', '``')}` (`k``e y` varchar(9) PRIMARY KEY, `按 %s` int)")
    database.execute(f"INSERT INTO `{odd.replace('`', '``')}` VALUES ('a', 1), ('b', NULL)")
    settings = config(database, "nothing", "nothing_keyless", odd)
    found = copied(settings)
    assert [found.of(name) for name in settings.tables] == [[], [], [("a", 1), ("b", None)]]


def test_a_table_without_key(any_mysql_database: MyDatabase) -> None:
    """Its rows come in several pieces, equal ones as often as they are there."""
    database = any_mysql_database
    make_numbers(database, 3000)
    database.execute("CREATE TABLE log (line text, n int)")
    database.execute("INSERT INTO log SELECT NULLIF(REPEAT('x', n % 50 * 40), ''), n % 500 FROM numbers")
    settings = config(database, "log")
    with reading(settings) as reader:
        found = Copied().take(reader, pieces=1)
        assert found.progress["log"].state == "copying"
        known = dict(found.progress)
        found.take(reader)
    assert found.all(settings) == as_they_are(settings)
    with reading(settings, 2, known) as reader:
        again = Copied().take(reader)
    assert again.of("log") == found.of("log")
    assert session_numbers(again, "log") == {2}


def test_keys_that_have_no_order_to_walk(any_mysql_database: MyDatabase) -> None:
    """A prefix of a text, a hash: the rows are told apart, but copied in one pass."""
    database = any_mysql_database
    make_numbers(database, 500)
    database.execute("CREATE TABLE prefixed (t text NOT NULL, v int, PRIMARY KEY (t(8)))")
    database.execute("INSERT INTO prefixed SELECT CONCAT(n, REPEAT('x', 300)), n FROM numbers")
    database.execute("CREATE TABLE hashed (n int PRIMARY KEY) ENGINE = MEMORY")
    database.execute("INSERT INTO hashed SELECT n FROM numbers")
    settings = config(database, "prefixed", "hashed")
    tables, found = tables_of(settings), copied(settings)
    assert [(table.key, table.order) for table in tables.values()] == [(("t",), None), (("n",), None)]
    assert found.all(settings) == as_they_are(settings)


def session_numbers(found: Copied, table: str) -> set[int]:
    progress = parse(found.progress[table].progress)
    assert progress is not None
    return set(progress.sessions)


@pytest.mark.parametrize("pieces", [1, 3, 6])
def test_a_copy_broken_off_goes_on_where_it_was(any_mysql_database: MyDatabase, pieces: int) -> None:
    database = any_mysql_database
    make_orders(database)
    settings, found = config(database, "orders", snapshot_workers=1), Copied()
    with reading(settings) as reader:
        found.take(reader, pieces)
    found.read = 0
    before = dict(found.rows["orders"])
    database.execute("UPDATE orders SET state = 'later' WHERE id % 2 = 0")
    with reading(settings, 2, found.progress) as reader:
        found.take(reader)
    assert found.read + len(before) == 4000
    now = {row[0]: row for row in as_they_are(settings)["orders"]}
    assert {key[0]: row for key, row in found.rows["orders"].items()} == now | {key[0]: row for key, row in before.items()}
    assert session_numbers(found, "orders") == {1, 2}
    assert found.progress["orders"].rows_done == 4000


def test_parallel_ranges_broken_off_again_and_again(any_mysql_database: MyDatabase) -> None:
    make_orders(any_mysql_database, rows=12_000)
    settings, found = config(any_mysql_database, "orders", snapshot_workers=3, snapshot_chunk=8 << 10), Copied()
    with reading(settings) as reader:
        found.take(reader, 5)
    for number in range(2, 50):
        found.read = 0
        with reading(settings, number, found.progress) as reader:
            found.take(reader, 30)
            if reader.finished:
                break
    assert found.all(settings) == as_they_are(settings)


@pytest.mark.parametrize(
    "change",
    [
        "ALTER TABLE orders ADD COLUMN country varchar(2) DEFAULT 'CN'",
        "ALTER TABLE orders MODIFY total decimal(14,2)",
        "DROP TABLE orders; CREATE TABLE orders LIKE kept; INSERT INTO orders SELECT * FROM kept",
        "SET GLOBAL binlog_row_image = 'MINIMAL'",
    ],
)
def test_what_was_copied_does_not_serve_after_such_a_change(mysql_database: MyDatabase, change: str) -> None:
    database = mysql_database
    make_orders(database)
    database.execute("CREATE TABLE kept LIKE orders")
    database.execute("INSERT INTO kept SELECT * FROM orders WHERE id > 0")
    settings, found = config(database, "orders", snapshot_workers=1), Copied()
    with reading(settings) as reader:
        found.take(reader, 2)
    found.read = 0
    next_second(database)
    try:
        for statement in change.split("; "):
            database.execute(statement)
        with reading(settings, 2, found.progress) as reader:
            found.take(reader)
    finally:
        database.execute("SET GLOBAL binlog_row_image = 'FULL'")
    assert found.all(settings) == as_they_are(settings)
    assert session_numbers(found, "orders") == {2}


def next_second(database: MyDatabase) -> None:
    """Wait until what is made now has another CREATE_TIME than what was made before."""
    ((begun,),) = database.execute("SELECT UNIX_TIMESTAMP()")
    poll(lambda: database.execute("SELECT UNIX_TIMESTAMP()") != [(begun,)], "the clock stands still")


@pytest.mark.parametrize(
    "change",
    [
        "TRUNCATE orders",
        "ALTER TABLE orders DROP COLUMN state",
        "ALTER TABLE orders MODIFY state varchar(40) CHARACTER SET latin1",
        "DROP TABLE orders",
        "RENAME TABLE orders TO old, half_filled TO orders",
    ],
)
def test_a_table_changed_while_it_is_copied_is_noticed(any_mysql_database: MyDatabase, change: str) -> None:
    """The last one: the table that takes the name was there before the snapshot, which shows what it held then."""
    database = any_mysql_database
    make_orders(database)
    next_second(database)
    database.execute("CREATE TABLE half_filled LIKE orders")
    database.execute("INSERT INTO half_filled SELECT * FROM orders WHERE id < 0")
    with reading(config(database, "orders", snapshot_workers=1, snapshot_chunk=2000)) as reader:
        found = Copied().take(reader, 1)
        database.execute(change)
        with pytest.raises(SourceUnavailable) as raised:
            found.take(reader)
    assert raised.value.code == ("mysql_snapshot.gave_way" if database.server.is_mariadb else "source.table_changed")


@pytest.mark.parametrize("rows", [20, 1000], ids=["chunks as planned", "chunks beyond all plans"])
def test_a_copy_nobody_reads_on_is_in_nobodys_way(any_mysql_database: MyDatabase, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has no room for more while somebody alters the table and others write it."""
    database = any_mysql_database
    make_orders(database)
    next_second(database)
    monkeypatch.setattr(snapshot, "FIRST_ROWS", rows)
    monkeypatch.setattr(snapshot, "GROWTH", 1)  # or the whole table may have been read by then
    with reading(config(database, "orders", "numbers")) as reader:
        found = Copied().take(reader, 2)
        database.execute("SET SESSION lock_wait_timeout = 30")
        database.execute("ALTER TABLE orders COMMENT = 'altered'")
        database.execute("INSERT INTO orders VALUES (1000000, 'new', 1, NULL)")
        with pytest.raises(SourceUnavailable) as raised:
            found.take(reader)
    gave_way = database.server.is_mariadb or rows == 1000
    assert raised.value.code == ("mysql_snapshot.gave_way" if gave_way else "source.table_changed")


def test_a_table_without_key_makes_way_too(any_mysql_database: MyDatabase) -> None:
    """It is read in one go, which may take long: its copy begins anew then."""
    database = any_mysql_database
    make_numbers(database, 10_000)
    database.execute("CREATE TABLE log (line text)")
    database.execute("INSERT INTO log SELECT REPEAT('x', 3000) FROM numbers")
    with reading(config(database, "log")) as reader:
        found = Copied().take(reader, 2)
        database.execute("SET SESSION lock_wait_timeout = 30")
        database.execute("ALTER TABLE log COMMENT = 'altered'")
        with pytest.raises(SourceUnavailable) as raised:
            found.take(reader)
    assert raised.value.code == "mysql_snapshot.gave_way"


def test_a_table_without_transactions(any_mysql_database: MyDatabase) -> None:
    """Rows are read as they are, and are level from a place after the copy on."""
    database = any_mysql_database
    make_orders(database)
    database.execute("ALTER TABLE numbers ENGINE = MyISAM")
    settings = config(database, "numbers", "orders", snapshot_workers=1)
    with reading(settings) as reader:
        place = BinlogPosition.parse(reader.session.position).place
        database.execute("UPDATE orders SET state = 'not seen'")
        database.execute("INSERT INTO numbers VALUES (1000000)")
        found = Copied().take(reader)
    levels = {name: parse(found.progress[name].progress) for name in settings.tables}
    assert levels["orders"] is not None
    assert levels["numbers"] is not None
    assert levels["orders"].level_at == ""
    assert BinlogPosition.parse(levels["numbers"].level_at).place > place
    assert (1000000,) in found.of("numbers")
    assert all(row[1] != "not seen" for row in found.of("orders"))


def test_columns_are_those_of_row_events(any_mysql_database: MyDatabase) -> None:
    """Generated, invisible and hidden ones: the copy selects just what the log carries."""
    database, hidden = any_mysql_database, ""
    made = {"plain": "id int PRIMARY KEY, a int, v int AS (a + 1) VIRTUAL, s int AS (a + 2) STORED, i int INVISIBLE, b text, KEY (v)"}
    if database.server.is_mariadb:
        made["hashed"] = "id int PRIMARY KEY, t text, u text, z int, UNIQUE (t), UNIQUE (u)"
        hidden = "hashed"
    else:
        made["functional"] = "id int PRIMARY KEY, a int, j json, KEY ((a * 2)), KEY ((CAST(j->'$.x' AS UNSIGNED ARRAY)))"
        made["own_key"] = "a int, b text"
        database.execute("SET SESSION sql_generate_invisible_primary_key = ON")
        database.execute("SET GLOBAL show_gipk_in_create_table_and_information_schema = OFF")
    try:
        for name, columns in made.items():
            database.execute(f"CREATE TABLE {name} ({columns})")
        settings = config(database, *made)
        tables, maps = tables_of(settings), row_events_of(database, settings)
        for name, table in tables.items():
            carried = [column.name for column in maps[name].columns]
            assert carried[: len(carried) - table.hidden] == [column.name for column in table.columns]
            assert table.hidden == (2 if name == hidden else 0)
            key = tuple(carried[place] for place in maps[name].key or ())
            assert key == table.key
        assert [column.generated for column in tables["plain"].columns] == ["", "", "virtual", "stored", "", ""]
        assert [column.name for column in tables["plain"].columns if column.invisible] == ["i"]
        assert copied(settings).progress.keys() == made.keys()
    finally:
        if not database.server.is_mariadb:
            database.execute("SET GLOBAL show_gipk_in_create_table_and_information_schema = ON")


def row_events_of(database: MyDatabase, settings: SourceConfig) -> dict[str, TableMap]:
    """What the log says of each table when a row is inserted."""
    with closing(connect("shop", settings)) as side:
        position = head(side, identify(side))
    for table in settings.tables:
        column = "a" if table in ("own_key", "plain") else "id"
        database.execute(
            f"INSERT INTO {table} ({column}{', id' if table == 'plain' else ''}) VALUES (1{', 1' if table == 'plain' else ''})"
        )
    found: dict[str, TableMap] = {}
    stream = Stream("shop", settings, replica("shop", settings, database.name), FromFile(position.file, position.offset))
    try:
        while len(found) < len(settings.tables):
            events: list[bytes] = []
            stream.receive(events, 1 << 20, 10.0)
            for event in events:
                if event[4] == TABLE_MAP:
                    table_map = read_table_map(EventReader(event, HEADER, len(event) - CHECKSUM), database.server.is_mariadb)
                    found[table_map.table] = table_map
    finally:
        stream.close()
    return found


def refusal(settings: SourceConfig) -> SourceError:
    with pytest.raises(SourceError) as raised:
        tables_of(settings)
    return raised.value


def test_tables_that_can_not_be_captured(any_mysql_database: MyDatabase) -> None:
    database = any_mysql_database
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    database.execute("CREATE TABLE part (id int PRIMARY KEY) ENGINE = MyISAM")
    database.execute("CREATE VIEW seen AS SELECT * FROM t")
    database.execute("CREATE TABLE keyless (id int) ENGINE = MyISAM")
    database.execute("CREATE TABLE merged (id int PRIMARY KEY) ENGINE = MERGE UNION = (part)")
    wanted = {"gone": "table_missing", "nowhere.t": "table_missing", "T": "table_missing"}
    wanted |= {"seen": "table_kind", "keyless": "keyless", "merged": "engine"}
    if database.server.is_mariadb:
        database.execute("CREATE SEQUENCE counted")
        database.execute("CREATE TABLE versioned (id int PRIMARY KEY) WITH SYSTEM VERSIONING")
        wanted |= {"counted": "table_kind", "versioned": "table_kind"}
    for name, code in wanted.items():
        assert refusal(config(database, "t", name)).code == f"mysql_snapshot.{code}"


def test_what_the_user_may_not_do(any_mysql_database: MyDatabase) -> None:
    """Columns that may not be read are not left out, and a table that may not be locked is not copied."""
    database, name = any_mysql_database, f"{any_mysql_database.name}_u"[:30]
    database.execute("CREATE TABLE t (id int PRIMARY KEY, secret int)")
    database.execute(f"CREATE USER '{name}'@'%%' IDENTIFIED BY %s", [PASSWORD])
    try:
        database.execute(f"GRANT SELECT (id) ON {database.name}.t TO '{name}'@'%'")
        database.execute(f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO '{name}'@'%'")
        settings = config(database, "t", url=database.server.url(database.name, name))
        assert refusal(settings).code == "source.privilege"
        database.execute(f"GRANT SELECT ON {database.name}.t TO '{name}'@'%'")
        with pytest.raises(SourceError) as raised, reading(settings):
            pass
        assert raised.value.code == "mysql_snapshot.lock_privilege"
        assert f"GRANT LOCK TABLES ON `{database.name}`.*" in raised.value.hint
    finally:
        database.execute(f"DROP USER '{name}'@'%'")


WRITERS, ROUNDS, SESSIONS = 3, 20, 4


def test_all_sessions_see_the_same_place_of_the_log(any_mysql_database: MyDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transaction inserts a row into both tables: sessions see those that the log has before the place, and no other."""
    database = any_mysql_database
    monkeypatch.setattr(lock, "PAUSE_SECONDS_MAX", lock.PAUSE_SECONDS)
    for name in ("a", "b"):
        database.execute(f"CREATE TABLE {name} (id int AUTO_INCREMENT PRIMARY KEY, v int)")
    settings = config(database, "a", "b")
    tables = list(tables_of(settings).values())
    seen: list[tuple[BinlogPosition, list[Row]]] = []
    with closing(connect("shop", settings)) as side:
        server, begun = identify(side), head(side, identify(side))
    sessions = [connect("shop", settings) for _ in range(SESSIONS)]
    try:
        with writing(database):
            for _ in range(ROUNDS):
                with translated("shop", settings):
                    position, here = lock.agree("shop", settings, server, tables, sessions)
                assert here == sessions
                counts = [query(session, "SELECT (SELECT COUNT(*) FROM a), (SELECT COUNT(*) FROM b)")[0] for session in sessions]
                seen.append((position, counts))
    finally:
        for session in sessions:
            hang_up(session)
    written = {name: table_maps(database, begun, name) for name in ("a", "b")}
    for position, counts in seen:
        assert position.file == begun.file
        before = tuple(sum(place < position.offset for place in written[name]) for name in ("a", "b"))
        assert counts == [before] * SESSIONS
        assert before[0] == before[1]
    assert len({counts[0] for _, counts in seen}) > 1, "nobody wrote meanwhile"


@contextmanager
def writing(database: MyDatabase) -> Iterator[None]:
    stop = threading.Event()

    def work() -> None:
        with closing(database.server.connect(database.name, autocommit=False)) as connection, connection.cursor() as cursor:
            while not stop.is_set():
                cursor.execute("INSERT INTO a (v) VALUES (1)")
                cursor.execute("INSERT INTO b (v) VALUES (1)")
                connection.commit()

    threads = [threading.Thread(target=work) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def table_maps(database: MyDatabase, begun: BinlogPosition, table: str) -> list[int]:
    """Where in the log rows of a table begin, one for each transaction."""
    events = database.execute(f"SHOW BINLOG EVENTS IN '{begun.file}' FROM {begun.offset}")
    named = re.compile(rf"table_id: \d+ \({re.escape(database.name)}\.{table}\)")
    return [int(event[1]) for event in events if event[2] == "Table_map" and named.fullmatch(event[5])]


def test_open_changes_are_waited_for_and_their_owner_is_named(any_mysql_database: MyDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    database = any_mysql_database
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    settings = config(database, "t", url=database.url, password_env=None)
    with closing(database.server.connect(database.name, autocommit=False)) as writer:
        with writer.cursor() as cursor:
            cursor.execute("INSERT INTO t VALUES (1)")
        with monkeypatch.context() as patched:
            patched.setattr(lock, "BLOCKED_SECONDS", 0.0)
            with pytest.raises(SourceUnavailable) as raised, reading(settings):
                pass
        assert raised.value.code == "mysql_snapshot.blocked"
        assert f"connection {writer.thread_id()} of 'root'" in raised.value.message
        with closing(database.server.connect(database.name)) as other, other.cursor() as cursor:
            cursor.execute("INSERT INTO t VALUES (2)")  # nobody is held up for longer
        releasing = threading.Timer(0.5, writer.commit)
        releasing.start()
        assert copied(settings).of("t") == [(1,), (2,)]
        releasing.join()


def test_long_reads_are_not_waited_for(any_mysql_database: MyDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    database = any_mysql_database
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    monkeypatch.setattr(lock, "BLOCKED_SECONDS", 0.0)
    with closing(database.server.connect(database.name, autocommit=False)) as other, other.cursor() as cursor:
        cursor.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT")
        cursor.execute("SELECT * FROM t")
        assert copied(config(database, "t")).of("t") == []


def test_a_server_too_far_away_to_lock_but_for_a_blink(any_mysql_database: MyDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    database = any_mysql_database
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    monkeypatch.setattr(lock, "BLOCKED_SECONDS", 0.0)
    monkeypatch.setattr(lock, "_round_trip", lambda _: 0.05)
    with pytest.raises(SourceUnavailable) as raised, reading(config(database, "t")):
        pass
    assert raised.value.code == "mysql_snapshot.slow"


def test_more_tables_than_the_server_keeps_open(mysql_database: MyDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """They would have to be opened anew for each attempt to lock them."""
    names = [f"t{n}" for n in range(30)]
    for name in names:
        mysql_database.execute(f"CREATE TABLE {name} (id int PRIMARY KEY)")
    monkeypatch.setattr(lock, "BLOCKED_SECONDS", 0.0)
    monkeypatch.setattr(lock, "_ready", lambda *_: False)  # no lock comes in time
    with pytest.raises(SourceUnavailable) as raised, reading(config(mysql_database, *names)):
        pass
    assert raised.value.code == "mysql_snapshot.many_tables"
    assert "t4, ... (30)" in raised.value.message


def test_fewer_sessions_begin_where_many_take_too_long(mysql_database: MyDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    mysql_database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    attempt, tried = lock._attempt, []

    def slow_with_many(*arguments: Any) -> Any:
        tried.append(len(arguments[-1]))
        return attempt(*arguments) if tried[-1] < 3 else lock.Missed.SLOW

    monkeypatch.setattr(lock, "_attempt", slow_with_many)
    assert copied(config(mysql_database, "t", snapshot_workers=8)).of("t") == []
    assert tried == [8, 4, 2]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_prepared_transactions_are_waited_for_also_over_a_restart(flavour: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rows are in the log already, so a copy before their end would miss them."""
    monkeypatch.setattr(lock, "BLOCKED_SECONDS", 0.0)
    with MySQLServer(flavour) as server:
        server.ensure_user()
        with fresh_database(server) as database:
            database.execute("CREATE TABLE t (id int PRIMARY KEY)")
            database.execute("CREATE TABLE other (id int PRIMARY KEY)")
            with closing(server.connect(database.name)) as connection, connection.cursor() as cursor:
                for statement in ("XA START 'x'", "INSERT INTO t VALUES (1)", "XA END 'x'", "XA PREPARE 'x'"):
                    cursor.execute(statement)
            settings = config(database, "t", url=database.url, password_env=None)
            prepared_is_named(settings)
            server.restart()
            prepared_is_named(settings)
            assert copied(config(database, "other")).of("other") == []
            with closing(server.connect(database.name)) as connection, connection.cursor() as cursor:
                cursor.execute("XA COMMIT 'x'")
            assert copied(settings).of("t") == [(1,)]


def prepared_is_named(settings: SourceConfig) -> None:
    with pytest.raises(SourceUnavailable) as raised, reading(settings):
        pass
    assert raised.value.code == "mysql_snapshot.blocked"
    assert "the prepared transaction" in raised.value.message


def test_closing_a_reader_in_the_middle_leaves_nothing_behind(any_mysql_database: MyDatabase) -> None:
    database = any_mysql_database
    make_orders(database)
    with reading(config(database, "orders", "numbers", snapshot_workers=3)) as reader:
        Copied().take(reader, 1)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("snapshot-", "guard-"))]
    poll(lambda: not sessions_of(database), "sessions are left")


def sessions_of(database: MyDatabase) -> list[Row]:
    return [row for row in database.execute("SHOW PROCESSLIST") if row[1] == USER and row[3] == database.name]


def test_a_server_that_goes_away_in_the_middle(any_mysql_database: MyDatabase) -> None:
    database = any_mysql_database
    make_orders(database)
    with reading(config(database, "orders", snapshot_workers=1)) as reader:
        found = Copied().take(reader, 1)
        for session in sessions_of(database):
            database.execute(f"KILL {session[0]}")
        with pytest.raises(SourceUnavailable):
            found.take(reader)
