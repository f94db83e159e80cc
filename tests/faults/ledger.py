"""What must hold of a store: while it is written, and when it has caught up with its source."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from cdc.errors import LedgertailError
from cdc.paths import places
from cdc.serving.client import Down, _from_socket
from sinks.duckdb import open_read_only
from tests.faults.dialects import MYSQL, POSTGRES, AnyDatabase, fetched
from tests.faults.shop import BALANCE, RECOMPUTED, TABLES, WALLETS
from tests.servers.postgres import Database

VISIBLE = "SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'mirror_shop'"
# One statement, so one snapshot of the store: what must be 0, or true, at any moment.
MOMENT = f"""
SELECT
    (SELECT count(*) FROM mirror_shop.orders o
        LEFT JOIN (SELECT order_id, sum(qty * price) AS total FROM mirror_shop.order_lines GROUP BY 1) l ON l.order_id = o.id
        WHERE o.total <> coalesce(l.total, 0)) AS orders_that_do_not_add_up,
    (SELECT sum(balance) FROM mirror_shop.wallets) = {WALLETS * BALANCE} AS wallets_add_up,
    (SELECT coalesce(sum(debit), 0) FROM ledger.lines WHERE account = '1122')
        = (SELECT coalesce(sum(total), 0) FROM mirror_shop.orders WHERE status = 'paid') AS receivables_are_paid_orders,
    (SELECT count(*) FROM (SELECT book, currency FROM ledger.balances GROUP BY 1, 2 HAVING sum(debit) <> sum(credit))) AS unbalanced,
    (SELECT count(*) FROM ledger.entries) AS entries
"""


class Watcher(threading.Thread):
    """Reads the store through the daemon's socket, over and over, and notes every moment at which it was not whole."""

    def __init__(self, config: Path) -> None:
        super().__init__()
        self._where, self._stopping = places(config), threading.Event()
        self.moments, self.broken = 0, list[Any]()
        self.entries = 0

    def run(self) -> None:
        while not self._stopping.wait(0.05):
            try:
                if self._read(VISIBLE)[0] == 0:
                    continue
                moment = self._read(MOMENT)
            except Down:
                continue
            except LedgertailError as error:
                if error.code != "serving.broken_off":
                    self.broken.append(error)
                continue
            self.moments += 1
            if moment[:4] != [0, True, True, 0] or moment[4] < self.entries:
                self.broken.append(moment)
            self.entries = moment[4]

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def _read(self, sql: str) -> list[Any]:
        return list(_from_socket(self._where.socket, sql, ()).read_all().to_pylist()[0].values())


def assert_caught_up(database: AnyDatabase, config: Path) -> None:
    """The store of a daemon that has ended is the source, accounted for once."""
    as_text = (POSTGRES if isinstance(database, Database) else MYSQL).text
    with open_read_only(places(config).store) as store:
        for table in TABLES:
            columns = [row[0] for row in store.execute(f"DESCRIBE mirror_shop.{table}").fetchall() if not row[0].startswith("#")]
            source = fetched(database, f"SELECT {', '.join(f'CAST({column} AS {as_text})' for column in columns)} FROM {table}")
            mirror = store.execute(f"SELECT {', '.join(f'CAST({column} AS VARCHAR)' for column in columns)} FROM mirror_shop.{table}")
            assert sorted(map(repr, mirror.fetchall())) == sorted(map(repr, source)), table
        books = store.execute(
            "SELECT account, sum(debit), sum(credit) FROM ledger.lines GROUP BY 1"
            " HAVING sum(coalesce(debit, 0)) <> 0 OR sum(coalesce(credit, 0)) <> 0 ORDER BY 1"
        ).fetchall()
        assert books == fetched(database, RECOMPUTED)
        assert_sound(store)


def assert_sound(store: Any) -> None:
    """The journal by itself: ids once, every entry balanced, every reversal of one post, live entries what the reversals left."""

    def count(sql: str) -> int:
        return int(store.execute(f"SELECT count(*) FROM ({sql})").fetchall()[0][0])

    assert count("SELECT entry_id FROM ledger.entries GROUP BY 1 HAVING count(*) > 1") == 0
    assert count("SELECT entry_id, line_no FROM ledger.lines GROUP BY ALL HAVING count(*) > 1") == 0
    assert count("SELECT entry_id FROM ledger.lines GROUP BY 1 HAVING coalesce(sum(debit), 0) <> coalesce(sum(credit), 0)") == 0
    assert count("SELECT reverses FROM ledger.entries WHERE kind = 'reverse' GROUP BY 1 HAVING count(*) > 1") == 0
    assert count("SELECT * FROM ledger.entries r ANTI JOIN ledger.entries p ON p.entry_id = r.reverses WHERE r.kind = 'reverse'") == 0
    standing = """SELECT entry_id FROM ledger.entries WHERE kind = 'post'
        EXCEPT SELECT reverses FROM ledger.entries WHERE kind = 'reverse'"""
    assert count(f"({standing}) EXCEPT SELECT entry_id FROM meta.live") == 0
    assert count(f"SELECT entry_id FROM meta.live EXCEPT ({standing})") == 0
    assert count("SELECT * FROM ledger.quarantine WHERE status = 'open'") == 0
    counted = """SELECT batch_seq, (SELECT count(*) FROM ledger.entries e WHERE e.batch_seq = b.batch_seq) AS entries,
        (SELECT count(*) FROM ledger.lines l WHERE l.batch_seq = b.batch_seq) AS lines FROM ledger.batches b"""
    assert count(f"SELECT batch_seq, entries, lines FROM ledger.batches EXCEPT ({counted})") == 0
