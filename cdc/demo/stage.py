"""The demo from beginning to end: server, shop, daemon, trade, proof; and nothing left of it afterwards."""

from __future__ import annotations

import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from types import FrameType
from typing import Any

from rich.console import Console
from rich.live import Live

import cdc
from cdc.demo import books, server, show
from cdc.demo.processes import spawn, stop
from cdc.demo.trade import Connection
from cdc.demo.workload import Workload, close_of_business, open_shop
from cdc.errors import EXIT_FAILED, EXIT_FINE, LedgertailError
from cdc.paths import places
from cdc.texts import text

_SETUP_SECONDS_MAX = 30  # all but the selling: with the default 20 s of it the demo ends within a minute
_DAEMON_STOP_SECONDS_MAX = 10.0
_LOOK_SECONDS, _LINE_SECONDS, _POLL_SECONDS = 0.5, 2.0, 0.1
_REMOVALS_MAX = 20
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Stage:
    """All that runs. `shop` is a connection of the demo's own; `deadline` is on the monotonic clock."""

    console: Console
    folder: Path
    config: Path
    server: server.Server
    shop: Connection
    daemon: subprocess.Popen[bytes]
    go_on: Callable[[], None]
    deadline: float

    def check(self, doing: str) -> None:
        """Raises KeyboardInterrupt after a signal, LedgertailError when the daemon has ended or the time is over."""
        self.go_on()
        if self.daemon.poll() is not None:
            raise LedgertailError("demo.daemon", detail=server.log_tail(self.folder / "daemon.log", 12))
        if time.monotonic() > self.deadline:
            raise LedgertailError("demo.late", doing=doing, detail=server.log_tail(self.folder / "daemon.log", 12))


def play(seconds: int, keep: bool, seed: int) -> int:
    """Run the demo. Returns 0 when the books are proven right, else 1. With `keep` server and daemon go on after a good end.

    Raises LedgertailError; KeyboardInterrupt on SIGINT, SIGTERM and SIGHUP. Whatever happens, all of it is removed first.
    """
    console = show.console()
    with _signals_noted() as go_on, ExitStack() as stack:
        stage = _set_up(stack, console, go_on, seconds, keep)
        workload = Workload(stage.server.connect, seed)
        stack.callback(workload.stop)
        reader = _reader(stage)
        _sell(stage, workload, reader, seconds)
        workload.stop()
        workload.check()
        proven = _prove(stage, reader)
        if keep and proven:
            stack.pop_all()
            _tell_what_is_kept(stage)
        else:
            show.say(console, "demo.removed")
    return EXIT_FINE if proven else EXIT_FAILED


@contextmanager
def _signals_noted() -> Iterator[Callable[[], None]]:
    """Gives a function that raises KeyboardInterrupt once a signal has come; till the end signals do nothing else.

    A handler that raised could do so anywhere: in the clean-up, or in callbacks of a fork, where Python drops the exception and leaves
    locks held.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    def go_on() -> None:
        if came:
            raise KeyboardInterrupt

    before = {sign: signal.signal(sign, note) for sign in _SIGNALS}
    try:
        yield go_on
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _set_up(stack: ExitStack, console: Console, go_on: Callable[[], None], seconds: int, keep: bool) -> Stage:
    deadline = time.monotonic() + seconds + _SETUP_SECONDS_MAX
    folder = Path(tempfile.mkdtemp(prefix="ledgertail-demo-"))
    stack.callback(_remove, folder)
    show.say(console, "demo.step.server", folder=folder)
    postgres = server.start(folder, outlive=keep)
    stack.callback(postgres.stop)
    go_on()
    shop = stack.enter_context(postgres.connect(autocommit=True))
    show.say(console, "demo.step.shop")
    open_shop(shop)
    go_on()
    config = _write_config(folder, postgres)
    show.say(console, "demo.step.daemon", command=f"ledgertail --config {config} run")
    command = [sys.executable, "-m", "cdc.cli", "--config", str(config), "run"]
    daemon = spawn(command, folder / "daemon.log", folder, None if keep else signal.SIGKILL)
    stack.callback(stop, daemon, signal.SIGTERM, _DAEMON_STOP_SECONDS_MAX)
    return Stage(console, folder, config, postgres, shop, daemon, go_on, deadline)


def _remove(folder: Path) -> None:
    """Remove a folder in which a child that was just ended may still write its last."""
    for _ in range(_REMOVALS_MAX):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(_POLL_SECONDS)


def _write_config(folder: Path, postgres: server.Server) -> Path:
    password = folder / "password"
    password.touch(mode=0o600)
    password.write_text(postgres.password)
    room = files(__package__)
    (folder / "rules.toml").write_text(room.joinpath("rules.toml").read_text("utf-8"), "utf-8")
    config = folder / "ledgertail.toml"
    template = Template(room.joinpath("ledgertail.toml").read_text("utf-8"))
    config.write_text(template.substitute(user=server.USER, port=postgres.port, database=server.DATABASE), "utf-8")
    return config


def _reader(stage: Stage) -> books.Reader:
    """A reader of the books, once the daemon answers and has the store's tables."""
    socket = places(stage.config).socket
    while True:
        stage.check(text("demo.doing.start"))
        # Before the socket is there a reader would open the store's file, and lock the daemon out of it.
        if socket.exists():
            try:
                reader: books.Reader = cdc.connect(str(stage.config))
                books.counts(reader)
                return reader
            except LedgertailError:
                pass
        time.sleep(_POLL_SECONDS)


def _sell(stage: Stage, workload: Workload, reader: books.Reader, seconds: int) -> None:
    """Let the shop trade for so long, and show it."""
    console = stage.console
    show.say(console, "demo.step.sell", seconds=seconds)
    workload.start()
    begin = shown = time.monotonic()
    with Live(console=console, refresh_per_second=4) if console.is_terminal else nullcontext() as screen:
        while (now := time.monotonic()) < begin + seconds:
            workload.check()
            stage.check(text("demo.doing.sell"))
            sample = _look(stage, workload, reader, now - begin, seconds)
            if screen:
                screen.update(show.live(sample))
            elif now - shown >= _LINE_SECONDS:
                shown = now
                console.print(show.plain(sample), markup=False, soft_wrap=True)
            time.sleep(_LOOK_SECONDS)


def _look(stage: Stage, workload: Workload, reader: books.Reader, seconds: float, seconds_total: int) -> show.Sample:
    source = _source(reader)
    return show.Sample(
        seconds=seconds,
        seconds_total=seconds_total,
        sales=books.sales(stage.shop),
        transactions=workload.committed,
        rolled_back=workload.rolled_back,
        per_second=workload.committed / max(seconds, 1.0),
        state=source["state"],
        lag_bytes=source["lag_bytes"],
        lag_seconds=source["lag_seconds"],
        counts=books.counts(reader),
        totals=books.trial_balance(reader),
    )


def _source(reader: books.Reader) -> dict[str, Any]:
    [source] = reader.status()["sources"]
    return dict(source)


def _prove(stage: Stage, reader: books.Reader) -> bool:
    """Wait until the books have all that the shop did, show them, and compare them with the shop."""
    console = stage.console
    _await_position(stage, reader, close_of_business(stage.shop))
    totals, shop, counts = books.trial_balance(reader), books.recompute(stage.shop), books.counts(reader)
    comparison = books.compare(totals, shop)
    console.print(show.totals_table(totals))
    console.print(show.story_table(books.story(reader)))
    console.print(show.proof_table(comparison))
    proven = books.proven(comparison, totals, counts.quarantined)
    figures = {"entries": f"{counts.entries:,}", "reversals": f"{counts.reversals:,}", "quarantined": f"{counts.quarantined:,}"}
    show.say(console, "demo.proven" if proven else "demo.not_proven", **figures)
    return proven


def _await_position(stage: Stage, reader: books.Reader, position: str) -> None:
    begin = time.monotonic()
    while True:
        source = _source(reader)
        if source["state"] == "streaming" and source["position"] and _lsn(source["position"]) >= _lsn(position):
            break
        stage.check(text("demo.doing.catch_up", position=position))
        time.sleep(_POLL_SECONDS)
    show.say(stage.console, "demo.step.caught_up", position=position, seconds=f"{time.monotonic() - begin:.1f}")


def _lsn(position: str) -> int:
    high, low = position.split("/")
    return (int(high, 16) << 32) + int(low, 16)


def _tell_what_is_kept(stage: Stage) -> None:
    """How to go on with what is kept, and how to end it."""
    folder, config = shlex.quote(str(stage.folder)), shlex.quote(str(stage.config))
    psql = shlex.quote(str(stage.server.binaries / "psql"))
    show.say(
        stage.console,
        "demo.kept",
        folder=stage.folder,
        query=f'ledgertail --config {config} query "SELECT * FROM ledger.balances"',
        status=f"ledgertail --config {config} status --watch",
        psql=f"PGPASSWORD=$(cat {folder}/password) {psql} -h 127.0.0.1 -p {stage.server.port} {server.DATABASE} {server.USER}",
        end=f"{_end(stage.daemon.pid, '-TERM')}; {_end(stage.server.process.pid, '-QUIT')}; rm -rf {folder}",
    )


def _end(pid: int, sign: str) -> str:
    """Shell that ends a process and waits until it has gone."""
    return f"kill {sign} {pid}; while kill -0 {pid} 2>/dev/null; do sleep 0.1; done"
