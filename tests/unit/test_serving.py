"""Reads over the socket, on a real DuckDB file with a writer at work."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from uuid import UUID

import duckdb
import pytest

from cdc.errors import ConfigError, LedgertailError, StoreError
from cdc.paths import Places, places
from cdc.serving import client, wire
from cdc.serving import server as serving
from cdc.serving.client import Down, Reader, Refused, ask
from cdc.serving.server import Server

Serve = Callable[..., tuple[duckdb.DuckDBPyConnection, Reader]]


def until(done: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lt-") as name:  # pytest's own folders may be too long for a socket's path
        yield Path(name)


@pytest.fixture
def serve(folder: Path) -> Iterator[Serve]:
    """A store with a writer's connection, and a reader of it through a server."""
    running: list[Server] = []
    store = duckdb.connect(str(folder / "ledger.duckdb"), config={"enable_external_access": "false"})

    def start(actions: dict[str, Callable[[dict[str, object]], object]] | None = None, mode: int = 0o600, **timeouts: float) -> object:
        where = Places(folder / "ledgertail.toml", "duckdb:ledger.duckdb", folder / "ledger.duckdb", folder / "s.sock")
        running.append(Server(where.socket, mode, store.cursor, actions or {}, **timeouts))
        running[-1].start()
        return store, Reader(where)

    yield start  # type: ignore[misc]
    for server in running:
        server.close()
    store.close()


def test_reads_see_whole_transactions_only_while_a_writer_commits(serve: Serve) -> None:
    store, reader = serve()
    store.execute("CREATE TABLE lines (batch BIGINT, debit DECIMAL(18, 2), credit DECIMAL(18, 2))")
    stop, committed = threading.Event(), [0]

    def write() -> None:
        cursor = store.cursor()
        while not stop.is_set():
            batch = committed[0] + 1
            cursor.execute("BEGIN")
            cursor.execute("INSERT INTO lines VALUES (?, 1.10, NULL), (?, 2.20, NULL)", [batch, batch])
            cursor.execute("INSERT INTO lines VALUES (?, NULL, 3.30)", [batch])
            cursor.execute("COMMIT")
            committed[0] = batch

    seen: list[tuple[int, int]] = []

    def poll() -> None:
        while not stop.is_set():
            before = committed[0]
            [row] = reader.query(
                "SELECT count(*) AS n, count(DISTINCT batch) AS batches, sum(coalesce(debit, -credit)) AS off FROM lines"
            ).to_pylist()
            assert row["off"] in (None, 0)
            assert row["n"] == 3 * row["batches"]
            seen.append((before, row["batches"]))

    errors: list[BaseException] = []

    def guarded(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - reported by the test's own thread
            errors.append(error)
            stop.set()

    threads = [threading.Thread(target=guarded, args=(work,)) for work in (write, poll, poll)]
    for thread in threads:
        thread.start()
    until(lambda: bool(errors) or len(seen) >= 60)
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors
    assert all(batches >= before for before, batches in seen), "a reader saw less than was committed before it asked"
    assert len({batches for _, batches in seen}) > 1


def test_a_long_answer_is_one_snapshot_and_the_writer_goes_on(serve: Serve) -> None:
    store, reader = serve()
    store.execute("CREATE TABLE t AS SELECT range AS i FROM range(2_000_000)")
    with reader.batches("SELECT i FROM t") as batches:
        rows = batches.read_next_batch().num_rows
        store.execute("DELETE FROM t")
        store.execute("INSERT INTO t VALUES (-1)")
        rows += sum(batch.num_rows for batch in batches)
    assert rows == 2_000_000
    assert reader.query("SELECT i FROM t").to_pylist() == [{"i": -1}]


def test_a_reader_that_stops_reading_is_dropped_and_the_writer_goes_on(serve: Serve, folder: Path) -> None:
    store, _ = serve(send_timeout_s=0.3)
    store.execute("CREATE TABLE t (i BIGINT)")
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.connect(str(folder / "s.sock"))
        hanging.sendall(wire.line({"do": "query", "sql": "SELECT range AS i FROM range(1_000_000_000)"}))
        until(lambda: any(t.name == "serving-reader" for t in threading.enumerate()))
        for i in range(20):
            store.execute("INSERT INTO t VALUES (?)", [i])
        until(lambda: not any(t.name.startswith("serving-") for t in threading.enumerate()))
    assert store.execute("SELECT count(*) FROM t").fetchone() == (20,)


def test_a_reader_that_says_nothing_is_dropped(serve: Serve, folder: Path) -> None:
    serve(send_timeout_s=0.2)
    with socket.socket(socket.AF_UNIX) as mute:
        mute.connect(str(folder / "s.sock"))
        mute.settimeout(30)
        assert mute.recv(1) == b""


def test_a_query_whose_reader_hung_up_is_interrupted(serve: Serve, folder: Path) -> None:
    serve()
    with socket.socket(socket.AF_UNIX) as leaving:
        leaving.connect(str(folder / "s.sock"))
        leaving.sendall(wire.line({"do": "query", "sql": _ENDLESS}))
        until(lambda: any(t.name == "serving-watch" for t in threading.enumerate()))
    until(lambda: not any(t.name.startswith("serving-") for t in threading.enumerate()))


_ENDLESS = "SELECT count(*) FROM range(10_000_000) a, range(10_000_000) b WHERE a.range + b.range = -1"


def test_a_query_over_time_ends_with_its_reason(serve: Serve) -> None:
    _, reader = serve(read_timeout_s=0.3)
    with pytest.raises(Refused) as raised:
        reader.query(_ENDLESS)
    assert raised.value.code == "serving.out_of_time"


def test_a_query_over_time_in_the_middle_of_its_answer_is_not_taken_for_whole(serve: Serve) -> None:
    _, reader = serve(read_timeout_s=0.5)
    with pytest.raises(Refused) as raised:
        reader.query("SELECT range AS i, random() AS r FROM range(10_000_000_000)").num_rows  # noqa: B018
    assert raised.value.code == "serving.out_of_time"


def test_a_query_that_fails_after_its_first_batches_fails_for_its_reader(serve: Serve) -> None:
    _, reader = serve()
    with pytest.raises(LedgertailError, match=r"late|Interrupted"):  # now and then DuckDB names the one, now the other
        reader.query("SELECT CASE WHEN range > 9_900_000 THEN error('late') ELSE 'x' END AS x FROM range(10_000_000)")


def test_the_number_of_running_queries_is_bounded(serve: Serve, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "QUERIES_MAX", 1)
    _, reader = serve({"status": lambda request: {"daemon": "up"}}, send_timeout_s=0.2)
    with socket.socket(socket.AF_UNIX) as first:
        first.connect(str(folder / "s.sock"))
        first.sendall(wire.line({"do": "query", "sql": _ENDLESS}))
        until(lambda: any(t.name == "serving-watch" for t in threading.enumerate()))
        with pytest.raises(Refused) as raised:
            reader.query("SELECT 1")
        assert raised.value.code == "serving.busy"
        assert reader.status() == {"daemon": "up"}
    until(lambda: not any(t.name == "serving-reader" for t in threading.enumerate()))
    assert reader.query("SELECT 1 AS one").to_pylist() == [{"one": 1}]


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("INSERT INTO t VALUES (2)", "serving.not_a_read"),
        ("DROP TABLE t", "serving.not_a_read"),
        ("SET threads = 1", "serving.not_a_read"),
        ("ATTACH ':memory:' AS other", "serving.not_a_read"),
        ("COPY t TO 'x.csv'", "serving.not_a_read"),
        ("CREATE TEMP TABLE x (i INT)", "serving.not_a_read"),
        ("PRAGMA enable_profiling", "serving.not_a_read"),
        ("EXPLAIN ANALYZE INSERT INTO t VALUES (2)", "serving.not_a_read"),
        ("SELECT 1; DELETE FROM t", "serving.not_a_read"),
        ("", "serving.not_a_read"),
        ("CHECKPOINT", "serving.not_a_read"),
        ("SELECT * FROM checkpoint()", "serving.refused"),
        ('SELECT (SELECT count(*) FROM system.main."force_checkpoint"())', "serving.refused"),
        ("EXPLAIN (SELECT write_log('x' /* ) FROM t -- */ ) )\n", "serving.refused"),
        ("FROM query('FROM checkpoint()')", "serving.refused"),
        ("SELECT nextval('numbers')", "serving.query"),
        ("SELECT * FROM read_text('/etc/passwd')", "serving.query"),
        ("SELECT * FROM '/etc/passwd'", "serving.query"),
        ("SELECT * FROM glob('/*')", "serving.query"),
        ("SELECT nope FROM t", "serving.query"),
        ("SELECT", "serving.query"),
    ],
)
def test_what_is_not_a_read_of_the_store_is_refused(serve: Serve, sql: str, code: str) -> None:
    store, reader = serve()
    store.execute("CREATE TABLE t AS SELECT 1 AS i")
    store.execute("CREATE SEQUENCE numbers")
    with pytest.raises(Refused) as raised:
        reader.query(sql)
    assert raised.value.code == code
    assert raised.value.hint
    assert store.execute("SELECT i FROM t").fetchall() == [(1,)]


@pytest.mark.parametrize(
    "sql", ["-- why\nEXPLAIN ANALYZE SELECT 1", "EXPLAIN (FORMAT json) FROM t", "DESCRIBE t", "SHOW TABLES", "FROM t", "VALUES (1);"]
)
def test_reads_of_every_kind_are_answered(serve: Serve, sql: str) -> None:
    store, reader = serve()
    store.execute("CREATE TABLE t AS SELECT 1 AS i")
    assert reader.query(sql).num_rows > 0


def test_values_arrive_without_loss(serve: Serve) -> None:
    _, reader = serve()
    sql = """
        SELECT '12345678901234567890123456789012.123456'::DECIMAL(38, 6) AS amount, 170141183460469231731687303715884105727 AS huge,
            340282366920938463463374607431768211455::UHUGEINT AS uhuge, '12:00:00+08'::TIMETZ AS zoned, '10100'::BIT AS bits, 1 AS one,
            '6a2f41a3-c54c-fce8-32d2-0324e1c32e22'::UUID AS id, '{"a": 1.10}'::JSON AS doc, ['12:00:00-03'::TIMETZ] AS zones, 2 AS one,
            '99999999999999999999999999999999999999999999999999'::BIGNUM AS big,
            '2026-11-22 10:00:00+08'::TIMESTAMPTZ AS at ; -- the 'end';"""
    table = reader.query(sql)
    assert table.column_names == ["amount", "huge", "uhuge", "zoned", "bits", "one", "id", "doc", "zones", "one", "big", "at"]
    assert [column[0].as_py() for column in table.columns] == [
        Decimal("12345678901234567890123456789012.123456"),
        Decimal("170141183460469231731687303715884105727"),
        "340282366920938463463374607431768211455",
        "12:00:00+08",
        "10100",
        1,
        "6a2f41a3-c54c-fce8-32d2-0324e1c32e22",
        '{"a": 1.10}',
        "['12:00:00-03']",
        2,
        "9" * 50,
        datetime(2026, 11, 22, 2, tzinfo=UTC),
    ]


def test_parameters_keep_their_types(serve: Serve) -> None:
    _, reader = serve()
    values = [Decimal("0.1"), date(2026, 11, 1), UUID(int=7), "x'; --", None, 3, True, datetime(2026, 11, 1, 12, tzinfo=UTC)]
    table = reader.query(
        "SELECT typeof($1) AS t, $1 + 0.2 AS amount, $2 AS d, $3::VARCHAR AS u, $4 AS s, $5 AS n, $6 AS i, $7 AS b, $8 AS at", values
    )
    assert table.to_pylist() == [
        {
            "t": "DECIMAL(1,1)",
            "amount": Decimal("0.3"),
            "d": values[1],
            "u": str(values[2]),
            "s": values[3],
            "n": None,
            "i": 3,
            "b": True,
            "at": values[7],
        }
    ]
    with pytest.raises(StoreError, match="bytes"):
        reader.query("SELECT ?", [b"x"])


def test_an_empty_answer_has_its_columns(serve: Serve) -> None:
    _, reader = serve()
    table = reader.query("SELECT 1.5 AS amount WHERE false")
    assert (table.num_rows, table.column_names) == (0, ["amount"])


def test_actions_answer_or_fail_with_their_reason(serve: Serve, folder: Path) -> None:
    def fail(request: dict[str, object]) -> object:
        raise StoreError("serving.refused", name=request["ids"])

    serve({"echo": lambda request: request, "fail": fail})
    path = folder / "s.sock"
    assert ask(path, {"do": "echo", "text": "税"}) == {"do": "echo", "text": "税"}
    with pytest.raises(Refused, match="7"):
        ask(path, {"do": "fail", "ids": 7})
    with pytest.raises(Refused, match="nothing-of-the-kind"):
        ask(path, {"do": "nothing-of-the-kind"})


@pytest.mark.parametrize(
    "request_line",
    [b"nonsense\n", b"[]\n", b'{"do": "query"}\n', b'{"do": "query", "sql": "SELECT ?", "parameters": [{"decimal": "x"}]}\n'],
)
def test_a_malformed_request_is_answered_with_an_error(serve: Serve, folder: Path, request_line: bytes) -> None:
    serve()
    with socket.socket(socket.AF_UNIX) as raw:
        raw.connect(str(folder / "s.sock"))
        raw.sendall(request_line)
        with raw.makefile("rb") as answer:
            assert json.loads(answer.readline())["error"]["code"] == "serving.request"


@pytest.mark.parametrize("mode", [0o600, 0o660])
def test_the_socket_has_the_mode_asked_for_whatever_the_umask(serve: Serve, folder: Path, mode: int) -> None:
    umask = os.umask(0o000)
    try:
        serve(mode=mode)
    finally:
        os.umask(umask)
    assert stat.S_IMODE((folder / "s.sock").stat().st_mode) == mode


def test_a_stale_socket_is_replaced_and_a_living_one_is_not(serve: Serve, folder: Path) -> None:
    path = folder / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    store, reader = serve()
    assert reader.query("SELECT 1 AS one").num_rows == 1
    second = Server(path, 0o600, store.cursor, {})
    with pytest.raises(StoreError) as raised:
        second.start()
    second.close()
    assert raised.value.code == "serving.taken"
    assert reader.query("SELECT 1 AS one").num_rows == 1


def test_a_file_in_the_sockets_place_is_left_alone(serve: Serve, folder: Path) -> None:
    (folder / "s.sock").write_text("precious")
    with pytest.raises(StoreError) as raised:
        serve()
    assert raised.value.code == "serving.not_a_socket"
    assert (folder / "s.sock").read_text() == "precious"


def test_close_breaks_off_running_reads_and_takes_the_socket_away(folder: Path) -> None:
    store = duckdb.connect(str(folder / "ledger.duckdb"))
    server = Server(folder / "s.sock", 0o600, store.cursor, {})
    server.start()
    reader = Reader(Places(folder / "c.toml", "", folder / "ledger.duckdb", folder / "s.sock"))
    batches = reader.batches("SELECT range AS i FROM range(1_000_000_000)")
    server.close()
    assert not (folder / "s.sock").exists()
    assert not any(t.name.startswith("serving") for t in threading.enumerate())
    with pytest.raises(LedgertailError):
        batches.read_all()
    with pytest.raises(Down):
        ask(folder / "s.sock", {"do": "status"})
    store.close()


def test_the_file_is_read_while_no_daemon_runs_and_let_go_after_each_read(folder: Path) -> None:
    where = Places(folder / "c.toml", "", folder / "books.duckdb", folder / "s.sock")
    with duckdb.connect(str(where.store)) as store:
        store.execute("CREATE TABLE t AS SELECT 1.50 AS amount, '12:00:00+08'::TIMETZ AS zoned")
    reader = Reader(where)
    expected = [{"amount": Decimal("1.50"), "zoned": "12:00:00+08"}]
    assert reader.query("SELECT * FROM t WHERE amount = ?", [Decimal("1.5")]).to_pylist() == expected
    with pytest.raises(StoreError) as raised:
        reader.query("DELETE FROM t")
    assert raised.value.code == "serving.not_a_read"
    with pytest.raises(StoreError, match="disabled by configuration"):
        reader.query("SELECT * FROM read_text('/etc/passwd')")
    unread = reader.batches("FROM t")
    del unread
    with duckdb.connect(str(where.store)) as store:  # the daemon comes up: refused if the reader still had the file
        server = Server(where.socket, 0o600, store.cursor, {})
        server.start()
        store.execute("UPDATE t SET amount = 2.50")
        assert reader.query("FROM t").to_pylist()[0]["amount"] == Decimal("2.50")
        server.close()
    assert reader.query("FROM t").to_pylist()[0]["amount"] == Decimal("2.50")


def test_a_daemon_that_comes_up_between_is_asked_after_all(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = Places(folder / "c.toml", "", folder / "books.duckdb", folder / "s.sock")
    holder = subprocess.Popen([sys.executable, "-c", _DAEMON, str(where.store), str(where.socket)], stdin=subprocess.PIPE, text=True)
    try:
        until(lambda: _answers(where))
        tried: list[str] = []

        def late(path: Path, *rest: object) -> object:
            tried.append("socket")
            if len(tried) == 1:
                raise Down("serving.down", path=path)
            return from_socket(path, *rest)  # type: ignore[arg-type]

        from_socket = client._from_socket
        monkeypatch.setattr(client, "_from_socket", late)
        assert Reader(where).query("SELECT 1 AS one").to_pylist() == [{"one": 1}]
        assert len(tried) == 2
    finally:
        holder.communicate("end\n")


_DAEMON = """
import sys, duckdb
from pathlib import Path
from cdc.serving.server import Server
with duckdb.connect(sys.argv[1]) as store:
    server = Server(Path(sys.argv[2]), 0o600, store.cursor, {"status": lambda request: {}})
    server.start()
    sys.stdin.readline()
    server.close()
"""


def _answers(where: Places) -> bool:
    try:
        ask(where.socket, {"do": "status"})
    except Down:
        return False
    return True


def test_a_socket_path_too_long_for_the_system_names_the_key(tmp_path: Path) -> None:
    config = tmp_path / "ledgertail.toml"
    config.write_text(f"[store]\nurl = 'duckdb:ledger.duckdb'\nsocket = '{'s' * 120}.sock'\n")
    with pytest.raises(ConfigError, match=r"store\.socket.*107"):
        places(config)
