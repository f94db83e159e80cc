"""From a source's commit to where everyone can see it, at a fixed rate of one-row transactions.

pgbench starts transactions by a schedule that waits for nobody (`--rate`: Poisson arrivals), and latency counts from the commit's own
time, so that a slow daemon can't slow down what it is measured with. A transaction is visible when a reader of the store was
first answered with its batch; that answer's own time is in the figure.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

import cdc
from tests.benchmarks.figures import Figure, Goal, progress
from tests.benchmarks.orders import ONE, TABLE
from tests.benchmarks.programs import Failed, cpu_s, make_slot, receiver, run_through, running, server_cpu
from tests.benchmarks.received import Received
from tests.benchmarks.shop_postgres import PostgresShop
from tests.servers.account import environment
from tests.servers.own_server import poll
from tests.servers.postgres import Database, PostgresServer, fresh_database

NAME, BESIDE = "latency", "pg_recvlogical"
GOALS = {"p50": Goal(150, most=True), "p99": Goal(500, most=True)}
GOALS_RATE = 3000  # transactions a second
WARM_UP_S = 2
LOOK_PAUSE_S = 0.01
CATCH_UP_S = 300.0
CLIENTS = 4


@dataclass(frozen=True, slots=True)
class Load:
    """A run of the writer: when what it commits begins to count, in microseconds since 1970, and CPU seconds of reader and server."""

    counts_from_us: int
    reader_cpu_s: float
    server_cpu_s: float


class Looker(threading.Thread):
    """Asks the store, over the daemon's socket, for its newest batch, over and over; notes when it first saw each."""

    def __init__(self, config: Path) -> None:
        super().__init__(name="looker", daemon=True)
        self._store, self._stopping = cdc.connect(str(config)), threading.Event()
        self.seen_us: dict[int, int] = {}
        self.looks_ms: list[float] = []

    def run(self) -> None:
        last, stopping = self._newest(), False
        while not stopping:
            stopping = self._stopping.wait(LOOK_PAUSE_S)
            asked = time.perf_counter()
            newest = self._newest()
            now_us = time.time_ns() // 1000
            self.looks_ms.append((time.perf_counter() - asked) * 1000)
            self.seen_us.update(dict.fromkeys(range(last + 1, newest + 1), now_us))
            last = newest

    def stop(self) -> None:
        """End after one more look."""
        self._stopping.set()
        self.join()

    def _newest(self) -> int:
        return int(self._store.query("SELECT coalesce(max(batch_seq), 0) AS newest FROM ledger.batches").column(0)[0].as_py())


def measure(server: PostgresServer, folder: Path, rate: int, seconds: int) -> list[Figure]:
    """Write `rate` transactions a second for so many seconds, to the daemon and then to pg_recvlogical. Raises Failed."""
    with fresh_database(server) as database:
        progress(f"latency: {rate:,} transactions/s for {seconds} s, the daemon reads")
        ours, load, looks_ms, batches = _ours(server, database, folder, rate, seconds)
    with fresh_database(server) as database:
        progress(f"latency: {rate:,} transactions/s for {seconds} s, pg_recvlogical reads")
        reference, reference_load = _reference(server, database, folder, rate, seconds)
    one, other = _percentiles(ours, load), _percentiles(reference, reference_load)
    spent_s, goals = WARM_UP_S + seconds, GOALS if rate >= GOALS_RATE else {}
    return [
        Figure(NAME, "transactions", "tx/s", one.pop("rate"), other.pop("rate"), BESIDE),
        *(Figure(NAME, f"commit to visible at {rate:,}/s, {name}", "ms", one[name], other[name], BESIDE, goals.get(name)) for name in one),
        Figure(NAME, "CPU of the process", "cores", load.reader_cpu_s / spent_s, reference_load.reader_cpu_s / spent_s, BESIDE),
        Figure(
            NAME, "CPU of the server, writers included", "cores", load.server_cpu_s / spent_s, reference_load.server_cpu_s / spent_s, BESIDE
        ),
        Figure(NAME, "a look at the store, p50", "ms", sorted(looks_ms)[len(looks_ms) // 2]),
        Figure(NAME, "transactions in a batch", "tx", len(ours) / batches),
    ]


def _ours(server: PostgresServer, database: Database, folder: Path, rate: int, seconds: int) -> tuple[pa.Table, Load, list[float], int]:
    config = PostgresShop(server, database).config(folder)
    with running(config) as process:
        looker = Looker(config)
        looker.start()
        load = _load(server, database, folder, rate, seconds, process.pid, lambda: _all_visible(database, config))
        looker.stop()
        with cdc.connect(str(config)) as store:
            entries = store.query("SELECT batch_seq, epoch_us(committed_at) AS committed_us FROM ledger.entries")
    seen = pa.table({"batch_seq": list(looker.seen_us), "arrived_us": list(looker.seen_us.values())})
    arrivals = duckdb.sql("SELECT committed_us, arrived_us FROM entries JOIN seen USING (batch_seq)").to_arrow_table()
    if arrivals.num_rows != entries.num_rows:
        raise Failed(f"{entries.num_rows} entries, but {arrivals.num_rows} were seen to come")
    return arrivals, load, looker.looks_ms, seen.num_rows


def _reference(server: PostgresServer, database: Database, folder: Path, rate: int, seconds: int) -> tuple[pa.Table, Load]:
    PostgresShop(server, database)
    command = receiver(server, database, make_slot(database), "-")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment()) as process:
        assert process.stdout is not None
        received = Received(process.stdout)
        received.start()
        try:
            load = _load(server, database, folder, rate, seconds, process.pid, lambda: len(received.commits) >= _written(database))
        finally:
            process.terminate()
            received.join()
    committed, arrived = zip(*received.commits, strict=True)
    return pa.table({"committed_us": committed, "arrived_us": arrived}), load


def _load(
    server: PostgresServer, database: Database, folder: Path, rate: int, seconds: int, reader: int, arrived: Callable[[], bool]
) -> Load:
    """Write at the rate, until all has arrived at the reader, a process's id. Raises Failed."""
    script = folder / "one.sql"
    script.write_text(ONE, "utf-8")
    schedule = [f"--rate={rate}", f"--time={WARM_UP_S + seconds}", f"--client={CLIENTS}", "--jobs=1"]
    writer = [str(server.binaries.bin / "pgbench"), "--no-vacuum", "--protocol=prepared", *schedule, f"--file={script}", database.url]
    used_s, server_used_s, begun_us = cpu_s(reader), server_cpu(server), time.time_ns() // 1000
    run_through(server, writer, folder / "pgbench.log")
    poll(arrived, f"what was written has not arrived after {CATCH_UP_S:.0f} s", CATCH_UP_S)
    return Load(begun_us + WARM_UP_S * 1_000_000, cpu_s(reader) - used_s, server_cpu(server) - server_used_s)


def _written(database: Database) -> int:
    return int(database.connection.execute(f"SELECT count(*) FROM {TABLE}").fetchall()[0][0])


def _all_visible(database: Database, config: Path) -> bool:
    with cdc.connect(str(config)) as store:
        return bool(store.query("SELECT count(*) FROM ledger.entries").column(0)[0].as_py() == _written(database))


def _percentiles(arrivals: pa.Table, load: Load) -> dict[str, float]:
    """`rate` in transactions/s, and p50, p90, p99 and max in milliseconds, of what was committed after the warm-up."""
    spread = ", ".join(f"quantile_disc(ms, {q}) AS p{int(q * 100)}" for q in (0.5, 0.9, 0.99))
    counted = f"SELECT *, (arrived_us - committed_us) / 1000 AS ms FROM arrivals WHERE committed_us >= {load.counts_from_us}"
    rate = "count(*) / greatest(max(committed_us) - min(committed_us), 1) * 1e6 AS rate"
    found: dict[str, float] = duckdb.sql(f"SELECT {rate}, {spread}, max(ms) AS max FROM ({counted})").to_arrow_table().to_pylist()[0]
    return found
