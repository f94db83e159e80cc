"""Lets go of what a snapshot's sessions have locked as soon as somebody waits for it.

A session that has read a table in its transaction keeps others from altering it, and whoever wants to write it then queues up behind
an ALTER TABLE that waits. MySQL frees a table at ROLLBACK TO SAVEPOINT; MariaDB with a binary log does so only at the end of the
transaction, which is the end of the snapshot. So a session of its own asks, many times a second, for what any reader would get at
once; if it has to wait, somebody is in the queue before it.

Manual: 'Metadata Locking', MariaDB lock_wait_timeout (0: not at all; MySQL: at least a second).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress

import pymysql
from pymysql.constants import ER

from cdc.config import SourceConfig
from cdc.errors import SourceUnavailable
from cdc.sources.mysql.catalog import Table
from cdc.sources.mysql.connection import Connection, connect, hang_up, is_mariadb, query, translated

INTERVAL_SECONDS = 0.05
_TABLES_AT_ONCE = 50
_LISTED_MAX = 5


class Guard(threading.Thread):
    """Watches the tables it is told of, and ends `sessions` when one of them is waited for: `reason` says then why.

    A statement that waits does so for INTERVAL_SECONDS and a moment (MySQL: a second).
    """

    def __init__(self, name: str, config: SourceConfig, sessions: Sequence[Connection]) -> None:
        super().__init__(name=f"guard-{name}", daemon=True)
        self._name, self._config = name, config
        self._sessions = [session.thread_id() for session in sessions]
        self._connection = connect(name, config)
        self._tables: set[Table] = set()
        self._stop_asked = threading.Event()
        self.reason: BaseException | None = None
        if is_mariadb(self._connection):
            query(self._connection, "SET SESSION lock_wait_timeout = 0")

    def watch(self, table: Table) -> None:
        """A session is about to lock this table."""
        self._tables = self._tables | {table}

    def forget(self, table: Table) -> None:
        """No session has it locked any more."""
        self._tables = self._tables - {table}

    def run(self) -> None:
        try:
            with translated(self._name, self._config):
                while self.reason is None and not self._stop_asked.wait(INTERVAL_SECONDS):
                    self._look(sorted(self._tables, key=lambda table: table.sql))
        except BaseException as error:  # noqa: BLE001 the sessions end with it, and their reader raises it
            self.reason = error
        if self.reason is not None:
            self._end_sessions()

    def _look(self, tables: Sequence[Table]) -> None:
        try:
            for statement in probes(tables):
                query(self._connection, statement)
        except pymysql.Error as error:
            if error.args[0] != ER.LOCK_WAIT_TIMEOUT:
                raise
            self.reason = SourceUnavailable("mysql_snapshot.gave_way", source=self._name, tables=listed(tables))

    def _end_sessions(self) -> None:
        for session in self._sessions:
            with suppress(pymysql.Error):
                query(self._connection, f"KILL {session}")

    def end(self) -> None:
        """Stop watching. Never raises."""
        self._stop_asked.set()
        if self.ident is not None:
            self.join(timeout=5)
        hang_up(self._connection)


def probes(tables: Sequence[Table]) -> Iterator[str]:
    """Statements that open tables and read nothing."""
    for first in range(0, len(tables), _TABLES_AT_ONCE):
        yield " UNION ALL ".join(f"(SELECT 1 FROM {table.sql} LIMIT 0)" for table in tables[first : first + _TABLES_AT_ONCE])


def listed(tables: Sequence[Table]) -> str:
    """Tables for a message: not all of them where they are many."""
    names = [table.name for table in tables]
    return ", ".join(names) if len(names) <= _LISTED_MAX else f"{', '.join(names[:_LISTED_MAX])}, ... ({len(names)})"
