"""Millions of rows copied while the shop goes on writing them: at one place of the log the mirror is the table, by the server's own sums.

`pytest -m slow tests/faults/test_verify.py`; LEDGERTAIL_TEST_VERIFY_ROWS says how many rows.
"""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from cdc.paths import places
from sinks.duckdb import open_read_only
from tests.faults.dialects import MYSQL, POSTGRES, AnyDatabase, Session, fetched, gave_way
from tests.integration.installation import Installation
from tests.servers.mysql import MyDatabase
from tests.servers.postgres import Database

ROWS = int(os.environ.get("LEDGERTAIL_TEST_VERIFY_ROWS", "5000000"))
STEP = 100_000
SESSIONS = 2
CONFIG = """
[store]
url = "duckdb:///{folder}/store.duckdb"
memory_limit = "1GB"
[books.main]
base_currency = "CNY"
chart = "small-business-2013"
[sources.shop]
url = "{url}"
tables = ["movements"]
"""
# What both sides sum up: the first 15 hex digits of each row's SHA-256, and how many rows there are.
ROW = "concat_ws('|', id, shop, amount, note)"
SOURCE = {
    Database: f"""SELECT count(*), CAST(sum(('x' || left(encode(sha256(convert_to({ROW}, 'UTF8')), 'hex'), 15))::bit(60)::bigint) AS text)
        FROM movements""",
    MyDatabase: f"SELECT count(*), CAST(sum(CAST(conv(left(sha2({ROW}, 256), 15), 16, 10) AS UNSIGNED)) AS char) FROM movements",
}
MIRROR = f"SELECT count(*), CAST(sum(CAST('0x' || left(sha256({ROW}), 15) AS BIGINT)) AS VARCHAR) FROM mirror_shop.movements"


class Writers:
    """Sessions that change, add and remove random rows until they are stopped."""

    def __init__(self, database: AnyDatabase) -> None:
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._write, args=(database, number)) for number in range(SESSIONS)]
        self.transactions, self.errors = 0, list[BaseException]()

    def __enter__(self) -> Writers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _write(self, database: AnyDatabase, number: int) -> None:
        rng, session, fresh = random.Random(number), Session(database), (number + 1) * 1_000_000_000
        try:
            while not self._stopping.wait(0.01):
                fresh += 1
                try:
                    session.execute("UPDATE movements SET amount = amount + 1 WHERE id = %s", [rng.randrange(ROWS)])
                    session.execute("DELETE FROM movements WHERE id = %s", [rng.randrange(ROWS)])
                    session.execute("UPDATE movements SET id = %s WHERE id = %s", [-fresh, rng.randrange(ROWS)])
                    session.execute("INSERT INTO movements VALUES (%s, %s, 12.34, '新')", [fresh, number])
                    session.commit()
                    self.transactions += 1
                except Exception as error:
                    session.rollback()
                    if not gave_way(error):
                        raise
        except BaseException as error:
            self.errors.append(error)
            raise
        finally:
            session.close()


def fill(database: AnyDatabase) -> None:
    """Make the table, in steps that fit a small server's memory."""
    session = Session(database)
    try:
        dialect = POSTGRES if session.cascades else MYSQL
        session.execute("CREATE TABLE movements (id bigint PRIMARY KEY, shop int NOT NULL, amount numeric(18,2), note varchar(40))")
        session.allow_long_recursion(STEP)
        for start in range(0, ROWS, STEP):
            numbers = dialect.numbers.format(count=min(STEP, ROWS - start))
            note = "CASE WHEN i % 3 = 0 THEN concat('备注 ', i) END"
            session.execute(f"INSERT INTO movements SELECT {start} + i, i % 97, (i % 100000) / 100.0, {note} FROM {numbers}")
            session.commit()
    finally:
        session.close()


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_mirror_is_the_table_at_one_place(source_database: AnyDatabase, tmp_path: Path) -> None:
    fill(source_database)
    ledgertail = Installation(tmp_path, CONFIG.format(folder=tmp_path, url=source_database.url))
    with Writers(source_database) as writers, ledgertail.daemon():
        ledgertail.until(lambda: ledgertail.status()["sources"][0]["state"] == "streaming", patience_s=1800)
    assert not writers.errors
    assert ledgertail.run().returncode == 0
    with open_read_only(places(ledgertail.path).store) as store:
        mirror = store.execute(MIRROR).fetchall()
    assert mirror == fetched(source_database, SOURCE[type(source_database)])
    print(f"{mirror[0][0]} rows, {writers.transactions} transactions meanwhile")
