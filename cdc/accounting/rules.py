"""Rules compiled: all rules of a table become SQL over its changes, checked against the table's real schema.

A rule's statement reads the relation `c`, the keyed changes of one table, and gives one row per change the rule applies to, with the entry
it wants (header, lines, id) or the fault that sends the row to quarantine. The parts, each built on those before it:

    keys         what tells changes apart
    steps        what is done before the statements are run, for all rules of the table: lookups, calls, arrays, rates
    scope        what an expression may read where it stands
    references   what it knows by names: elements of arrays, rows of other tables, derivation tables
    dimensions   those of a line, and what its account requires
    lines        a line and what can be wrong with it, over its inputs
    elements     the lines for each element of an array
    balance      whether the lines balance
    entries      the entry, or its fault
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import date

import duckdb

from cdc.accounting.balance import difference
from cdc.accounting.books import Book
from cdc.accounting.dimensions import inferring, require
from cdc.accounting.entries import Entry
from cdc.accounting.expressions import BadExpression, Expression, parse
from cdc.accounting.functions import Function
from cdc.accounting.keys import check_names
from cdc.accounting.lines import Line, arrays, check_account, compile_line, side
from cdc.accounting.lookups import Step
from cdc.accounting.references import find_all
from cdc.accounting.scope import Scope, refuse
from cdc.accounting.sql import quote
from cdc.accounting.steps import Steps
from cdc.config import RateConfig, RuleConfig
from cdc.types import TableSchema

# Faults a row can have, by quarantine level: 2 the rule gives no usable value, 3 the entry is not sound, 4 the book does not take it.
LEVELS = {
    "quarantine.expression": 2,
    "quarantine.function": 2,
    "quarantine.lookup": 2,
    "quarantine.array": 2,
    "quarantine.no_date": 2,
    "quarantine.no_amount": 2,
    "quarantine.no_account": 2,
    "quarantine.no_currency": 2,
    "quarantine.rate": 2,
    "quarantine.decimals": 3,
    "quarantine.unbalanced": 3,
    "quarantine.unbalanced_currency": 3,
    "quarantine.account": 4,
    "quarantine.period": 4,
    "quarantine.dimension": 4,
    "quarantine.account_currency": 4,
}


@dataclass(frozen=True, slots=True)
class Program:
    """What is done with a table's changes: the steps that look something up or call a function, in order, each with the columns that are
    read; the rules."""

    steps: tuple[tuple[Step, tuple[str, ...]], ...]
    rules: tuple[CompiledRule, ...]


@dataclass(frozen=True, slots=True)
class CompiledRule:
    """A rule as SQL over `c`, to be run in the book's time zone: `wanted` gives a row per change the rule applies to; where it can't be
    run because an expression fails on some row, `failing` gives the `#rid` of each such row and its `fault`."""

    name: str
    book: str
    version: int
    time_zone: str
    wanted: str
    failing: str


def compile_rules(
    connection: duckdb.DuckDBPyConnection,
    schema: TableSchema,
    rules: Iterable[RuleConfig],
    books: Mapping[str, Book],
    others: Mapping[str, TableSchema],
    functions: Mapping[str, Function],
) -> Program:
    """The rules of a table, checked against its schema, those of the tables they look up and the functions they call, by name.

    Raises ConfigError with the rule's name, its place and the fault.
    """
    check_names(schema)
    versions = list(rules)
    with closing(Steps(connection, schema, others, functions)) as steps:
        compiled = [_compile(Scope(rule, schema, books[rule.book], steps), _until(rule, versions)) for rule in versions]
        return Program(steps.in_order(), tuple(compiled))


def _until(rule: RuleConfig, rules: Iterable[RuleConfig]) -> date | None:
    """The day from which the rule's next version holds."""
    versions = [other.valid_from for other in rules if (other.name, other.book) == (rule.name, rule.book) and other.valid_from]
    return min((day for day in versions if rule.valid_from is None or day > rule.valid_from), default=None)


def _compile(scope: Scope, until: date | None) -> CompiledRule:
    """A rule; `until` is the day from which its next version holds."""
    rule = scope.rule
    find_all(scope)
    day = scope.date().sql
    applies = _applies(scope, day, until)
    applied = scope.within(asked=f"coalesce(TRY({applies}), true)")
    header = {
        "#date": day,
        "#voucher_key": applied.text("voucher_key", rule.voucher_key),
        "#voucher_type": applied.text("voucher_type", rule.voucher_type),
        "#summary": applied.text("summary", rule.summary),
        "#attachments": applied.count("attachments", rule.attachments),
    }
    entry = Entry(applied, applies, header, _lines(applied))
    return CompiledRule(rule.name, rule.book, rule.version, scope.time_zone, entry.wanted(), entry.failing())


def _applies(scope: Scope, day: str, until: date | None) -> str:
    """SQL for whether the rule applies to a row. Where that can't be told, as what is asked was not found, it does: and fails."""
    when = scope.expression("when", scope.rule.when, "BOOLEAN")
    missing = [f"{quote(scope.found[name].fault)} IS NOT NULL" for name in sorted({name for name, _ in when.references})]
    applies = f"coalesce({when.sql}, {' OR '.join(missing) or 'false'})"
    if scope.rule.valid_from is not None:
        # A row without a date fails by its newest version.
        applies += f" AND coalesce({day} >= DATE '{scope.rule.valid_from}', {until is None})"
    return applies if until is None else f"{applies} AND coalesce({day} < DATE '{until}', false)"


def _lines(scope: Scope) -> list[Line]:
    """The lines of a rule: those of the row first, then array by array those of elements."""
    rule, missing, made = scope.rule, difference(scope.rule), dict[int, Line]()
    for each in (None, *arrays(rule)):
        lines = {i: line for i, line in enumerate(rule.lines) if line.each == each}
        for i, line in lines.items():
            if line.by is not None:  # what is shared out must be of the row alone
                scope.amount(f"lines.{i}.{side(line)}", getattr(line, side(line)))
        made |= {i: compile_line(scope, i, missing) for i in lines}
    return [made[i] for i in sorted(made)]


def check_alone(
    connection: duckdb.DuckDBPyConnection, rules: Iterable[RuleConfig], books: Mapping[str, Book], functions: Mapping[str, Function]
) -> None:
    """Check what needs no schema: every expression is scalar SQL, every constant account is in its chart. Raises ConfigError."""
    for rule in rules:
        book = books[rule.book]
        for i, line in enumerate(rule.lines):
            if isinstance(line.account, str):
                check_account(rule, book, i)
                require(rule, book, i, {*line.dims, *(each.dimension for each in inferring(book, line))})
        for key, text in expressions_of(rule):
            try:
                _parse_alone(connection, text, dict.fromkeys([*rule.lookup, *rule.each], ""), rule.each, functions)
            except BadExpression as error:
                refuse(rule, key, error)


def _parse_alone(
    connection: duckdb.DuckDBPyConnection, text: str, names: Mapping[str, str], arrays: Collection[str], functions: Iterable[str]
) -> Expression:
    def call(arguments: Sequence[str], conditions: Sequence[str]) -> Expression:
        for each in arguments:
            _parse_alone(connection, each, names, arrays, functions)
        return Expression("NULL", frozenset())

    return parse(connection, text, names, arrays, functions=dict.fromkeys(functions, call))


def expressions_of(rule: RuleConfig) -> Iterator[tuple[str, str]]:
    """Every expression of a rule with its key."""
    for name, text in rule.each.items():
        yield f"each.{name}", text
    for name, lookup in rule.lookup.items():
        for column, text in lookup.on.items():
            yield f"lookup.{name}.on.{column}", text
    for key in ("when", "date", "voucher_key", "voucher_type", "summary", "attachments"):
        if text := getattr(rule, key):
            yield key, text
    for i, line in enumerate(rule.lines):
        if isinstance(line.account, dict):
            yield f"lines.{i}.account", line.account["expr"]
        for key in ("when", "debit", "credit", "by", "currency", "orig_amount", "rate", "quantity", "unit"):
            if isinstance(text := getattr(line, key), str):
                yield f"lines.{i}.{key}", text
        if isinstance(line.rate, RateConfig) and line.rate.date is not None:
            yield f"lines.{i}.rate.date", line.rate.date
        for name, text in line.dims.items():
            yield f"lines.{i}.dims.{name}", text
