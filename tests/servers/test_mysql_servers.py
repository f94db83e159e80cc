"""The MySQL and MariaDB servers the other tests stand on: all flavours start, keep their data, and leave nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pymysql
import pytest
from pymysql.connections import Connection

from tests.servers import debian_packages, own_server
from tests.servers import mysql as mysql_module
from tests.servers.cache import NotAvailable
from tests.servers.mysql import PASSWORD, USER, MyDatabase, MySQLServer, RunningMySQL, await_replica, fresh_database, replicate, rows
from tests.servers.mysql_binaries import DEFAULT_FLAVOUR, FLAVOURS
from tests.servers.own_server import ServerFailed, poll

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=FLAVOURS)
def server(request: pytest.FixtureRequest) -> Iterator[MySQLServer]:
    with MySQLServer(request.param) as own:
        yield own


def as_user(server: RunningMySQL, database: str = "", **options: Any) -> Connection:
    return server.connect(database, **({"user": USER, "password": PASSWORD} | options))


def one(server: RunningMySQL, query: str, database: str = "") -> Any:
    with closing(server.connect(database)) as connection:
        ((value,),) = rows(connection, query)
    return value


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


# Flavours


def test_every_flavour_starts_and_logs_rows(any_mysql_database: MyDatabase) -> None:
    server = any_mysql_database.server
    variables = (
        "@@log_bin, @@binlog_format, @@binlog_row_image, @@binlog_row_metadata, @@character_set_server, @@time_zone, @@system_time_zone"
    )
    assert any_mysql_database.execute(f"SELECT {variables}") == [(1, "ROW", "FULL", "FULL", "utf8mb4", "SYSTEM", "UTC")]
    ((version,),) = any_mysql_database.execute("SELECT VERSION()")
    assert version.startswith(server.version) and ("MariaDB" in version) == server.is_mariadb
    assert (
        any_mysql_database.url == f"{'mariadb' if server.is_mariadb else 'mysql'}://root@127.0.0.1:{server.port}/{any_mysql_database.name}"
    )
    any_mysql_database.execute("CREATE TABLE t (id INT PRIMARY KEY)")
    file, offset, *_ = any_mysql_database.execute("SHOW MASTER STATUS" if server.is_mariadb else "SHOW BINARY LOG STATUS")[0]
    any_mysql_database.execute("INSERT INTO t VALUES (%s)", [1])
    events = [row[2] for row in any_mysql_database.execute(f"SHOW BINLOG EVENTS IN '{file}' FROM {offset}")]
    assert any(event.startswith("Write_rows") for event in events)


def test_time_zones_can_be_named(any_mysql_database: MyDatabase) -> None:
    summer = "CONVERT_TZ('2021-07-01 12:00:00', 'UTC', %s), CONVERT_TZ('2021-12-01 12:00:00', 'UTC', %s)"
    for zone, expected in (("Asia/Shanghai", ("20:00", "20:00")), ("America/New_York", ("08:00", "07:00"))):
        ((july, december),) = any_mysql_database.execute(f"SELECT {summer}", [zone, zone])
        assert (f"{july:%H:%M}", f"{december:%H:%M}") == expected


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_programs_that_cannot_be_had_are_named(flavour: str, tmp_path: Path) -> None:
    code = f"""
from dataclasses import replace
from tests.servers import mysql_binaries
flavour = mysql_binaries.FLAVOURS[{flavour!r}]
mysql_binaries.FLAVOURS[{flavour!r}] = replace(flavour, program="no-such-program")
mysql_binaries.find({flavour!r})
"""
    environment = {"PATH": "/nowhere", "LEDGERTAIL_TEST_CACHE": str(tmp_path)}
    failed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert failed.returncode != 0
    assert f"NotAvailable: {FLAVOURS[flavour].title}: no-such-program is not on PATH, and: " in failed.stderr
    assert failed.stderr.count("is not on PATH") == 2 or "apt source" in failed.stderr or "archive-keyring" in failed.stderr


def test_program_of_another_series_is_not_taken(tmp_path: Path) -> None:
    program = tmp_path / "mariadbd"
    program.write_text("#!/bin/sh\necho mariadbd  Ver 10.1.48-MariaDB\n")
    program.chmod(0o755)
    code = "from tests.servers.mysql_binaries import find; find('mariadb-11.8')"
    environment = {"PATH": f"{tmp_path}:/nowhere", "LEDGERTAIL_TEST_CACHE": str(tmp_path)}
    failed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert f"NotAvailable: MariaDB 11.8: {program} " in failed.stderr


def test_packages_of_an_earlier_day_serve_when_the_archive_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGERTAIL_TEST_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotAvailable):
        debian_packages.unpacked("thing", "sid")
    for day, name in (("2020-01-09", "thing-1-sid"), ("2020-01-10", "thing-2-sid")):
        (tmp_path / f"thing-sid-{day}").mkdir()
        (tmp_path / f"thing-sid-{day}" / "root").write_text(name)
    assert debian_packages.unpacked("thing", "sid") == tmp_path / "thing-2-sid" / "root"


# A server's life


def test_user_has_its_rights_and_no_others(any_mysql: RunningMySQL, any_mysql_database: MyDatabase) -> None:
    assert PASSWORD not in any_mysql.url(any_mysql_database.name, USER)
    any_mysql_database.execute("CREATE TABLE t AS SELECT 42 AS n")
    with fresh_database(any_mysql) as other, closing(as_user(any_mysql, any_mysql_database.name)) as connection:
        other.execute("CREATE TABLE t (n INT)")
        asks_position = "SHOW BINARY LOG STATUS" if not any_mysql.is_mariadb else "SHOW BINLOG STATUS"
        for allowed in ("SELECT n FROM t", "LOCK TABLES t READ", "UNLOCK TABLES", asks_position, "SHOW BINARY LOGS"):
            rows(connection, allowed)
        for refused in (
            "INSERT INTO t VALUES (1)",
            "DROP TABLE t",
            "FLUSH TABLES",
            "SET GLOBAL max_connections = 1",
            "PURGE BINARY LOGS TO 'x'",
        ):
            with pytest.raises(pymysql.OperationalError, match="denied"):
                rows(connection, refused)
    granted = one(
        any_mysql,
        f"SELECT GROUP_CONCAT(privilege_type ORDER BY 1) FROM information_schema.user_privileges WHERE grantee = \"'{USER}'@'%'\"",
    )
    assert granted == ("BINLOG MONITOR,REPLICATION SLAVE" if any_mysql.is_mariadb else "REPLICATION CLIENT,REPLICATION SLAVE")


def test_user_logs_in_by_password_with_and_without_tls(any_mysql: RunningMySQL) -> None:
    ways: list[tuple[bool, dict[str, Any]]] = [(False, {"ssl_disabled": True}), (True, {"ssl": {"check_hostname": False}})]
    # MariaDB makes certificates of its own since 11.4, MySQL always.
    for tls, options in ways if not any_mysql.version.startswith("10.") else ways[:1]:
        with closing(any_mysql.connect()) as admin:
            rows(admin, "FLUSH PRIVILEGES")  # caching_sha2_password forgets whom it knows: the next login is a full one
        with closing(as_user(any_mysql, **options)) as connection:
            ((_, cipher),) = rows(connection, "SHOW STATUS LIKE 'Ssl_cipher'")
            assert bool(cipher) == tls
        with pytest.raises(pymysql.OperationalError, match="Access denied"):
            as_user(any_mysql, password="wrong", **options)


def test_settings_are_given_left_out_and_changed() -> None:
    settings: mysql_module.Settings = {"log_bin": "it's", "binlog_row_image": "MINIMAL", "max_connections": None, "skip_replica_start": ""}
    with MySQLServer(DEFAULT_FLAVOUR, settings) as server:
        with closing(server.connect()) as connection:
            given = rows(connection, "SELECT @@log_bin_basename, @@binlog_row_image, @@max_connections, @@skip_replica_start")
        assert given == [(str(server.data / "it's"), "MINIMAL", 151, 1)]
        server.settings["binlog_row_image"] = "NOBLOB"
        server.restart()
        assert one(server, "SELECT @@binlog_row_image") == "NOBLOB"


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_settings_of_the_data_directory_are_given_at_its_creation(flavour: str) -> None:
    settings: mysql_module.Settings = {"lower_case_table_names": 1, "innodb_page_size": 8192}
    with MySQLServer(flavour, settings) as server, closing(server.connect()) as connection:
        assert rows(connection, "SELECT @@lower_case_table_names, @@innodb_page_size") == [(1, 8192)]


def test_servers_do_not_share_an_identity(mysql: RunningMySQL) -> None:
    with MySQLServer(DEFAULT_FLAVOUR) as server:
        for variable in ("@@server_uuid", "@@server_id"):
            assert one(server, f"SELECT {variable}") != one(mysql, f"SELECT {variable}")


def test_restart_keeps_port_and_data(server: MySQLServer) -> None:
    name, port = server.create_database(), server.port
    with closing(server.connect(name)) as connection:
        rows(connection, "CREATE TABLE t AS SELECT 42 AS n")
    server.restart()
    assert server.port == port
    assert one(server, "SELECT n FROM t", name) == 42


def test_kill_leaves_no_process_and_the_server_recovers(server: MySQLServer) -> None:
    assert server.process is not None
    name, pid = server.create_database(), server.process.pid
    with closing(server.connect(name)) as connection:
        rows(connection, "CREATE TABLE t (n INT PRIMARY KEY) ENGINE = InnoDB")
        rows(connection, "INSERT INTO t VALUES (42)")
        server.kill()
        assert is_gone(pid)
        with pytest.raises(pymysql.OperationalError):
            rows(connection, "SELECT 1")
    server.start()
    assert one(server, "SELECT n FROM t", name) == 42
    assert "crash recovery" in server.log_tail()


def test_nothing_is_left_behind(server: MySQLServer) -> None:
    assert server.process is not None
    folder, pid = server.folder, server.process.pid
    assert folder.exists()
    server.close()
    assert not folder.exists()
    assert is_gone(pid)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_server_ends_when_the_tests_are_killed(flavour: str) -> None:
    code = f"""
import sys
from tests.servers.mysql import MySQLServer
with MySQLServer({flavour!r}) as server:
    print(server.process.pid, server.folder, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        pid, folder = tests.stdout.readline().split()
        assert not is_gone(int(pid))
        tests.send_signal(signal.SIGKILL)
    poll(lambda: is_gone(int(pid)) and not Path(folder).exists(), "the server or its folder outlived the tests")


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_port_taken_by_another_is_left_to_it(flavour: str, mysql: RunningMySQL, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = iter([mysql.port, own_server.free_port()])
    monkeypatch.setattr(own_server, "free_port", lambda: next(ports))
    with MySQLServer(flavour) as server:
        assert server.port != mysql.port
        assert one(server, "SELECT @@port") == server.port


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_bad_setting_fails_with_the_servers_log(flavour: str) -> None:
    with pytest.raises(ServerFailed, match=r"no[-_]such[-_]setting"), MySQLServer(flavour, {"no_such_setting": 1}):
        pass


def test_server_of_the_environment_is_used(server: MySQLServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(server.connect()) as connection:
        rows(connection, "CREATE USER 'admin'@'%' IDENTIFIED BY 's@cret'")
        rows(connection, "GRANT ALL ON *.* TO 'admin'@'%' WITH GRANT OPTION")
    monkeypatch.setenv(mysql_module.ADDRESS_VARIABLES[server.is_mariadb], f"mysql://admin:s%40cret@127.0.0.1:{server.port}/")
    mysql_module._named_server.cache_clear()
    try:
        with mysql_module.running(server.flavour) as found:
            assert not isinstance(found, MySQLServer)
            assert (found.port, found.version, "s%40cret" in found.url()) == (server.port, server.version, False)
            with fresh_database(found) as database:
                assert database.execute("SELECT 1") == [(1,)]
    finally:
        mysql_module._named_server.cache_clear()


def test_database_is_dropped_with_all_that_holds_it(any_mysql: RunningMySQL) -> None:
    with fresh_database(any_mysql) as database:
        database.execute("CREATE TABLE t (id INT)")
        database.execute("CREATE TABLE other (id INT)")
        held = [any_mysql.connect(database.name), as_user(any_mysql, database.name)]
        for statement in ("XA START 'held', 'b'", "INSERT INTO t VALUES (1)", "XA END 'held', 'b'", "XA PREPARE 'held', 'b'"):
            rows(held[0], statement)
        rows(held[1], "LOCK TABLES other READ")
    for connection in held:
        with closing(connection), pytest.raises(pymysql.OperationalError):
            rows(connection, "SELECT 1")
    with closing(any_mysql.connect()) as connection:
        assert database.name not in [row[0] for row in rows(connection, "SHOW DATABASES")]
        assert not any("held" in str(xid) for *_, xid in rows(connection, "XA RECOVER"))
        grants = [grant.replace("\\", "") for (grant,) in rows(connection, f"SHOW GRANTS FOR '{USER}'@'%'")]
        assert not any(database.name in grant for grant in grants)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_replica_follows_and_can_be_written_to(flavour: str) -> None:
    with MySQLServer(flavour) as source, MySQLServer(flavour) as replica:
        name = source.create_database()
        with closing(source.connect(name)) as connection:
            rows(connection, "CREATE TABLE t AS SELECT 42 AS n")
        replicate(source, replica)
        await_replica(source, replica)
        assert one(replica, "SELECT n FROM t", name) == 42
        source.kill()
        with closing(replica.connect(name)) as connection:
            rows(connection, "STOP REPLICA")
            rows(connection, "INSERT INTO t VALUES (43)")
            logged = [row[2] for row in rows(connection, "SHOW BINLOG EVENTS")]
        assert sum(event.startswith("Write_rows") for event in logged) == 2
        with closing(as_user(replica, name)) as connection:
            assert rows(connection, "SELECT n FROM t ORDER BY n") == [(42,), (43,)]
