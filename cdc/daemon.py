"""The daemon: threads, signals, backoff. One reader thread per source, one apply thread per store, and the readers' socket.

Worker      reads one source; after any error it drops what it has, asks the store where it stands, and opens the source anew
ApplyLoop   takes the workers' waiting batches (one each at most) and applies those of several sources in one store transaction
Daemon      starts and ends them, samples lags, answers `status`
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, TypeVar

from cdc import bookkeeping, build
from cdc.config import Config
from cdc.decode import kernels
from cdc.errors import EXIT_FINE, Action, ConfigError, LedgertailError, SourceError, SourceUnavailable, StoreError, policy
from cdc.observe import LAST_BATCH, QUARANTINED, Heartbeat, SourceStatus, iso, store_facts
from cdc.pipeline import Pipeline
from cdc.protocols import Inspection, Source
from cdc.texts import text
from cdc.types import MicroBatch

if TYPE_CHECKING:
    from sinks.duckdb import DuckDBSink
    from sinks.ducklake import Publisher

KEEPALIVE_S = 5.0
LOOK_S, SAMPLE_S = 0.2, 2.0
READ_AHEAD_ROWS = 5_000  # a batch of so many rows is a backlog: the next is read while it is applied
IDLE_S = 2.0  # without work before the store is tidied up
BACKOFF_FIRST_S, BACKOFF_MAX_S = 0.5, 30.0
LOCK_PATIENCE_S = 10.0
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
PATIENCE_S = 60.0  # how long `--until-caught-up` waits for a source that can't be reached
_log = logging.getLogger("ledgertail")
T = TypeVar("T")
Call = tuple[Callable[[Pipeline], Any], "Future[Any]", "Worker | None"]


class Stopped(Exception):
    """The daemon is going down; whatever was waiting is dropped."""


class Worker(threading.Thread):
    """Tails one source until the daemon stops or an error halts it."""

    def __init__(self, name: str, make: Callable[[], Source], inspection: Inspection, loop: ApplyLoop, status: SourceStatus) -> None:
        super().__init__(name=f"source-{name}", daemon=True)
        self.source_name, self.status, self.inspection = name, status, inspection
        self._make, self._loop = make, loop
        self._source: Source | None = None
        self._fault: BaseException | None = None
        self._stopping = threading.Event()
        self.patience_s: float | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        backoff_s, failing_since = BACKOFF_FIRST_S, time.monotonic()
        while not self._stopping.is_set():
            try:
                self._tail()
            except Stopped:
                return
            except BaseException as error:  # noqa: BLE001 - the policy table decides what becomes of it
                if self.status.progressed():
                    backoff_s, failing_since = BACKOFF_FIRST_S, time.monotonic()
                impatient = self.patience_s is not None and time.monotonic() - failing_since > self.patience_s
                if self._halts(error) or impatient:
                    self.error = error
                    return
                self._stopping.wait(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)

    def end(self) -> None:
        """Have the thread end, which it does within about a second, and wait for it."""
        self._stopping.set()
        self._loop.wake()
        self.join()

    def fail(self, error: BaseException) -> None:
        """What was handed over could not be applied: the thread drops what it has and begins again, or halts."""
        self._fault = error

    def acknowledge(self, batch: MicroBatch) -> None:
        """A batch of this worker is in the store."""
        source = self._source
        if source is not None:
            source.acknowledge(batch.position)

    def check(self) -> None:
        """Raises what made the worker fail, or Stopped."""
        if self._stopping.is_set():
            raise Stopped
        if self._fault is not None:
            fault, self._fault = self._fault, None
            raise fault

    def _tail(self) -> None:
        schemas = self.inspection.schemas()
        self._loop.call(lambda pipeline: pipeline.check(schemas.values()))
        self._fault = None  # what comes from here on is of what the store says next
        resume = self._loop.call(lambda pipeline: pipeline.resume(self.source_name, self.status.tables), self)
        self.status.resumed(resume)
        self._source = source = self._make()
        try:
            source.open(resume)
            backlog = False
            while True:
                self.check()
                if not backlog:
                    # What is read too early waits for the batch before it, and all that is committed meanwhile waits for both.
                    self._loop.wait_for_room(self, source.keepalive)
                batch = source.read()
                self.status.resting = batch is None
                backlog = batch is not None and batch.rows >= READ_AHEAD_ROWS
                if batch is not None:
                    self._loop.submit(self, batch, source.keepalive)
        finally:
            self._source = None
            source.close()

    def _halts(self, error: BaseException) -> bool:
        halts = policy(error).action is Action.HALT
        self.status.failed(error, halts)
        line = text(f"daemon.log.{'halted' if halts else 'again'}", source=self.source_name, fault=error, hint=getattr(error, "hint", ""))
        _log.log(logging.ERROR if halts else logging.WARNING, line, exc_info=None if isinstance(error, LedgertailError) else error)
        return halts


class ApplyLoop(threading.Thread):
    """The one thread that applies batches to the store: while one is committed, the next is accounted for."""

    def __init__(self, pipeline: Pipeline, when_idle: Callable[[], object]) -> None:
        super().__init__(name="apply", daemon=True)
        self._pipeline, self._when_idle = pipeline, when_idle
        self._changed = threading.Condition()
        self._waiting: dict[Worker, MicroBatch] = {}
        self._committing: tuple[Future[None], dict[Worker, MicroBatch]] | None = None
        self._calls: deque[Call] = deque()
        self._stopped = False
        self.error: BaseException | None = None

    def call(self, function: Callable[[Pipeline], T], worker: Worker | None = None) -> T:
        """Run a function on this thread, between two store transactions, and return what it returns. Raises what it raises.

        A worker that calls has dropped what it had: the open transaction of its half-applied batch is rolled back first.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._stopped:
                raise Stopped
            self._calls.append((function, future, worker))
            self._changed.notify_all()
        return future.result()

    def submit(self, worker: Worker, batch: MicroBatch, keepalive: Callable[[], None]) -> None:
        """Hand a batch over once the one before it has been written; keeps the source alive meanwhile. Raises the worker's fault."""
        if batch.transactions.num_rows:
            worker.status.received(batch.transactions.column("committed_at")[0].as_py().timestamp())
        self.wait_for_room(worker, keepalive, batch)

    def wait_for_room(self, worker: Worker, keepalive: Callable[[], None], batch: MicroBatch | None = None) -> None:
        """Wait until the worker's last batch has been written, and leave another there; keeps the source alive meanwhile. Raises the
        worker's fault."""
        while True:
            with self._changed:
                worker.check()
                if worker not in self._waiting and not self._stopped:
                    if batch is not None:
                        self._waiting[worker] = batch
                        self._changed.notify_all()
                    return
                self._changed.wait(KEEPALIVE_S)
            keepalive()

    def wake(self) -> None:
        """Let waiting threads look again."""
        with self._changed:
            self._changed.notify_all()

    def end(self) -> None:
        """End after the transaction at hand, an unfinished one is rolled back, and wait for it."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self.join()

    def run(self) -> None:
        try:
            while not self._stopped:
                self._turn()
        except BaseException as error:  # noqa: BLE001 - the daemon ends with it
            self.error = error
        finally:
            self._settle()
            with self._changed:
                self._stopped = True
                for _, future, _ in self._calls:
                    future.set_exception(Stopped())
            self._pipeline.close()

    def _turn(self) -> None:
        call, batches, idle = self._next()
        if batches:
            self._apply(batches)
        elif call is not None:
            self._settle()
            self._answer(*call)
        elif self._committing is not None and self._committing[0].done():
            self._settle()
        elif idle:
            self._when_idle()

    def _next(self) -> tuple[Call | None, dict[Worker, MicroBatch], bool]:
        """The next call, or the batches to apply now, or whether nothing came for a while. Batches leave the waiting room once written."""
        with self._changed:
            unfinished = self._pipeline.unfinished
            for call in self._calls:
                if unfinished is None or (call[2] is not None and call[2].source_name == unfinished):
                    self._calls.remove(call)
                    return call, {}, False
            ready = {w: b for w, b in self._waiting.items() if unfinished in (None, w.source_name)}
            whole = {w: b for w, b in ready.items() if b.whole}
            if not ready:
                late = not (self._committing and self._committing[0].done()) and not self._changed.wait(IDLE_S)
                return None, {}, late and self._committing is None
            return None, whole if whole and unfinished is None else dict(list(ready.items())[:1]), False

    def _answer(self, function: Callable[[Pipeline], Any], future: Future[Any], worker: Worker | None) -> None:
        if worker is not None:
            if self._pipeline.unfinished == worker.source_name:
                self._pipeline.forget()
            self._release([worker])
        try:
            future.set_result(function(self._pipeline))
        except BaseException as error:  # noqa: BLE001 - it belongs to the caller
            future.set_exception(error)

    def _apply(self, batches: dict[Worker, MicroBatch]) -> None:
        try:
            committed = self._pipeline.write(list(batches.values()))
        except BaseException as error:  # noqa: BLE001 - it belongs to the sources
            if self._settle():
                self._refuse(batches, error)
            return
        if not self._settle():
            return
        if committed is not None:
            self._committing = committed, batches
            committed.add_done_callback(lambda _: self.wake())
        else:
            for worker, batch in batches.items():
                worker.status.counted(batch.rows)
        self._release(list(batches))

    def _refuse(self, batches: dict[Worker, MicroBatch], error: BaseException) -> None:
        """Batches can't be applied."""
        if not isinstance(error, SourceError | ConfigError):  # the store's state is unknown: every worker asks it again
            self._fail(list(self._waiting), error)
        elif len(batches) == 1:
            self._fail(list(batches), error)
        else:  # Whose fault it is shows when each is applied alone.
            for worker, batch in batches.items():
                self._apply({worker: batch})

    def _settle(self) -> bool:
        """Wait for the commit that is going on, and have it acknowledged. False when it failed: nothing written since holds, either."""
        if self._committing is None:
            return True
        (committed, batches), self._committing = self._committing, None
        try:
            committed.result()
        except BaseException as error:  # noqa: BLE001 - the store's state is unknown: every worker asks it again
            self._pipeline.forget()
            self._fail(list({**self._waiting, **batches}), error)
            return False
        for worker, batch in batches.items():
            worker.acknowledge(batch)
            worker.status.applied(batch)
        return True

    def _fail(self, workers: list[Worker], error: BaseException) -> None:
        with self._changed:  # so that none hands over what came before
            for worker in workers:
                worker.fail(error)
                self._waiting.pop(worker, None)
            self._changed.notify_all()

    def _release(self, workers: list[Worker]) -> None:
        with self._changed:
            for worker in workers:
                self._waiting.pop(worker, None)
            self._changed.notify_all()


class Publishing(threading.Thread):
    """Publishes the journal every so often, and once more at the end. A failure is logged and tried again next time."""

    def __init__(self, publisher: Publisher, config: Config, stop: threading.Event) -> None:
        super().__init__(name="publish", daemon=True)
        self._publisher, self._stop_event = publisher, stop
        self._every_s = config.publish.every.total_seconds() if config.publish else 0.0

    def run(self) -> None:
        while True:
            last = self._stop_event.wait(self._every_s)
            try:
                self._publisher.publish_once()
            except BaseException as error:  # noqa: BLE001 - the books are kept all the same
                known = isinstance(error, LedgertailError)
                _log.error(text("daemon.log.publish", fault=error, hint=getattr(error, "hint", "")), exc_info=None if known else error)
            if last:
                return


class Daemon:
    """Everything that runs while the daemon is up."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._sink = _open_store(config)
        self._stop = threading.Event()
        self._told_to_end = False
        try:
            pipeline = build.pipeline(config, self._sink)
            self._loop = ApplyLoop(pipeline, self._sink.checkpoint_if_idle)
            bookkeeping.import_rates(config, self._sink, pipeline)
            self._workers = [self._worker(name) for name in config.sources]
            self._server = build.server(
                config,
                self._sink,
                {"status": self._status} | dict.fromkeys(bookkeeping.ACTIONS, self._books) | {"snapshot": self._snapshot},
            )
            publisher = build.publisher(config, self._sink)
            self._publishing = Publishing(publisher, config, self._stop) if publisher else None
        except BaseException:
            self._sink.close()
            raise

    def run(self, until_caught_up: bool = False) -> int:
        """Run until a signal, until every source has halted, or until the sources' positions of now are reached. The exit code."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end_soon)
        with ExitStack() as ending:  # carried out from the last to the first, whatever fails
            ending.callback(self._sink.close)
            for worker in self._workers:
                ending.callback(worker.inspection.close)
            ending.callback(self._server.close)
            self._server.start()
            self._loop.start()
            ending.callback(self._loop.end)
            ending.callback(self._save_status)
            if self._publishing:
                self._publishing.start()
                ending.callback(self._publishing.join)
            for worker in self._workers:
                worker.patience_s = PATIENCE_S if until_caught_up else None
                worker.start()
                ending.callback(worker.end)
            ending.callback(self._stop.set)
            ending.callback(_notify, "STOPPING=1")
            _notify("READY=1")
            self._watch(until_caught_up)
        if self._loop.error is not None:
            raise self._loop.error
        errors = [worker.error for worker in self._workers if worker.error is not None and not self._told_to_end]
        return policy(errors[0]).exit_code if errors else EXIT_FINE

    def _end_soon(self, *_: object) -> None:
        """Noted only, as a signal may come while the main thread holds the lock of whatever would be told."""
        self._told_to_end = True

    def _worker(self, name: str) -> Worker:
        source = self._config.sources[name]
        inspection = build.inspection(name, source)
        if build.kind(source) in kernels.KINDS:
            _log.info(text("daemon.log.kernel", source=name, kernel=text(f"kernel.{kernels.kernel(build.kind(source)).form}")))
        status = SourceStatus(name, build.kind(source), tuple(source.tables), inspection.reached)
        return Worker(name, lambda: build.source(name, source), inspection, self._loop, status)

    def _watch(self, until_caught_up: bool) -> None:
        """Sample lags and show progress until it is time to stop."""
        heartbeat = Heartbeat()
        targets: dict[str, str] = {}
        sampled_at = 0.0
        while not self._told_to_end:
            self._stop.wait(LOOK_S)
            if not until_caught_up and time.monotonic() - sampled_at < SAMPLE_S:
                continue
            sampled_at = time.monotonic()
            running = [worker for worker in self._workers if worker.is_alive()]
            for worker in self._workers:
                if (head := _sample(worker)) is not None:
                    targets.setdefault(worker.source_name, head)
            heartbeat.beat([worker.status for worker in self._workers])
            _notify("WATCHDOG=1")
            if not self._loop.is_alive() or not running or (until_caught_up and all(_reached(worker, targets) for worker in running)):
                return

    def _save_status(self) -> None:
        with suppress(Stopped):
            for worker in self._workers:
                status = worker.status
                self._loop.call(lambda _, s=status: build.save_status(self._sink, s.name, s.state, s.last_error))  # type: ignore[misc]

    def _status(self, _: dict[str, Any]) -> object:
        with self._sink.reader() as cursor:
            last = cursor.execute(LAST_BATCH).fetchone()
            quarantined = dict(cursor.execute(QUARANTINED).fetchall())
        return {
            "daemon": "up",
            "at": iso(time.time()),
            "store": store_facts(self._config.store.url, last),
            "sources": [worker.status.facts(quarantined.get(worker.source_name, 0)) for worker in self._workers],
        }

    def _books(self, request: dict[str, Any]) -> object:
        action = bookkeeping.ACTIONS[str(request["do"])]
        return self._loop.call(lambda pipeline: action(self._config, self._sink, pipeline, request))

    def _snapshot(self, request: dict[str, Any]) -> object:
        """Tables are marked as wanted; their source's worker begins again and copies them."""
        answer = self._books(request)
        for worker in self._workers:
            if worker.source_name == request["source"]:
                worker.fail(SourceUnavailable("daemon.restart", source=worker.source_name))
        return answer


def run(config: Config, until_caught_up: bool = False) -> int:
    """The daemon in the foreground. Returns its exit code; raises ConfigError and StoreError before anything has started."""
    _give_memory_back()
    return Daemon(config).run(until_caught_up)


def _give_memory_back() -> None:
    """Have glibc give back what is freed of large blocks at once, and of its heap in steps: it would keep hundreds of megabytes.

    mallopt(3). Other C libraries have no such call, or go their own way.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 1 << 20)
        mallopt(_M_TRIM_THRESHOLD, 2 << 20)


def _open_store(config: Config) -> DuckDBSink:
    """Open the store; a reader that has its file open, as one may while no daemon runs, is waited for a little. Raises StoreError."""
    deadline = time.monotonic() + LOCK_PATIENCE_S
    while True:
        try:
            return build.sink(config)
        except StoreError as error:
            if error.code != "store.locked" or time.monotonic() > deadline:
                raise
        time.sleep(LOOK_S)


def _sample(worker: Worker) -> str | None:
    """Ask the source's server for its log's head; a server that does not answer is the worker's to report."""
    try:
        lag = worker.inspection.lag(worker.status.position)
    except SourceError:
        return None
    worker.status.sampled(lag)
    return lag.head


def _reached(worker: Worker, targets: dict[str, str]) -> bool:
    status = worker.status
    target = targets.get(worker.source_name)
    done = target is not None and status.position is not None and worker.inspection.reached(status.position, target)
    return done and status.state == "streaming" and status.pending_since is None


def _notify(message: str) -> None:
    """Tell systemd (sd_notify(3)), if it asked to be told."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.connect("\0" + address[1:] if address.startswith("@") else address)
            notify.sendall(message.encode())
