"""Connections to a source and the one place where the driver's errors become ours.

Every session is set alike, whatever the server's or the user's defaults, so that the snapshot and the log agree and nothing is cut short.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias
from urllib.parse import unquote

import pymysql
from pymysql import converters
from pymysql.constants import CR, ER

from cdc.config import SourceConfig
from cdc.errors import ConfigError, PositionLost, SourceError, SourceUnavailable

Connection: TypeAlias = pymysql.connections.Connection

CONNECT_SECONDS = 10
SILENCE_SECONDS = 60.0
_KEEPALIVE = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}  # those this system has

_SETTINGS = {
    "time_zone": "'+00:00'",
    "sql_mode": "''",
    "sql_select_limit": "18446744073709551615",  # a limit set for the server would make a copy short
    "wait_timeout": "86400",
    "net_read_timeout": "3600",
    "net_write_timeout": "3600",  # the server waits that long while the store has no room for more
    "lock_wait_timeout": "1",  # a lock of ours must not hold others up; the snapshot gives up far sooner
}
_SETTINGS_MYSQL = {"max_execution_time": "0"}
_SETTINGS_MARIADB = {"max_statement_time": "0"}

_OPTIONS = ("ssl_mode", "ssl_ca", "ssl_cert", "ssl_key", "unix_socket", "connect_timeout")
_SSL_MODES = ("disabled", "preferred", "required", "verify_ca", "verify_identity")

# Numbers of errors that stand in neither of PyMySQL's tables are MariaDB's or newer than it.
_PASSING = {
    *(CR.CR_CONNECTION_ERROR, CR.CR_CONN_HOST_ERROR, CR.CR_UNKNOWN_HOST, CR.CR_SERVER_GONE_ERROR, CR.CR_SERVER_LOST),
    *(CR.CR_SERVER_HANDSHAKE_ERR, CR.CR_SERVER_LOST_EXTENDED),
    *(ER.CON_COUNT_ERROR, ER.TOO_MANY_USER_CONNECTIONS, ER.USER_LIMIT_REACHED, ER.CANT_CREATE_THREAD, ER.OUT_OF_RESOURCES),
    *(ER.OUTOFMEMORY, ER.OUT_OF_SORTMEMORY, ER.DISK_FULL, ER.LOCK_WAIT_TIMEOUT, ER.LOCK_DEADLOCK, ER.TABLE_DEF_CHANGED, ER.CHECKREAD),
    *(ER.SERVER_SHUTDOWN, ER.NORMAL_SHUTDOWN, ER.FORCING_CLOSE, ER.ABORTING_CONNECTION, ER.NEW_ABORTING_CONNECTION),
    *(ER.NET_READ_ERROR, ER.NET_READ_INTERRUPTED, ER.NET_ERROR_ON_WRITE, ER.NET_WRITE_INTERRUPTED, ER.QUERY_INTERRUPTED),
    1927,  # MariaDB: connection was killed
    1969,  # MariaDB: max_statement_time exceeded
    3024,  # max_execution_time exceeded
    3032,  # offline mode
    3169,  # session was killed
    4031,  # disconnected because of inactivity
}
_CODES = {
    ER.ACCESS_DENIED_ERROR: "source.password",
    1698: "source.password",  # the account is authenticated otherwise
    ER.BAD_DB_ERROR: "source.no_database",
    **dict.fromkeys(
        (ER.DBACCESS_DENIED_ERROR, ER.TABLEACCESS_DENIED_ERROR, ER.COLUMNACCESS_DENIED_ERROR, ER.SPECIFIC_ACCESS_DENIED_ERROR),
        "source.privilege",
    ),
    **dict.fromkeys((ER.NO_SUCH_TABLE, ER.BAD_TABLE_ERROR, ER.BAD_FIELD_ERROR, ER.UNKNOWN_TABLE), "source.object_missing"),
    **dict.fromkeys((ER.HOST_IS_BLOCKED, ER.HOST_NOT_PRIVILEGED, ER.NOT_SUPPORTED_AUTH_MODE), "mysql.refused"),
    **dict.fromkeys((CR.CR_SSL_CONNECTION_ERROR, CR.CR_AUTH_PLUGIN_CANNOT_LOAD, CR.CR_AUTH_PLUGIN_ERR), "mysql.refused"),
    1820: "mysql.refused",  # the password must be changed
    1862: "mysql.refused",  # the password has expired
    3118: "mysql.refused",  # the account is locked
    3159: "mysql.refused",  # require_secure_transport
    4151: "mysql.refused",  # MariaDB: the account is locked
    ER.NO_BINARY_LOGGING: "mysql.no_binlog",
    4052: "mysql.collision",  # MariaDB
}

# Errors of a dump have one number and texts in English, whatever lc_messages. What none of these tells is a log that can't be read on.
_DUMP_FAILED = 1236
_DUMP_TEXTS: tuple[tuple[re.Pattern[str], type[SourceError], str], ...] = (
    (re.compile(r"same server_(uuid|id)"), SourceError, "mysql.collision"),
    (re.compile(r"Binary log is not open"), SourceError, "mysql.no_binlog"),
    (re.compile(r"AUTO_POSITION mode"), SourceError, "mysql.gtid_off"),
    (re.compile(r"max_allowed_packet"), SourceError, "mysql.event_too_large"),
    (re.compile(r"[Oo]ut of memory|memory allocation failed|my_net_write"), SourceUnavailable, "source.unreachable"),
    (re.compile(r"server[_ -]id was not set"), SourceError, "mysql.no_server_id"),
)


def connect(
    name: str, config: SourceConfig, *, database: bool = True, raw: bool = False, silence_seconds: float = SILENCE_SECONDS
) -> Connection:
    """A session in autocommit, in UTC, at REPEATABLE READ. Raises ConfigError, SourceError or SourceUnavailable.

    With `database` its default database is the url's. With `raw` every value of a result is the bytes of the text protocol as they are
    stored: in a column's own character set. A server that sends nothing for `silence_seconds` in answer to a statement is given up.
    """
    arguments = _arguments(name, config)
    with translated(name, config):
        connection = pymysql.connect(
            **arguments,
            read_timeout=arguments["connect_timeout"],
            write_timeout=SILENCE_SECONDS,
            autocommit=True,
            charset="utf8mb4",
            program_name=f"ledgertail {name}",
            **({"use_unicode": False, "conv": converters.encoders} if raw else {}),
        )
        try:
            _keep_alive(connection._sock)
            settings = _SETTINGS | (_SETTINGS_MARIADB if is_mariadb(connection) else _SETTINGS_MYSQL)
            connection.query("SET " + ", ".join(f"SESSION {key} = {value}" for key, value in settings.items()))
            connection.query("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            if database:
                connection.select_db(default_database(config))
            if raw:
                connection.query("SET SESSION character_set_results = binary")
            connection._read_timeout = silence_seconds
        except BaseException:
            hang_up(connection)
            raise
    return connection


def hang_up(connection: Connection) -> None:
    """End a session. Never raises."""
    with suppress(pymysql.Error, OSError):
        connection.close()


def query(connection: Connection, statement: str, parameters: Any = None) -> list[tuple[Any, ...]]:
    """The rows of a statement; `%s` in it stand for the parameters, if there are any."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return list(cursor.fetchall())


def is_mariadb(connection: Connection) -> bool:
    """Whether the other side is MariaDB, as it said in its greeting."""
    return "mariadb" in connection.server_version.lower()


def default_database(config: SourceConfig) -> str:
    """The database of the url, which names without one in `tables` belong to."""
    return unquote(config.parts.path.strip("/"))


def user(config: SourceConfig) -> str:
    """The url's user, as the server is told it."""
    return unquote(config.parts.username or "")


def place(config: SourceConfig) -> str:
    """Host, port and database of a source, for messages."""
    parts = config.parts
    return f"{config.options.get('unix_socket') or parts.netloc.rpartition('@')[2] or 'localhost'}{parts.path}"


@contextmanager
def translated(name: str, config: SourceConfig) -> Iterator[None]:
    """Raise the driver's errors as ours, the cause kept."""
    try:
        yield
    except pymysql.Error as error:
        raise translation(name, config, error) from error
    except OSError as error:
        raise SourceUnavailable("source.unreachable", source=name, place=place(config), detail=error) from error


def translation(name: str, config: SourceConfig, error: pymysql.Error) -> SourceError:
    """Our error for one of the driver's, or of a packet that says one."""
    number, detail = _said(error)
    values = {"source": name, "place": place(config), "user": user(config), "detail": detail}
    if number == _DUMP_FAILED:
        found = next(((cls, code) for pattern, cls, code in _DUMP_TEXTS if pattern.search(detail)), (PositionLost, "mysql.log_lost"))
        return found[0](found[1], **values)
    if isinstance(getattr(error, "original_exception", None), ssl.SSLCertVerificationError):
        return SourceError("mysql.refused", **values)
    if number is None or number in _PASSING:
        return SourceUnavailable("source.unreachable", **values)
    if number in _CODES:
        return SourceError(_CODES[number], **values)
    return SourceError("source.failed", state=number, **values)


def quoted(name: str) -> str:
    """An identifier as SQL writes it."""
    return "`" + name.replace("`", "``") + "`"


def _said(error: pymysql.Error) -> tuple[int | None, str]:
    """Number and text of an error; the driver's own, of a connection it has given up, may lack the number."""
    if error.args and isinstance(error.args[0], int) and error.args[0]:
        return error.args[0], " ".join(str(error.args[1] if len(error.args) > 1 else "").split())
    return None, " ".join(str(error).split()) or "the connection is closed"


def _arguments(name: str, config: SourceConfig) -> dict[str, Any]:
    """What PyMySQL wants, from the url and `options`. Raises ConfigError."""

    def wrong(key: str, fault: str) -> ConfigError:
        return ConfigError("mysql.option", source=name, key=key, fault=fault)

    parts, options = config.parts, config.options
    if unknown := sorted(options.keys() - set(_OPTIONS)):
        raise wrong(f"options.{unknown[0]}", f"is none of {', '.join(_OPTIONS)}")
    if parts.query or parts.fragment:
        raise wrong("url", "has more than host, port and database; put settings under 'options'")
    timeout = options.get("connect_timeout", str(CONNECT_SECONDS))
    if not re.fullmatch(r"[1-9][0-9]{0,3}", timeout):
        raise wrong("options.connect_timeout", "is not a number of seconds")
    try:
        port = parts.port or 3306
    except ValueError as error:
        raise wrong("url", str(error)) from None
    try:
        tls = _tls(options)
    except (OSError, ValueError) as error:
        raise wrong("options.ssl_mode", str(error)) from error
    return {
        "host": unquote(parts.hostname or "localhost"),
        "port": port,
        "user": user(config),
        "password": (config.password() or "").encode(),
        "unix_socket": options.get("unix_socket"),
        "connect_timeout": int(timeout),
        **tls,
    }


def _tls(options: dict[str, str]) -> dict[str, Any]:
    """Without any key: TLS if the server has it, but not through a file of this machine. Raises ValueError or OSError."""
    files = {key: options[key] for key in ("ssl_ca", "ssl_cert", "ssl_key") if key in options}
    default = "verify_ca" if "ssl_ca" in files else "required" if files else "disabled" if "unix_socket" in options else "preferred"
    mode = options.get("ssl_mode", default)
    if mode not in _SSL_MODES:
        raise ValueError(f"is none of {', '.join(_SSL_MODES)}")
    if mode in ("disabled", "preferred"):
        if files:
            raise ValueError(f"{mode} makes no use of {', '.join(files)}")
        return {"ssl_disabled": True} if mode == "disabled" else {}
    if mode == "required" and "ssl_ca" in files:
        raise ValueError("required checks no certificate: with ssl_ca use verify_ca or verify_identity")
    context = ssl.create_default_context(cafile=files.get("ssl_ca"))
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # certificates that the servers make for themselves lack extensions
    context.check_hostname = mode == "verify_identity"
    context.verify_mode = ssl.CERT_NONE if mode == "required" else ssl.CERT_REQUIRED
    if "ssl_cert" in files:
        context.load_cert_chain(files["ssl_cert"], files.get("ssl_key"))
    return {"ssl": context}


def _keep_alive(sock: socket.socket) -> None:
    """Let the kernel notice a peer that is gone, also while we wait for nothing."""
    if sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
