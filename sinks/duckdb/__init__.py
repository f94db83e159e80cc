"""The default store: a DuckDB file that the daemon alone writes."""

from sinks.duckdb.chain import recompute_hash
from sinks.duckdb.file import open_read_only
from sinks.duckdb.sink import DuckDBSink, DuckDBTransaction

__all__ = ["DuckDBSink", "DuckDBTransaction", "open_read_only", "recompute_hash"]
