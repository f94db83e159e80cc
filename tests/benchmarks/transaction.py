"""One large transaction while the daemon streams: the memory it takes, and how long after the commit it is visible; beside those who
receive it and throw it away."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psutil

import cdc
from tests.benchmarks.figures import Figure, Goal, progress
from tests.benchmarks.programs import PATIENCE_S, running
from tests.benchmarks.shop_mysql import MysqlShop
from tests.benchmarks.shop_postgres import PostgresShop
from tests.servers.own_server import poll

NAME = "transaction"
GOAL, GOAL_ROWS = Goal(500, most=True), 5_000_000
MEMORY_LIMIT = "96MB"  # of the store's
SAMPLE_PAUSE_S = 0.02


class Peak(threading.Thread):
    """Looks at how much memory a process has resident, until it is stopped; `bytes` is the most it had."""

    def __init__(self, process: int) -> None:
        super().__init__(name="peak", daemon=True)
        self._process, self._stopping = psutil.Process(process), threading.Event()
        self.bytes = 0

    def run(self) -> None:
        while not self._stopping.wait(SAMPLE_PAUSE_S):
            self.bytes = max(self.bytes, self._process.memory_info().rss)

    def stop(self) -> None:
        """End."""
        self._stopping.set()
        self.join()


def measure(shop: PostgresShop | MysqlShop, folder: Path, rows: int) -> list[Figure]:
    """Write `rows` rows at once to the streaming daemon, and then have others receive them. Raises Failed."""
    config = shop.config(folder)
    config.write_text(config.read_text("utf-8").replace("[store]", f'[store]\nmemory_limit = "{MEMORY_LIMIT}"'), "utf-8")
    with shop.log() as log:
        with running(config) as process:
            before, peak = psutil.Process(process.pid).memory_info().rss, Peak(process.pid)
            peak.start()
            try:
                progress(f"transaction: {rows:,} rows to {shop.title}")
                shop.write_at_once(rows)
                committed = time.perf_counter()
                poll(lambda: _entries(config) == rows, "the transaction is not in the store", PATIENCE_S)
                visible_s = time.perf_counter() - committed
            finally:
                peak.stop()
        received_s = log.received_s(rows)
    what = f"{rows:,} rows from {shop.title}, memory_limit {MEMORY_LIMIT}"
    goal = GOAL if rows >= GOAL_ROWS else None
    return [
        Figure(NAME, f"{what}, memory resident at most", "MB", peak.bytes / 1e6, before / 1e6, "before it", goal),
        Figure(NAME, f"{what}, after COMMIT until visible", "s", visible_s, received_s, log.merely),
    ]


def _entries(config: Path) -> int:
    with cdc.connect(str(config)) as store:
        return int(store.query("SELECT count(*) FROM ledger.entries").column(0)[0].as_py())
