"""The writer's connection: SQL over an Arrow table, DuckDB's errors translated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from sinks.duckdb.faults import translated

# The Arrow table given to a statement, as the body of a CTE; every join with one goes through such a CTE. Else the join may hand the Arrow
# scan bounds of its other side as a filter, and DuckDB makes wrong values of some: a hash past 2**63 and an instant raise, an infinite
# date matches nothing.
TAKEN_IN = "MATERIALIZED (SELECT * FROM given)"


class Session:
    """One connection to the store at `path`. Results are fetched whole, so that statements may follow each other freely.

    A statement reads the Arrow table that comes with it as `given`.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        self._connection, self.path = connection, path

    def run(self, statement: str, parameters: Sequence[object] = (), given: pa.Table | None = None) -> int:
        """Run a statement. Returns how many rows it changed."""
        rows = self.rows(statement, parameters, given)
        return int(rows[0][0]) if rows else 0

    def rows(self, statement: str, parameters: Sequence[object] = (), given: pa.Table | None = None) -> list[tuple[Any, ...]]:
        """The result's rows as Python values."""
        with self._executed(statement, parameters, given) as result:
            return list(result.fetchall()) if result.description else []

    def table(self, statement: str, parameters: Sequence[object] = (), given: pa.Table | None = None) -> pa.Table:
        """The result as an Arrow table."""
        with self._executed(statement, parameters, given) as result:
            return result.to_arrow_table()

    def columns(self, table: str) -> list[str] | None:
        """The columns of a table (quoted name) in its own order; None if there is no such table."""
        with translated(self.path):
            try:
                result = self._connection.execute(f"SELECT * FROM {table} LIMIT 0")
            except duckdb.CatalogException:
                return None  # found before anything ran, so an open transaction goes on
        return [column[0] for column in result.description or ()]

    def close(self) -> None:
        """Let go of the connection."""
        self._connection.close()

    @contextmanager
    def _executed(self, statement: str, parameters: Sequence[object], given: pa.Table | None) -> Iterator[duckdb.DuckDBPyConnection]:
        with translated(self.path):
            if given is None:
                yield self._connection.execute(statement, list(parameters))
                return
            lent = _Lent(given)
            self._connection.register("given", lent)
            try:
                yield self._connection.execute(statement, list(parameters))
            finally:
                self._connection.unregister("given")
                lent.table = None


class _Lent:
    """An Arrow table while a statement needs it. DuckDB keeps what was registered with it until the transaction ends."""

    def __init__(self, table: pa.Table) -> None:
        self.table: pa.Table | None = table

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        assert self.table is not None, "the statement has ended"
        return self.table.__arrow_c_stream__(requested_schema)
