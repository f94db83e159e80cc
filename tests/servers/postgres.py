"""Throw-away PostgreSQL servers: private folder, free port, gone with the tests' process however that ends."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import psycopg
from psycopg import sql

from tests.servers.own_server import HOST, OwnServer, ServerFailed, poll
from tests.servers.postgres_binaries import Binaries, find

# A login with REPLICATION and no other right; it must give its password, over SCRAM.
USER, PASSWORD = "cdc", "kept out of messages"
ADDRESS_VARIABLE = "LEDGERTAIL_TEST_POSTGRES_URL"

SETTINGS: Mapping[str, str | int] = {
    "wal_level": "logical",
    "max_replication_slots": 64,
    "max_wal_senders": 64,
    "max_connections": 100,
    "max_prepared_transactions": 16,
    "password_encryption": "scram-sha-256",
    "fsync": "off",
    "shared_buffers": "16MB",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # Files in the data directory, so that a killed server leaves nothing in /dev/shm.
    "dynamic_shared_memory_type": "mmap",
}
ACCESS = """\
local  all          all       trust
host   all          postgres  127.0.0.1/32  trust
host   replication  postgres  127.0.0.1/32  trust
host   all          all       127.0.0.1/32  scram-sha-256
host   replication  all       127.0.0.1/32  scram-sha-256
"""
SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


@dataclass(frozen=True, slots=True)
class Database:
    """A database of its own for one test. `connection` is the superuser's, in autocommit."""

    server: RunningPostgres
    name: str
    connection: psycopg.Connection[tuple[Any, ...]]

    @property
    def url(self) -> str:
        """The superuser's address of it, without a password."""
        return self.server.url(self.name)

    def await_free_slots(self) -> None:
        """Waits until nobody holds a slot of it: that a client has gone is noticed a moment later."""
        held = "SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND active"
        poll(lambda: self.connection.execute(held).fetchall() == [(0,)], f"a slot of {self.name} is still held")


class RunningPostgres:
    """A PostgreSQL that answers at an address; not ours to stop. `major` is its version."""

    def __init__(self, major: int, host: str, port: int, superuser: str = "postgres", password: str = "") -> None:
        self.major = major
        self.host = host
        self.port = port
        self.superuser = superuser
        self.password = password

    def url(self, database: str = "postgres", user: str = "") -> str:
        """The address of a database, of the superuser unless another user is named. Never holds a password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"postgres://{quote(user or self.superuser, safe='')}@{host}:{self.port}/{quote(database, safe='')}"

    def connect(self, database: str = "postgres", **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection of the superuser, in autocommit unless told otherwise; `options` are those of psycopg.connect."""
        given: dict[str, Any] = {"autocommit": True, "connect_timeout": 10}
        if self.password:
            given["password"] = self.password
        return psycopg.connect(self.url(database), **(given | options))

    def create_database(self, name: str = "") -> str:
        """Creates an empty UTF8 database and returns its name, a random one unless told."""
        name = name or f"t_{secrets.token_hex(6)}"
        with self.connect() as connection:
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'").format(sql.Identifier(name))
            )
        return name

    def drop_database(self, name: str) -> None:
        """Drops a database with all that holds it: connections, replication slots, prepared transactions. Fine if it is gone."""
        with self.connect() as connection:
            self._roll_back_prepared(connection, name)
            with suppress(psycopg.errors.InvalidCatalogName):
                # A client that connects again and again would hold the database for ever.
                connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(sql.Identifier(name)))
            poll(lambda: _released(connection, name), f"database {name} is still held by a slot or a connection")
            connection.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(name)))

    def ensure_user(self) -> None:
        """Creates USER unless it is there."""
        with self.connect() as connection, suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN REPLICATION PASSWORD {}").format(sql.Identifier(USER), PASSWORD))

    def _roll_back_prepared(self, connection: psycopg.Connection[tuple[Any, ...]], name: str) -> None:
        prepared = connection.execute("SELECT gid FROM pg_prepared_xacts WHERE database = %s", [name]).fetchall()
        if prepared:
            with self.connect(name) as inside:
                for (gid,) in prepared:
                    inside.execute(sql.SQL("ROLLBACK PREPARED {}").format(gid))


class PostgresServer(RunningPostgres, OwnServer):
    """A server of the tests' own, see OwnServer.

    `settings` go into postgresql.conf, over SETTINGS, so that ALTER SYSTEM can still change them. The superuser needs no
    password, USER needs PASSWORD. Raises NotAvailable if there are no programs of the version.
    """

    PORT_TAKEN = "could not create any TCP/IP sockets"

    def __init__(self, major: int, settings: Mapping[str, str | int] | None = None) -> None:
        self.binaries: Binaries = find(major)
        self.settings = {**SETTINGS, **(settings or {})}
        OwnServer.__init__(self, f"PostgreSQL {major}")
        RunningPostgres.__init__(self, major, HOST, self.port)

    def stop(self, mode: str = "fast") -> None:
        """Stops the server: `smart`, `fast` or `immediate`, as pg_ctl has them. Fine if it is not running. Raises ServerFailed."""
        self._stop_by(SIGNALS[mode])

    def restart(self, mode: str = "fast") -> None:
        """Stops and starts the server on the same port."""
        self.stop(mode)
        self.start()

    def kill(self) -> None:
        """As OwnServer.kill, and the shared memory too."""
        super().kill()
        self._remove_shared_memory()

    def _end(self) -> None:
        self.stop("immediate")

    def _initialise(self) -> None:
        options: list[str | Path] = ["-D", self.data, "-U", self.superuser, "-E", "UTF8", "--no-locale", "-A", "trust", "--no-sync"]
        try:
            self.account.run([self.binaries.bin / "initdb", *options], self.folder)
        except subprocess.CalledProcessError as failed:
            raise ServerFailed(f"initdb of {self.title} failed\n{failed.stdout}{failed.stderr}") from None
        own: Mapping[str, str | int] = {"listen_addresses": self.host, "unix_socket_directories": str(self.folder)}
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(f"{name} = '{_escaped(value)}'\n" for name, value in {**self.settings, **own}.items())
        (self.data / "pg_hba.conf").write_text(ACCESS)

    def _command(self) -> Sequence[str | Path]:
        return [self.binaries.bin / "postgres", "-D", self.data, "-p", str(self.port)]

    def _reached(self) -> bool:
        with suppress(psycopg.OperationalError):
            psycopg.connect(host=str(self.folder), port=self.port, user=self.superuser, dbname="postgres").close()
            return True
        return False

    def _remove_shared_memory(self) -> None:
        """A killed postmaster leaves its System V segment behind; line 7 of postmaster.pid is its key and id."""
        with suppress(FileNotFoundError):
            lines = (self.data / "postmaster.pid").read_text().splitlines()
            if len(lines) > 6 and len(lines[6].split()) == 2:
                subprocess.run(["ipcrm", "-m", lines[6].split()[1]], check=False, capture_output=True)


@contextmanager
def running(major: int) -> Iterator[RunningPostgres]:
    """A server of a version that answers, with USER in it: the one the environment names, or a new one. Raises NotAvailable."""
    named = _named_server(os.environ.get(ADDRESS_VARIABLE, ""))
    if named is not None and named.major == major:
        named.ensure_user()
        yield named
    else:
        with PostgresServer(major) as server:
            yield server


@contextmanager
def fresh_database(server: RunningPostgres) -> Iterator[Database]:
    """A new database, dropped at the end with its slots, connections and prepared transactions."""
    name = server.create_database()
    try:
        with server.connect(name) as connection:
            yield Database(server, name, connection)
    finally:
        server.drop_database(name)


def _released(connection: psycopg.Connection[tuple[Any, ...]], name: str) -> bool:
    """One try to end all that holds a database; True when nothing is left."""
    connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
    with suppress(psycopg.errors.ObjectInUse, psycopg.errors.UndefinedObject):
        connection.execute("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = %s", [name])
    slots, sessions = "SELECT FROM pg_replication_slots WHERE database = %(name)s", "SELECT FROM pg_stat_activity WHERE datname = %(name)s"
    held = connection.execute(f"SELECT EXISTS ({slots}) OR EXISTS ({sessions})", {"name": name}).fetchone()
    return held == (False,)


@cache
def _named_server(url: str) -> RunningPostgres | None:
    if not url:
        return None
    told = urlsplit(url)
    user, password = unquote(told.username or "postgres"), unquote(told.password or "")
    server = RunningPostgres(0, told.hostname or HOST, told.port or 5432, user, password)
    try:
        with server.connect() as connection:
            row = connection.execute("SELECT current_setting('server_version_num')::int, current_setting('wal_level')").fetchone()
    except psycopg.OperationalError as error:
        raise ServerFailed(f"the server that {ADDRESS_VARIABLE} names does not answer: {error}") from None
    assert row is not None
    if row[1] != "logical":
        raise ServerFailed(
            f"the server that {ADDRESS_VARIABLE} names has wal_level={row[1]}: ALTER SYSTEM SET wal_level = logical, then restart it"
        )
    server.major = row[0] // 10_000
    return server


def _escaped(value: str | int) -> str:
    return str(value).replace("'", "''")
