"""Opening the store's file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import duckdb

from cdc.errors import ConfigError
from sinks.duckdb.faults import translated
from sinks.duckdb.names import literal

_SCHEME = "duckdb://"
_NAME = "store"
_CLOSED_IN = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}


def store_path(url_or_path: str | Path) -> Path:
    """The file of `duckdb:///abs/file.duckdb`, or the path itself. Raises ConfigError for another url."""
    text = str(url_or_path)
    path = Path(text.removeprefix(_SCHEME))
    if "://" in text and not (text.startswith(_SCHEME) and path.is_absolute()):
        raise ConfigError("store.url", url=text)
    return path


def open_writer(path: Path, memory_limit: int) -> duckdb.DuckDBPyConnection:
    """Open the file as its only writer; `memory_limit` in bytes bounds DuckDB's buffers, beyond it spills beside the file.

    Each connection works on the thread that calls it: a batch is too small to share out, and a reader then has its own core.
    The log is folded into the file when idle (`checkpoint_if_idle`) or at 256 MB, which is much faster than DuckDB's own 16 MB.
    A join by up to 5,000 row ids reads only where these are (journal.live).
    Raises StoreError.
    """
    settings = {
        **_CLOSED_IN,
        "memory_limit": f"{max(memory_limit >> 10, 1)}KiB",
        "temp_directory": f"{path}.tmp",
        "wal_autocheckpoint": "256MB",
        "threads": "1",
        "preserve_insertion_order": "false",
        "dynamic_or_filter_threshold": "5000",
    }
    return _open(path, settings, "(STORAGE_VERSION 'latest')")


def open_read_only(path: str | Path) -> duckdb.DuckDBPyConnection:
    """Open the file for reading, which goes only while no daemon has it. Raises StoreError, `store.locked` when one has."""
    return _open(store_path(path), {**_CLOSED_IN, "temp_directory": ""}, "(READ_ONLY)")


def connection_of(opened: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Another connection to an opened store."""
    connection = opened.cursor()
    connection.execute(f"USE {_NAME}")
    return connection


def _open(path: Path, settings: Mapping[str, str], mode: str) -> duckdb.DuckDBPyConnection:
    """Attach the file under a name of its own: DuckDB's would be the file's, and `ledger.duckdb` hide the schema `ledger`."""
    with translated(path):
        connection = duckdb.connect(config={**settings})
        try:
            connection.execute(f"ATTACH {literal(str(path))} AS {_NAME} {mode}")
            connection.execute(f"USE {_NAME}")
            connection.execute("SET enable_progress_bar = false")
            connection.execute("SET GLOBAL TimeZone = 'UTC'; SET enable_external_access = false; SET lock_configuration = true")
        except duckdb.Error:
            connection.close()
            raise
        return connection
