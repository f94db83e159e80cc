"""An answer as text or Parquet, batch by batch. DuckDB writes each value, so that it reads the same in every format.

Decimals are exact: text in JSON, also inside lists and structs. Times with a zone are written in UTC.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, TextIO

import duckdb
import pyarrow as pa

from cdc.errors import LedgertailError

_NESTED_FLOAT = re.compile(r"\b(FLOAT|DOUBLE)\b")  # as text, since JSON has no NaN or infinity
_CONTROLS = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}  # which could command a terminal
_DECIMAL = re.compile(r"DECIMAL\(\d+,\s*\d+\)")
Rows = Iterator[tuple[str | None, ...]]


def write_csv(answer: pa.RecordBatchReader, target: BinaryIO) -> None:
    """RFC 4180, UTF-8, with a header; NULL is an empty field."""
    with _text(target) as file:
        writer = csv.writer(file)
        writer.writerow(answer.schema.names)
        for rows in _texts(answer):
            writer.writerows(rows)


def write_json(answer: pa.RecordBatchReader, target: BinaryIO) -> None:
    """An array of objects, one a line."""
    names = _distinct(answer.schema.names)
    separator = "[\n"
    with _text(target) as file:
        for rows in _rendered(answer, lambda session: _json_sql(session, names)):
            for (row,) in rows:
                file.write(f"{separator}{row}")
                separator = ",\n"
        file.write("[]\n" if separator == "[\n" else "\n]\n")


def write_parquet(answer: pa.RecordBatchReader, target: BinaryIO) -> None:
    """Parquet with the answer's own types. Raises LedgertailError for a type Parquet has no place for."""
    from pyarrow import parquet

    try:
        with parquet.ParquetWriter(target, answer.schema, compression="zstd") as writer:
            for batch in answer:
                writer.write_batch(batch)
    except pa.ArrowException as error:
        raise LedgertailError("cli.parquet", fault=error) from error


WRITERS: dict[str, Callable[[pa.RecordBatchReader, BinaryIO], None]] = {"csv": write_csv, "json": write_json, "parquet": write_parquet}


def write_table(answer: pa.RecordBatchReader, target: BinaryIO, rows_max: int, wide: bool) -> bool:
    """A table for people, of at most `rows_max` rows; whether there are more. `wide`: don't fold it into the terminal's width."""
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE, show_edge=False)
    for field in answer.schema:
        table.add_column(Text(field.name), justify="right" if _is_number(field.type) else "left", overflow="fold")
    more = False
    for rows in _texts(answer):
        for row in rows:
            if more := table.row_count == rows_max:
                break
            table.add_row(*(Text("NULL", "dim") if value is None else Text(value.translate(_CONTROLS)) for value in row))
        if more:
            break
    with _text(target) as file:
        console = Console(file=file, force_terminal=not wide, width=10_000 if wide else None)
        console.print(table)
    return more


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_decimal(type_) or pa.types.is_floating(type_))


def _texts(answer: pa.RecordBatchReader) -> Iterator[Rows]:
    return _rendered(answer, lambda _: "SELECT CAST(COLUMNS(*) AS VARCHAR) FROM answer")


def _rendered(answer: pa.RecordBatchReader, sql: Callable[[duckdb.DuckDBPyConnection], str]) -> Iterator[Rows]:
    """The rows a statement makes of each batch, which it sees as `answer` with columns `c0`, `c1`, ..."""
    names = [f"c{i}" for i in range(len(answer.schema))]
    with duckdb.connect() as session:
        session.execute("SET TimeZone = 'UTC'")
        session.execute("SET enable_progress_bar = false")  # it would be drawn on stdout
        for batch in answer:
            session.register("answer", pa.Table.from_batches([batch]).rename_columns(names))
            table = session.execute(sql(session)).to_arrow_table()
            yield zip(*(column.to_pylist() for column in table.columns), strict=True)


def _json_sql(session: duckdb.DuckDBPyConnection, names: Sequence[str]) -> str:
    described = session.execute("DESCRIBE answer").fetchall()
    fields = [f"{_literal(name)}, {_json_value(column, type_)}" for name, (column, type_, *_) in zip(names, described, strict=True)]
    return f"SELECT CAST(json_object({', '.join(fields)}) AS VARCHAR) FROM answer"


def _json_value(column: str, type_: str) -> str:
    if type_ in ("FLOAT", "DOUBLE"):
        return f"CASE WHEN isfinite({column}) THEN to_json({column}) ELSE to_json(CAST({column} AS VARCHAR)) END"
    exact = _DECIMAL.sub("VARCHAR", type_)
    return f"CAST({column} AS {exact if exact == 'VARCHAR' else _NESTED_FLOAT.sub('VARCHAR', exact)})"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _distinct(names: Sequence[str]) -> list[str]:
    """The names, a repeated one numbered, as an object can't hold it twice."""
    distinct: list[str] = []
    for name in names:
        numbered, number = name, 0
        while numbered in distinct:
            number += 1
            numbered = f"{name}_{number}"
        distinct.append(numbered)
    return distinct


@contextmanager
def _text(target: BinaryIO) -> Iterator[TextIO]:
    """UTF-8 text into a binary file that stays open."""
    file = io.TextIOWrapper(target, encoding="utf-8", newline="")
    try:
        yield file
    finally:
        file.detach()
