"""The programs that are measured, as processes: the daemon and pg_recvlogical."""

from __future__ import annotations

import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

import cdc
from cdc.errors import LedgertailError
from tests.benchmarks.orders import TABLE
from tests.servers.account import environment
from tests.servers.own_server import OwnServer, poll
from tests.servers.postgres import Database, PostgresServer

PATIENCE_S = 3600.0
PUBLICATION = "reference"  # what others than the daemon read
TUNED: dict[str, str | int] = {"shared_buffers": "128MB", "max_wal_size": "4GB", "autovacuum": "off"}
# So that the server's log tells when a slot was made and when a stream began.
SETTINGS: dict[str, str | int] = {**TUNED, "log_replication_commands": "on", "log_line_prefix": "%n "}


class Failed(Exception):
    """A program failed or what it left is not what was written: there is nothing to measure."""


@dataclass(frozen=True, slots=True)
class Run:
    """A program's run from its start to its end, as Unix times, and the CPU seconds it and the server took meanwhile."""

    begun_at: float
    ended_at: float
    cpu_s: float
    server_cpu_s: float

    @property
    def wall_s(self) -> float:
        return self.ended_at - self.begun_at


def catch_up(server: OwnServer, config: Path) -> Run:
    """The daemon until it has all there is."""
    return run_through(server, daemon(config, "--until-caught-up"), config.with_name("daemon.log"))


def daemon(config: Path, *options: str) -> list[str]:
    """The daemon's command."""
    return [sys.executable, "-m", "cdc.cli", "--config", str(config), "run", *options]


@contextmanager
def running(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """The daemon, streaming."""
    log = config.with_name("daemon.log")
    with log.open("ab") as output:
        process = subprocess.Popen(daemon(config), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment())
    try:
        poll(lambda: process.poll() is not None or _streams(config), f"the daemon does not stream\n{log.read_text()}")
        if process.poll() is not None:
            raise Failed(f"the daemon ended with {process.returncode}\n{log.read_text()[-4000:]}")
        yield process
    finally:
        process.terminate()
        process.wait()


def _streams(config: Path) -> bool:
    with suppress(LedgertailError):  # before it has made its store and its socket
        status = cdc.connect(str(config)).status()
        return bool(status["daemon"] == "up" and status["sources"][0]["state"] == "streaming")
    return False


def receiver(server: PostgresServer, database: Database, slot: str, into: str, *options: str) -> list[str]:
    """pg_recvlogical's command, reading what the daemon reads. `into`: a file, `-` for its standard output."""
    plugin = ["-o", "proto_version=1", "-o", f"publication_names={PUBLICATION}"]
    where = ["-d", database.url, "--slot", slot, "--start", "--no-loop", "-f", into, "--fsync-interval=0"]
    return [str(server.binaries.bin / "pg_recvlogical"), *where, *plugin, *options]


def make_slot(database: Database) -> str:
    """A slot and a publication for `receiver` that begin here. Returns the slot's name."""
    name = f"{PUBLICATION}_{database.name}"
    database.connection.execute(f"CREATE PUBLICATION {PUBLICATION} FOR TABLE {TABLE}")
    database.connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [name])
    return name


def run_through(server: OwnServer, command: Sequence[str], log: Path) -> Run:
    """Run a program to its end, its output in `log`. Raises Failed."""
    cpu_s, server_cpu_s, begun_at = _ended_cpu_s(), server_cpu(server), time.time()
    with log.open("ab") as output:
        code = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment(), timeout=PATIENCE_S
        ).returncode
    ended_at = time.time()
    if code:
        raise Failed(f"{' '.join(command)} ended with {code}\n{log.read_text(errors='replace')[-4000:]}")
    return Run(begun_at, ended_at, _ended_cpu_s() - cpu_s, server_cpu(server) - server_cpu_s)


def cpu_s(process: int) -> float:
    """CPU seconds of a process."""
    used = psutil.Process(process).cpu_times()
    return float(used.user + used.system)


def _ended_cpu_s() -> float:
    """CPU seconds of all our programs that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def server_cpu(server: OwnServer) -> float:
    """CPU seconds of the server's processes since it started, of those that have ended too."""
    assert server.process is not None
    postmaster = psutil.Process(server.process.pid)
    while True:
        children = postmaster.children(recursive=True)
        with suppress(psutil.NoSuchProcess):
            total = sum(sum(process.cpu_times()[:4]) for process in (postmaster, *children))
            if postmaster.children(recursive=True) == children:  # or one has ended between the looks at it and at its parent
                return float(total)


def commanded_at(server: PostgresServer, command: str, slot: str) -> float:
    """When the server was last given a replication command on a slot. Raises Failed."""
    pattern = rf'^(\d+\.\d+) .*received replication command: {command} "?{re.escape(slot)}\b'
    times = re.findall(pattern, server.log.read_text(errors="replace"), re.MULTILINE)
    if not times:
        raise Failed(f"the server's log has no {command} of {slot}\n{server.log_tail()}")
    return float(times[-1])
