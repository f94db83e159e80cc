"""Derivation tables: CSV files that say what follows from values, such as the account of a kind of tax, or the budget of a region.

    region,class,valid_from,valid_to,budget,account
    east,A,2026-01-01,,strategic purchasing,1403
    east,,,,purchasing,1403

Columns that a lookup gives values for (`on`) are conditions: an empty cell is any value, also none. All others are what follows, as text.
The first row that fits holds; `valid_from` and `valid_to` are days, both included, that the entry's date must lie between.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import duckdb
import pyarrow as pa

from cdc.accounting.lookups import States, Step, rows
from cdc.accounting.sql import literal, quote
from cdc.types import DELETE

FROM, TO, ROW = "valid_from", "valid_to", "#row"  # ROW: the line of the file, the header being 1


class BadTable(ValueError):
    """What is wrong with a derivation table, in words for the message about its rule."""


@dataclass(frozen=True, slots=True)
class Derivation(Step):
    """What follows from values, by a derivation table. `on`: its conditions with SQL for their values; `day`: SQL for the date."""

    path: Path
    table: pa.Table
    on: tuple[tuple[str, str], ...]
    day: str

    @property
    def readable(self) -> Mapping[str, pa.DataType]:
        """The columns that follow, and which row they are of."""
        conditions = {name for name, _ in self.on}
        followed = {name: pa.string() for name in self.table.column_names if name not in {*conditions, FROM, TO, ROW}}
        return {**followed, ROW: pa.int64()}

    def add(self, connection: duckdb.DuckDBPyConnection, states: States, columns: Iterable[str]) -> None:
        """Add some of the columns."""
        connection.register("derivation", self.table)
        try:
            self.widen(connection, self._wider(columns))
        finally:
            connection.unregister("derivation")

    def _wider(self, columns: Iterable[str]) -> str:
        values = {f"#k{i}": f"TRY_CAST(TRY({sql}) AS VARCHAR)" for i, (_, sql) in enumerate(self.on)}
        if dated(self.table):
            values["#day"] = f"TRY_CAST(TRY({self.day}) AS DATE)"
        fits = [f"(d.{quote(name)} IS NULL OR d.{quote(name)} = a.{quote(key)})" for key, (name, _) in zip(values, self.on, strict=False)]
        fits += [f'(d.{FROM} IS NULL OR d.{FROM} <= a."#day")'] * (FROM in self.table.column_names)
        fits += [f'(d.{TO} IS NULL OR d.{TO} >= a."#day")'] * (TO in self.table.column_names)
        asked = ", ".join(f"{sql} AS {quote(key)}" for key, sql in values.items())
        told = " || ', ' || ".join(
            f"{literal(name + ' = ')} || coalesce(CAST(f.{quote(key)} AS VARCHAR), 'NULL')"
            for key, name in zip(values, [*(name for name, _ in self.on), "date"], strict=False)
        )
        picked = "".join(f"d.{quote(name)} AS {quote(self.column(name))}, " for name in columns)
        joined = " AND ".join(f"f.{quote(key)} IS NOT DISTINCT FROM {sql}" for key, sql in values.items())
        return f"""WITH a AS MATERIALIZED (SELECT DISTINCT {asked} FROM {rows(self.over)} WHERE "#op" <> '{DELETE}'),
                f AS MATERIALIZED (SELECT a.*, min(d."#row") AS "#row" FROM a LEFT JOIN derivation d ON {" AND ".join(fits)} GROUP BY ALL)
            SELECT {quote(self.over)}.*, {picked}
                CASE WHEN f."#row" IS NULL THEN {literal(f"no row of {self.path.name} for ")} || {told} END AS {quote(self.fault)}
            FROM {rows(self.over)} LEFT JOIN f ON {joined} LEFT JOIN derivation d ON d."#row" = f."#row" """


def dated(table: pa.Table) -> bool:
    """Whether what follows by a derivation table depends on the entry's date."""
    return bool({FROM, TO} & set(table.column_names))


def read_header(path: Path) -> list[str]:
    """The columns of a derivation table. Raises BadTable for what can't be read."""
    rows = _rows(path)
    return [name.strip() for name in rows[0]] if rows else []


def read_table(path: Path, conditions: Iterable[str]) -> pa.Table:
    """A derivation table: its columns as text (days as dates), empty cells NULL, and ROW.

    Raises BadTable for what can't be read, for a row that can't be reached as one above it takes all that it fits, and for two rows that
    fit the same values while neither is a case of the other and none above settles which holds.
    """
    rows = _rows(path)
    header, lines = [name.strip() for name in rows[0]] if rows else [], [row for row in rows[1:] if any(map(str.strip, row))]
    if not lines or len(set(header)) < len(header) or "" in header:
        raise BadTable(f"'{path.name}' needs a header with a name for each column, none twice, and rows")
    known = list(conditions)
    for name in known:
        if name not in header or name in (FROM, TO):
            raise BadTable(f"'{path.name}' has no column '{name}' to compare with")
    numbers = [number for number, row in enumerate(rows[1:], 2) if any(map(str.strip, row))]
    for number, line in zip(numbers, lines, strict=True):
        if len(line) != len(header):
            raise BadTable(f"'{path.name}', row {number}: {len(line)} cells under {len(header)} columns")
    columns: dict[str, pa.Array] = {}
    for place, name in enumerate(header):
        cells = [line[place].strip() or None for line in lines]
        columns[name] = pa.array(_days(path, numbers, cells), pa.date32()) if name in (FROM, TO) else pa.array(cells, pa.string())
    table = pa.table({**columns, ROW: pa.array(numbers, pa.int64())})
    _check(path, table, known)
    return table


def _rows(path: Path) -> list[list[str]]:
    try:
        return list(csv.reader(io.StringIO(path.read_text("utf-8-sig"), newline=""), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadTable(f"'{path}' can't be read: {error}") from error


def _days(path: Path, numbers: Iterable[int], cells: Iterable[str | None]) -> list[date | None]:
    days = []
    for number, cell in zip(numbers, cells, strict=True):
        try:
            days.append(date.fromisoformat(cell) if cell else None)
        except ValueError:
            raise BadTable(f"'{path.name}', row {number}: '{cell}' is no day such as 2026-01-31") from None
    return days


def _check(path: Path, table: pa.Table, conditions: Iterable[str]) -> None:
    """Compare every two rows, `a` above `b`: whether one takes all that the other fits, and else whether they fit anything together."""
    first, last = "DATE '0001-01-01'", "DATE '9999-12-31'"
    begin = {row: f"coalesce({row}.{FROM}, {first})" if FROM in table.column_names else first for row in "abm"}
    end = {row: f"coalesce({row}.{TO}, {last})" if TO in table.column_names else last for row in "abm"}
    names = [quote(name) for name in conditions]

    def covers(one: str, other: str) -> str:
        cells = [f"({one}.{name} IS NULL OR coalesce({one}.{name} = {other}.{name}, false))" for name in names]
        return " AND ".join([*cells, f"{begin[one]} <= {begin[other]}", f"{end[one]} >= {end[other]}"])

    together = " AND ".join(
        [
            *(f"(a.{name} IS NULL OR b.{name} IS NULL OR a.{name} = b.{name})" for name in names),
            f"{begin['a']} <= {end['b']}",
            f"{begin['b']} <= {end['a']}",
        ]
    )
    # What both fit is settled by a row above them that takes all of it.
    settled = " AND ".join(
        [
            *(f"(m.{name} IS NULL OR coalesce(m.{name} = coalesce(a.{name}, b.{name}), false))" for name in names),
            f"{begin['m']} <= greatest({begin['a']}, {begin['b']})",
            f"{end['m']} >= least({end['a']}, {end['b']})",
        ]
    )
    with duckdb.connect() as db:
        db.register("t", table)
        dead = db.execute(
            f'SELECT b."#row", min(a."#row") FROM t a JOIN t b ON a."#row" < b."#row" AND {covers("a", "b")} GROUP BY 1 ORDER BY 1 LIMIT 1'
        ).fetchone()
        if dead:
            raise BadTable(f"'{path.name}': row {dead[0]} is never reached, as row {dead[1]} above it fits all that it fits")
        both = db.execute(
            f"""SELECT a."#row", b."#row" FROM t a JOIN t b ON a."#row" < b."#row" AND {together} AND NOT ({covers("b", "a")})
            WHERE NOT EXISTS (FROM t m WHERE m."#row" < a."#row" AND {settled}) ORDER BY 2, 1 LIMIT 1"""
        ).fetchone()
        if both:
            raise BadTable(
                f"'{path.name}': rows {both[0]} and {both[1]} fit the same values, and neither is a case of the other; "
                "put a row for what both fit above them"
            )
