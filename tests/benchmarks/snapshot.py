"""The first copy of a table until it is mirrored and accounted for; beside psql, which throws the rows away."""

from __future__ import annotations

from pathlib import Path

import cdc
from tests.benchmarks.figures import Figure, progress
from tests.benchmarks.orders import TABLE, prepare, slot, write_rows
from tests.benchmarks.programs import Failed, catch_up, commanded_at, run_through
from tests.servers.postgres import Database, PostgresServer

NAME, BESIDE = "snapshot", "psql COPY"
_STORE = """SELECT (SELECT count(*) FROM mirror_shop.orders) AS mirrored, (SELECT count(*) FROM ledger.entries) AS entries,
    (SELECT max(epoch(applied_at)) FROM ledger.batches) AS last_at"""


def measure(server: PostgresServer, database: Database, folder: Path, rows: int) -> list[Figure]:
    """Time the first snapshot of `rows` rows, from the slot's making to the batch in which they are promoted. Raises Failed."""
    config = prepare(database, folder)
    progress(f"snapshot: filling the table with {rows:,} rows")
    write_rows(database, rows)
    progress("snapshot: the daemon copies it")
    ours = catch_up(server, config)
    began = commanded_at(server, "CREATE_REPLICATION_SLOT", slot(database))
    with cdc.connect(str(config)) as store:
        found = store.query(_STORE).to_pylist()[0]
    if (found["mirrored"], found["entries"]) != (rows, rows):
        raise Failed(f"the store has {found}, not {rows} rows and entries")
    progress("snapshot: psql copies it")
    command = [str(server.binaries.bin / "psql"), "-X", "-d", database.url, "-o", "/dev/null", "-c", f"COPY {TABLE} TO STDOUT"]
    reference = run_through(server, command, folder / "psql.log")
    return [
        Figure(NAME, "rows, from COPY to promoted", "rows/s", rows / (found["last_at"] - began), rows / reference.wall_s, BESIDE),
        Figure(NAME, "rows, over the whole process", "rows/s", rows / ours.wall_s, rows / reference.wall_s, BESIDE),
        Figure(NAME, "CPU of the process", "s", ours.cpu_s, reference.cpu_s, BESIDE),
        Figure(NAME, "CPU of the server meanwhile", "s", ours.server_cpu_s, reference.server_cpu_s, BESIDE),
        Figure(NAME, "rows", "rows", rows),
    ]
