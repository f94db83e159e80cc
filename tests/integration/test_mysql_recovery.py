"""Servers and networks that break, real ones: the stream goes on without loss, or it is said why it can't and the remedy works.

The numbers are those of the hard cases.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pymysql
import pytest

from cdc.config import SourceConfig
from cdc.decode.mysql.position import BinlogPosition
from cdc.errors import PositionLost, SourceError, SourceUnavailable
from cdc.protocols import Source
from cdc.sources.mysql import replication
from tests.integration.replay import Twin, opened, source_rows, step, streaming, until, until_equal
from tests.servers.mysql import PASSWORD, USER, MyDatabase, MySQLServer, await_replica, fresh_database, replicate, rows
from tests.servers.mysql_binaries import DEFAULT_FLAVOUR, FLAVOURS
from tests.servers.own_server import poll
from tests.servers.proxy import Proxy

PATIENCE_SECONDS = 60


@pytest.fixture(params=FLAVOURS)
def database(request: pytest.FixtureRequest) -> Iterator[MyDatabase]:
    """A database with two tables, of a server of the test's own, to be broken."""
    with MySQLServer(request.param) as server, fresh_database(server) as fresh:
        run(fresh, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY, v text)", "INSERT INTO u VALUES (1, 'x')")
        yield fresh


def config(database: MyDatabase, **options: Any) -> SourceConfig:
    return SourceConfig(**{"url": database.url, "tables": ["t", "u"], **options})


def run(database: MyDatabase, *statements: str) -> None:
    """Each over a new connection: the server may have been gone."""
    with closing(database.server.connect(database.name)) as connection:
        for statement in statements:
            rows(connection, statement)


def equal(source: Source, twin: Twin, database: MyDatabase) -> None:
    with closing(database.server.connect(database.name)) as connection:
        until_equal(source, twin, connection, "t", "u")


def raised(source: Source, twin: Twin, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        until(source, twin, lambda: False)
    source.close()


def reopened(settings: SourceConfig, twin: Twin) -> Source:
    """Open as the daemon does: again while it may pass."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return opened(settings, twin)
        except SourceUnavailable:
            assert time.monotonic() < deadline


def checkpoint(twin: Twin) -> BinlogPosition:
    assert twin.checkpoint is not None
    return BinlogPosition.parse(twin.checkpoint.position)


@contextmanager
def prepared(database: MyDatabase, xid: str, row: int) -> Iterator[Any]:
    """The connection that has prepared an insert into `t`, and is to decide it or to leave."""
    with closing(database.server.connect(database.name)) as connection:
        for statement in (f"XA START '{xid}'", f"INSERT INTO t VALUES ({row})", f"XA END '{xid}'", f"XA PREPARE '{xid}'"):
            rows(connection, statement)
        yield connection


# XA


def test_19_prepared_transactions_over_restarts(database: MyDatabase, twin: Twin) -> None:
    """Of the source between PREPARE and COMMIT, again and again; then of the server, which dies."""
    settings = config(database)
    source = streaming(settings, twin)
    with prepared(database, "kept", 1) as kept, prepared(database, "gone", 2) as gone:
        run(database, "INSERT INTO t VALUES (3)", "FLUSH BINARY LOGS", "INSERT INTO u VALUES (2, 'y')")
        until(source, twin, lambda: len(twin.rows("u")) == 2)
        assert twin.rows("t") == [(3,)]
        begun = checkpoint(twin).reread
        assert begun is not None
        assert begun[0] < checkpoint(twin).file
        for row in (4, 5):
            source.close()
            source = opened(settings, twin)
            run(database, f"INSERT INTO t VALUES ({row})")
            until(source, twin, lambda row=row: (row,) in twin.rows("t"))  # type: ignore[misc]
            assert checkpoint(twin).reread == begun
        rows(kept, "XA COMMIT 'kept'")
        rows(gone, "XA ROLLBACK 'gone'")
        equal(source, twin, database)
    with prepared(database, "kept", 6):
        pass
    with prepared(database, "gone", 7):
        run(database, "INSERT INTO u VALUES (3, 'z')")
        until(source, twin, lambda: len(twin.rows("u")) == 3)
        server = database.server
        assert isinstance(server, MySQLServer)
        server.kill()
        raised(source, twin, SourceUnavailable, "can't be reached")
        with pytest.raises(SourceUnavailable):
            opened(settings, twin)
        server.start()
    source = reopened(settings, twin)
    run(database, "INSERT INTO u VALUES (4, '')", "XA COMMIT 'kept'", "XA ROLLBACK 'gone'", "INSERT INTO u VALUES (5, '')")
    equal(source, twin, database)
    assert sorted(twin.rows("t")) == [(1,), (3,), (4,), (5,), (6,)]
    assert checkpoint(twin).reread is None
    assert twin.ops["c"] == 9


# The log


def purge(database: MyDatabase) -> None:
    """Leave only the newest file of the log. One that a session of ours was reading a moment ago may have to be asked for again."""
    run(database, "FLUSH BINARY LOGS")
    with closing(database.server.connect()) as connection:
        if rows(connection, "SHOW GLOBAL VARIABLES LIKE 'slave_connections_needed_for_purge'"):
            rows(connection, "SET GLOBAL slave_connections_needed_for_purge = 0")

        def purged() -> bool:
            rows(connection, f"PURGE BINARY LOGS TO '{rows(connection, 'SHOW BINARY LOGS')[-1][0]}'")
            return len(rows(connection, "SHOW BINARY LOGS")) == 1

        poll(purged, "the log is not purged")


def lost(settings: SourceConfig, twin: Twin, match: str) -> None:
    """The position is lost, and stays so: it halts each time."""
    for _ in range(2):
        with pytest.raises(PositionLost, match=match) as caught:
            source = opened(settings, twin)
            until(source, twin, lambda: False)  # MariaDB tells of GTIDs that are purged only when they are asked for
        assert f"ledgertail snapshot {twin.source}" in caught.value.hint


def anew(settings: SourceConfig, twin: Twin, database: MyDatabase) -> Source:
    """The remedy: all tables are copied anew. There is no order between places of the log that was and the one that is."""
    twin.want("t", "u")
    source = opened(settings, twin)
    twin.reached = lambda *_: True
    equal(source, twin, database)
    run(database, "INSERT INTO t SELECT MAX(id) + 1 FROM t", "UPDATE u SET v = CONCAT(v, '!')")
    equal(source, twin, database)
    return source


def test_27_a_log_that_is_purged_or_begun_anew(database: MyDatabase, twin: Twin) -> None:
    settings = config(database)
    source = streaming(settings, twin)
    run(database, "INSERT INTO t VALUES (1)")
    equal(source, twin, database)
    source.close()
    purge(database)
    source = opened(settings, twin)  # by GTID: nothing that we lack is gone
    run(database, "INSERT INTO t VALUES (2)")
    equal(source, twin, database)
    assert twin.ops["r"] == 1
    source.close()
    run(database, "INSERT INTO t VALUES (3)", "DELETE FROM t WHERE id = 1")
    purge(database)
    lost(settings, twin, "purged")
    anew(settings, twin, database).close()
    run(database, "RESET MASTER" if database.server.is_mariadb else "RESET BINARY LOGS AND GTIDS", "DELETE FROM t WHERE id = 2")
    lost(settings, twin, "does not know transactions")
    anew(settings, twin, database).close()
    with prepared(database, "open", 90):
        run(database, "INSERT INTO t VALUES (91)")
        source = opened(settings, twin)
        until(source, twin, lambda: (91,) in twin.rows("t"))
        source.close()
        purge(database)
        lost(settings, twin, "which is still needed")
        run(database, "INSERT INTO t VALUES (92)")
    poll(lambda: committed(database, "open"), "the prepared transaction is still held")
    anew(settings, twin, database).close()
    assert (90,) in twin.rows("t")


def committed(database: MyDatabase, xid: str) -> bool:
    """MariaDB gives a prepared transaction free some time after its connection has gone."""
    try:
        run(database, f"XA COMMIT '{xid}'")
    except pymysql.OperationalError:
        return False
    return True


# Other servers


def test_27_and_33_promotion_of_a_replica(database: MyDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only replica is a source, by an ordinary user's rights. Once it is promoted it is followed by who followed the primary."""
    monkeypatch.setenv("CDC_PASSWORD", PASSWORD)
    primary = database.server
    assert isinstance(primary, MySQLServer)
    twin, second, midway, open_xa = (Twin(name) for name in ("shop", "second", "midway", "xa"))
    with MySQLServer(primary.flavour) as replica, ExitStack() as stack:
        for each in (twin, second, midway, open_xa):
            stack.callback(each.close)
        replicate(primary, replica)
        await_replica(primary, replica)
        there = MyDatabase(replica, database.name, database.connection)
        run(there, "SET GLOBAL read_only = ON")
        moved = config(there, url=replica.url(database.name, USER), password_env="CDC_PASSWORD")
        source, from_replica = streaming(config(database), twin), streaming(moved, second)
        run(database, "INSERT INTO t VALUES (1), (2)", "UPDATE u SET v = 'primary'", "ALTER TABLE u ADD w int")
        tagged = "SET SESSION gtid_domain_id = 5" if primary.is_mariadb else "SET SESSION gtid_next = 'AUTOMATIC:shop'"
        run(database, tagged, "INSERT INTO t VALUES (3)")
        equal(source, twin, database)
        equal(from_replica, second, database)
        source.close()
        until(opened(config(database, snapshot_workers=1), midway), midway, lambda: "t" in midway.snapshots)
        midway.close()
        assert not midway.done("t")
        with_open_xa(database, open_xa)
        await_replica(primary, replica)
        run(there, "STOP REPLICA", "RESET REPLICA ALL", "SET GLOBAL read_only = OFF", "INSERT INTO t VALUES (5)")
        run(database, "INSERT INTO t VALUES (404)")
        lost(moved, open_xa, "a prepared XA transaction was open")
        poll(lambda: committed(there, "open"), "the prepared transaction is still held")
        for _ in range(2):  # first by GTID, then by file and offset again
            source = opened(moved, twin)
            run(there, "INSERT INTO t SELECT MAX(id) + 1 FROM t")
            equal(source, twin, there)
            source.close()
        equal(from_replica, second, there)
        equal(opened(moved, midway), midway, there)
        anew(moved, open_xa, there)
        lost(config(database), twin, "does not know transactions")
        assert (twin.ops["r"], second.ops["r"]) == (1, 1), "nothing was copied anew"


def with_open_xa(database: MyDatabase, twin: Twin) -> None:
    """A reader stops while a transaction is prepared, whose connection goes."""
    source = streaming(config(database), twin)
    with prepared(database, "open", 90):
        run(database, "UPDATE u SET w = 4")
        equal(source, twin, database)
    source.close()
    assert checkpoint(twin).reread is not None


def test_33_two_readers_of_one_store(any_mysql_database: MyDatabase, twin: Twin) -> None:
    """A server keeps one stream per replica: the first reader is told, and does not fight for it."""
    database = any_mysql_database
    run(database, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY, v text)")
    first, second = streaming(config(database), twin), Twin()
    run(database, "INSERT INTO t VALUES (1)")
    equal(first, twin, database)
    other = streaming(config(database), second)
    run(database, "INSERT INTO t VALUES (2)")
    equal(other, second, database)
    raised(first, twin, SourceError, "another replica has connected in our place")
    second.close()


# The network


@pytest.fixture
def proxied(any_mysql_database: MyDatabase) -> Iterator[tuple[MyDatabase, Proxy, SourceConfig]]:
    """A database, the proxy between, and the config that goes through it."""
    database, server = any_mysql_database, any_mysql_database.server
    run(database, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int PRIMARY KEY, v text)")
    with closing(database.server.connect(database.name, autocommit=False)) as connection, connection.cursor() as cursor:
        cursor.executemany("INSERT INTO u VALUES (%s, %s)", [(n, "x" * 200) for n in range(3000)])
        connection.commit()
    with Proxy(server.host, server.port) as proxy:
        url = database.url.replace(f":{server.port}/", f":{proxy.port}/")
        yield database, proxy, config(database, url=url, snapshot_chunk=64 << 10, batch_size_max=64 << 10)


def test_39_connections_that_break(proxied: tuple[MyDatabase, Proxy, SourceConfig], twin: Twin) -> None:
    """While tables are copied and while they are streamed, at any place; the network is slow, too."""
    database, proxy, settings = proxied
    proxy.delay_s = 0.005
    for steps in (0, 2, 5):
        source = opened(settings, twin)
        for _ in range(steps):
            step(source, twin)
        proxy.reset()
        with suppress(SourceUnavailable):  # unless the copy was just done with its connections
            for _ in range(3):
                step(source, twin)
        source.close()
    run(database, "UPDATE u SET v = 'changed' WHERE id % 10 = 0")
    source = reopened(settings, twin)
    until(source, twin, lambda: twin.done("u") and twin.done("t"))
    for number in range(3):
        run(database, f"INSERT INTO t VALUES ({number})", f"INSERT INTO u SELECT id + {3000 * (number + 1)}, v FROM u LIMIT 2000")
        for _ in range(number + 1):
            step(source, twin)
        proxy.reset()
        raised(source, twin, SourceUnavailable, "can't be reached")
        proxy.refuse()
        with pytest.raises(SourceUnavailable):
            opened(settings, twin)
        proxy.accept()
        source = reopened(settings, twin)
    equal(source, twin, database)
    assert len(source_rows(database.connection, "t", twin.schemas["t"])) == twin.ops["c"] - 6000
    source.close()


@pytest.mark.parametrize("any_mysql", [DEFAULT_FLAVOUR], indirect=True)
def test_33_a_half_open_connection(proxied: tuple[MyDatabase, Proxy, SourceConfig], twin: Twin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "DEAD_SECONDS", 1.0)
    database, proxy, settings = proxied
    source = streaming(settings, twin)
    run(database, "INSERT INTO t VALUES (1)")
    equal(source, twin, database)
    proxy.freeze()
    run(database, "INSERT INTO t VALUES (2)")
    raised(source, twin, SourceUnavailable, "has sent nothing")
    proxy.reset()
    proxy.thaw()
    monkeypatch.undo()
    source = reopened(settings, twin)
    equal(source, twin, database)
    source.close()
