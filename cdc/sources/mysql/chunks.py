"""A chunk of a table: the SELECT, and its rows as Arrow, taken from the socket in bulk.

Manual: MySQL source documentation, 'COM_QUERY Response'.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pymysql
from pymysql.constants import COMMAND, CR
from pymysql.err import raise_mysql_exception

from cdc.decode.mysql.fields import Field, select_expression
from cdc.decode.mysql.text_rows import TextRows
from cdc.sources.mysql.catalog import Table
from cdc.sources.mysql.connection import Connection, quoted
from cdc.sources.mysql.walk import Key
from cdc.types import TableSchema

_RECEIVE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Block:
    """Rows of a chunk, the key of the last one, if the table is walked by one, and their bytes."""

    rows: pa.Table
    reached: Key | None
    size: int


def selection(table: Table, fields: Sequence[Field], after: Key | None, upto: Key | None, limit: int | None) -> str:
    """The SELECT of a chunk: the fields, and what of the key can't be told from them."""
    columns = [select_expression(field) for field in fields]
    if table.order is not None:
        columns += [part.expression for part in table.order.parts if part.expression != quoted(part.column)]
    # A table without transactions is locked only until the server has put the rows aside.
    hint = "" if table.transactional else "SQL_BUFFER_RESULT "
    statement = f"SELECT {hint}{', '.join(columns)} FROM {table.sql}"
    if table.order is None:
        return statement
    condition = table.order.between(after, upto)
    where = f" WHERE {condition}" if condition else ""
    return f"{statement} FORCE INDEX ({quoted(table.order.index)}){where} ORDER BY {table.order.sql} LIMIT {limit}"


def blocks(
    connection: Connection, table: Table, schema: TableSchema, fields: Sequence[Field], statement: str, size_max: int
) -> Iterator[Block]:
    """The rows of a `selection` in blocks of at least `size_max` bytes; the last may be empty. Raises ValueUnfit and Malformed."""
    arrow, places = schema.arrow(), _key_places(table, fields)
    for parts, size in _result(connection, statement, size_max):
        tables = [arrow.empty_table()]
        for columns in parts:
            kept = [array for field, values in zip(fields, columns, strict=False) for array in field.from_text(values, table.name)]
            tables.append(pa.Table.from_arrays(kept, schema=arrow))
        reached = tuple(parts[-1][place][-1].as_py() for place in places) if parts and places else None
        yield Block(pa.concat_tables(tables), reached, size)


def _key_places(table: Table, fields: Sequence[Field]) -> list[int]:
    """Where the columns of the key stand among those selected."""
    if table.order is None:
        return []
    named = {quoted(field.name): place for place, field in enumerate(fields)}
    for part in table.order.parts:
        named.setdefault(part.expression, len(named))
    return [named[part.expression] for part in table.order.parts]


def _result(connection: Connection, statement: str, size_max: int) -> Iterator[tuple[list[list[pa.Array]], int]]:
    """The columns of a result in parts, and their bytes: whenever there are `size_max` of them, and at the end."""
    connection._execute_command(COMMAND.COM_QUERY, statement)
    width = connection._read_packet().read_length_encoded_integer()
    for _ in range(width + 1):  # the columns' definitions, which are known, and their end
        connection._read_packet()
    rows = TextRows(width)
    while not rows.ended:
        data = connection._rfile.read1(_RECEIVE_BYTES)
        if not data:
            raise pymysql.OperationalError(CR.CR_SERVER_LOST, "the server closed the connection within a result")
        rows.feed(data)
        if rows.size >= size_max and not rows.ended:
            size = rows.size
            yield list(rows.take()), size
    if rows.error is not None:
        raise_mysql_exception(rows.error)
    size = rows.size
    yield list(rows.take()), size
