"""`check`, the lag and `status` against real servers: what is wrong is found, and what it says mends it."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest

from cdc.config import SourceConfig
from cdc.decode.mysql.position import BinlogPosition
from cdc.errors import SourceError, SourceUnavailable
from cdc.sources.mysql import preflight
from cdc.sources.mysql.connection import connect, query, translated
from cdc.sources.mysql.inspection import MysqlInspection
from cdc.sources.mysql.replication import FromFile, Stream, replica
from cdc.types import Finding
from tests.servers.mysql import PASSWORD, USER, MyDatabase, MySQLServer, RunningMySQL, await_replica, identifier, replicate, rows
from tests.servers.mysql_binaries import FLAVOURS


def config(url: str, *tables: str, **options: Any) -> SourceConfig:
    return SourceConfig(**{"url": url, "tables": list(tables), **options})


def check(settings: SourceConfig) -> list[Finding]:
    inspection = MysqlInspection("shop", settings)
    found = inspection.check()
    inspection.close()
    return found


def of(settings: SourceConfig, *levels: str) -> list[Finding]:
    return [finding for finding in check(settings) if finding.level in levels]


def about(settings: SourceConfig, match: str) -> Finding:
    """The only finding that speaks of something."""
    (found,) = (finding for finding in check(settings) if re.search(match, finding.what))
    return found


def run(server: RunningMySQL, *statements: str) -> list[tuple[Any, ...]]:
    with closing(server.connect()) as connection:
        return [row for statement in statements for row in rows(connection, statement)]


def mend(server: RunningMySQL, finding: Finding) -> None:
    """Do what a finding says, as the administrator."""
    run(server, *filter(None, map(str.strip, finding.mend.split(";"))))


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_PASSWORD", PASSWORD)


@pytest.fixture(scope="module", params=FLAVOURS)
def own_server(request: pytest.FixtureRequest) -> Iterator[MySQLServer]:
    """A server of each flavour whose settings are this module's to change."""
    with MySQLServer(request.param) as server:
        yield server


@pytest.fixture
def own(own_server: MySQLServer) -> Iterator[MyDatabase]:
    """A database in it with a table, settings as at its start afterwards."""
    name = own_server.create_database()
    with closing(own_server.connect(name)) as connection:
        before = dict(rows(connection, "SHOW GLOBAL VARIABLES"))
        rows(connection, "CREATE TABLE t (id int PRIMARY KEY, v text)")
        yield MyDatabase(own_server, name, connection)
        if not own_server.is_mariadb:
            rows(connection, "RESET PERSIST")
        for setting, value in rows(connection, "SHOW GLOBAL VARIABLES"):
            if before[setting] != value and not re.search("gtid|timestamp|_pos|innodb_redo|expire_logs_days", setting):
                rows(connection, f"SET GLOBAL {setting} = %s", [int(before[setting]) if before[setting].isdigit() else before[setting]])
    own_server.drop_database(name)


@contextmanager
def stranger(server: RunningMySQL) -> Iterator[str]:
    """A user without any privilege."""
    name = f"u{secrets.token_hex(4)}"
    run(server, f"CREATE USER {name}@'%' IDENTIFIED BY '{PASSWORD}'")
    try:
        yield name
    finally:
        run(server, f"DROP USER {name}@'%'")


# What a user may do


def test_all_is_well(any_mysql_database: MyDatabase) -> None:
    any_mysql_database.execute("CREATE TABLE t (a int, b int, PRIMARY KEY (b, a))")
    any_mysql_database.execute("CREATE TABLE log (line text)")
    server = any_mysql_database.server
    found = check(config(server.url(any_mysql_database.name, USER), "t", "log", password_env="CDC_PASSWORD"))
    assert found[0].what == f"{'MariaDB' if server.is_mariadb else 'MySQL'} {server.version}"
    assert [(finding.level, finding.what) for finding in found if finding.level != "ok"] == [
        ("warn", "sync_binlog is 0: after a power failure the server may have lost transactions that are already in the store")
    ]
    assert [finding.what for finding in found[-2:]] == [
        "table 't', rows told apart by b, a",
        "table 'log', rows told apart by their whole content",
    ]


def test_a_user_without_rights_is_led_to_them(any_mysql: RunningMySQL) -> None:
    """Every mend is run as it stands, until nothing fails: then the log can be read."""
    name = "my_shop`s %" + secrets.token_hex(4)
    run(
        any_mysql,
        f"CREATE DATABASE {identifier(name)}",
        f"CREATE TABLE {identifier(name)}.`Or``ders` (id int PRIMARY KEY)",
    )
    try:
        with stranger(any_mysql) as user:
            settings = config(any_mysql.url(name, user), "Or`ders", password_env="CDC_PASSWORD")
            for _ in range(3):
                if not (found := of(settings, "fail")):
                    break
                for finding in found:
                    assert finding.mend.startswith("GRANT ")
                    with closing(any_mysql.connect()) as connection, connection.cursor() as cursor:
                        cursor.execute(finding.mend)
            assert not found
            with translated("shop", settings), closing(connect("shop", settings)) as connection:
                query(connection, "LOCK TABLES `Or``ders` READ")
            stream = Stream("shop", settings, replica("shop", settings, "0" * 32), FromFile("", 4))
            assert stream.receive([], 1, 10.0)
            stream.close()
    finally:
        any_mysql.drop_database(name)


@pytest.mark.parametrize(
    ("privilege", "scope", "match"),
    [
        ("REPLICATION SLAVE", "*.*", "may not read the log"),
        ("REPLICATION CLIENT", "*.*", "may not ask for"),
        ("LOCK TABLES", "{}.*", "no right to lock"),
        ("SELECT", "{}.*", "no right to read 't'"),
    ],
)
def test_a_privilege_that_is_missing(any_mysql_database: MyDatabase, privilege: str, scope: str, match: str) -> None:
    server, name = any_mysql_database.server, any_mysql_database.name
    any_mysql_database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with stranger(server) as user:
        run(server, f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO {user}", f"GRANT SELECT, LOCK TABLES ON {name}.* TO {user}")
        settings = config(server.url(name, user), "t", password_env="CDC_PASSWORD")
        assert not of(settings, "fail")
        run(server, f"REVOKE {privilege} ON {scope.format(name)} FROM {user}")
        (fault,) = of(settings, "fail")
        assert re.search(match, fault.what)
        mend(server, fault)
        assert not of(settings, "fail")


def test_roles_count(any_mysql_database: MyDatabase) -> None:
    server, name = any_mysql_database.server, any_mysql_database.name
    any_mysql_database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with stranger(server) as user:
        run(server, f"CREATE ROLE r_{user}", f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO r_{user}")
        run(server, f"GRANT SELECT, LOCK TABLES ON {name}.* TO r_{user}", f"GRANT r_{user} TO {user}")
        settings = config(server.url(name, user), "t", password_env="CDC_PASSWORD")
        assert len(of(settings, "fail")) == 4
        run(server, f"SET DEFAULT ROLE r_{user} {'FOR' if server.is_mariadb else 'TO'} {user}")
        assert not of(settings, "fail")
        run(server, f"DROP ROLE r_{user}")


def test_who_can_not_come_in(any_mysql_database: MyDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_PASSWORD", "wrong")
    settings = config(any_mysql_database.server.url("x", USER), "t", password_env="CDC_PASSWORD")
    assert [(finding.level, "password" in finding.mend) for finding in check(settings)] == [("fail", True)]
    (fault,) = check(config("mysql://root@127.0.0.1:1/shop", "t"))
    assert "can't be reached" in fault.what


# How the server is set


@pytest.mark.parametrize(
    ("setting", "value", "level", "match"),
    [
        ("binlog_format", "'STATEMENT'", "fail", "binlog_format is STATEMENT"),
        ("binlog_format", "'MIXED'", "fail", "binlog_format is MIXED"),
        ("binlog_row_metadata", "'MINIMAL'", "warn", "binlog_row_metadata is MINIMAL"),
        ("binlog_expire_logs_seconds", "86400", "warn", "kept for 1.0 days"),
        ("sync_binlog", "0", "warn", "sync_binlog is 0"),
    ],
)
def test_settings(own: MyDatabase, setting: str, value: str, level: str, match: str) -> None:
    settings = config(own.url, "t")
    own.execute(f"SET GLOBAL {setting} = {value}")
    fault = about(settings, match)
    assert fault.level == level
    mend(own.server, fault)
    assert all(finding.level == "ok" for finding in check(settings) if match.split(" is ")[0] in finding.what)


@pytest.mark.parametrize("image", ["MINIMAL", "NOBLOB"])
def test_images_that_are_not_whole(own: MyDatabase, image: str) -> None:
    """MySQL leaves out what did not change, MariaDB more than that."""
    own.execute(f"SET GLOBAL binlog_row_image = '{image}'")
    fault = about(config(own.url, "t"), f"binlog_row_image is {image}")
    assert fault.level == ("fail" if own.server.is_mariadb else "warn")
    mend(own.server, fault)
    assert about(config(own.url, "t"), "binlog_row_image").level == "ok"


@pytest.mark.parametrize("own_server", ["mariadb-11.8"], indirect=True)
def test_images_without_what_stayed(own: MyDatabase) -> None:
    own.execute("SET GLOBAL binlog_row_image = 'FULL_NODUP'")
    assert not of(config(own.url, "t"), "fail")
    own.execute("CREATE TABLE computed (id int PRIMARY KEY, v int AS (id + 1) VIRTUAL, s int AS (id + 1) STORED)")
    (fault,) = of(config(own.url, "t", "computed"), "fail")
    assert "virtual columns (v) are not logged" in fault.what
    mend(own.server, fault)
    assert not of(config(own.url, "computed"), "fail")


def test_members_the_catalog_does_not_name(own: MyDatabase) -> None:
    own.execute("CREATE TABLE marked (id int PRIMARY KEY, e enum('a', '😀') CHARACTER SET utf8mb4, f enum('?') CHARACTER SET latin1)")
    own.execute("SET GLOBAL binlog_row_metadata = 'MINIMAL'")
    fault = about(config(own.url, "marked"), "may stand for another")
    assert (fault.level, "members of e with" in fault.what) == ("warn", True)
    mend(own.server, fault)
    assert not [finding for finding in check(config(own.url, "marked")) if "another character" in finding.what]


def test_settings_that_go_together(own: MyDatabase) -> None:
    own.execute("CREATE TABLE keyless (line text)")
    settings = config(own.url, "t", "keyless")
    own.execute("SET GLOBAL binlog_row_image = 'MINIMAL'")
    fault = about(settings, "rows can't be told apart")
    assert fault.level == "fail"
    if not own.server.is_mariadb:
        own.execute("SET GLOBAL binlog_row_value_options = 'PARTIAL_JSON'")
        partial = about(settings, "PARTIAL_JSON")
        assert partial.level == "fail"
        mend(own.server, partial)
    mend(own.server, fault)
    assert not of(settings, "fail")
    assert not [finding for finding in check(settings) if "PARTIAL_JSON" in finding.what]


def test_our_number_is_not_the_servers(own: MyDatabase) -> None:
    assert about(config(own.url, "t", server_id=own.server.port), "the server's own").level == "fail"
    assert not of(config(own.url, "t", server_id=own.server.port + 1), "fail")


def test_a_log_kept_by_size(own: MyDatabase) -> None:
    if not own.execute("SHOW GLOBAL VARIABLES LIKE 'max_binlog_total_size'"):
        pytest.skip("only MariaDB 11.4 and later purges by size")
    own.execute("SET GLOBAL max_binlog_total_size = 1000000000")
    fault = about(config(own.url, "t"), "max_binlog_total_size")
    mend(own.server, fault)
    assert not [finding for finding in check(config(own.url, "t")) if "max_binlog_total_size" in finding.what]


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"log_bin": None, "skip_log_bin": ""}, "writes no binary log"),
        ({"binlog_ignore_db": "shop"}, "changes in database 'shop' are not written"),
        ({"binlog_do_db": "crm"}, "changes in database 'shop' are not written"),
    ],
)
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_what_only_a_restart_mends(flavour: str, settings: dict[str, str | None], match: str) -> None:
    if FLAVOURS[flavour].is_mariadb and "skip_log_bin" in settings:
        settings = {"log_bin": None, "log_slave_updates": None}
    with MySQLServer(flavour, settings) as server:
        server.create_database("shop")
        run(server, "CREATE TABLE shop.t (id int PRIMARY KEY)")
        (fault,) = of(config(server.url("shop"), "t"), "fail")
        assert match in fault.what
        assert "restart the server" in fault.mend
        for setting in settings:
            assert FLAVOURS[flavour].is_mariadb or setting.removeprefix("skip_") in fault.mend
        server.settings |= dict.fromkeys(settings) | {"log_bin": "binlog"}
        server.restart()
        assert not of(config(server.url("shop"), "t"), "fail")


def test_gtids_that_are_off() -> None:
    with MySQLServer("mysql-9", {"gtid_mode": "OFF", "enforce_gtid_consistency": "OFF"}) as server:
        server.create_database("shop")
        run(server, "CREATE TABLE shop.t (id int PRIMARY KEY)")
        fault = about(config(server.url("shop"), "t"), "gtid_mode")
        assert fault.level == "warn"
        mend(server, fault)
        assert about(config(server.url("shop"), "t"), "GTID").level == "ok"


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_replica_that_does_not_log(flavour: str) -> None:
    updates = "log_slave_updates" if FLAVOURS[flavour].is_mariadb else "log_replica_updates"
    with MySQLServer(flavour) as source, MySQLServer(flavour, {"log_slave_updates": None, updates: "OFF"}) as server:
        source.create_database("shop")
        run(source, "CREATE TABLE shop.t (id int PRIMARY KEY)")
        assert not of(config(source.url("shop"), "t"), "fail")
        replicate(source, server)
        await_replica(source, server)
        (fault,) = of(config(server.url("shop"), "t"), "fail")
        assert "does not log what it replicates" in fault.what
        assert f"set {updates} = ON" in fault.mend
        if server.is_mariadb:
            run(server, f"GRANT SELECT, LOCK TABLES ON shop.* TO {USER}")
            unknown = about(config(server.url("shop", USER), "t", password_env="CDC_PASSWORD"), "may be a replica")
            mend(server, unknown)
            assert of(config(server.url("shop", USER), "t", password_env="CDC_PASSWORD"), "fail") == [fault]


# The tables


def test_tables_that_can_not_be_followed(any_mysql_database: MyDatabase) -> None:
    execute = any_mysql_database.execute
    execute("CREATE TABLE Orders (id int PRIMARY KEY)")
    execute("CREATE VIEW v AS SELECT 1 AS id")
    execute("CREATE TABLE heap (id int PRIMARY KEY) ENGINE = MEMORY")
    execute("CREATE TABLE my (id int PRIMARY KEY) ENGINE = MyISAM")
    found = check(config(any_mysql_database.url, "orders", "v", "heap", "my", "nowhere", "nosuch.t", "Orders"))
    faults = [(finding.level, finding.what) for finding in found if re.match("table|there is no|'|source", finding.what)]
    assert [level for level, _ in faults] == ["fail", "fail", "warn", "ok", "warn", "ok", "fail", "fail", "ok"]
    texts = [
        "named 'Orders'",
        "VIEW",
        "memory",
        "told apart",
        "myisam",
        "told apart",
        "no table 'nowhere'",
        "no table 'nosuch.t'",
        "'Orders'",
    ]
    assert all(text in what for text, (_, what) in zip(texts, faults, strict=True)), faults
    (memory, myisam) = (finding for finding in found if "has no transactions" in finding.what)
    mend(any_mysql_database.server, memory)
    mend(any_mysql_database.server, myisam)
    assert not [finding for finding in check(config(any_mysql_database.url, "heap", "my")) if "transactions: what" in finding.what]


@pytest.mark.parametrize("any_mysql", ["mariadb-11.8"], indirect=True)
def test_moments_in_the_form_of_mariadb_5_3(any_mysql_database: MyDatabase) -> None:
    execute = any_mysql_database.execute
    execute("SET GLOBAL mysql56_temporal_format = OFF")
    try:
        execute("CREATE TABLE t (id int PRIMARY KEY, d datetime, at datetime(3), s time(6))")
    finally:
        execute("SET GLOBAL mysql56_temporal_format = ON")
    settings = config(any_mysql_database.url, "t")
    (fault,) = of(settings, "fail")
    assert "(at, s)" in fault.what
    execute(fault.mend.partition(";")[0])
    assert not of(settings, "fail")


CASCADES = (
    "CREATE TABLE parent (id int PRIMARY KEY, v int UNIQUE)",
    "CREATE TABLE child (id int PRIMARY KEY, p int, "
    "`q (x)` int COMMENT 'CONSTRAINT `x` FOREIGN KEY (`p`) REFERENCES `t` (`id`) ON DELETE CASCADE', "
    "FOREIGN KEY (p) REFERENCES parent (id) ON DELETE CASCADE ON UPDATE SET NULL, "
    "CONSTRAINT `a name)` FOREIGN KEY (`q (x)`) REFERENCES parent (v) ON DELETE SET NULL)",
    "CREATE TABLE plain (id int PRIMARY KEY, p int, FOREIGN KEY (p) REFERENCES parent (id) ON DELETE RESTRICT)",
)


def cascades(settings: SourceConfig) -> list[Finding]:
    return [finding for finding in check(settings) if "are not in the log" in finding.what]


def test_foreign_keys_that_change_rows(any_mysql_database: MyDatabase) -> None:
    """MySQL logs them since 9.6; MariaDB does not."""
    for statement in CASCADES:
        any_mysql_database.execute(statement)
    settings = config(any_mysql_database.url, "parent", "child", "plain")
    found = cascades(settings)
    assert len(found) == (2 if any_mysql_database.server.is_mariadb else 0)
    for finding in found:
        for statement in filter(None, map(str.strip, finding.mend.split(";"))):
            any_mysql_database.execute(statement)
    assert not cascades(settings)
    listed = "SELECT COUNT(*) FROM information_schema.referential_constraints WHERE constraint_schema = DATABASE()"
    assert any_mysql_database.execute(listed) == [(3,)]


def test_foreign_keys_left_to_innodb() -> None:
    with MySQLServer("mysql-9", {"innodb_native_foreign_keys": "ON"}) as server:
        server.create_database("shop")
        with closing(server.connect("shop")) as connection:
            for statement in CASCADES:
                rows(connection, statement)
        first, second = cascades(config(server.url("shop"), "child"))
        assert first.mend == second.mend == "set innodb_native_foreign_keys = OFF in the server's configuration, then restart the server"


def test_what_a_snapshot_would_wait_for(own: MyDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = config(own.url, "t")
    monkeypatch.setattr(preflight, "TRANSACTION_SECONDS_MAX", 0)
    with closing(own.server.connect(own.name)) as other:
        rows(other, "BEGIN")
        rows(other, "INSERT INTO t VALUES (1, 'open')")
        fault = about(settings, "transaction open since")
        assert fault.mend == f"KILL {other.thread_id()};"
        mend(own.server, fault)
    with closing(own.server.connect(own.name)) as other:
        for statement in (
            "XA START X'ff00', 'b', 7",
            "INSERT INTO t VALUES (2, 'x')",
            "XA END X'ff00', 'b', 7",
            "XA PREPARE X'ff00', 'b', 7",
        ):
            rows(other, statement)
    fault = about(settings, "is prepared")
    mend(own.server, fault)
    assert not [finding for finding in check(settings) if "a snapshot waits" in finding.what]
    assert own.execute("SELECT id FROM t") == [(2,)]


# Lag and schemas


def test_lag(own: MyDatabase) -> None:
    server, settings = own.server, config(own.url, "t")
    inspection = MysqlInspection("shop", settings)
    before = inspection.lag(None)
    assert (before.lag_bytes, before.purged_in_seconds) == (None, None)
    at_head = inspection.lag(before.head)
    assert (at_head.lag_bytes, at_head.unsent_bytes, at_head.purged_in_seconds) == (0, 0, None)
    own.execute("INSERT INTO t VALUES (1, 'x')")
    head = inspection.lag(before.head)
    position, end = BinlogPosition.parse(before.head), BinlogPosition.parse(head.head)
    assert head.lag_bytes == end.offset - position.offset > 0
    assert end.gtids is not None
    assert inspection.reached(head.head, before.head)
    assert not inspection.reached(before.head, head.head)
    own.execute("SET GLOBAL binlog_expire_logs_seconds = 864000")
    assert inspection.lag(before.head).purged_in_seconds is None, "the file is still written to"
    rotated = time.time()
    own.execute("FLUSH BINARY LOGS")
    own.execute("INSERT INTO t VALUES (2, 'x')")
    later = inspection.lag(before.head)
    sizes = dict(row[:2] for row in own.execute("SHOW BINARY LOGS"))
    newest = BinlogPosition.parse(later.head)
    assert later.lag_bytes == sizes[position.file] - position.offset + newest.offset
    assert later.purged_in_seconds is not None
    assert rotated - 2 + 864000 <= later.sampled_at + later.purged_in_seconds <= time.time() + 864000
    own.execute("SET GLOBAL binlog_expire_logs_seconds = 0")
    assert inspection.lag(before.head).purged_in_seconds is None
    assert inspection.lag(f"{before.head.split()[0]} server=another").lag_bytes is None
    inspection.close()
    for thread, *_ in run(server, "SHOW PROCESSLIST"):
        assert thread  # the server is there still
    with pytest.raises(SourceUnavailable):
        MysqlInspection("shop", config("mysql://root@127.0.0.1:1/shop", "t")).lag(None)


def test_a_lost_connection_is_made_anew(own: MyDatabase) -> None:
    inspection = MysqlInspection("shop", config(own.url, "t"))
    inspection.lag(None)
    assert inspection._connection is not None
    own.execute(f"KILL {inspection._connection.thread_id()}")
    with pytest.raises(SourceUnavailable):
        inspection.lag(None)
    assert inspection.lag(None).head
    inspection.close()


def test_schemas(any_mysql_database: MyDatabase) -> None:
    any_mysql_database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    inspection = MysqlInspection("shop", config(any_mysql_database.url, "t", f"{any_mysql_database.name}.t", "missing"))
    found = inspection.schemas()
    assert sorted(found) == sorted(["t", f"{any_mysql_database.name}.t"])
    assert (found["t"].name, found["t"].key, [column.name for column in found["t"].columns]) == ("shop.t", ("id",), ["id", "v"])
    with pytest.raises(SourceError):
        MysqlInspection("shop", config(any_mysql_database.server.url("nowhere"), "t")).schemas()
