"""One read of the store: a single SELECT, DESCRIBE or EXPLAIN in a read-only transaction, streamed as Arrow batches.

The socket's server and the reader of the file share it, so that a query is allowed and answered alike both ways. Types: decimals,
HUGEINT (as decimal of scale 0) and times go as Arrow's own; UUID and JSON as text; what Arrow would alter goes as DuckDB's text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from cdc.errors import StoreError

BATCH_ROWS = 16_384
_ALLOWED = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)
# Functions a SELECT may call that act on the daemon, or that hide a statement in a text.
_REFUSED = frozenset(
    {
        *("checkpoint", "force_checkpoint", "enable_logging", "disable_logging", "enable_profiling", "disable_profiling"),
        *("truncate_duckdb_logs", "write_log", "query", "json_execute_serialized_sql", "sleep_ms"),
        *("arrow_scan", "arrow_scan_dumb", "pandas_scan", "python_map_function", "seq_scan"),
    }
)
_FAULTS = (duckdb.Error, pa.ArrowException, OSError)  # OSError: how Arrow passes on what fails in a later batch
_ALTERED = re.compile(r"\b(TIME WITH TIME ZONE|BIT|UHUGEINT|BIGNUM)\b")
_COMMENTS = r"(?:\s|--[^\n]*\n|/\*(?:(?!\*/|/\*).)*\*/)*"
_OPTION = r"\s*(?:analyze|format\s+\w+)\s*"
_EXPLAIN = re.compile(rf"\A{_COMMENTS}explain(?:\s+analyze\b|\s*\({_OPTION}(?:,{_OPTION})*\))?", re.IGNORECASE | re.DOTALL)


def read(cursor: duckdb.DuckDBPyConnection, sql: str, parameters: Sequence[object] = ()) -> pa.RecordBatchReader:
    """Begin a read on a cursor of its own; the caller closes the cursor, which ends its transaction.

    All batches are of one snapshot. The first one is computed before this returns, the others as they are taken, so
    memory stays bounded. Raises StoreError for what is not a read and for what DuckDB refuses, then or in a later batch.
    """
    try:
        statement = _single(cursor, sql)
        cursor.execute("BEGIN TRANSACTION READ ONLY")
        cursor.execute(statement, list(parameters))
        if any(_ALTERED.search(str(column[1])) for column in cursor.description or ()):
            cursor.execute(_as_text(statement.query, cursor.description or []), list(parameters))
        return _eager(cursor.to_arrow_reader(BATCH_ROWS))
    except _FAULTS as error:
        raise StoreError("serving.query", fault=str(error).strip()) from error


def _single(cursor: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    statements = cursor.extract_statements(sql)
    if len(statements) != 1 or statements[0].type not in _ALLOWED:
        raise StoreError("serving.not_a_read")
    text = statements[0].query
    if statements[0].type == duckdb.StatementType.EXPLAIN:
        text = _EXPLAIN.sub("", text, count=1)
    if refused := _REFUSED.intersection(_functions(cursor, text)):
        raise StoreError("serving.refused", name=min(refused))
    return statements[0]


def _functions(cursor: duckdb.DuckDBPyConnection, sql: str) -> Iterator[str]:
    """The functions a SELECT names, in any depth, as DuckDB's own parser sees them."""
    row = cursor.execute("SELECT json_serialize_sql(?)", [sql]).fetchone()
    tree = json.loads(row[0]) if row else {"error": True}
    if tree["error"]:
        raise StoreError("serving.not_a_read")
    pending: list[Any] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if isinstance(name := node.get("function_name"), str):
                yield name.lower()
            pending += node.values()
        elif isinstance(node, list):
            pending += node


def _as_text(sql: str, description: Sequence[Sequence[object]]) -> str:
    columns = [
        f"""{f"CAST(c{i} AS VARCHAR)" if _ALTERED.search(str(column[1])) else f"c{i}"} AS {_quoted(str(column[0]))}"""
        for i, column in enumerate(description)
    ]
    names = ", ".join(f"c{i}" for i in range(len(columns)))
    return f"SELECT {', '.join(columns)} FROM ({_unterminated(sql)}\n) AS answer({names})"


def _unterminated(sql: str) -> str:
    """The statement without its semicolon, which a comment may follow."""
    text = sql.encode()
    for offset, _ in reversed(duckdb.tokenize(sql)):
        if text[offset : offset + 1] != b";":
            break
        text = text[:offset]
    return text.decode()


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _eager(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """The same batches, the first of them computed already: most faults of a query show there."""
    first = next(reader, None)

    def batches() -> Iterator[pa.RecordBatch]:
        if first is not None:
            yield first
        try:
            yield from reader
        except _FAULTS as error:
            raise StoreError("serving.query", fault=str(error).strip()) from error

    return pa.RecordBatchReader.from_batches(reader.schema, batches())
