"""The blink of a lock in which all sessions of a snapshot begin, so that they see one exact place of the log.

LOCK TABLES ... READ is granted once nobody has uncommitted changes in these tables, and nobody can write them until it is released: what is
in the log before the place read meanwhile is just what the sessions see. Asked for in a session without autocommit it also takes InnoDB's
own locks, and so waits for prepared XA transactions whose connection is gone, which hold no metadata locks in MariaDB. While it waits,
writers may queue up behind it: so it is given up at once and tried again, with pauses for them.

Manual: 'LOCK TABLES', 'START TRANSACTION', innodb_table_locks, 'Metadata Locking'.
"""

from __future__ import annotations

import logging
import select
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from enum import Enum

import pymysql
from pymysql.constants import COMMAND, CR, ER

from cdc.config import SourceConfig
from cdc.decode.mysql.position import BinlogPosition
from cdc.errors import SourceError, SourceUnavailable
from cdc.sources.mysql.catalog import Table
from cdc.sources.mysql.connection import Connection, connect, hang_up, is_mariadb, query, quoted, user
from cdc.sources.mysql.guard import listed, probes
from cdc.sources.mysql.server import Server, head
from cdc.texts import text

log = logging.getLogger("ledgertail.source")

ASKED_SECONDS = HELD_SECONDS = 0.09
PAUSE_SECONDS, PAUSE_SECONDS_MAX = 0.1, 1.6  # at least as long as others were held up
WARN_SECONDS, BLOCKED_SECONDS = 10.0, 600.0
_BEGIN = "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY"
# InnoDB's own locks too; and should we vanish, the server ends the session after a second.
_SETTINGS = "SET SESSION autocommit = 0, SESSION innodb_table_locks = 1, SESSION innodb_lock_wait_timeout = 1, SESSION wait_timeout = 1"
_METADATA_LOCKS = """
SELECT DISTINCT t.processlist_id, t.processlist_user FROM performance_schema.metadata_locks m
JOIN performance_schema.threads t ON t.thread_id = m.owner_thread_id
WHERE m.object_type = 'TABLE' AND m.lock_status = 'GRANTED' AND (m.object_schema, m.object_name) IN %s
AND m.lock_type NOT IN ('SHARED', 'SHARED_HIGH_PRIO', 'SHARED_READ', 'SHARED_READ_ONLY', 'SHARED_UPGRADABLE')
"""
_INSTRUMENT = "SELECT enabled FROM performance_schema.setup_instruments WHERE name = 'wait/lock/metadata/sql/mdl'"
_TRANSACTIONS = """
SELECT p.id, p.user FROM information_schema.innodb_trx t JOIN information_schema.processlist p ON p.id = t.trx_mysql_thread_id
WHERE t.trx_tables_locked > 0 OR t.trx_rows_modified > 0 ORDER BY t.trx_started
"""
_LISTED = 5


class Missed(Enum):
    """Why an attempt failed: others have uncommitted changes in the tables, or the sessions took too long to begin."""

    BLOCKED = 1
    SLOW = 2


def agree(
    name: str, config: SourceConfig, server: Server, tables: Sequence[Table], sessions: Sequence[Connection]
) -> tuple[BinlogPosition, list[Connection]]:
    """Have the sessions begin at one place of the log; returns it and those that did, as fewer may where the way to the server is long.

    They then see all that committed before it in `tables`, and nothing else. Raises SourceUnavailable after BLOCKED_SECONDS, and
    SourceError where a privilege lacks. Call it within `translated`.
    """
    begun, pause, warned, left = time.monotonic(), PAUSE_SECONDS, False, list(sessions)
    while True:
        outcome = _attempt(name, config, server, tables, left)
        if isinstance(outcome, BinlogPosition):
            return outcome, left
        if outcome is Missed.SLOW:
            left = left[: max(1, len(left) // 2)]
        waited = time.monotonic() - begun
        if waited > BLOCKED_SECONDS or (waited > WARN_SECONDS and not warned):
            error = _missed(name, config, tables, outcome, waited)
            if waited > BLOCKED_SECONDS:
                raise error
            log.warning("%s; %s", error.message, error.hint)
            warned = True
        time.sleep(pause)
        pause = min(2 * pause, PAUSE_SECONDS_MAX)


def _attempt(
    name: str, config: SourceConfig, server: Server, tables: Sequence[Table], sessions: Sequence[Connection]
) -> BinlogPosition | Missed:
    """Ask once for the locks, and hold them while the sessions begin. Each attempt has connections of its own: their end releases all."""
    locker = connect(name, config)
    try:
        watcher = connect(name, config)
        try:
            if not _opened(locker, tables):
                return Missed.BLOCKED
            query(locker, _SETTINGS)
            trip = min(_round_trip(watcher) for _ in range(3))
            if 2 * trip > HELD_SECONDS:
                return Missed.SLOW
            asked = time.monotonic()
            if not _granted(name, config, locker, watcher, tables):
                return Missed.BLOCKED
            granted = time.monotonic()
            # The server granted them half a trip ago, and half a trip passes until it hears that they can go.
            position = _begin(server, locker, watcher, sessions, granted + HELD_SECONDS - trip)
            held = time.monotonic() - granted
        finally:
            hang_up(watcher)
    finally:
        hang_up(locker)
    log.info("source '%s': locks asked for %.1f ms, held %.1f ms, %d sessions", name, 1e3 * (granted - asked), 1e3 * held, len(sessions))
    return position or Missed.SLOW


def _opened(locker: Connection, tables: Sequence[Table]) -> bool:
    """Have the server open the tables, so that locking them takes no longer than it must; False if somebody has one for himself."""
    try:
        for statement in probes(tables):
            query(locker, statement)
    except pymysql.OperationalError as error:
        if error.args[0] != ER.LOCK_WAIT_TIMEOUT:
            raise
        return False
    return True


def _round_trip(connection: Connection) -> float:
    """Seconds to the server and back."""
    begun = time.monotonic()
    query(connection, "DO 0")
    return time.monotonic() - begun


def _granted(name: str, config: SourceConfig, locker: Connection, watcher: Connection, tables: Sequence[Table]) -> bool:
    """Whether the locks were granted in time. Raises SourceError without the privilege."""
    try:
        _send(locker, "LOCK TABLES " + ", ".join(f"{table.sql} READ" for table in tables))
        if _ready([locker], time.monotonic() + ASKED_SECONDS):
            locker._read_query_result()
            return True
        query(watcher, f"KILL QUERY {locker.thread_id()}")
        locker._read_query_result()
    except pymysql.Error as error:
        if error.args[0] == ER.DBACCESS_DENIED_ERROR:
            databases = dict.fromkeys(table.database for table in tables)
            grants = " ".join(f"GRANT LOCK TABLES ON {quoted(database)}.* TO ...;" for database in databases)
            raise SourceError("mysql_snapshot.lock_privilege", source=name, user=user(config), grants=grants) from error
        if error.args[0] not in (ER.QUERY_INTERRUPTED, ER.LOCK_WAIT_TIMEOUT, CR.CR_SERVER_LOST):
            raise
    return False


def _begin(
    server: Server, locker: Connection, watcher: Connection, sessions: Sequence[Connection], deadline: float
) -> BinlogPosition | None:
    """The place of the log at which all sessions begin; None if they could not before `deadline`. Releases the locks."""
    for session in sessions:
        _send(session, _BEGIN)
    watcher._read_timeout = max(0.001, (deadline - time.monotonic()) / 2)  # MariaDB is asked twice
    try:
        position = head(watcher, server)
    except pymysql.OperationalError as error:
        if error.args[0] != CR.CR_SERVER_LOST:
            raise
        position = None
    begun = _ready(sessions, deadline)
    query(locker, "UNLOCK TABLES")
    for session in sessions:
        session._read_query_result()
    return position if begun else None


def _send(connection: Connection, statement: str) -> None:
    """Send a statement whose answer is read later: many servers' round trips cost no more than one."""
    connection._execute_command(COMMAND.COM_QUERY, statement)


def _ready(connections: Sequence[Connection], deadline: float) -> bool:
    """Wait until each has an answer; False if `deadline` came first."""
    waiting = {connection._sock for connection in connections}
    while waiting:
        ready, _, _ = select.select(waiting, [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        waiting.difference_update(ready)
    return True


def _missed(name: str, config: SourceConfig, tables: Sequence[Table], outcome: Missed, waited: float) -> SourceUnavailable:
    values = {"source": name, "tables": listed(tables), "seconds": int(waited)}
    if outcome is Missed.SLOW:
        return SourceUnavailable("mysql_snapshot.slow", **values, limit_ms=int(HELD_SECONDS * 1000))
    connection = connect(name, config)
    try:
        found = list(dict.fromkeys(blockers(connection, tables)))
        ((size, parts),) = query(connection, "SELECT @@GLOBAL.table_open_cache, @@GLOBAL.table_open_cache_instances")
    finally:
        hang_up(connection)
    if not found and len(tables) * parts > size:
        # Opening them all anew for each lock takes longer than the lock may.
        return SourceUnavailable("mysql_snapshot.many_tables", **values, count=len(tables), size=2 * len(tables) * parts)
    named = ", ".join(found[:_LISTED]) or text("mysql_snapshot.blocker.unknown", user=user(config))
    return SourceUnavailable("mysql_snapshot.blocked", **values, blockers=named)


def blockers(connection: Connection, tables: Sequence[Table]) -> Iterator[str]:
    """Who may have uncommitted changes in the tables, for people, as far as the user may see it."""
    with suppress(pymysql.Error):
        places = [(table.database, table.table) for table in tables]
        found = query(connection, _METADATA_LOCKS, (places,)) if _watches(connection) else query(connection, _TRANSACTIONS)
        for thread, owner in found:
            yield text("mysql_snapshot.blocker.session", thread=thread, user=owner)
    with suppress(pymysql.Error):  # a right of its own on MySQL
        for *_, xid in query(connection, "XA RECOVER FORMAT = 'SQL'" if is_mariadb(connection) else "XA RECOVER CONVERT XID"):
            yield text("mysql_snapshot.blocker.prepared", xid=xid)


def _watches(connection: Connection) -> bool:
    """Whether the server keeps account of metadata locks and the user may see it."""
    try:
        return query(connection, _INSTRUMENT) == [("YES",)]
    except pymysql.Error:
        return False
