"""The dimensions of a line: its own, and those that follow by tables of the book; and what it lacks of what its account requires."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from cdc.accounting.arrays import Array
from cdc.accounting.books import Book, Inference
from cdc.accounting.derivations import ROW, Derivation
from cdc.accounting.references import follow
from cdc.accounting.scope import Scope, refuse
from cdc.accounting.sql import literal, quote
from cdc.config import LineConfig, RuleConfig
from cdc.types import Account


def inferring(book: Book, line: LineConfig) -> Iterator[Inference]:
    """The book's inferences for a line's account, or for what it may be."""
    return (each for each in book.inferences if not isinstance(line.account, str) or line.account in each.accounts)


def infer(scope: Scope, line: LineConfig, account: str, own: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """SQL for the dimensions of a line, by SQL for its account and for its `own`, which inferences fill and add to; and for what filled
    those that are inferred, null where nothing did."""
    dims, origins = dict(own), dict[str, str]()
    for inference in inferring(scope.book, line):
        given = {name: _condition(scope, name, account, dims) for name in inference.on}
        on = {name: sql for name, sql in given.items() if sql is not None}
        if len(on) < len(given):
            continue
        step = follow(scope, scope.relation(line.each), inference.path, inference.table, on)
        scope.steps.read(step, inference.dimension, ROW)
        within = "true" if isinstance(line.account, str) else _among(account, inference.accounts)
        before = dims.get(inference.dimension, "CAST(NULL AS VARCHAR)")
        dims[inference.dimension], origins[inference.dimension] = inferred(inference, step, within, before)
    return dims, origins


def inferred(inference: Inference, step: Derivation, within: str, own: str) -> tuple[str, str]:
    """SQL for a dimension of a line, `own` being what the line has without, and for what filled it: `budget.csv:12`, the row of the
    file, or null where nothing did. `within`: SQL for whether the line's account is one that it is inferred for."""
    value, row = quote(step.column(inference.dimension)), f"CAST({quote(step.column(ROW))} AS VARCHAR)"
    fills = f"{within} AND {_blank(own)}"
    return (
        f"CASE WHEN {fills} THEN coalesce({value}, {own}) ELSE {own} END",
        f"CASE WHEN {fills} AND {value} IS NOT NULL THEN {literal(inference.path.name + ':')} || {row} END",
    )


def require(rule: RuleConfig, book: Book, place: int, dims: Iterable[str]) -> None:
    """Refuse a line, by its place, of an account that requires what the line never has. `dims`: those it may have."""
    line = rule.lines[place]
    asked = book.required.get(line.account) if isinstance(line.account, str) else None
    for name in asked.dims if asked else ():
        if name not in dims:
            tables = [each for each in inferring(book, line) if each.dimension == name]
            by = "".join(f"; '{each.path.name}' infers it by {', '.join(each.on)}" for each in tables)
            fault = f"account '{line.account}' requires the dimension '{name}'{by}, which this line lacks"
            refuse(rule, f"lines.{place}.dims.{name}", fault)
    written = literal(book.config.base_currency) if line.currency is None else line.currency.strip()
    if asked and asked.currency and re.fullmatch("'[A-Z]{3}'", written) and written != literal(asked.currency):
        fault = f"account '{line.account}' is kept in {asked.currency}, and this line is in {written[1:-1]}"
        refuse(rule, f"lines.{place}.currency", fault)


def lacking(asking: Mapping[str, Account], line: str, worth: str, account: str, dims: Mapping[str, str], currency: str) -> list[str]:
    """The cases of a line, called `line`, of an account that requires what it lacks.

    All that follows is SQL: for its amount, its account, its dimensions and its currency.
    """
    cases = []
    for name in sorted({name for each in asking.values() for name in each.dims}):
        codes = _among(account, (code for code, each in asking.items() if name in each.dims))
        missing = _blank(dims[name]) if name in dims else "true"
        fault = f"concat('quarantine.dimension|', {literal(line + ': ')}, {account}, {literal(', ' + name)})"
        cases.append(f"WHEN {worth} <> 0 AND {codes} AND {missing} THEN {fault}")
    for kept in sorted({each.currency for each in asking.values()} - {""}):
        codes = _among(account, (code for code, each in asking.items() if each.currency == kept))
        fault = f"concat('quarantine.account_currency|', {literal(line + ': ')}, {account}, ', ', {currency}, {literal(f' ({kept})')})"
        cases.append(f"WHEN {worth} <> 0 AND {codes} AND {currency} <> {literal(kept)} THEN {fault}")
    return cases


def _condition(scope: Scope, name: str, account: str, dims: Mapping[str, str]) -> str | None:
    """SQL for what an inference compares with, or None if the line has no such thing."""
    if name in dims or name == "account":
        return dims.get(name, account)
    if name.casefold() in (column.name.casefold() for column in scope.schema.columns):
        return quote(name)
    looked_up, _, column = name.partition(".")
    step = scope.found.get(looked_up)
    if step is None or step.relation not in scope.relations or not column:
        return None
    if not isinstance(step, Array) and column.casefold() not in map(str.casefold, step.readable):
        return None
    return scope.expression(f"lookup.{looked_up}", f"{quote(looked_up)}.{quote(column)}").sql


def _blank(dimension: str) -> str:
    """SQL for whether a dimension is missing: null, or nothing but spaces."""
    return f"(coalesce(trim({dimension}), '') = '')"


def _among(account: str, codes: Iterable[str]) -> str:
    """SQL for whether an account is one of some."""
    return f"coalesce({account} IN ({', '.join(map(literal, sorted(codes)))}), false)"
