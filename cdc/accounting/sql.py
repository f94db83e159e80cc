"""The DuckDB in memory that rules and changes are worked on in, and how names and texts are written for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import duckdb

from cdc.accounting.rounding import MACROS


def memory_database() -> duckdb.DuckDBPyConnection:
    """A database of its own, closed to files, in UTC.

    One thread: a batch is too small to share out, and waking others costs more than they do. No bounds of a join are handed to the scan
    of an Arrow table as a filter: DuckDB makes wrong values of some, of a hash past 2**63 or an infinite date.
    """
    connection = duckdb.connect(config={"enable_external_access": "false", "threads": "1"})
    connection.execute(f"SET TimeZone = 'UTC'; SET disabled_optimizers = '{_DISABLED}'")
    connection.execute(_EXACT_JSON)
    connection.execute(MACROS)
    return connection


_DISABLED = "join_filter_pushdown"


@contextmanager
def trying(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """For statements with TRY: an expression that stands in them twice would be computed once, outside of it, and raise."""
    connection.execute(f"SET disabled_optimizers = '{_DISABLED},common_subexpressions'")
    try:
        yield
    finally:
        connection.execute(f"SET disabled_optimizers = '{_DISABLED}'")


# DuckDB reads the numbers of a JSON text as DOUBLE, which keeps 15 digits. Where there may be more, each number outside of strings becomes
# a string: marked by control characters, which no JSON text has.
_EXACT_JSON = r"""
CREATE MACRO exact_json(doc) AS CASE WHEN regexp_matches(doc, '[0-9.]{16}') THEN
    replace(replace(replace(
        regexp_replace(doc, '("(?:[^"\\]|\\.)*")|(-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)', '\1' || chr(1) || '\2' || chr(2), 'g'),
        chr(1) || chr(2), ''), chr(1), '"'), chr(2), '"')
    ELSE doc END
"""


def quote(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str) -> str:
    """A text as an SQL literal."""
    return "'" + value.replace("'", "''") + "'"


def listed(names: Iterable[str]) -> str:
    """Names as a list of SQL identifiers."""
    return ", ".join(map(quote, names))
