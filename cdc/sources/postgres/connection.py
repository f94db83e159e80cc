"""Connections to a source and the one place where the driver's errors become ours.

Every session prints values alike, whatever the server, the database or the role are set to, so that the snapshot and the log agree.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, LiteralString

import psycopg
from psycopg import errors, pq

from cdc.config import SourceConfig
from cdc.errors import PositionLost, SourceError, SourceUnavailable

Connection = psycopg.Connection[tuple[Any, ...]]

LOCK_TIMEOUT_MS = 90  # a lock of ours must not hold others up for longer than a blink
_NETWORK = {
    "connect_timeout": "10",
    "keepalives": "1",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_SETTINGS: dict[LiteralString, LiteralString] = {
    "client_encoding": "UTF8",
    "timezone": "UTC",
    "datestyle": "ISO",
    "intervalstyle": "postgres",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "row_security": "off",  # a policy that hides rows must be an error, not a short copy
    "search_path": "pg_catalog",
}
_SETTINGS_SINCE: dict[LiteralString, int] = {"idle_session_timeout": 140000, "transaction_timeout": 170000}

# The server sends no SQLSTATE for a refused connection that libpq would pass on: the text must do. Anything else may pass.
_REFUSALS = (
    (re.compile(r"password authentication failed|no password supplied|authentication failed|认证失败"), "source.password"),
    (re.compile(r"no pg_hba\.conf entry|must be superuser or replication role|permission denied to start WAL sender"), "source.refused"),
    (re.compile(r"permission denied for database|is not permitted to log in"), "source.refused"),
    (re.compile(r"database .* does not exist|role .* does not exist|数据库.*不存在|角色.*不存在"), "source.no_database"),
    (
        re.compile(r"server does not support SSL|certificate|sslmode|invalid connection option|invalid URI|could not parse"),
        "source.refused",
    ),
)
_PASSING_CLASSES = ("08", "53", "57", "40", "58")
_PASSING = ("55P03", "55006", "25P03", "25P04")
_LOST = re.compile(r"can no longer (get|access)|has already been removed|has been invalidated|replication slot .* does not exist")


def connect(name: str, config: SourceConfig, replication: bool = False) -> Connection:
    """A session in autocommit; with `replication` a walsender's. Raises SourceError or SourceUnavailable."""
    parameters = {
        **_NETWORK,
        **config.options,
        "application_name": f"ledgertail {name}",
        **({"replication": "database"} if replication else {}),
    }
    if (password := config.password()) is not None:
        parameters["password"] = password
    with translated(name, config):
        connection: Connection = psycopg.connect(config.url, autocommit=True, prepare_threshold=None, **parameters)  # type: ignore[arg-type]
        try:
            settings = dict(_SETTINGS)
            settings.update((key, "0") for key, since in _SETTINGS_SINCE.items() if connection.info.server_version >= since)
            connection.execute("; ".join(f"SET {key} = '{value}'" for key, value in settings.items()).encode())
        except BaseException:
            connection.close()
            raise
    return connection


def place(config: SourceConfig) -> str:
    """Host, port and database of a source, for messages."""
    return f"{config.parts.hostname or 'localhost'}:{config.parts.port or 5432}{config.parts.path}"


@contextmanager
def translated(name: str, config: SourceConfig) -> Iterator[None]:
    """Raise the driver's errors as ours, the cause kept."""
    try:
        yield
    except psycopg.Error as error:
        raise translation(name, config, error) from error
    except OSError as error:
        raise SourceUnavailable("source.unreachable", source=name, place=place(config), detail=error) from error


def translation(name: str, config: SourceConfig, error: psycopg.Error) -> SourceError:
    """Our error for one of the driver's."""
    detail = " ".join(str(error).split())
    state = error.sqlstate or ""
    values = {"source": name, "place": place(config), "user": config.parts.username or "", "detail": detail}
    if _LOST.search(detail):
        return PositionLost("source.slot_lost", **values)
    if not state:
        code = next((code for pattern, code in _REFUSALS if pattern.search(detail)), None)
        if code or isinstance(error, psycopg.ProgrammingError):
            return SourceError(code or "source.refused", **values)
        return SourceUnavailable("source.unreachable", **values)
    if state.startswith(_PASSING_CLASSES) or state in _PASSING:
        return SourceUnavailable("source.unreachable", **values)
    if state == "42501":
        return SourceError("source.privilege", **values)
    if state.startswith("28"):
        return SourceError("source.password", **values)
    if state in ("42P01", "42703", "3D000", "3F000", "42704"):
        return SourceError("source.object_missing", **values)
    return SourceError("source.failed", state=state, **values)


def failure(result: pq.abc.PGresult) -> psycopg.Error:
    """The driver's error for a result of its lower level."""
    return errors.error_from_result(result, encoding="utf-8")


def quoted(name: str) -> str:
    """An identifier as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'
