"""Throw-away MySQL and MariaDB servers: private folder, free port, gone with the tests' process however that ends."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import pymysql
from pymysql.connections import Connection
from pymysql.constants import ER

from tests.servers import mysql_template
from tests.servers.cache import once
from tests.servers.mysql_binaries import FLAVOURS, Binaries, find
from tests.servers.own_server import HOST, OwnServer, ServerFailed, poll

# A login with what Ledgertail needs of a server and nothing more; `create_database` lets it read.
USER, PASSWORD = "cdc", "kept out of messages"
ADDRESS_VARIABLES = {False: "LEDGERTAIL_TEST_MYSQL_URL", True: "LEDGERTAIL_TEST_MARIADB_URL"}

Settings = Mapping[str, str | int | None]
SETTINGS: Settings = {
    "log_bin": "binlog",
    "lock_wait_timeout": 60,  # not a day, for a test that waits for itself
    "binlog_format": "ROW",
    "binlog_row_image": "FULL",
    "binlog_row_metadata": "FULL",
    "character_set_server": "utf8mb4",
    "local_infile": "ON",
    "max_connections": 100,
    # Written to the system at each commit, never synced: a killed server loses nothing.
    "sync_binlog": 0,
    "innodb_flush_log_at_trx_commit": 2,
    "innodb_buffer_pool_size": "32M",
    # Many servers at once would use up the system's asynchronous requests.
    "innodb_use_native_aio": "OFF",
    "table_open_cache": 400,
}
MYSQL_SETTINGS: Settings = {
    "gtid_mode": "ON",
    "enforce_gtid_consistency": "ON",
    "innodb_flush_method": "nosync",
    "innodb_log_buffer_size": "4M",
    "innodb_redo_log_capacity": "64M",
    "mysqlx": "OFF",
    # Half of the memory that the performance schema takes.
    "performance_schema_digests_size": 0,
    "performance_schema_error_size": 0,
    "secure_file_priv": "NULL",
    "table_definition_cache": 400,
}
MARIADB_SETTINGS: Settings = {
    "debug_no_sync": "ON",
    "innodb_log_file_size": "64M",
    "log_slave_updates": "ON",
    "performance_schema": "OFF",
}


@dataclass(frozen=True, slots=True)
class MyDatabase:
    """A database of its own for one test. `connection` is the administrator's, in autocommit."""

    server: RunningMySQL
    name: str
    connection: Connection

    @property
    def url(self) -> str:
        """The administrator's address of it, without a password."""
        return self.server.url(self.name)

    def execute(self, statement: str, arguments: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
        """Runs one statement and returns its rows; `%s` stands for an argument if there are any."""
        return rows(self.connection, statement, arguments)


class RunningMySQL:
    """A MySQL or MariaDB that answers at an address; not ours to stop. `version` is as in "9.7.4"."""

    def __init__(self, mariadb: bool, version: str, host: str, port: int, admin: str = "root", password: str = "") -> None:
        self.is_mariadb = mariadb
        self.version = version
        self.host = host
        self.port = port
        self.admin = admin
        self.password = password

    def url(self, database: str = "", user: str = "") -> str:
        """The address of a database, of the administrator unless another user is named. Never holds a password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        scheme = "mariadb" if self.is_mariadb else "mysql"
        return f"{scheme}://{quote(user or self.admin, safe='')}@{host}:{self.port}/{quote(database, safe='')}"

    def connect(self, database: str = "", **options: Any) -> Connection:
        """A connection of the administrator, in autocommit unless told otherwise; `options` are those of pymysql.connect."""
        given: dict[str, Any] = {"host": self.host, "port": self.port, "user": self.admin, "password": self.password}
        given |= {"database": database or None, "charset": "utf8mb4", "autocommit": True, "local_infile": True}
        connection: Connection = pymysql.connect(**(given | options))
        return connection

    def create_database(self, name: str = "") -> str:
        """Creates an empty utf8mb4 database that USER may read, and returns its name, a random one unless told."""
        name = name or f"t_{secrets.token_hex(6)}"
        with closing(self.connect()) as connection:
            rows(connection, f"CREATE DATABASE {identifier(name)} CHARACTER SET utf8mb4")
            rows(connection, f"GRANT SELECT, LOCK TABLES ON {_pattern(name)}.* TO '{USER}'@'%'")
        return name

    def drop_database(self, name: str) -> None:
        """Drops a database with all that holds it: connections, and every prepared transaction of the server. Fine if it is gone."""
        with closing(self.connect(use_unicode=False)) as connection:
            rows(connection, "SET SESSION lock_wait_timeout = 60")  # a session of another database may have locked this one's tables
            poll(lambda: _released(connection, name), f"database {name} is still held by a connection")
            _roll_back_prepared(connection)
            rows(connection, f"DROP DATABASE IF EXISTS {identifier(name)}")
            with _fine_if(ER.NONEXISTING_GRANT):
                rows(connection, f"REVOKE SELECT, LOCK TABLES ON {_pattern(name)}.* FROM '{USER}'@'%'")

    def ensure_user(self) -> None:
        """Creates USER unless it is there. Not logged, so that replicas have a user of their own and no transaction."""
        with closing(self.connect()) as connection:
            rows(connection, "SET SESSION sql_log_bin = 0")
            rows(connection, f"CREATE USER IF NOT EXISTS '{USER}'@'%%' IDENTIFIED BY %s", [PASSWORD])
            # The first to read the log; the second to ask for its position, which MariaDB calls BINLOG MONITOR.
            rows(connection, f"GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO '{USER}'@'%'")


class MySQLServer(RunningMySQL, OwnServer):
    """A server of the tests' own, of one of FLAVOURS, see OwnServer.

    `settings` go over SETTINGS and those of the flavour, as options of the program: None leaves one out, "" gives it without a
    value. They can be changed until the next start. `server_id` is the port unless told. The administrator needs no password,
    USER needs PASSWORD. Raises NotAvailable if there are no programs of the flavour.
    """

    PORT_TAKEN = "Bind on TCP/IP port"

    def __init__(self, flavour: str, settings: Settings | None = None) -> None:
        self.flavour = flavour
        self.binaries: Binaries = find(flavour)
        mariadb = self.binaries.flavour.is_mariadb
        self.settings: dict[str, str | int | None] = {**SETTINGS, **(MARIADB_SETTINGS if mariadb else MYSQL_SETTINGS), **(settings or {})}
        OwnServer.__init__(self, self.binaries.flavour.title)
        RunningMySQL.__init__(self, mariadb, self.binaries.version, HOST, self.port)

    def stop(self) -> None:
        """Orderly shutdown: running transactions are rolled back, prepared ones kept. Fine if it is not running. Raises ServerFailed."""
        self._stop_by(signal.SIGTERM)

    def restart(self) -> None:
        """Stops and starts the server on the same port."""
        self.stop()
        self.start()

    def _end(self) -> None:
        self.kill()

    def _initialise(self) -> None:
        settings = {name: str(self.settings[name]) for name in mysql_template.CREATION_SETTINGS if self.settings.get(name) is not None}
        made_by = hashlib.sha256(repr(sorted(settings.items())).encode() + Path(mysql_template.__file__).read_bytes()).hexdigest()[:8]

        def fill(template: Path) -> None:
            mysql_template.create(self.binaries, self.account, self.folder, self.data, settings)
            shutil.copytree(self.data, template / "data")

        template = once(f"{self.flavour}-{self.version}-data-{made_by}", fill)
        if not self.data.exists():
            shutil.copytree(template / "data", self.data)
        # Of its own: a server that starts removes the temporary tables of others it finds in its folder.
        (self.folder / "tmp").mkdir(exist_ok=True)
        for path in (self.folder / "tmp", self.data, *self.data.rglob("*")):
            self.account.own(path)

    def _command(self) -> Sequence[str | Path]:
        own = {"bind_address": self.host, "port": self.port, "socket": self._socket, "pid_file": self.folder / "pid"}
        own["tmpdir"] = self.folder / "tmp"
        settings = {"server_id": self.port, **self.settings, **own}
        options = (f"--{name}={value}" if value != "" else f"--{name}" for name, value in settings.items() if value is not None)
        return [*mysql_template.server_command(self.binaries, self.data), *options]

    def _reached(self) -> bool:
        # PyMySQL does not close its socket if nobody listens: so by hand, up to the greeting, which begins with the protocol's number.
        with socket.socket(socket.AF_UNIX) as probe, suppress(OSError):
            probe.settimeout(10)
            probe.connect(str(self._socket))
            return probe.recv(5)[4:] == b"\x0a"
        return False

    @property
    def _socket(self) -> Path:
        return self.folder / "socket"


@contextmanager
def running(flavour: str) -> Iterator[RunningMySQL]:
    """A server of a flavour that answers, with USER in it: the one the environment names, or a new one. Raises NotAvailable."""
    named = _named_server(FLAVOURS[flavour].is_mariadb)
    if named is not None and flavour == _stands_for(named):
        named.ensure_user()
        yield named
    else:
        with MySQLServer(flavour) as server:
            yield server


@contextmanager
def fresh_database(server: RunningMySQL) -> Iterator[MyDatabase]:
    """A new database, dropped at the end with its connections and prepared transactions."""
    name = server.create_database()
    try:
        with closing(server.connect(name)) as connection:
            yield MyDatabase(server, name, connection)
    finally:
        server.drop_database(name)


def rows(connection: Connection, statement: str, arguments: Sequence[Any] | None = None) -> list[tuple[Any, ...]]:
    """Runs one statement and returns its rows; `%s` stands for an argument if there are any."""
    with connection.cursor() as cursor:
        cursor.execute(statement, arguments)
        return list(cursor.fetchall())


def identifier(name: str) -> str:
    """A name as SQL has it."""
    return "`" + name.replace("`", "``") + "`"


def replicate(source: RunningMySQL, replica: RunningMySQL) -> None:
    """Makes `replica`, a fresh server of the same flavour, follow `source` by GTID from its first transaction on."""
    with closing(replica.connect()) as connection:
        if source.is_mariadb:
            rows(
                connection,
                "CHANGE MASTER TO MASTER_HOST=%s, MASTER_PORT=%s, MASTER_USER=%s, MASTER_PASSWORD=%s, MASTER_USE_GTID=slave_pos",
                [source.host, source.port, USER, PASSWORD],
            )
        else:
            rows(
                connection,
                "CHANGE REPLICATION SOURCE TO SOURCE_HOST=%s, SOURCE_PORT=%s, SOURCE_USER=%s, SOURCE_PASSWORD=%s, "
                "SOURCE_AUTO_POSITION=1, GET_SOURCE_PUBLIC_KEY=1",
                [source.host, source.port, USER, PASSWORD],
            )
        rows(connection, "START REPLICA")


def await_replica(source: RunningMySQL, replica: RunningMySQL, patience_s: int = 60) -> None:
    """Waits until `replica` has all that `source` has logged now. Raises ServerFailed."""
    with closing(source.connect()) as asked, closing(replica.connect()) as waiting:
        if source.is_mariadb:
            ((reached,),) = rows(asked, "SELECT @@gtid_binlog_pos")
            ((result,),) = rows(waiting, "SELECT MASTER_GTID_WAIT(%s, %s)", [reached, patience_s])
        else:
            ((reached,),) = rows(asked, "SELECT @@gtid_executed")
            ((result,),) = rows(waiting, "SELECT WAIT_FOR_EXECUTED_GTID_SET(%s, %s)", [reached, patience_s])
        if result != 0:
            raise ServerFailed(f"the replica did not reach {reached} in {patience_s} s: {rows(waiting, 'SHOW REPLICA STATUS')}")


def _released(connection: Connection, name: str) -> bool:
    """One try to end the connections whose default database it is; True when there are none."""
    held = [row[0] for row in rows(connection, "SHOW PROCESSLIST") if row[3] == name.encode()]
    for thread in held:
        with _fine_if(ER.NO_SUCH_THREAD):
            rows(connection, f"KILL {thread}")
    return not held


def _roll_back_prepared(connection: Connection) -> None:
    """Of all databases: the server does not tell which one a prepared transaction is in."""
    for format_id, length, _, xid in rows(connection, "XA RECOVER"):
        with _fine_if(ER.XAER_NOTA):  # a living connection holds it
            rows(connection, f"XA ROLLBACK X'{xid[:length].hex()}', X'{xid[length:].hex()}', {format_id}")


@contextmanager
def _fine_if(code: int) -> Iterator[None]:
    try:
        yield
    except pymysql.MySQLError as error:
        if error.args[0] != code:
            raise


def _pattern(name: str) -> str:
    """A database's name in a GRANT, where `_` and `%` are wildcards."""
    return identifier(re.sub(r"([_%\\])", r"\\\1", name))


def _stands_for(named: RunningMySQL) -> str:
    """The flavour in whose place a server of the environment is tested: that of its series, or the first of its kind."""
    kind = [flavour for flavour in FLAVOURS.values() if flavour.is_mariadb == named.is_mariadb]
    return next((flavour.name for flavour in kind if f"{named.version}.".startswith(f"{flavour.series}.")), kind[0].name)


@cache
def _named_server(mariadb: bool) -> RunningMySQL | None:
    variable = ADDRESS_VARIABLES[mariadb]
    if not os.environ.get(variable):
        return None
    told = urlsplit(os.environ[variable])
    admin, password = unquote(told.username or "root"), unquote(told.password or "")
    server = RunningMySQL(mariadb, "", told.hostname or HOST, told.port or 3306, admin, password)
    try:
        with closing(server.connect()) as connection:
            ((version, logs, row_format),) = rows(connection, "SELECT VERSION(), @@log_bin, @@binlog_format")
    except pymysql.OperationalError as error:
        raise ServerFailed(f"the server that {variable} names does not answer: {error}") from None
    if not logs or row_format != "ROW":
        raise ServerFailed(f"the server that {variable} names does not log rows: start it with log_bin and binlog_format=ROW")
    if ("MariaDB" in version) != mariadb:
        raise ServerFailed(f"the server that {variable} names is of the other kind: {version}")
    server.version = version.partition("-")[0]
    return server
