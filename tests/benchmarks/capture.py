"""Changes that wait in the log, until they stand in the store as posted entries; beside pg_recvlogical, which throws them away."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cdc
from tests.benchmarks.figures import Figure, progress
from tests.benchmarks.orders import Written, prepare, slot, write_changes
from tests.benchmarks.programs import Failed, Run, catch_up, commanded_at, make_slot, receiver, run_through
from tests.servers.postgres import Database, PostgresServer

NAME, BESIDE = "capture", "pg_recvlogical"
_START = "START_REPLICATION SLOT"
_BATCHES = """SELECT count(*) AS batches, sum(changes)::BIGINT AS changes, sum(changes) FILTER (nth > 1)::BIGINT AS later_changes,
    min(epoch(applied_at)) AS first_at, max(epoch(applied_at)) AS last_at
    FROM (SELECT *, row_number() OVER (ORDER BY batch_seq) AS nth FROM ledger.batches WHERE changes > 0)"""
_JOURNAL = """SELECT (SELECT count(*) FROM ledger.entries) AS entries, (SELECT count(*) FROM ledger.lines) AS lines,
    (SELECT count(*) FROM mirror_shop.orders) AS mirrored"""


def measure(server: PostgresServer, database: Database, folder: Path, rows: int) -> list[Figure]:
    """Write `rows` changes while no daemon runs, then time the daemon and pg_recvlogical on them. Raises Failed."""
    config = prepare(database, folder)
    progress("capture: snapshot of the empty table, so that the slot is made")
    catch_up(server, config)
    reference_slot = make_slot(database)
    progress(f"capture: writing {rows:,} changes")
    written = write_changes(database, rows)
    end = database.connection.execute("SELECT pg_current_wal_lsn()::text").fetchall()[0][0]
    progress("capture: the daemon catches up")
    ours = catch_up(server, config)
    ours_began = commanded_at(server, _START, slot(database))
    batches = _checked(config, written)
    progress("capture: pg_recvlogical reads the same stream")
    command = receiver(server, database, reference_slot, "/dev/null", "--endpos", end)
    reference = run_through(server, command, folder / "pg_recvlogical.log")
    reference_began = commanded_at(server, _START, reference_slot)
    return _figures(written, ours, ours_began, batches, reference, reference_began)


def _checked(config: Path, written: Written) -> dict[str, Any]:
    """The batches, once the store has all that was written. Raises Failed."""
    with cdc.connect(str(config)) as store:
        journal = store.query(_JOURNAL).to_pylist()[0]
        batches: dict[str, Any] = store.query(_BATCHES).to_pylist()[0]
    wanted = {"entries": written.entries, "lines": 3 * written.entries, "mirrored": written.inserts}
    if journal != wanted or batches["changes"] != written.changes:
        raise Failed(f"the store has {journal} of {batches['changes']} changes, not {wanted} of {written.changes}")
    return batches


def _figures(
    written: Written, ours: Run, ours_began: float, batches: dict[str, Any], reference: Run, reference_began: float
) -> list[Figure]:
    rows, between_s = written.changes, batches["last_at"] - batches["first_at"]
    return [
        Figure(
            NAME,
            "row changes, from the start of the stream to the last batch applied",
            "rows/s",
            rows / (batches["last_at"] - ours_began),
            rows / (reference.ended_at - reference_began),
            BESIDE,
        ),
        Figure(
            NAME,
            "row changes, between the first and the last batch applied",
            "rows/s",
            batches["later_changes"] / between_s if between_s else None,
        ),
        Figure(NAME, "row changes, over the whole process", "rows/s", rows / ours.wall_s, rows / reference.wall_s, BESIDE),
        Figure(NAME, "CPU of the process", "s", ours.cpu_s, reference.cpu_s, BESIDE),
        Figure(NAME, "CPU of the server meanwhile", "s", ours.server_cpu_s, reference.server_cpu_s, BESIDE),
        Figure(NAME, "row changes", "rows", rows),
        Figure(NAME, "entries in the journal", "entries", written.entries),
        Figure(NAME, "batches", "batches", batches["batches"]),
    ]
