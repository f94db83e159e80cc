"""The example of an oscar shop, run as its README says: half of the trade before Ledgertail comes, half while it watches.

Oscar lives in a virtual environment of its own, kept in the tests' cache until its requirements change.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

import pytest

from sinks.duckdb import open_read_only
from tests.faults.ledger import assert_sound
from tests.integration.installation import Installation
from tests.servers.cache import NotAvailable, once
from tests.servers.mysql import USER, MyDatabase, fresh_database, running

EXAMPLE = Path(__file__).parents[2] / "examples" / "oscar"
ORDERS = 40
BALANCES = "SELECT account, sum(balance) FROM ledger.balances GROUP BY account HAVING sum(balance) <> 0 ORDER BY account"
SALES = """SELECT CAST(json_extract_string(row_key, '$.id') AS INTEGER), entry_date FROM ledger.entries SEMI JOIN meta.live USING (entry_id)
    WHERE rule = 'sale' ORDER BY 1"""
SOLD = "SELECT id, DATE(date_placed + INTERVAL 8 HOUR) FROM order_order WHERE status IN ('Shipped', 'Complete') ORDER BY 1"


@pytest.fixture(scope="session")
def oscar() -> Path:
    """The python that has oscar. Raises NotAvailable if pip can't get it."""
    requirements = EXAMPLE / "requirements.txt"
    made_of = hashlib.sha256(requirements.read_bytes() + f"{sys.version} {sys.base_prefix}".encode()).hexdigest()[:12]

    def fill(folder: Path) -> None:
        venv.create(folder, with_pip=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
        command = [*pip, "install", "--requirement", str(requirements)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        if done.returncode != 0:
            raise NotAvailable(f"django-oscar: {done.stderr[-2000:]}")

    return once(f"oscar-{made_of}", fill) / "bin" / "python"


@pytest.mark.timeout(1500)  # the first run fetches oscar, and its migrations take their time
@pytest.mark.parametrize("flavour", ["mariadb-10.11", "mysql-9"])
def test_the_books_of_an_oscar_shop(flavour: str, oscar: Path, tmp_path: Path) -> None:
    with running(flavour) as server, fresh_database(server) as database:
        _trade(oscar, database, seed=1)
        books = _install(tmp_path, database)
        assert books.ledgertail("check").returncode == 0
        with books.daemon():
            books.until(lambda: books.status()["sources"][0]["state"] == "streaming")
            assert dict(books.query(BALANCES)) == _proof(database)
            _trade(oscar, database, seed=2)
            books.until(lambda: dict(books.query(BALANCES)) == _proof(database))
        assert books.run().returncode == 0
        _compare(books, database)


def _trade(oscar: Path, database: MyDatabase, seed: int) -> None:
    settings = {"OSCAR_DATABASE_URL": database.url, "OSCAR_PASSWORD": database.server.password, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [str(oscar), str(EXAMPLE / "shop.py"), "--orders", str(ORDERS), "--seed", str(seed)]
    done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    assert f"{ORDERS} of {ORDERS} orders" in done.stdout


def _install(folder: Path, database: MyDatabase) -> Installation:
    """The example's own config, at the test's database."""
    shutil.copytree(EXAMPLE / "rules", folder / "rules")
    books = Installation(folder, (EXAMPLE / "ledgertail.toml").read_text("utf-8"))
    books.change("mysql://ledgertail@127.0.0.1:3306/oscar", database.server.url(database.name, USER))
    return books


def _proof(database: MyDatabase) -> dict[str, str]:
    """What every account must say, from oscar's tables alone; amounts as the store prints them."""
    return {account: f"{balance:.6f}" for account, balance in database.execute((EXAMPLE / "proof.sql").read_text("utf-8"))}


def _compare(books: Installation, database: MyDatabase) -> None:
    """Every mirror is its table, the sales stand on their days, copied and streamed, and the journal is sound."""
    tables = tomllib.loads(books.path.read_text("utf-8"))["sources"]["shop"]["tables"]
    with open_read_only(books.folder / "books.duckdb") as store:
        for table in tables:
            source, mirror = database.execute(f"SELECT * FROM {table}"), _mirror(store, table)
            assert sorted(map(repr, mirror)) == sorted(map(repr, source)), table
            assert source, table
        assert store.execute(SALES).fetchall() == database.execute(SOLD)
        found = {op for (op,) in store.execute("SELECT DISTINCT op FROM ledger.entries").fetchall()}
        assert found == {"r", "c", "u"}
        assert store.execute("SELECT count(*) FROM ledger.entries WHERE kind = 'reverse'").fetchall()[0][0] > 0
        assert store.execute("SELECT count(*) FROM ledger.quarantine").fetchall() == [(0,)]
        assert_sound(store)


def _mirror(store: Any, table: str) -> list[tuple[Any, ...]]:
    return list(store.execute(f"SELECT * FROM mirror_shop.{table}").fetchall())
