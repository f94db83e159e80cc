"""The shop's staff: several sessions that trade at once, at a fixed pace, until told to stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from importlib.resources import files
from random import Random

import psycopg

from cdc.demo.trade import OPERATIONS, Connection

_ROLLED_BACK, _WITH_SAVEPOINT = 0.05, 0.10  # shares of the transactions
_STOP_SECONDS_MAX = 10.0


def open_shop(connection: Connection) -> None:
    """Make the shop's tables and its past, in an empty database."""
    with connection.transaction():
        for script in ("shop.sql", "history.sql"):
            connection.execute(files(__package__).joinpath(script).read_bytes())


def close_of_business(connection: Connection) -> str:
    """Note the hour in the stores. Returns a position (LSN): whoever has reached it has all that was committed before."""
    with connection.transaction():
        connection.execute("UPDATE stores SET closed_at = now()")
        row = connection.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
    assert row is not None
    return str(row[0])


class Workload:
    """Sessions in threads of their own. `committed` and `rolled_back` count transactions that did something."""

    def __init__(self, connect: Callable[[], Connection], seed: int, sessions: int = 6, per_second: float = 80.0) -> None:
        self.committed = 0
        self.rolled_back = 0
        self._connect, self._seed, self._sessions, self._rate = connect, seed, sessions, per_second / sessions
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._pool = ThreadPoolExecutor(sessions, thread_name_prefix="shop")
        self._running: list[Future[None]] = []

    def start(self) -> None:
        """Let the sessions begin."""
        self._running = [self._pool.submit(self._session, number) for number in range(self._sessions)]

    def check(self) -> None:
        """Raises the error that ended a session."""
        for session in self._running:
            if session.done():
                session.result()

    def stop(self) -> None:
        """Let every session end its transaction; they have gone on return, unless the server hangs. Never raises."""
        self._stop.set()
        wait(self._running, _STOP_SECONDS_MAX)
        self._pool.shutdown(wait=False)

    def _session(self, number: int) -> None:
        rng = Random(f"{self._seed}/{number}")
        with self._connect() as connection:
            connection.autocommit = True
            due = time.monotonic()
            while not self._stop.wait(max(0.0, due - time.monotonic())):
                # A session that was held up does not make up for more than a second.
                due = max(due + rng.expovariate(self._rate), time.monotonic() - 1.0)
                self._transact(connection, rng)

    def _transact(self, connection: Connection, rng: Random) -> None:
        fate = rng.random()
        kept = fate >= _ROLLED_BACK
        first, second = rng.choices(list(OPERATIONS), weights=list(OPERATIONS.values()), k=2)
        try:
            with connection.transaction():
                if fate < _ROLLED_BACK + _WITH_SAVEPOINT:
                    with connection.transaction():
                        second(connection, rng)
                        raise psycopg.Rollback()
                did = first(connection, rng)
                if not kept:
                    raise psycopg.Rollback()
        except psycopg.errors.DeadlockDetected:
            did, kept = True, False
        with self._lock:
            self.committed += did and kept
            self.rolled_back += did and not kept
