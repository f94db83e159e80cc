"""What the daemon knows about its sources: state, lag, rate, last error. The `status` contract is assembled here.

Lag is end to end, from the source's log to the store. The server is asked for its log's head every few seconds; a source lags as long as
the oldest head asked for that the store has not reached, or as the oldest change received but not yet applied, whichever is
longer. A log that has grown, but by nothing that concerns the source, is no lag.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from cdc.errors import LedgertailError
from cdc.texts import text
from cdc.types import MicroBatch, Position, Resume, SnapshotProgress, SourceLag

RATE_WINDOW_S = 10.0
SILENT_S = 10.0  # without an answer from the server: what it has meanwhile is not known


def log_to_stderr() -> None:
    """Log lines on stderr, with the time unless the journal adds its own."""
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    logging.basicConfig(level=logging.INFO, format=f"{stamp}%(levelname)s %(message)s")


# What `status` reads of the store, while the daemon is up and when it is down.
LAST_BATCH = "SELECT batch_seq, epoch(applied_at) FROM ledger.batches ORDER BY batch_seq DESC LIMIT 1"
QUARANTINED = "SELECT source, count(*) FROM ledger.quarantine WHERE status = 'open' GROUP BY source"


def store_facts(url: str, last_batch: tuple[int, float] | None) -> dict[str, Any]:
    """The store in `status --json`; `last_batch` as LAST_BATCH answers."""
    seq, applied_at = last_batch or (None, None)
    return {"url": url, "batch_seq": seq, "applied_at": None if applied_at is None else iso(applied_at)}


def iso(timestamp: float) -> str:
    """A Unix time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(timestamp, UTC).isoformat(timespec="milliseconds")


def error_facts(error: BaseException) -> dict[str, Any]:
    """An error as `status` shows it: code, message, hint, at."""
    if isinstance(error, LedgertailError):
        return {"code": error.code, "message": error.message, "hint": error.hint, "at": iso(time.time())}
    return {"code": "internal", "message": f"{type(error).__name__}: {error}", "hint": "", "at": iso(time.time())}


@dataclass
class SourceStatus:
    """One source as seen by the daemon. Written by its threads under the lock, read by `status`."""

    name: str
    kind: str
    tables: tuple[str, ...]
    reached: Callable[[Position, Position], bool]
    state: str = "down"
    position: Position | None = None
    snapshots: dict[str, SnapshotProgress] = field(default_factory=dict)
    last_error: dict[str, Any] | None = None
    lag: SourceLag | None = None
    pending_since: float | None = None
    resting: bool = False
    _unreached: deque[SourceLag] = field(default_factory=lambda: deque(maxlen=3600))
    _progressed: bool = False
    _applied: deque[tuple[float, int]] = field(default_factory=deque)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def resumed(self, resume: Resume) -> None:
        with self._lock:
            self.position = resume.checkpoint.position if resume.checkpoint else None
            self.snapshots = dict(resume.snapshots)
            self.pending_since = None
            self.state = "snapshot" if self._copying() else "streaming"

    def received(self, oldest_commit_at: float) -> None:
        """A batch waits to be applied; its first transaction was committed then."""
        with self._lock:
            self.pending_since = min(self.pending_since or oldest_commit_at, oldest_commit_at)
            self.resting = False

    def applied(self, batch: MicroBatch) -> None:
        """A batch is in the store."""
        self.counted(batch.rows)
        with self._lock:
            self.position, self.pending_since = batch.position, None
            self._drop_reached()
            if batch.snapshot is not None:
                self.snapshots[batch.snapshot.table] = batch.snapshot
            for schema in batch.promote:
                self.snapshots[schema.table] = replace(self.snapshots[schema.table], state="done")
            self.state = "snapshot" if self._copying() else "streaming"
            self.last_error = None
            self._progressed = True

    def counted(self, changes: int) -> None:
        """So many changes were worked on, for the rate."""
        with self._lock:
            self._applied.append((time.monotonic(), changes))

    def progressed(self) -> bool:
        """Whether anything was applied since this was asked last."""
        with self._lock:
            progressed, self._progressed = self._progressed, False
            return progressed

    def sampled(self, lag: SourceLag) -> None:
        """The source's server was asked how far its log has gone."""
        with self._lock:
            if self.resting and self.pending_since is None and lag.unsent_bytes == 0:
                lag = replace(lag, lag_bytes=0)
                self._unreached.clear()
            elif lag.lag_bytes:
                self._unreached.append(lag)
            self.lag = lag
            self._drop_reached()

    def _drop_reached(self) -> None:
        while self._unreached and self.position is not None and self.reached(self.position, self._unreached[0].head):
            self._unreached.popleft()

    def failed(self, error: BaseException, halted: bool) -> None:
        with self._lock:
            self.last_error = error_facts(error)
            self.state = "halted" if halted else "down"
            self.pending_since = None

    def lag_seconds(self) -> float | None:
        """Seconds the store is behind the source; None before the first sample. While the server does not answer, since it last did."""
        if self.lag is None:
            return None
        now = time.time()
        with self._lock:
            waiting = [lag.sampled_at for lag in [*self._unreached][:1]]
        if now - self.lag.sampled_at > SILENT_S:
            waiting.append(self.lag.sampled_at)
        if self.pending_since is not None:
            waiting.append(self.pending_since)
        return round(max(now - min(waiting), 0.0), 3) if waiting else 0.0

    def rate(self) -> float:
        """Row changes applied per second, over the last ten seconds."""
        horizon = time.monotonic() - RATE_WINDOW_S
        with self._lock:
            while self._applied and self._applied[0][0] < horizon:
                self._applied.popleft()
            return round(sum(count for _, count in self._applied) / RATE_WINDOW_S, 1)

    def facts(self, quarantined: int) -> dict[str, Any]:
        """This source in `status --json`."""
        lag = self.lag
        return {
            "name": self.name,
            "kind": self.kind,
            "state": self.state,
            "position": self.position,
            "lag_seconds": self.lag_seconds(),
            "lag_bytes": lag.lag_bytes if lag else None,
            "retained_bytes": lag.retained_bytes if lag else None,
            "purged_in_seconds": lag.purged_in_seconds if lag else None,
            "changes_per_second": self.rate(),
            "snapshot": self._progress(),
            "quarantined": quarantined,
            "last_error": self.last_error,
        }

    def _copying(self) -> list[str]:
        """Tables that are not mirrored yet."""
        return [table for table in self.tables if table not in self.snapshots or self.snapshots[table].state != "done"]

    def _progress(self) -> dict[str, int] | None:
        copying = [self.snapshots[table] for table in self._copying() if table in self.snapshots]
        if not self._copying():
            return None
        return {"rows_done": sum(p.rows_done for p in copying), "rows_estimated": sum(p.rows_estimated for p in copying)}


class Heartbeat:
    """A line in the log now and then while work goes on, so that nobody wonders."""

    def __init__(self, every_s: float = 10.0) -> None:
        self._every_s, self._next = every_s, time.monotonic() + every_s
        self._log = logging.getLogger("ledgertail")

    def beat(self, statuses: list[SourceStatus]) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every_s
        for status in statuses:
            facts = status.facts(0)
            copy = facts["snapshot"]
            done = text("daemon.log.copy", done=copy["rows_done"], estimated=copy["rows_estimated"]) if copy else ""
            facts["position"] = (status.position or "-").partition(" ")[0]
            self._log.info("%s%s", text("daemon.log.beat", **facts), done)
