"""`python -m tests.benchmarks`: capture, latency and snapshot on a PostgreSQL of its own, beside PostgreSQL's own programs; a binlog on
a MySQL of its own, beside python-mysql-replication; a large set of rules beside a simple one; and the kernels of decoding beside receiving.
Names of benchmarks as arguments measure these only.

The figures are of one run on one machine: compare ratios. Whatever else runs on the machine makes them noisy.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.benchmarks import accounting, binlog, capture, decode, latency, snapshot
from tests.benchmarks.figures import Figure, machine, progress, table
from tests.benchmarks.programs import SETTINGS, TUNED
from tests.servers import mysql
from tests.servers.mysql_binaries import DEFAULT_FLAVOUR
from tests.servers.postgres import PostgresServer, fresh_database
from tests.servers.postgres_binaries import DEFAULT_VERSION

LOAD_NOISY = 0.5
NAMES = (accounting.NAME, capture.NAME, latency.NAME, snapshot.NAME, decode.NAME, binlog.NAME)


def main() -> None:
    """Measure everything, print it, and write it as JSON where told."""
    told = _arguments()
    facts = machine(postgres="")
    if facts["load"] > LOAD_NOISY:
        progress(f"the machine is busy already (load {facts['load']}): the figures will be noisy")
    with PostgresServer(DEFAULT_VERSION, SETTINGS) as server:
        facts["postgresql"] = f"{server.binaries.version} ({server.binaries.origin})"
        facts["settings"] = ", ".join(f"{name}={server.settings[name]}" for name in ("fsync", *TUNED))
        figures = _measured(server, told)
    print(table(figures), *(f"{name}: {value}" for name, value in facts.items()), sep="\n")
    if told.json is not None:
        told.json.write_text(json.dumps(_facts(told, facts, figures), ensure_ascii=False, indent=2) + "\n", "utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", choices=NAMES, metavar="benchmark", help=", ".join(NAMES))
    parser.add_argument("--rows", type=_count, default=100_000, help="row changes of capture, rows of snapshot (%(default)s)")
    parser.add_argument("--rate", type=_count, default=1000, help="transactions a second of latency (%(default)s)")
    parser.add_argument("--seconds", type=_count, default=20, help="how long latency is measured (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    return parser.parse_args()


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 on")
    return int(text)


def _measured(server: PostgresServer, told: argparse.Namespace) -> list[Figure]:
    wanted, figures = told.only or NAMES, list[Figure]()
    with tempfile.TemporaryDirectory(prefix="ledgertail-benchmark-") as folder:
        place = Path(folder)
        if accounting.NAME in wanted:
            figures += accounting.measure(_room(place, accounting.NAME))
        if capture.NAME in wanted:
            with fresh_database(server) as database:
                figures += capture.measure(server, database, _room(place, capture.NAME), told.rows)
        if latency.NAME in wanted:
            figures += latency.measure(server, _room(place, latency.NAME), told.rate, told.seconds)
        if snapshot.NAME in wanted:
            with fresh_database(server) as database:
                figures += snapshot.measure(server, database, _room(place, snapshot.NAME), told.rows)
        if decode.NAME in wanted:
            with fresh_database(server) as database:
                figures += decode.measure_postgres(database, told.rows)
        if binlog.NAME in wanted:
            with mysql.MySQLServer(DEFAULT_FLAVOUR) as other, mysql.fresh_database(other) as shop:
                figures += binlog.measure(shop, _room(place, binlog.NAME), told.rows)
    progress("done")
    return figures


def _room(place: Path, name: str) -> Path:
    room = place / name
    room.mkdir()
    return room


def _facts(told: argparse.Namespace, machine: dict[str, Any], figures: list[Figure]) -> dict[str, Any]:
    asked = {"rows": told.rows, "rate": told.rate, "seconds": told.seconds}
    at = datetime.now(UTC).isoformat(timespec="seconds")
    return {"at": at, "asked": asked, "machine": machine, "figures": [figure.facts() for figure in figures]}


if __name__ == "__main__":
    main()
