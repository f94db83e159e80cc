"""The first copy of a table until it is mirrored and accounted for; beside a client of the server's kind, which throws the rows away."""

from __future__ import annotations

from pathlib import Path

import cdc
from tests.benchmarks.figures import Figure, Goal, progress
from tests.benchmarks.programs import Failed, catch_up
from tests.benchmarks.shop_mysql import MysqlShop
from tests.benchmarks.shop_postgres import PostgresShop

NAME = "snapshot"
GOAL = Goal(300_000)
_STORE = """SELECT (SELECT count(*) FROM mirror_shop.orders) AS mirrored, (SELECT count(*) FROM ledger.entries) AS entries,
    (SELECT max(epoch(applied_at)) FROM ledger.batches) AS last_at"""


def measure(shop: PostgresShop | MysqlShop, folder: Path, rows: int) -> list[Figure]:
    """Time the first snapshot of `rows` rows, from its place in the log to the batch in which they are promoted. Raises Failed."""
    config = shop.config(folder)
    progress(f"snapshot: filling {shop.title}'s table with {rows:,} rows")
    shop.write_at_once(rows)
    progress("snapshot: the daemon copies it")
    shop.note_commands()
    ours = catch_up(shop.server, config)
    began = shop.snapshot_at()
    with cdc.connect(str(config)) as store:
        found = store.query(_STORE).to_pylist()[0]
    if (found["mirrored"], found["entries"]) != (rows, rows):
        raise Failed(f"the store has {found}, not {rows} rows and entries")
    progress("snapshot: another client copies it")
    beside, seconds = shop.copied(folder)
    what, rate, reference = f"rows of {shop.title}", rows / (found["last_at"] - began), rows / seconds
    return [
        Figure(NAME, f"{what}, from the snapshot's place to promoted", "rows/s", rate, reference, beside, GOAL),
        Figure(NAME, f"{what}, over the whole process", "rows/s", rows / ours.wall_s, reference, beside),
        Figure(NAME, f"{what}: CPU of the process", "s", ours.cpu_s),
        Figure(NAME, f"{what}: CPU of the server meanwhile", "s", ours.server_cpu_s),
    ]
