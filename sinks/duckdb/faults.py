"""DuckDB's exceptions as the store's errors. DuckDB has few classes, so its words are looked at."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from cdc.errors import StoreError, StoreUnavailable

_PID = re.compile(r"\(PID (\d+)\)")
_WORDS = (
    (re.compile(r"Could not set lock on file|Unique file handle conflict"), "store.locked"),
    (re.compile(r"No space left on device|Disk quota exceeded|File too large|Could not write .*bytes"), "store.full"),
    (re.compile(r"max_temp_directory_size"), "store.full"),
    (re.compile(r"Permission denied|Read-only file system|Operation not permitted"), "store.permission"),
    (re.compile(r"not a valid DuckDB database file|Is a directory"), "store.foreign"),
    (re.compile(r"database file with version number|newer version of DuckDB|storage version", re.IGNORECASE), "store.newer"),
    (re.compile(r"Corrupt database file|checksum"), "store.corrupt"),
    (re.compile(r"No such file or directory|database does not exist"), "store.missing"),
)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise what DuckDB raises inside as a StoreError about the store at `path`, the cause kept."""
    try:
        yield
    except duckdb.Error as error:
        raise store_error(path, error) from error


def store_error(path: Path, error: duckdb.Error) -> StoreError:
    """The store's error for one of DuckDB's."""
    detail = str(error).strip()
    for words, code in _WORDS:
        if words.search(detail):
            pid = _PID.search(detail)
            return StoreError(code, path=path, folder=path.parent, pid=pid[1] if pid else os.getpid(), detail=detail)
    if isinstance(error, duckdb.OutOfMemoryException):
        return StoreError("store.memory", path=path, detail=detail)
    if isinstance(error, (duckdb.FatalException, duckdb.ConnectionException)):
        return StoreUnavailable("store.broken", path=path, detail=detail)
    if isinstance(error, duckdb.DataError):
        return StoreError("store.value", path=path, detail=detail)
    return StoreError("store.failed", path=path, detail=detail)
