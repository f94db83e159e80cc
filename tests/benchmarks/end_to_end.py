"""Changes that wait in the log, until they stand in the store as posted entries; beside those who receive them and throw them away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cdc
from tests.benchmarks.debezium import Debezium
from tests.benchmarks.figures import Figure, Goal, progress
from tests.benchmarks.orders import Written, with_updates
from tests.benchmarks.programs import Failed, catch_up
from tests.benchmarks.shop_mysql import MysqlShop
from tests.benchmarks.shop_postgres import PostgresShop

NAME = "end-to-end"
GOAL, GOAL_DEBEZIUM = Goal(150_000), Goal(4, times=True)
_BATCHES = """SELECT count(*) AS batches, sum(changes)::BIGINT AS changes, sum(changes) FILTER (nth > 1)::BIGINT AS later_changes,
    min(epoch(applied_at)) AS first_at, max(epoch(applied_at)) AS last_at
    FROM (SELECT *, row_number() OVER (ORDER BY batch_seq) AS nth FROM ledger.batches WHERE changes > 0)"""
_JOURNAL = """SELECT (SELECT count(*) FROM ledger.entries) AS entries, (SELECT count(*) FROM ledger.lines) AS lines,
    (SELECT count(*) FROM mirror_shop.orders) AS mirrored"""


def measure(shop: PostgresShop | MysqlShop, folder: Path, rows: int) -> list[Figure]:
    """Write `rows` changes while nobody reads, then time the daemon and others on them. Raises Failed."""
    config, written, debezium = shop.config(folder), with_updates(rows), Debezium(shop, folder)
    progress(f"end-to-end: the daemon copies {shop.title}'s empty table")
    catch_up(shop.server, config)
    debezium.begin()
    with shop.log() as log:
        progress(f"end-to-end: writing {rows:,} changes")
        shop.write(written)
        progress("end-to-end: the daemon catches up")
        shop.note_commands()
        ours = catch_up(shop.server, config)
        streamed_at = shop.streamed_at()
        batches = _checked(config, written)
        progress("end-to-end: others receive the same")
        received, theirs = rows / log.received_s(rows), rows / log.theirs_s(rows, folder)
    what = f"changes from {shop.title}"
    whole = f"{what}, from the start of the stream to the last batch applied"
    rate, between_s = rows / (batches["last_at"] - streamed_at), batches["last_at"] - batches["first_at"]
    later = batches["later_changes"] / between_s if between_s else None
    return [
        Figure(NAME, whole, "rows/s", rate, received, log.merely, GOAL),
        Figure(NAME, whole, "rows/s", rate, theirs, log.theirs),
        Figure(NAME, whole, "rows/s", rate, debezium.rate(rows), debezium.BESIDE, GOAL_DEBEZIUM),
        Figure(NAME, f"{what}, between the first and the last batch", "rows/s", later),
        Figure(NAME, f"{what}, over the whole process", "rows/s", rows / ours.wall_s),
        Figure(NAME, f"{what}: CPU of the process", "s", ours.cpu_s),
        Figure(NAME, f"{what}: CPU of the server meanwhile", "s", ours.server_cpu_s),
        Figure(NAME, f"{what}: entries in the journal", "entries", written.entries),
        Figure(NAME, f"{what}: batches", "batches", batches["batches"]),
    ]


def _checked(config: Path, written: Written) -> dict[str, Any]:
    """The batches, once the store has all that was written. Raises Failed."""
    with cdc.connect(str(config)) as store:
        journal = store.query(_JOURNAL).to_pylist()[0]
        batches: dict[str, Any] = store.query(_BATCHES).to_pylist()[0]
    wanted = {"entries": written.entries, "lines": 3 * written.entries, "mirrored": written.inserts}
    if journal != wanted or batches["changes"] != written.changes:
        raise Failed(f"the store has {journal} of {batches['changes']} changes, not {wanted} of {written.changes}")
    return batches
