"""Exchange rates: where a book has them from, and the rate of a currency on a day.

A book's rates are its own, kept in the store, or those of a captured table. Either way the latest of a kind that holds on the day asked
for is taken, if it is not too old. Of the same day there may be only one.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation
from pathlib import Path

import duckdb
import pyarrow as pa

from cdc.accounting.expressions import BadExpression, check_columns, check_exact, parse
from cdc.accounting.lookups import States, Step, rows
from cdc.accounting.sql import literal, quote
from cdc.config import BookConfig, RatesConfig
from cdc.errors import ConfigError
from cdc.types import DELETE, RATE, RATED, REFERENCE, TableSchema

RATES = REFERENCE["rates"]


def rate_on(book: str, config: BookConfig, rate_type: str, currency: str, day: str) -> str:
    """SQL over `rates` for the rate of a currency to a book's on a day: the latest of its type from that day or, up to `max_age`,
    before it; null if there is none. The book's own currency has none.

    `currency`, `day`: SQL for them; columns with their relation, where `rates` has one of that name."""
    return f"""(SELECT arg_max_null(r.rate, r.rate_date) FROM rates r
                WHERE r.book = {literal(book)} AND r.rate_type = {literal(rate_type)} AND r.currency = {currency}
                    AND isfinite({day}) AND r.rate_date BETWEEN {day} - {config.rates.max_age_days} AND {day})"""


@dataclass(frozen=True, slots=True)
class Conversion(Step):
    """The rate of a currency to a book's on a day, both by SQL."""

    book: str
    config: BookConfig
    rate_type: str
    currency: str
    day: str

    @property
    def readable(self) -> Mapping[str, pa.DataType]:
        """The rate, and the day it was asked for."""
        return {"rate": RATE, "date": pa.date32()}

    def add(self, connection: duckdb.DuckDBPyConnection, states: States, columns: Iterable[str]) -> None:
        """Add both."""
        base, found = literal(self.config.base_currency), rate_on(self.book, self.config, self.rate_type, '"#currency"', '"#day"')
        currency, day = f"TRY_CAST(TRY({self.currency}) AS VARCHAR)", f"TRY_CAST(TRY({self.day}) AS DATE)"
        rate, asked = quote(self.column("rate")), quote(self.column("date"))
        self.widen(
            connection,
            f"""WITH a AS MATERIALIZED (
                    SELECT DISTINCT {currency} AS "#currency", {day} AS "#day" FROM {rows(self.over)} WHERE "#op" <> '{DELETE}'),
                f AS MATERIALIZED (
                    SELECT "#currency", "#day", CASE WHEN "#currency" = {base} THEN 1 ELSE {found} END AS "#rate" FROM a)
                SELECT {quote(self.over)}.*, CAST(f."#rate" AS DECIMAL(38,12)) AS {rate}, f."#day" AS {asked}, CASE WHEN f."#rate" IS NULL
                    THEN concat({literal(self.rate_type + ": ")}, f."#currency", ' ', CAST(f."#day" AS VARCHAR)) END AS {quote(self.fault)}
                FROM {rows(self.over)}
                LEFT JOIN f ON f."#currency" IS NOT DISTINCT FROM {currency} AND f."#day" IS NOT DISTINCT FROM {day}""",
        )


def read_rates(book: str, path: Path) -> list[list[str]]:
    """The rates of a CSV with the columns currency, rate_date, rate, and rate_type if it is not `spot`, as a request carries them.

    Raises ConfigError for one that can't be read.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text("utf-8-sig"), newline="")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigError("rules.rates_file", book=book, path=path, line=1, fault=error) from error
    found: dict[tuple[str, str, date], list[str]] = {}
    for number, row in enumerate(rows, 2):
        try:
            currency, kind = row["currency"].strip(), (row.get("rate_type") or "spot").strip()
            day, rate = date.fromisoformat(row["rate_date"].strip()), Decimal(row["rate"].strip())
            if not re.fullmatch("[A-Z]{3}", currency) or not rate.is_finite() or rate <= 0 or rate != round(rate, 12):
                raise ValueError(", ".join(f"{name} {value}" for name, value in row.items()))
        except (KeyError, AttributeError, ValueError, InvalidOperation) as error:
            raise ConfigError("rules.rates_file", book=book, path=path, line=number, fault=repr(error)) from error
        if (currency, kind, day) in found:
            raise ConfigError("rules.rates_file", book=book, path=path, line=number, fault=f"{currency} {kind} {day} is there twice")
        found[currency, kind, day] = [currency, kind, day.isoformat(), f"{rate:f}"]
    return list(found.values())


def rates_of(connection: duckdb.DuckDBPyConnection, book: str, config: RatesConfig, schema: TableSchema, rows: pa.Table) -> pa.Table:
    """The rates (RATES) that the rows of a captured table give. Raises ConfigError where the table does not fit.

    A row without a currency, a day or a rate above zero gives none.
    """
    values = {"book": literal(book)}
    connection.register("rate_row", schema.arrow().empty_table())
    try:
        for name, text in (("currency", config.currency), ("rate_type", config.type), ("rate_date", config.date), ("rate", config.rate)):
            values[name] = _value(connection, book, schema, name, text)
        when = _value(connection, book, schema, "when", config.when)
    finally:
        connection.unregister("rate_row")
    kinds = {"rate_date": "DATE", "rate": "DECIMAL(38,12)"}
    taken = ", ".join(f"TRY_CAST(TRY({sql}) AS {kinds.get(name, 'VARCHAR')}) AS {name}" for name, sql in values.items())
    connection.register("rate_rows", rows)
    try:
        return (
            connection.execute(
                f"""SELECT * FROM (SELECT {taken} FROM rate_rows WHERE TRY({when}))
                WHERE currency IS NOT NULL AND rate_type IS NOT NULL AND isfinite(rate_date) AND rate > 0"""
            )
            .to_arrow_table()
            .cast(RATES)
        )
    finally:
        connection.unregister("rate_rows")


def _value(connection: duckdb.DuckDBPyConnection, book: str, schema: TableSchema, name: str, text: str) -> str:
    try:
        expression = parse(connection, text, {})
        check_columns(expression, [column.name for column in schema.columns])
        if name == "rate":
            check_exact(connection, expression, "rate_row")
    except BadExpression as error:
        raise ConfigError("rules.rates", book=book, table=schema.name, key=name, fault=error) from None
    return expression.sql


def keep_rates(connection: duckdb.DuckDBPyConnection, rates: pa.Table) -> None:
    """Make `rates` what conversions go by. Where a day has several, it has none."""
    connection.register("given", rates)
    connection.execute(
        """CREATE OR REPLACE TEMP TABLE rates AS
        SELECT book, currency, rate_type, rate_date, CASE WHEN min(rate) = max(rate) THEN max(rate) END AS rate FROM given GROUP BY ALL"""
    )
    connection.unregister("given")


def changed(connection: duckdb.DuckDBPyConnection, old: pa.Table, new: pa.Table, books: Mapping[str, BookConfig]) -> pa.Table:
    """The days (RATED) whose rate is or may be another by new rates than it was by old ones."""
    ages = {name: config.rates.max_age_days for name, config in books.items()}
    connection.register("old", old)
    connection.register("new", new)
    connection.register("ages", pa.table({"book": list(ages), "age": pa.array(ages.values(), pa.int32())}))
    try:
        return (
            connection.execute(
                """SELECT book, currency, rate_type, rate_date AS first, rate_date + age AS last
                FROM ((FROM old EXCEPT FROM new) UNION (FROM new EXCEPT FROM old)) JOIN ages USING (book)"""
            )
            .to_arrow_table()
            .cast(RATED)
        )
    finally:
        for name in ("old", "new", "ages"):
            connection.unregister(name)
