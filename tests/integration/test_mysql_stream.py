"""The stream against real servers: every event arrives as it stands in the file, and where reading can't go on it is said why."""

from __future__ import annotations

import itertools
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import pymysql
import pytest

from cdc.config import SourceConfig
from cdc.decode.mysql.gtid import Gtids, GtidSet
from cdc.decode.mysql.position import BinlogPosition
from cdc.errors import ConfigError, LedgertailError, PositionLost, SourceError, SourceUnavailable
from cdc.sources.mysql import replication
from cdc.sources.mysql.connection import connect, hang_up, place, query, translated, translation
from cdc.sources.mysql.replication import FromFile, FromGtids, Replica, Start, Stream
from cdc.sources.mysql.server import born, expiry_seconds, files, head, identify, resumable
from tests.servers.certificates import certificate
from tests.servers.mysql import PASSWORD, USER, MyDatabase, MySQLServer, RunningMySQL, await_replica, replicate, rows
from tests.servers.mysql_binaries import FLAVOURS
from tests.servers.own_server import poll
from tests.servers.proxy import Proxy

PATIENCE_SECONDS = 60
FORMAT, PREVIOUS_GTIDS, GTID_LIST, BINLOG_CHECKPOINT, ROTATE, HEARTBEATS = 15, 35, 163, 161, 4, (27, 41)
GTID_EVENTS = (33, 42, 162)
BINLOG_NAME = b"binlog.00000"
STORE = itertools.count(1)


def config(url: str, **options: Any) -> SourceConfig:
    return SourceConfig(**{"url": url, "tables": ["t"], **options})


def me(settings: SourceConfig) -> Replica:
    """Somebody whom no other test's stream ends."""
    return replication.replica("shop", settings, f"{next(STORE)}")


def here(settings: SourceConfig) -> BinlogPosition:
    """The end of the log, as a checkpoint has it."""
    with translated("shop", settings), closing(connect("shop", settings)) as connection:
        position = head(connection, identify(connection))
        return replace(position, born=born("shop", settings, position.file))


def way_on(settings: SourceConfig, position: BinlogPosition) -> Start:
    with translated("shop", settings), closing(connect("shop", settings)) as connection:
        return resumable("shop", settings, connection, identify(connection), position)


@contextmanager
def streaming(settings: SourceConfig, start: Start, replica: Replica | None = None) -> Iterator[Stream]:
    stream = Stream("shop", settings, replica or me(settings), start)
    try:
        yield stream
    finally:
        stream.close()


def read(stream: Stream, enough: Callable[[list[bytes]], bool], size_max: int = 1 << 20) -> list[bytes]:
    """Read until `enough`; what came, without what the server makes up and with all checksums proven."""
    events: list[bytes] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not enough(events):
        assert time.monotonic() < deadline, [event[4] for event in events][-20:]
        came: list[bytes] = []
        assert stream.receive(came, size_max, 1.0) == sum(map(len, came))
        for event in came:
            assert int.from_bytes(event[9:13], "little") == len(event)
            assert zlib.crc32(event[:-4]) == int.from_bytes(event[-4:], "little")
        events += [event for event in came if not made_up(event)]
    return events


def made_up(event: bytes) -> bool:
    """Whether an event stands in no file, or before the place: a heartbeat, the first ROTATE, a format description, a state of GTIDs."""
    artificial = event[17] & 0x20 or (event[4] == ROTATE and not any(event[:4]))
    return event[4] in HEARTBEATS or event[4] in (FORMAT, PREVIOUS_GTIDS, GTID_LIST, BINLOG_CHECKPOINT) or bool(artificial)


def until(needle: bytes) -> Callable[[list[bytes]], bool]:
    """Until the transaction of a row that holds `needle` is there, with its commit."""
    return lambda events: any(needle in event for event in events[:-1]) and events[-1][4] == 16


def lengths(events: list[bytes]) -> list[int]:
    return [len(event) for event in events]


def in_file(database: MyDatabase, position: BinlogPosition) -> list[int]:
    """The lengths of what the file has from a position on, as the server tells; without the statements, which are not asked for."""
    told = database.execute(f"SHOW BINLOG EVENTS IN '{position.file}' FROM {position.offset}")
    starts = [start for _, start, *_ in told] + [here(config(database.url)).offset]
    return [end - start for (_, start, kind, *_), end in zip(told, starts[1:], strict=True) if kind != "Annotate_rows"]


@pytest.fixture(params=FLAVOURS)
def server(request: pytest.FixtureRequest) -> Iterator[MySQLServer]:
    """A server of the test's own, to be broken."""
    with MySQLServer(request.param) as own:
        own.create_database("shop")
        run(own, "CREATE TABLE shop.t (id int PRIMARY KEY AUTO_INCREMENT, v longblob)")
        yield own


def run(server: RunningMySQL, *statements: str) -> list[tuple[Any, ...]]:
    with closing(server.connect()) as connection:
        return [row for statement in statements for row in rows(connection, statement)]


def write(server: RunningMySQL, *values: str) -> None:
    run(server, *(f"INSERT INTO shop.t (v) VALUES ('{value}')" for value in values))


def reset(server: RunningMySQL) -> None:
    run(server, "RESET MASTER" if server.is_mariadb else "RESET BINARY LOGS AND GTIDS")


def purge(server: RunningMySQL) -> None:
    """Leave only the newest file of the log. One that a session of ours was reading a moment ago may have to be asked for again."""
    run(server, "FLUSH BINARY LOGS")
    if server.is_mariadb and run(server, "SHOW GLOBAL VARIABLES LIKE 'slave_connections_needed_for_purge'"):
        run(server, "SET GLOBAL slave_connections_needed_for_purge = 0")

    def purged() -> bool:
        run(server, f"PURGE BINARY LOGS TO '{run(server, 'SHOW BINARY LOGS')[-1][0]}'")
        return len(run(server, "SHOW BINARY LOGS")) == 1

    poll(purged, "the log is not purged")


# What is sent


def test_every_event_arrives_as_it_stands_in_the_file(any_mysql_database: MyDatabase) -> None:
    settings = config(any_mysql_database.url)
    before = here(settings)
    any_mysql_database.execute("CREATE TABLE t (id int PRIMARY KEY, v varchar(100))")
    for number in range(5):
        any_mysql_database.execute(f"INSERT INTO t VALUES ({number}, 'row {number}')")
    any_mysql_database.execute("UPDATE t SET v = concat(v, ' the last')")
    by_file = FromFile(before.file, before.offset)
    with streaming(settings, by_file) as stream:
        events = read(stream, until(b"the last"))
    assert lengths(events) == in_file(any_mysql_database, before)
    with streaming(settings, by_file) as stream:
        assert read(stream, until(b"the last"), size_max=1) == events, "one by one"
    assert before.gtids is not None or any_mysql_database.server.is_mariadb
    with streaming(settings, FromGtids(before.gtids or GtidSet())) as stream:
        assert read(stream, until(b"the last"))[-len(events) :] == events


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_blocks_may_end_anywhere(mysql_database: MyDatabase, monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    settings = config(mysql_database.url)
    mysql_database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    before = here(settings)
    for number in range(20):
        mysql_database.execute(f"INSERT INTO t VALUES ({number}, repeat('x', {number * 97}))")
    mysql_database.execute("INSERT INTO t VALUES (99, 'the last')")
    monkeypatch.setattr(replication, "BLOCK_BYTES", block)
    with streaming(settings, FromFile(before.file, before.offset)) as stream:
        assert lengths(read(stream, until(b"the last"), size_max=500)) == in_file(mysql_database, before)


def test_large_events(any_mysql_database: MyDatabase) -> None:
    """Beyond 16 MiB an event takes several packets, of which the last is empty if it just fits. No max_allowed_packet stands in the way."""
    settings = config(any_mysql_database.url)
    execute = any_mysql_database.execute
    execute("CREATE TABLE t (id int PRIMARY KEY, a longblob, b longblob, c longblob)")
    before = here(settings)
    execute("INSERT INTO t VALUES (0, repeat('x', 1000), '', '')")
    with streaming(settings, FromFile(before.file, before.offset)) as stream:
        first = read(stream, until(b"x" * 1000))
        head_size = max(map(len, first)) - 1000
        for number, size in enumerate([0xFFFFFD, 0xFFFFFE, 0xFFFFFF, 2 * 0xFFFFFF - 1, 40_000_000], 1):
            left = size - head_size
            parts = ", ".join(f"repeat('{number}', {max(0, min(left - at, 15_000_000))})" for at in (0, 15_000_000, 30_000_000))
            execute(f"INSERT INTO t VALUES ({number}, {parts})")
            events = read(stream, until(f"{number}".encode() * 1000))
            assert size in map(len, events)
        execute("INSERT INTO t VALUES (99, 'the last', '', '')")
        read(stream, until(b"the last"))


def test_what_is_written_while_we_read_arrives(any_mysql_database: MyDatabase) -> None:
    """Over a rotation of the log, and by a replica that the server lists under its name."""
    settings = config(any_mysql_database.url)
    any_mysql_database.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    before = here(settings)
    with streaming(settings, FromFile(before.file, before.offset)) as stream:
        any_mysql_database.execute("INSERT INTO t VALUES (1, 'first')")
        read(stream, until(b"first"))
        listed = any_mysql_database.execute("SHOW REPLICA HOSTS" if any_mysql_database.server.is_mariadb else "SHOW REPLICAS")
        assert (stream._replica.server_id, "ledgertail") in [row[:2] for row in listed]
        any_mysql_database.execute("FLUSH BINARY LOGS")
        any_mysql_database.execute("INSERT INTO t VALUES (2, 'second')")
        events = read(stream, until(b"second"))
        assert [event[4] for event in events].count(ROTATE) == 1


def test_tagged_transactions(mysql_database: MyDatabase) -> None:
    """A set with tags is encoded as the server does it, asked for, and only what is not in it is sent."""
    settings = config(mysql_database.url)
    execute = mysql_database.execute
    execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    for number, tag in enumerate(["a_tag", "z", "a_tag"]):
        execute(f"SET gtid_next = 'AUTOMATIC:{tag}'")
        execute(f"INSERT INTO t VALUES ({number}, 'known')")
    execute("SET gtid_next = '3e11fa47-71ca-11e1-9e33-c80aa9429562:other:17'")
    execute("INSERT INTO t VALUES (4, 'known')")
    execute("SET gtid_next = AUTOMATIC")
    before = here(settings)
    execute("INSERT INTO t VALUES (5, 'new')")
    execute("SET gtid_next = 'AUTOMATIC:a_tag'")
    execute("INSERT INTO t VALUES (6, 'the last')")
    execute("SET gtid_next = AUTOMATIC")
    assert before.gtids is not None
    with streaming(settings, FromGtids(before.gtids)) as stream:
        events = read(stream, until(b"the last"))
        assert len([event for event in events if event[4] in GTID_EVENTS]) == 2
    ((executed,),) = execute("SELECT @@GLOBAL.gtid_executed")
    assert str(GtidSet.parse(executed)) == executed.replace("\n", "")
    execute("FLUSH BINARY LOGS")
    newest = [file for file, *_ in execute("SHOW BINARY LOGS")][-1]
    with streaming(settings, FromFile(newest, 4)) as stream:
        came: list[bytes] = []
        while PREVIOUS_GTIDS not in [event[4] for event in came]:
            stream.receive(came, 1 << 20, 1.0)
    (previous,) = (event[19:-4] for event in came if event[4] == PREVIOUS_GTIDS)
    assert previous == GtidSet.parse(executed).encode()
    assert GtidSet.decode(previous) == GtidSet.parse(executed)


def test_texts_of_gtid_sets_are_the_servers(mysql_database: MyDatabase) -> None:
    uuid, other = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "1e11fa47-71ca-11e1-9e33-c80aa9429562"
    told = f"{uuid}:7-9:1-5,{uuid}:Tag:3:1-2:zz:9,{uuid}:tag_a:3:tag0:4:taga:4:1,{other}:zz:1,{uuid}:_:8,{uuid}:9223372036854775806"
    ((text,),) = mysql_database.execute("SELECT GTID_SUBTRACT(%s, '')", [told])
    assert str(GtidSet.parse(told)) == text.replace("\n", "")


@pytest.mark.parametrize("flavour", [name for name, flavour in FLAVOURS.items() if flavour.is_mariadb])
def test_a_semi_synchronous_source(flavour: str) -> None:
    """We ask for no semi-synchronous replication: events come without its header, and the server waits for nobody."""
    with MySQLServer(flavour, {"rpl_semi_sync_master_enabled": "ON", "rpl_semi_sync_master_timeout": 1, "read_only": "ON"}) as server:
        settings = config(server.url("mysql"))
        before = here(settings)
        server.create_database("shop")
        with streaming(settings, FromFile(before.file, before.offset)) as stream:
            run(server, "CREATE TABLE shop.t (id int PRIMARY KEY, v text)", "INSERT INTO shop.t VALUES (1, 'the last')")
            assert until(b"the last")(read(stream, until(b"the last")))


# What breaks


def test_silence_is_noticed(any_mysql_database: MyDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats tell an idle server from a network that is half open."""
    for key in ("master_heartbeat_period", "source_heartbeat_period"):
        monkeypatch.setitem(replication._VARIABLES, key, str(10**8))
    monkeypatch.setattr(replication, "DEAD_SECONDS", 4.0)
    server = any_mysql_database.server
    with Proxy(server.host, server.port) as proxy:
        before = here(config(any_mysql_database.url))
        settings = config(any_mysql_database.url.replace(f":{server.port}/", f":{proxy.port}/"))
        with streaming(settings, FromFile(before.file, before.offset)) as stream:
            for _ in range(5):
                stream.receive([], 1 << 20, 1.0)
            proxy.freeze()
            with pytest.raises(SourceUnavailable, match="has sent nothing for 4 s") as raised:
                read(stream, lambda _: False)
            assert raised.value.code == "source.silent"
            proxy.reset()
            proxy.thaw()
            with pytest.raises(SourceUnavailable):
                read(stream, lambda _: False)


def test_a_mute_server_is_given_up(mysql: RunningMySQL) -> None:
    with Proxy(mysql.host, mysql.port) as proxy:
        proxy.freeze()
        settings = config(f"mysql://root@127.0.0.1:{proxy.port}/mysql", options={"connect_timeout": "1"})
        with pytest.raises(SourceUnavailable, match=f"127.0.0.1:{proxy.port}/mysql"):
            connect("shop", settings)
        proxy.reset()
        proxy.thaw()
        proxy.refuse()
        with pytest.raises(SourceUnavailable, match="refused"):
            connect("shop", settings)
        proxy.accept()
        with translated("shop", settings), closing(connect("shop", settings, silence_seconds=1)) as connection:
            assert query(connection, "SELECT 1") == [(1,)]
            proxy.freeze()
            with pytest.raises(SourceUnavailable), translated("shop", settings):
                query(connection, "SELECT 1")
        proxy.reset()
        proxy.thaw()


def test_a_server_that_stops_or_dies(server: MySQLServer) -> None:
    settings = config(server.url("shop"))
    for end in (server.stop, server.kill):
        before = here(settings)
        with streaming(settings, FromFile(before.file, before.offset)) as stream:
            write(server, "seen")
            read(stream, until(b"seen"))
            end()
            with pytest.raises(SourceUnavailable):
                read(stream, lambda _: False)
            with pytest.raises(SourceUnavailable):
                connect("shop", settings)
        server.start()
        assert isinstance(way_on(settings, before), FromFile)
        with streaming(settings, FromFile(before.file, before.offset)) as stream:
            write(server, "after the restart")
            assert b"seen" in b"".join(read(stream, until(b"after the restart")))


def test_the_same_replica_twice(any_mysql_database: MyDatabase) -> None:
    """The former stream is ended, and says so rather than to come back and end the other."""
    settings = config(any_mysql_database.url)
    before = here(settings)
    same = me(settings)
    with streaming(settings, FromFile(before.file, before.offset), same) as first:
        first.receive([], 1 << 20, 1.0)
        with streaming(settings, FromFile(before.file, before.offset), same) as second:
            second.receive([], 1 << 20, 1.0)
            with pytest.raises(SourceError) as raised:
                read(first, lambda _: False)
            any_mysql_database.execute("CREATE TABLE t (id int)")
            any_mysql_database.execute("INSERT INTO t VALUES (1)")
            assert read(second, lambda events: bool(events) and events[-1][4] == 16)
    assert raised.value.code == "mysql.collision"


# Where reading can't go on


def test_places_that_are_none(any_mysql_database: MyDatabase) -> None:
    settings = config(any_mysql_database.url)
    before = here(settings)
    for start in (FromFile("binlog.999999", 4), FromFile(before.file, 1 << 31), FromFile(before.file, before.offset - 3)):
        with pytest.raises(PositionLost) as raised, streaming(settings, start) as stream:
            read(stream, lambda _: False)
        assert raised.value.code == "mysql.log_lost"


def test_a_purged_log(server: MySQLServer) -> None:
    settings = config(server.url("shop"))
    write(server, "seen")
    before = here(settings)
    write(server, "not seen")
    later = here(settings)
    purge(server)
    with pytest.raises(PositionLost, match="binlog"):
        way_on(settings, replace(before, gtids=None))
    with pytest.raises(PositionLost), streaming(settings, way_on(settings, before)) as stream:  # MariaDB says it when it is asked
        read(stream, lambda _: False)
    start = way_on(settings, later)
    assert isinstance(start, FromGtids), "nothing that is purged is missing"
    with streaming(settings, start) as stream:
        write(server, "the last")
        events = read(stream, until(b"the last"))
        assert len([event for event in events if event[4] in GTID_EVENTS]) == 1
    with pytest.raises(PositionLost) as raised:
        way_on(settings, replace(later, reread=(before.file, before.offset)))
    assert raised.value.code == "mysql.log_purged"


def test_a_reset_log(server: MySQLServer) -> None:
    settings = config(server.url("shop"))
    write(server, "seen")
    before = here(settings)
    assert way_on(settings, before) == FromFile(before.file, before.offset)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while before.born == here(settings).born:  # in the same second it would be the same file to us, did the GTIDs not tell
        assert time.monotonic() < deadline
        reset(server)
    write(server, *["as long as before" * 100] * 3)
    with pytest.raises(PositionLost) as raised:
        way_on(settings, before)
    assert raised.value.code == "mysql.history_lost"
    with pytest.raises(PositionLost) as raised:
        way_on(settings, replace(before, gtids=None))
    assert raised.value.code == "mysql.log_reset"
    with pytest.raises(PositionLost) as raised:
        way_on(settings, replace(before, gtids=None, file="binlog.000077"))
    assert raised.value.code == "mysql.log_reset"


def test_a_server_restored_from_a_backup(server: MySQLServer) -> None:
    settings = config(server.url("shop"))
    write(server, "in the backup")
    server.stop()
    shutil.copytree(server.data, server.folder / "backup")
    server.start()
    write(server, "seen")
    before = here(settings)
    server.stop()
    shutil.rmtree(server.data)
    (server.folder / "backup").rename(server.data)
    for path in (server.data, *server.data.rglob("*")):
        server.account.own(path)
    server.start()
    with pytest.raises(PositionLost) as raised:
        way_on(settings, before)
    assert raised.value.code == "mysql.history_lost"
    with pytest.raises(PositionLost) as raised:
        way_on(settings, replace(before, gtids=None))
    assert raised.value.code in ("mysql.log_reset", "mysql.log_shortened")


def test_a_log_that_lost_its_end(server: MySQLServer) -> None:
    settings = config(server.url("shop"))
    write(server, "seen")
    before = here(settings)
    with pytest.raises(PositionLost) as raised:
        way_on(settings, replace(before, offset=before.offset + 1000))
    assert raised.value.code == "mysql.log_shortened"


def test_a_promoted_replica(server: MySQLServer) -> None:
    """It is followed by GTID, once it has all that we have; without GTIDs, or with an open prepared transaction, it is not."""
    with MySQLServer(server.flavour) as other:
        replicate(server, other)
        write(server, "seen")
        await_replica(server, other)
        before, moved = here(config(server.url("shop"))), config(other.url("shop"))
        write(server, "not seen")
        await_replica(server, other)
        run(other, "STOP REPLICA IO_THREAD")
        write(server, "not replicated")
        ahead = here(config(server.url("shop")))
        with pytest.raises(SourceUnavailable) as behind:
            way_on(moved, ahead)
        assert behind.value.code == "mysql.replica_behind"
        run(other, "STOP REPLICA")
        with pytest.raises(PositionLost) as raised:
            way_on(moved, ahead)
        assert raised.value.code == "mysql.history_lost"
        write(other, "the last")
        start = way_on(moved, before)
        assert isinstance(start, FromGtids)
        with streaming(moved, start) as stream:
            seen = b"".join(read(stream, until(b"the last")))
        assert b"not seen" in seen
        assert seen.count(b"seen") == 1
        for lacking, code in (
            (replace(before, gtids=None), "source.other_server"),
            (replace(before, reread=("x.000001", 4)), "mysql.xa_open"),
        ):
            with pytest.raises(PositionLost) as raised:
                way_on(moved, lacking)
            assert raised.value.code == code
        purge(other)
        with pytest.raises(PositionLost), streaming(moved, way_on(moved, before)) as stream:
            read(stream, lambda _: False)


def test_what_is_still_being_committed() -> None:
    """MySQL sends a transaction before it is committed; it waits for a semi-synchronous replica that may not be there."""
    with MySQLServer("mysql-9") as server:
        server.create_database("shop")
        run(server, "CREATE TABLE shop.t (id int PRIMARY KEY AUTO_INCREMENT, v text)")
        run(server, "INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'", "SET GLOBAL rpl_semi_sync_source_timeout = 600000")
        settings = config(server.url("shop"))
        before = here(settings)
        assert isinstance(before.gtids, GtidSet)
        run(server, "SET GLOBAL rpl_semi_sync_source_enabled = ON")
        writer = threading.Thread(target=write, args=(server, "the last"))
        writer.start()
        try:
            with streaming(settings, FromFile(before.file, before.offset)) as stream:
                events = read(stream, until(b"the last"))
            number = int.from_bytes(events[0][36:44], "little")
            seen = replace(before, offset=int.from_bytes(events[-1][13:17], "little"), gtids=before.gtids.add(f"{before.server}:{number}"))
            assert here(settings).gtids == before.gtids, "it is not committed"
            assert way_on(settings, seen) == FromFile(seen.file, seen.offset)
        finally:
            run(server, "SET GLOBAL rpl_semi_sync_source_enabled = OFF")
            writer.join()


def test_another_server_altogether(server: MySQLServer) -> None:
    with MySQLServer(server.flavour) as other:
        other.create_database("shop")
        write(server, "seen")
        with pytest.raises(PositionLost) as raised:
            way_on(config(other.url("shop")), here(config(server.url("shop"))))
        assert raised.value.code == "mysql.history_lost"


def test_beyond_4_gib(any_mysql_database: MyDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    """COM_BINLOG_DUMP can't ask for such a place: GTIDs can."""
    settings = config(any_mysql_database.url)
    any_mysql_database.execute("CREATE TABLE t (id int)")
    before = here(settings)
    monkeypatch.setattr("cdc.sources.mysql.server.OFFSET_MAX", before.offset - 1)
    assert way_on(settings, before) == FromGtids(_not_none(before.gtids))
    with pytest.raises(PositionLost) as raised:
        way_on(settings, replace(before, gtids=None))
    assert raised.value.code == "mysql.offset"


def _not_none(gtids: Gtids | None) -> Gtids:
    assert gtids is not None
    return gtids


def test_domains(server: MySQLServer) -> None:
    """Each domain goes on from its own last transaction; one that was deleted is no loss."""
    if not server.is_mariadb:
        pytest.skip("MySQL has no domains")
    settings = config(server.url("shop"))
    with closing(server.connect()) as connection:
        for domain in (7, 0, 9):
            rows(connection, f"SET gtid_domain_id = {domain}")
            rows(connection, "INSERT INTO shop.t (v) VALUES ('seen')")
        before = here(settings)
        assert {gtid.split("-")[0] for gtid in str(before.gtids).split(",")} == {"0", "7", "9"}
        for domain in (9, 7):
            rows(connection, f"SET gtid_domain_id = {domain}")
            rows(connection, "INSERT INTO shop.t (v) VALUES ('new')")
        rows(connection, "INSERT INTO shop.t (v) VALUES ('the last')")
    with streaming(settings, FromGtids(_not_none(before.gtids))) as stream:
        events = read(stream, until(b"the last"))
        assert len([event for event in events if event[4] in GTID_EVENTS]) == 3
    purge(server)
    purge(server)
    run(server, "FLUSH BINARY LOGS DELETE_DOMAIN_ID=(9)")
    after = here(settings)
    assert isinstance(way_on(settings, replace(after, gtids=_not_none(after.gtids).add("9-1-1"))), FromFile)


def test_without_gtids() -> None:
    with MySQLServer("mysql-9", {"gtid_mode": "OFF", "enforce_gtid_consistency": "OFF"}) as server:
        server.create_database("shop")
        settings = config(server.url("shop"))
        before = here(settings)
        assert before.gtids is None
        assert way_on(settings, before) == FromFile(before.file, before.offset)
        with pytest.raises(PositionLost) as raised:
            way_on(settings, replace(before, server="another"))
        assert raised.value.code == "source.other_server"
        with pytest.raises(SourceError) as refused, streaming(settings, FromGtids(GtidSet())) as stream:
            read(stream, lambda _: False)
        assert refused.value.code == "mysql.gtid_off"


def test_without_a_log() -> None:
    with MySQLServer("mysql-9", {"log_bin": None, "skip_log_bin": "", "gtid_mode": "OFF"}) as server:
        settings = config(server.url("mysql"))
        with pytest.raises(SourceError) as raised:
            here(settings)
        assert raised.value.code == "mysql.no_binlog"


# Connections


def test_sessions_are_set_alike(any_mysql: RunningMySQL) -> None:
    settings = config(any_mysql.url("mysql"))
    wanted = "@@time_zone, @@sql_mode, @@autocommit, @@character_set_client, @@lock_wait_timeout, DATABASE()"
    with translated("shop", settings), closing(connect("shop", settings)) as connection:
        assert query(connection, f"SELECT {wanted}") == [("+00:00", "", 1, "utf8mb4", 1, "mysql")]
        assert query(connection, "SELECT %s", ("汉'\\",)) == [("汉'\\",)]
        assert identify(connection).mariadb == any_mysql.is_mariadb
        assert ".".join(map(str, identify(connection).version)) == any_mysql.version
        assert list(files(connection).values())
        assert expiry_seconds(connection) == (None if any_mysql.is_mariadb else 30 * 86400)
    with translated("shop", settings), closing(connect("shop", settings, raw=True, database=False)) as connection:
        assert query(connection, "SELECT CONVERT('é' USING latin1), 1, NULL, %s, DATABASE()", ("汉",)) == [
            (b"\xe9", b"1", None, "汉".encode(), None)
        ]


@pytest.mark.parametrize(
    ("options", "url", "match"),
    [
        ({"color": "red"}, "mysql://u@localhost/shop", "color"),
        ({"ssl_mode": "maybe"}, "mysql://u@localhost/shop", "ssl_mode"),
        ({"ssl_mode": "disabled", "ssl_ca": "x"}, "mysql://u@localhost/shop", "ssl_ca"),
        ({"ssl_mode": "required", "ssl_ca": "x"}, "mysql://u@localhost/shop", "verify"),
        ({"ssl_ca": "/nowhere/ca.pem"}, "mysql://u@localhost/shop", "No such file"),
        ({"connect_timeout": "soon"}, "mysql://u@localhost/shop", "connect_timeout"),
        ({}, "mysql://u@localhost:99999/shop", "url"),
        ({}, "mysql://u@localhost/shop?ssl=1", "url"),
    ],
)
def test_wrong_options(options: dict[str, str], url: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        connect("shop", config(url, options=options))


def test_who_may_come_in(any_mysql: RunningMySQL, monkeypatch: pytest.MonkeyPatch) -> None:
    url = any_mysql.url("mysql", USER)

    def refusal(settings: SourceConfig, **options: Any) -> LedgertailError:
        with pytest.raises(SourceError) as raised, translated("shop", settings):
            hang_up(connect("shop", settings, **options))
        assert not isinstance(raised.value, SourceUnavailable)
        assert "kept out" not in f"{raised.value}{raised.value.hint}{raised.value.__cause__}"
        return raised.value

    monkeypatch.setenv("CDC_PASSWORD", "kept out, too")
    assert refusal(config(url, password_env="CDC_PASSWORD")).code == "source.password"
    assert refusal(config(url)).code == "source.password"
    monkeypatch.setenv("CDC_PASSWORD", PASSWORD)
    assert refusal(config(url, password_env="CDC_PASSWORD")).code == "source.privilege"  # not of that database
    assert refusal(config(any_mysql.url("nowhere"))).code == "source.no_database"
    hang_up(connect("shop", config(url, password_env="CDC_PASSWORD"), database=False))


def test_names_and_passwords_of_any_letters(any_mysql: RunningMySQL, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CDC_PASSWORD", "geheim: pässwort/密码")
    with closing(any_mysql.connect()) as connection:
        rows(connection, "CREATE USER 'a@b c/汉'@'%%' IDENTIFIED BY %s", ["geheim: pässwort/密码"])
        try:
            settings = config(any_mysql.url("mysql", "a@b c/汉"), password_env="CDC_PASSWORD")
            with closing(connect("shop", settings, database=False)) as own:
                assert query(own, "SELECT CURRENT_USER()") == [("a@b c/汉@%",)]
        finally:
            rows(connection, "DROP USER 'a@b c/汉'@'%'")


@pytest.fixture(params=FLAVOURS)
def tls_server(request: pytest.FixtureRequest) -> Iterator[MySQLServer]:
    """A server with a certificate for 127.0.0.1; beside it one for a client, and the authorities of both."""
    own = MySQLServer(request.param)
    authority, _, issuer = certificate("an authority", None)
    server_pem, server_key, _ = certificate("a server", issuer, "127.0.0.1")
    client_pem, client_key, _ = certificate("a client", issuer)
    stranger, _, _ = certificate("a stranger", None)
    pems = {"ca": authority, "cert": server_pem, "key": server_key, "client": client_pem, "client_key": client_key, "stranger": stranger}
    for name, pem in pems.items():
        (own.folder / f"{name}.pem").write_bytes(pem)
        own.account.own(own.folder / f"{name}.pem")
    own.settings |= {f"ssl_{name}": str(own.folder / f"{name}.pem") for name in ("ca", "cert", "key")}
    with own:
        own.create_database("shop")
        run(own, "CREATE TABLE shop.t (id int PRIMARY KEY AUTO_INCREMENT, v longblob)")
        yield own


def cipher(settings: SourceConfig) -> str:
    with translated("shop", settings), closing(connect("shop", settings)) as connection:
        return str(query(connection, "SHOW SESSION STATUS LIKE 'Ssl_cipher'")[0][1])


def test_tls(tls_server: MySQLServer) -> None:
    url, ca, stranger = (tls_server.url("shop"), str(tls_server.folder / "ca.pem"), str(tls_server.folder / "stranger.pem"))
    elsewhere = url.replace("127.0.0.1", "localhost")  # a name that is not in the certificate
    for good in (
        config(url),
        config(url, options={"ssl_mode": "required"}),
        config(url, options={"ssl_ca": ca}),
        config(url, options={"ssl_ca": ca, "ssl_mode": "verify_identity"}),
        config(elsewhere, options={"ssl_ca": ca}),
    ):
        assert cipher(good), good.options
    assert not cipher(config(url, options={"ssl_mode": "disabled"}))
    for bad in (
        config(url, options={"ssl_ca": stranger}),
        config(url, options={"ssl_mode": "verify_ca"}),  # the system's authorities do not know it
        config(elsewhere, options={"ssl_ca": ca, "ssl_mode": "verify_identity"}),
    ):
        with pytest.raises(SourceError, match=r"[Cc]ertificate") as raised:
            cipher(bad)
        assert raised.value.code == "mysql.refused"


def test_a_client_with_a_certificate(tls_server: MySQLServer) -> None:
    run(tls_server, "CREATE USER x509@'%' REQUIRE X509", "GRANT ALL ON shop.* TO x509@'%'")
    url = tls_server.url("shop", "x509")
    options = {"ssl_cert": str(tls_server.folder / "client.pem"), "ssl_key": str(tls_server.folder / "client_key.pem")}
    assert cipher(config(url, options=options))
    with pytest.raises(SourceError) as raised:
        cipher(config(url))
    assert raised.value.code == "source.password"


def test_a_stream_over_tls(tls_server: MySQLServer) -> None:
    """What TLS has decrypted before it was asked for is not forgotten, whatever the blocks."""
    settings = config(tls_server.url("shop"), options={"ssl_mode": "required"})
    before = here(settings)
    write(tls_server, "small", "x" * 20_000, *["between"] * 500)
    run(tls_server, "INSERT INTO shop.t (v) VALUES (repeat('y', 15000000))")
    write(tls_server, "the last")
    for size_max in (1 << 10, 1 << 24):
        with streaming(settings, FromFile(before.file, before.offset)) as stream:
            events = read(stream, until(b"the last"), size_max)
            assert len([event for event in events if event[4] in GTID_EVENTS]) == 504
            tls_server.kill()
            with pytest.raises(SourceUnavailable):
                read(stream, lambda _: False)
        tls_server.start()


def test_passwords_with_and_without_tls(tls_server: MySQLServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """caching_sha2_password asks for the password itself once: over TLS as it is, else enciphered for the server's key."""
    monkeypatch.setenv("CDC_PASSWORD", PASSWORD)
    for mode in ("disabled", "required"):
        tls_server.restart()  # the server forgets whom it knows
        settings = config(tls_server.url("shop", USER), password_env="CDC_PASSWORD", options={"ssl_mode": mode})
        for _ in range(2):
            hang_up(connect("shop", settings))


def test_a_socket_of_this_machine(server: MySQLServer) -> None:
    settings = config("mysql://root@localhost/shop", options={"unix_socket": str(server.folder / "socket")})
    before = here(settings)
    assert place(settings) == f"{server.folder / 'socket'}/shop"
    with streaming(settings, FromFile(before.file, before.offset)) as stream:
        write(server, "the last")
        assert read(stream, until(b"the last"))


@pytest.mark.parametrize(
    ("number", "cls", "code"),
    [
        (2013, SourceUnavailable, "source.unreachable"),
        (1040, SourceUnavailable, "source.unreachable"),
        (1053, SourceUnavailable, "source.unreachable"),
        (1205, SourceUnavailable, "source.unreachable"),
        (1927, SourceUnavailable, "source.unreachable"),
        (3024, SourceUnavailable, "source.unreachable"),
        (1142, SourceError, "source.privilege"),
        (1146, SourceError, "source.object_missing"),
        (1130, SourceError, "mysql.refused"),
        (1064, SourceError, "source.failed"),
    ],
)
def test_errors_become_ours(number: int, cls: type[SourceError], code: str) -> None:
    settings = config("mysql://cdc@db:3306/shop")
    error = translation("shop", settings, pymysql.OperationalError(number, "because"))
    assert (type(error), error.code) == (cls, code)
    assert "because" in error.message
