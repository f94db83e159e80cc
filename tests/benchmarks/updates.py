"""What an update costs by the size of the ledger: batches of 5,000 updates of rows picked at random from all that were ever written, with a
large ledger beside a small one. Changes are in memory already; the store is DuckDB's."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path

from cdc.pipeline import Pipeline
from cdc.types import UPDATE
from tests.benchmarks.accounting import BATCH, ORDERS, SIMPLE, batch, books, orders
from tests.benchmarks.figures import Figure, Goal, progress

NAME = "updates"
GOAL, GOAL_ENTRIES = Goal(0.5, times=True), (1_000_000, 20_000_000)
CHANGED, TIMES = 5000, 5


def measure(folder: Path, small: int, large: int) -> list[Figure]:
    """Rows a second updated in ledgers of so many entries, or up to a batch more."""
    few, many = (_rate(folder / f"{entries}.duckdb", entries) for entries in (small, large))
    goal = GOAL if small >= GOAL_ENTRIES[0] and large >= GOAL_ENTRIES[1] else None
    what = f"{CHANGED:,} random old rows updated, {large:,} entries in the ledger"
    return [Figure(NAME, what, "rows/s", many, few, f"{small:,} entries", goal)]


def _rate(path: Path, entries: int) -> float:
    count = -(-entries // BATCH)
    with books(path, SIMPLE) as pipeline:
        for number in range(1, count + 1):
            pipeline.apply([batch(number, [(ORDERS, orders(range(number * BATCH, (number + 1) * BATCH)))])])
            if number % 50 == 0:
                progress(f"updates: {number * BATCH} of {entries} entries")
        taken = [_timed(pipeline, count + turn, _picked(turn, count * BATCH)) for turn in range(1, TIMES + 2)]
    return CHANGED / min(taken[1:])


def _picked(turn: int, rows: int) -> Sequence[int]:
    return [BATCH + row for row in random.Random(turn).sample(range(rows), CHANGED)]


def _timed(pipeline: Pipeline, number: int, ids: Sequence[int]) -> float:
    updates = batch(number, [(ORDERS, orders(ids, more=number))], UPDATE)
    begun = time.perf_counter()
    pipeline.apply([updates])
    return time.perf_counter() - begun
