"""`status` while no daemon runs: what the store's file tells, and how far the sources have gone since, asked of them here."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import duckdb

from cdc import build
from cdc.config import SourceConfig, load
from cdc.errors import LedgertailError, StoreError
from cdc.observe import LAST_BATCH, QUARANTINED, error_facts, iso, store_facts
from cdc.paths import Places
from cdc.types import SourceLag
from sinks.duckdb import open_read_only


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What the store knows, by source; times are Unix times."""

    batch: tuple[int, float] | None = None
    checkpoints: dict[str, tuple[str, float]] = field(default_factory=dict)
    snapshots: dict[str, dict[str, tuple[str, int, int]]] = field(default_factory=dict)
    errors: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    quarantined: dict[str, int] = field(default_factory=dict)


def status(where: Places) -> dict[str, Any]:
    """The object `status --json` prints. A source that does not answer has null lags and its error. Raises ConfigError, StoreError."""
    config = load(where.config)
    recorded = _recorded(where) if where.store.exists() else _Recorded()
    with ThreadPoolExecutor(max_workers=min(8, len(config.sources))) as asking:
        sources = list(asking.map(lambda item: _source(item[0], item[1], recorded), config.sources.items()))
    return {
        "daemon": "down",
        "at": iso(time.time()),
        "store": store_facts(where.store_url, recorded.batch),
        "sources": sources,
    }


_QUERIES = {
    "batch": LAST_BATCH,
    "checkpoints": "SELECT source, position, epoch(applied_at) FROM meta.checkpoints",
    "snapshots": 'SELECT source, "table", state, rows_done, rows_estimated FROM meta.snapshots',
    "errors": "SELECT source, last_error FROM meta.status",
    "quarantined": QUARANTINED,
}


def _recorded(where: Places) -> _Recorded:
    with open_read_only(where.store) as store:
        try:
            rows = {name: store.execute(sql).fetchall() for name, sql in _QUERIES.items()}
        except duckdb.CatalogException:  # the file was made, but a first run never came to make its tables
            return _Recorded()
        except duckdb.Error as error:
            raise StoreError("serving.query", fault=str(error)) from error
    snapshots: dict[str, dict[str, tuple[str, int, int]]] = {}
    for source, table, *progress in rows["snapshots"]:
        snapshots.setdefault(source, {})[table] = (progress[0], progress[1], progress[2])
    return _Recorded(
        batch=rows["batch"][0] if rows["batch"] else None,
        checkpoints={source: (position, applied_at) for source, position, applied_at in rows["checkpoints"]},
        snapshots=snapshots,
        errors={source: json.loads(error) if error else None for source, error in rows["errors"]},
        quarantined=dict(rows["quarantined"]),
    )


def _source(name: str, config: SourceConfig, recorded: _Recorded) -> dict[str, Any]:
    position, applied_at = recorded.checkpoints.get(name, (None, None))
    lag, error = _lag(name, config, position)
    return {
        "name": name,
        "kind": build.kind(config),
        "state": "down",
        "position": position,
        "lag_seconds": _lag_seconds(lag, applied_at),
        "lag_bytes": lag.lag_bytes if lag else None,
        "retained_bytes": lag.retained_bytes if lag else None,
        "purged_in_seconds": lag.purged_in_seconds if lag else None,
        "changes_per_second": 0.0,
        "snapshot": _snapshot(config, recorded.snapshots.get(name, {})),
        "quarantined": recorded.quarantined.get(name, 0),
        "last_error": error or recorded.errors.get(name),
    }


def _lag(name: str, config: SourceConfig, position: str | None) -> tuple[SourceLag | None, dict[str, Any] | None]:
    inspection = build.inspection(name, config)
    try:
        return inspection.lag(position), None
    except LedgertailError as error:
        return None, error_facts(error)
    finally:
        inspection.close()


def _lag_seconds(lag: SourceLag | None, applied_at: float | None) -> float | None:
    """Seconds since the store last can have had everything; 0 where it still has. None where that can't be known."""
    if lag is None or lag.lag_bytes is None or applied_at is None:
        return None
    return round(max(0.0, lag.sampled_at - applied_at), 3) if lag.lag_bytes else 0.0


def _snapshot(config: SourceConfig, known: dict[str, tuple[str, int, int]]) -> dict[str, int] | None:
    copying = [known.get(table, ("wanted", 0, 0)) for table in config.tables if known.get(table, ("", 0, 0))[0] != "done"]
    if not copying:
        return None
    return {"rows_done": sum(done for _, done, _ in copying), "rows_estimated": sum(rows for _, _, rows in copying)}
