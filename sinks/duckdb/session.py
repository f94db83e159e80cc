"""The writer's connection: SQL over Arrow tables given by name, DuckDB's errors translated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from sinks.duckdb.faults import translated


def taken_in(table: str) -> str:
    """An Arrow table given to a statement, as the body of a CTE; every join with one goes through such a CTE.

    Else the join may hand the Arrow scan bounds of its other side as a filter, and DuckDB makes wrong values of some: a hash past 2**63
    and an instant raise, an infinite date matches nothing.
    """
    return f"MATERIALIZED (SELECT * FROM {table})"


class Session:
    """One connection to the store at `path`. Results are fetched whole, so that statements may follow each other freely."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        self._connection, self.path = connection, path

    def run(self, statement: str, parameters: Sequence[object] = (), **tables: pa.Table) -> int:
        """Run a statement; `tables` are there under their names while it runs. Returns how many rows it changed."""
        rows = self.rows(statement, parameters, **tables)
        return int(rows[0][0]) if rows else 0

    def rows(self, statement: str, parameters: Sequence[object] = (), **tables: pa.Table) -> list[tuple[Any, ...]]:
        """The result's rows as Python values."""
        with self._executed(statement, parameters, tables) as result:
            return list(result.fetchall()) if result.description else []

    def table(self, statement: str, parameters: Sequence[object] = (), **tables: pa.Table) -> pa.Table:
        """The result as an Arrow table."""
        with self._executed(statement, parameters, tables) as result:
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
    def _executed(
        self, statement: str, parameters: Sequence[object], tables: Mapping[str, pa.Table]
    ) -> Iterator[duckdb.DuckDBPyConnection]:
        with translated(self.path):
            for name, table in tables.items():
                self._connection.register(name, table)
            try:
                yield self._connection.execute(statement, list(parameters))
            finally:
                for name in tables:
                    self._connection.unregister(name)
