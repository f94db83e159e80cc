"""The daemon on real servers, seen as its users see it: what it does beyond the kill test's load."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from cdc.serving.client import connect_config
from sinks.duckdb import open_read_only, recompute_hash
from tests.contract.lake import read
from tests.integration.installation import Installation
from tests.servers.postgres import Database, RunningPostgres, fresh_database
from tests.servers.proxy import Proxy

HEAD = """
[store]
url = "duckdb:///{folder}/books.duckdb"
[books.main]
base_currency = "CNY"
chart = "small-business-2013"
"""
SOURCE = """
[sources.{name}]
url = "{url}"
tables = ["orders"]
batch_size_max = "256KB"
[[rules]]
name = "{name}-sale"
book = "main"
table = "{name}.orders"
when = "paid_on IS NOT NULL"
date = "paid_on"
lines = [ {{ account = "1122", debit = "total" }}, {{ account = "5001", credit = "total" }} ]
"""
TABLE = "CREATE TABLE orders (id int PRIMARY KEY, total numeric(18,2) NOT NULL, paid_on date, remark text)"
SALES = "SELECT count(*), coalesce(sum(debit), 0) FROM ledger.lines WHERE account = '1122'"


@pytest.fixture
def books(database: Database, tmp_path: Path) -> Installation:
    database.connection.execute(TABLE)
    database.connection.execute("INSERT INTO orders VALUES (1, 10.50, '2026-01-01', NULL), (2, 1, NULL, NULL)")
    return Installation(tmp_path, (HEAD + SOURCE).format(folder=tmp_path, name="shop", url=database.url))


def test_a_large_transaction_is_visible_whole(database: Database, books: Installation) -> None:
    """It is many times the batch size, so applied in parts; a reader sees none of it, then all."""
    seen: set[int] = set()
    with books.daemon(), connect_config(books.path) as reader:
        books.until(lambda: books.status()["sources"][0]["state"] == "streaming")
        database.connection.execute("INSERT INTO orders SELECT i, 1, '2026-02-01', repeat('x', 40) FROM generate_series(10, 60009) i")

        def whole() -> bool:
            seen.add(int(reader.query("SELECT count(*) AS n FROM mirror_shop.orders").to_pylist()[0]["n"]))
            return max(seen) == 60002

        books.until(whole)
    assert seen <= {2, 60002}
    assert books.query("SELECT transactions, changes, entries FROM ledger.batches ORDER BY batch_seq DESC LIMIT 1") == [[1, 60000, 60000]]
    with open_read_only(books.folder / "books.duckdb") as store:
        for seq, digest in store.execute("SELECT batch_seq, hash FROM ledger.batches").fetchall():
            assert recompute_hash(store, seq) == digest


def test_shapes_change_while_streaming(database: Database, books: Installation) -> None:
    assert books.run().returncode == 0
    database.connection.execute(
        "ALTER TABLE orders ADD COLUMN store text; UPDATE orders SET store = '店' WHERE id = 1; ALTER TABLE orders DROP COLUMN remark;"
        "INSERT INTO orders VALUES (3, 7, '2026-01-03', '东'); TRUNCATE orders; INSERT INTO orders VALUES (4, 8, '2026-01-04', NULL)"
    )
    assert books.run().returncode == 0
    assert books.query("SELECT * FROM mirror_shop.orders") == [[4, "8.00", "2026-01-04", None]]
    assert books.query(SALES + " AND period = '2026-01'") == [[5, "8.000000"]]
    database.connection.execute("ALTER TABLE orders RENAME COLUMN store TO shop; INSERT INTO orders VALUES (5, 1, '2026-01-05', 'x')")
    halted = books.run()
    assert halted.returncode == 1
    assert "ledgertail snapshot shop.orders" in halted.stderr
    assert books.ledgertail("snapshot", "shop.orders").returncode == 0
    assert books.run().returncode == 0
    assert books.query("SELECT id, shop FROM mirror_shop.orders ORDER BY id") == [[4, None], [5, "x"]]
    assert books.query(SALES) == [[6, "9.000000"]]


def test_requests_are_done_by_the_running_daemon(books: Installation) -> None:
    """Quarantine and new copies; when it is down the commands do the same by themselves, see test_cli_commands."""
    books.change('debit = "total"', 'debit = "total + 1"')
    with books.daemon():
        books.until(lambda: books.query("SELECT state FROM meta.snapshots") == [["done"]])
        assert "rows still in quarantine: 1" in books.ledgertail("quarantine", "retry", "--all").stdout
        ((item,),) = books.query("SELECT id FROM ledger.quarantine WHERE status = 'open'")
        assert books.ledgertail("quarantine", "ignore", item).stdout == "Items ignored: 1\n"
        assert books.ledgertail("snapshot", "shop.nothing").returncode == 2
        assert books.ledgertail("snapshot", "shop").stdout == "The daemon copies anew: shop.orders\n"
        books.until(lambda: books.query("SELECT number, state FROM meta.snapshots") == [[2, "done"]])


def test_a_table_added_and_taken_away(database: Database, books: Installation) -> None:
    database.connection.execute("CREATE TABLE fees (id int PRIMARY KEY, amount numeric(10,2)); INSERT INTO fees VALUES (1, 2)")
    assert books.run().returncode == 0
    books.change('tables = ["orders"]', 'tables = ["orders", "fees"]')
    assert books.run().returncode == 0
    assert books.query("SELECT * FROM mirror_shop.fees") == [[1, "2.00"]]
    books.change('tables = ["orders", "fees"]', 'tables = ["orders"]')
    database.connection.execute("INSERT INTO fees VALUES (2, 3); INSERT INTO orders VALUES (3, 1, NULL, NULL)")
    assert books.run().returncode == 0
    books.change('tables = ["orders"]', 'tables = ["orders", "fees"]')
    assert books.run().returncode == 0
    assert books.query("SELECT * FROM mirror_shop.fees ORDER BY id") == [[1, "2.00"], [2, "3.00"]]


def test_two_sources_share_a_store_and_one_halts(postgres: RunningPostgres, database: Database, books: Installation) -> None:
    with fresh_database(postgres) as other:
        other.connection.execute(TABLE)
        other.connection.execute("INSERT INTO orders VALUES (1, 5, '2026-01-01', NULL)")
        books.path.write_text(books.path.read_text() + SOURCE.format(name="mill", url=other.url))
        with books.daemon():
            books.until(lambda: [source["state"] for source in books.status()["sources"]] == ["streaming"] * 2)
            other.connection.execute("ALTER TABLE orders RENAME COLUMN remark TO note; INSERT INTO orders VALUES (2, 1, '2026-01-01', 'x')")
            books.until(lambda: books.status()["sources"][1]["state"] == "halted")
            database.connection.execute("INSERT INTO orders VALUES (3, 3, '2026-01-01', NULL)")
            books.until(lambda: books.query(SALES) == [[3, "18.500000"]])
            status = books.status()
            assert status["sources"][1]["last_error"]["hint"]
            assert status["sources"][0]["last_error"] is None
            assert books.ledgertail("status").returncode == 3
        assert books.status()["sources"][1]["last_error"]["hint"], "also when the daemon is down"


def test_the_network_breaks(database: Database, books: Installation) -> None:
    with Proxy("127.0.0.1", database.server.port) as proxy:
        books.change(f":{database.server.port}/", f":{proxy.port}/")
        with books.daemon():
            books.until(lambda: books.status()["sources"][0]["state"] == "streaming")
            for i, fault in enumerate((proxy.reset, proxy.refuse, proxy.freeze)):
                fault()
                database.connection.execute("INSERT INTO orders VALUES (%s, 1, '2026-01-01', NULL)", [10 + i])
                if fault is not proxy.reset:
                    proxy.reset()
                proxy.accept()
                proxy.thaw()
                books.until(lambda n=i: books.query(SALES) == [[2 + n, f"{11 + n}.500000"]])  # type: ignore[misc]


def test_the_journal_is_published_once(database: Database, books: Installation) -> None:
    books.change("[books.main]", f'[publish]\nurl = "ducklake://{books.folder}/lake"\nevery = "1s"\n[books.main]')
    with books.daemon():
        for i in range(3, 9):
            database.connection.execute("INSERT INTO orders VALUES (%s, 1, '2026-01-01', NULL)", [i])
            books.until(lambda n=i: books.query(SALES)[0][0] == n - 1)  # type: ignore[misc]
    with open_read_only(books.folder / "books.duckdb") as store:
        journal = store.execute("SELECT entry_id::text, account, debit, credit FROM ledger.lines ORDER BY ALL").fetchall()
    assert len(journal) == 14
    assert read(books.folder / "lake", "SELECT entry_id::text, account, debit, credit FROM ledger.lines ORDER BY ALL") == journal


def test_an_idle_daemon_rests(books: Installation) -> None:
    """No thread spins: idle, the daemon uses a small part of a core (a bound far above the 1% it is measured at)."""
    with books.daemon() as process:
        books.until(lambda: books.status()["sources"][0]["state"] == "streaming")
        before, pause = _cpu_seconds(process.pid), threading.Event()
        pause.wait(5)
        assert _cpu_seconds(process.pid) - before < 1.0


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
