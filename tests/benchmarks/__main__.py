"""`python -m tests.benchmarks [benchmark ...]`: how fast it is, beside others in the same run and DESIGN.md's numbers; without a name all
benchmarks. Servers are its own. `python -m tests.benchmarks table FILE ...` makes a table of what --json wrote.

The figures are of one run on one machine: compare ratios. Whatever else runs on the machine makes them noisy.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path

from tests.benchmarks import accounting, capture, decode, end_to_end, idle, latency, results, snapshot, transaction, updates
from tests.benchmarks.figures import Figure, progress, table
from tests.benchmarks.machine import machine
from tests.benchmarks.programs import SETTINGS, TUNED
from tests.benchmarks.shop_mysql import MysqlShop
from tests.benchmarks.shop_postgres import PostgresShop
from tests.servers import mysql, postgres
from tests.servers.mysql import MySQLServer
from tests.servers.mysql_binaries import DEFAULT_FLAVOUR
from tests.servers.postgres import PostgresServer
from tests.servers.postgres_binaries import DEFAULT_VERSION

LOAD_NOISY = 0.5
NAMES = (
    decode.NAME,
    capture.NAME,
    end_to_end.NAME,
    latency.NAME,
    snapshot.NAME,
    transaction.NAME,
    updates.NAME,
    accounting.NAME,
    idle.NAME,
)
Measure = Callable[[Path], list[Figure]]  # in an empty folder


class Servers(ExitStack):
    """A PostgreSQL and a MySQL, each started when a shop is first wanted on it."""

    @cached_property
    def postgres(self) -> PostgresServer:
        return self.enter_context(PostgresServer(DEFAULT_VERSION, SETTINGS))

    @cached_property
    def mysql(self) -> MySQLServer:
        return self.enter_context(MySQLServer(DEFAULT_FLAVOUR))

    def facts(self) -> dict[str, str]:
        """What the servers that were started are, and how they are set."""
        found = {}
        if "postgres" in self.__dict__:
            server = self.postgres
            settings = ", ".join(f"{name}={server.settings[name]}" for name in ("fsync", *TUNED))
            found["postgresql"] = f"{server.binaries.version} ({server.binaries.origin}; {settings})"
        if "mysql" in self.__dict__:
            found["mysql"] = f"{self.mysql.version} ({self.mysql.binaries.origin})"
        return found


def main() -> None:
    """Measure what is asked for, print it, and write it as JSON where told."""
    if sys.argv[1:2] == ["table"]:
        print(results.shown(map(Path, sys.argv[2:])))
        return
    told, facts = _arguments(), machine()
    if facts["load"] > LOAD_NOISY:
        progress(f"the machine is busy already (load {facts['load']}): the figures will be noisy")
    with Servers() as servers:
        figures = _measured(_benchmarks(servers, told), told.only or NAMES)
        facts |= servers.facts()
    progress("done")
    print(table(figures), *(f"{name}: {value}" for name, value in facts.items()), sep="\n")
    if told.json is not None:
        results.save(told.json, sys.argv[1:], facts, figures)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("only", nargs="*", type=_name, metavar="benchmark", help=", ".join(NAMES))
    parser.add_argument("--rows", type=_count, default=100_000, help="rows of decode, capture, end-to-end and snapshot (%(default)s)")
    parser.add_argument("--rate", type=_count, default=3000, help="transactions a second of latency (%(default)s)")
    parser.add_argument("--seconds", type=_count, default=20, help="how long latency and idle are measured (%(default)s)")
    parser.add_argument("--large", type=_count, default=500_000, help="rows of transaction; DESIGN.md has 5000000 (%(default)s)")
    sizes = {"nargs": 2, "metavar": ("SMALL", "LARGE"), "default": (50_000, 500_000)}
    parser.add_argument("--entries", type=_count, **sizes, help="entries of updates' ledgers; DESIGN.md has 1000000 20000000 (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file too")
    return parser.parse_args()


def _name(text: str) -> str:
    if text not in NAMES:  # `choices` would refuse that none is named
        raise argparse.ArgumentTypeError(f"there is no '{text}', but {', '.join(NAMES)}")
    return text


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number from 1 on")
    return int(text)


def _benchmarks(servers: Servers, told: argparse.Namespace) -> dict[str, list[Measure]]:
    def on_postgres(measure: Callable[[PostgresShop, Path, int], list[Figure]], size: int) -> Measure:
        def measured(folder: Path) -> list[Figure]:
            with postgres.fresh_database(servers.postgres) as database:
                return measure(PostgresShop(servers.postgres, database), folder, size)

        return measured

    def on_mysql(measure: Callable[[MysqlShop, Path, int], list[Figure]], size: int) -> Measure:
        def measured(folder: Path) -> list[Figure]:
            with mysql.fresh_database(servers.mysql) as database:
                return measure(MysqlShop(servers.mysql, database), folder, size)

        return measured

    def on_both(measure: Callable[[PostgresShop | MysqlShop, Path, int], list[Figure]], size: int) -> list[Measure]:
        return [on_postgres(measure, size), on_mysql(measure, size)]

    return {
        decode.NAME: [on_postgres(decode.measure_postgres, told.rows), on_mysql(decode.measure_mysql, told.rows)],
        capture.NAME: on_both(capture.measure, told.rows),
        end_to_end.NAME: on_both(end_to_end.measure, told.rows),
        latency.NAME: [lambda folder: latency.measure(servers.postgres, folder, told.rate, told.seconds)],
        snapshot.NAME: on_both(snapshot.measure, told.rows),
        transaction.NAME: on_both(transaction.measure, told.large),
        updates.NAME: [lambda folder: updates.measure(folder, *told.entries)],
        accounting.NAME: [accounting.measure],
        idle.NAME: on_both(idle.measure, told.seconds),
    }


def _measured(benchmarks: dict[str, list[Measure]], wanted: Sequence[str]) -> list[Figure]:
    figures = list[Figure]()
    for name in wanted:
        for measure in benchmarks[name]:
            with tempfile.TemporaryDirectory(prefix="ledgertail-benchmark-") as folder:
                figures += measure(Path(folder))
    return figures


if __name__ == "__main__":
    main()
