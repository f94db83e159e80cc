"""What people get wrong: each gives its exit code and a message with cause and remedy, and nothing is lost or half-written."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.integration.installation import Installation
from tests.servers.postgres import USER, Database, PostgresServer, fresh_database

CONFIG = """
[store]
url = "duckdb:///{folder}/store.duckdb"
[books.main]
base_currency = "CNY"
chart = "small-business-2013"
[sources.shop]
url = "{url}"
password_env = "SHOP_PASSWORD"
tables = ["orders"]
[[rules]]
name = "sale"
book = "main"
table = "shop.orders"
when = "status = 'paid'"
date = "paid_on"
lines = [ {{ account = "1122", debit = "total" }}, {{ account = "5001", credit = "total" }} ]
"""


class Shop(Installation):
    """A database with one table, and a config for it that a test may spoil."""

    def __init__(self, database: Database, folder: Path) -> None:
        super().__init__(folder, CONFIG.format(folder=folder, url=database.server.url(database.name, USER)))
        self.database = database
        database.connection.execute(
            "CREATE TABLE orders (id int PRIMARY KEY, status text, total numeric(18,2), weight float8, paid_on date);"
            f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {USER}; GRANT CREATE ON DATABASE {database.name} TO {USER};"
            f"ALTER TABLE orders OWNER TO {USER};"
            "INSERT INTO orders VALUES (1, 'paid', 100.10, 1.5, '2026-01-02'), (2, 'new', 5, 1, NULL)"
        )

    def entries(self) -> int:
        return int(self.query("SELECT count(*) FROM ledger.entries")[0][0])


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Shop:
    return Shop(database, tmp_path)


def test_all_is_well(shop: Shop) -> None:
    assert shop.ledgertail("check").returncode == 0
    assert shop.run().returncode == 0
    assert shop.entries() == 1


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[store]", "[store]\ncolour = 'red'", ["store.colour"]),
        ('tables = ["orders"]', "tables = 7", ["sources.shop.tables"]),
        ("[[rules]]", "[[rules]", ["not valid TOML"]),
        ("when = \"status = 'paid'\"", "when = \"status = \"", ["sale", "ledgertail.toml: rules.0", "'when'", "syntax error"]),
        ('debit = "total"', 'debit = "(SELECT max(total) FROM orders)"', ["sale", "'lines.0.debit'", "subquery"]),
        ('date = "paid_on"', "date = \"read_text('/etc/passwd')\"", ["sale", "'date'", "read_text"]),
        ('debit = "total"', 'debit = "totl"', ["sale", "'lines.0.debit'", "totl", "did you mean 'total'"]),
        ('debit = "total"', 'debit = "weight"', ["sale", "'lines.0.debit'", "float"]),
        ('account = "1122"', 'account = "9999"', ["sale", "'lines.0.account'", "9999", "small-business-2013"]),
        ('chart = "small-business-2013"', 'chart = "nowhere.csv"', ["nowhere.csv"]),
        ("postgres://", "oracle://", ["oracle"]),
    ],
)  # fmt: skip
def test_config_and_rules(shop: Shop, old: str, new: str, said: list[str]) -> None:
    shop.change(old, new)
    done = shop.run()
    assert done.returncode == 2, done.stderr
    for word in said:
        assert word in done.stderr


def test_wrong_password(shop: Shop) -> None:
    shop.password = "guessed"
    done = shop.run()
    assert done.returncode == 1
    assert "guessed" not in done.stderr
    assert "password" in done.stderr


def test_missing_table(shop: Shop) -> None:
    shop.change('tables = ["orders"]', 'tables = ["orders", "invoices"]')
    done = shop.run()
    assert done.returncode == 1
    assert "invoices" in done.stderr
    checked = shop.ledgertail("check", "--json")
    assert checked.returncode == 1
    assert any(f["level"] == "fail" and "invoices" in f["what"] for f in json.loads(checked.stdout)["findings"])


def test_no_privilege(shop: Shop) -> None:
    shop.database.connection.execute(f"ALTER TABLE orders OWNER TO postgres; REVOKE ALL ON orders FROM {USER}")
    shop.database.connection.execute(f"CREATE PUBLICATION ledgertail_shop FOR TABLE orders; GRANT USAGE ON SCHEMA public TO {USER}")
    done = shop.run()
    assert done.returncode == 1
    assert "ledgertail check" in done.stderr
    assert "GRANT SELECT" in shop.ledgertail("check").stdout


def test_missing_slot_with_a_checkpoint(shop: Shop) -> None:
    assert shop.run().returncode == 0
    shop.database.await_free_slots()
    connection = shop.database.connection
    connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()")
    connection.execute("UPDATE orders SET total = 7 WHERE id = 1")
    done = shop.run()
    assert done.returncode == 1
    assert "ledgertail snapshot shop" in done.stderr
    assert shop.status()["sources"][0]["last_error"]["hint"]
    # The remedy loses nothing and posts only the difference.
    assert shop.ledgertail("snapshot", "shop").returncode == 0
    assert shop.run().returncode == 0
    assert shop.entries() == 3
    assert shop.query("SELECT sum(debit) FROM ledger.lines") == [["7.000000"]]


def test_store_locked(shop: Shop) -> None:
    assert shop.run().returncode == 0
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import duckdb; c = duckdb.connect('{shop.folder}/store.duckdb'); print('held', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    with holder:
        holder.stdout.readline()
        done = shop.run()
        holder.stdin.close()
    assert done.returncode == 1
    assert str(holder.pid) in done.stderr


def test_disk_full(shop: Shop) -> None:
    """The file may not grow past a limit, as if the disk were full: exit 1, the store as it was; with room again all comes in."""
    assert shop.run().returncode == 0
    size = max(path.stat().st_size for path in shop.folder.glob("store.duckdb*"))
    for start in range(10, 60_000, 6000):  # each is enough to be read while the one before it is committed
        rows = f"SELECT i, 'paid', 1, 1, '2026-01-01' FROM generate_series({start}, {min(start + 5999, 60_000)}) i"
        shop.database.connection.execute(f"INSERT INTO orders {rows}")
    limited = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 4096}, {size + 4096})); from cdc.cli import main; main()"
    )
    done = shop.ledgertail("run", "--until-caught-up", program=limited)
    assert done.returncode == 1, done.stderr
    assert "store.duckdb" in done.stderr
    assert shop.entries() == 1
    assert shop.run().returncode == 0
    assert shop.entries() == 1 + 59991


@pytest.fixture
def replica_level(tmp_path: Path) -> Iterator[Shop]:
    with PostgresServer(16, {"wal_level": "replica"}) as server, fresh_database(server) as database:
        yield Shop(database, tmp_path)


def test_wal_level(replica_level: Shop) -> None:
    done = replica_level.run()
    assert done.returncode == 1
    assert "ALTER SYSTEM SET wal_level" in done.stderr
    assert "ALTER SYSTEM SET wal_level" in replica_level.ledgertail("check").stdout


def test_a_row_that_breaks_a_rule(shop: Shop) -> None:
    """It lies in quarantine, the stream goes on, and a corrected rule takes it in."""
    shop.change('debit = "total"', 'debit = "total + CASE WHEN id = 1 THEN 1 ELSE 0 END"')
    shop.database.connection.execute("INSERT INTO orders VALUES (3, 'paid', 7, 1, '2026-01-03')")
    assert shop.run().returncode == 0
    assert shop.entries() == 1
    listed = shop.ledgertail("quarantine", "list", "--format", "json")
    (item,) = json.loads(listed.stdout)
    assert (item["row_key"], item["level"], item["reason"]) == ('{"id": 1}', 3, "quarantine.unbalanced")
    assert shop.ledgertail("quarantine", "retry", item["id"]).returncode in (0, 1)
    assert shop.entries() == 1
    shop.change(" + CASE WHEN id = 1 THEN 1 ELSE 0 END", "")
    assert shop.ledgertail("quarantine", "retry", "--all").returncode == 0
    assert shop.entries() == 2
    assert json.loads(shop.ledgertail("quarantine", "list", "--format", "json").stdout) == []
    with psycopg.connect(shop.database.url, autocommit=True) as connection:
        connection.execute("DELETE FROM orders WHERE id = 1")
    assert shop.run().returncode == 0
    assert shop.entries() == 3
