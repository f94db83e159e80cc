"""The life of a throw-away server: private folder, free port, gone with the tests' process however that ends."""

from __future__ import annotations

import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

import psutil

from tests.servers import watchdog
from tests.servers.account import unprivileged

HOST = "127.0.0.1"


class ServerFailed(Exception):
    """The server did not start, or did not stop in time; the text ends with its log."""


class OwnServer(ABC):
    """A server of the tests' own, with a folder of its own. A context manager; usable again after a stop or `kill` by `start`.

    When the tests' process ends, by SIGKILL too, the server ends and its folder is removed.
    """

    PORT_TAKEN: ClassVar[str]  # what the log says when another process has the port

    def __init__(self, title: str) -> None:
        self.title = title
        self.port = free_port()
        self.account = unprivileged()
        self.process: subprocess.Popen[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp(prefix="ledgertail-"))
        self.data = self.folder / "data"
        self.log = self.folder / "log"
        self._guard = _spawn_watchdog(self.folder)
        self.account.own(self.folder)

    @abstractmethod
    def _initialise(self) -> None:
        """Makes the data directory. Raises ServerFailed."""

    @abstractmethod
    def _command(self) -> Sequence[str | Path]:
        """What starts the server on `port`."""

    @abstractmethod
    def _reached(self) -> bool:
        """Whether the server answers: by its socket in our own folder, for a stranger may answer on the port."""

    @abstractmethod
    def _end(self) -> None:
        """Ends the server in the fastest way that leaves no process and no memory behind. Fine if it is not running."""

    def __enter__(self) -> Self:
        try:
            self._initialise()
            self._start_on_free_port()
            self.ensure_user()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @abstractmethod
    def ensure_user(self) -> None:
        """Creates the user that Ledgertail connects as, unless it is there."""

    def start(self) -> None:
        """Starts the server on its port; it answers on return. Raises ServerFailed."""
        assert self.process is None, "the server is running already"
        with self.log.open("ab") as log:
            self.process = self.account.spawn(self._command(), self.folder, log)
        self._tell_watchdog(self.process.pid)
        try:
            poll(self._answers, f"{self.title} does not answer")
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL to every process of the server, as if the machine had lost power. All are gone on return."""
        if self.process is None:
            return
        with suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            parent.suspend()  # or it would start new children, or end them in order, while we kill
            children = parent.children(recursive=True)
            for process in (*children, parent):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            self.process.wait()
            psutil.wait_procs(children, timeout=60)
        self._ended()

    def close(self) -> None:
        """Stops the server at once and removes its folder."""
        try:
            self._end()
        except ServerFailed:
            self.kill()
            raise
        finally:
            assert self._guard.stdin is not None
            self._guard.stdin.close()
            self._guard.wait(timeout=60)

    def log_tail(self, characters: int = 4000) -> str:
        """The end of the server's log."""
        return self.log.read_text(errors="replace")[-characters:] if self.log.exists() else ""

    def _stop_by(self, sent: signal.Signals) -> None:
        """Sends a signal and waits for the end. Fine if the server is not running. Raises ServerFailed."""
        if self.process is None:
            return
        self.process.send_signal(sent)
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            raise ServerFailed(f"{self.title} did not stop by {sent.name} within 60 s\n{self.log_tail()}") from None
        self._ended()

    def _start_on_free_port(self) -> None:
        """Another process may take a port between our look and the server's: then the next one."""
        for _ in range(10):
            try:
                return self.start()
            except ServerFailed:
                if self.PORT_TAKEN not in self.log_tail():
                    raise
                self.log.unlink()
                self.port = free_port()
        raise ServerFailed(f"{self.title}: ten ports in a row were taken by others")

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise ServerFailed(f"{self.title} ended with {self.process.returncode} at its start\n{self.log_tail()}")
        return self._reached()

    def _ended(self) -> None:
        self.process = None
        self._tell_watchdog(0)

    def _tell_watchdog(self, pid: int) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{pid}\n")
        self._guard.stdin.flush()


def free_port() -> int:
    """A port nobody listens on now, below the range from which the system serves outgoing connections."""
    for _ in range(1000):
        port = 10_000 + secrets.randbelow(22_000)  # not `random`: property tests seed it alike in every worker
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            return port
    raise ServerFailed("no free port between 10000 and 32000")


def poll(done: Callable[[], bool], failure: str, patience_s: float = 60) -> None:
    """Asks until `done` says True; raises ServerFailed(failure) after `patience_s` seconds."""
    deadline = time.monotonic() + patience_s
    while not done():
        if time.monotonic() > deadline:
            raise ServerFailed(failure)
        time.sleep(0.02)


def _spawn_watchdog(folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-I", "-S", watchdog.__file__, folder], stdin=subprocess.PIPE, text=True, start_new_session=True
    )
