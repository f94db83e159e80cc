"""The log of a server received and decoded into Arrow columns; beside those who merely receive it, and python-mysql-replication."""

from __future__ import annotations

import time
from pathlib import Path

from tests.benchmarks.figures import Figure, Goal, progress
from tests.benchmarks.orders import Written
from tests.benchmarks.shop_mysql import MysqlLog, MysqlShop
from tests.benchmarks.shop_postgres import PostgresLog, PostgresShop

NAME = "capture"
GOALS = {PostgresLog.merely: Goal(0.9, times=True)}
ROUNDS = 3  # of which the best counts


def measure(shop: PostgresShop | MysqlShop, folder: Path, rows: int) -> list[Figure]:
    """Rows a second, from asking for the stream to the last row. Raises Failed."""
    with shop.log() as log:
        progress(f"capture: {rows:,} rows from {shop.title}")
        shop.write(Written(rows, 0))
        taken = [(_decoded_s(log, rows), log.received_s(rows)) for _ in range(ROUNDS)]
        ours, received = (rows / min(seconds) for seconds in zip(*taken, strict=True))
        theirs = rows / log.theirs_s(rows, folder)
    what = f"rows from {shop.title}, received and decoded"
    return [
        Figure(NAME, what, "rows/s", ours, received, log.merely, GOALS.get(log.merely)),
        Figure(NAME, what, "rows/s", ours, theirs, log.theirs),
    ]


def _decoded_s(log: PostgresLog | MysqlLog, rows: int) -> float:
    with log.stream() as stream:
        tail, begun = log.tail(stream), time.perf_counter()
        while rows > 0:
            tail.collect(None)
            rows -= sum(changes.rows.num_rows for changes in tail.take()[1])
        return time.perf_counter() - begun
