"""What a book asks of a line, as SQL: the dimensions that follow by its tables, and what the line's account requires."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cdc.accounting.books import Inference
from cdc.accounting.derivations import ROW, Derivation
from cdc.accounting.sql import literal, quote
from cdc.types import Account


def inferred(inference: Inference, step: Derivation, within: str, own: str) -> tuple[str, str]:
    """SQL for a dimension of a line, `own` being what the line has without, and for what filled it: `budget.csv:12`, the row of the
    file, or null where nothing did. `within`: SQL for whether the line's account is one that it is inferred for."""
    value, row = quote(step.column(inference.dimension)), f"CAST({quote(step.column(ROW))} AS VARCHAR)"
    fills = f"{within} AND {blank(own)}"
    return (
        f"CASE WHEN {fills} THEN coalesce({value}, {own}) ELSE {own} END",
        f"CASE WHEN {fills} AND {value} IS NOT NULL THEN {literal(inference.path.name + ':')} || {row} END",
    )


def blank(dimension: str) -> str:
    """SQL for whether a dimension is missing: null, or nothing but spaces."""
    return f"(coalesce(trim({dimension}), '') = '')"


def among(account: str, codes: Iterable[str]) -> str:
    """SQL for whether an account is one of some."""
    return f"coalesce({account} IN ({', '.join(map(literal, sorted(codes)))}), false)"


def lacking(asking: Mapping[str, Account], line: str, worth: str, account: str, dims: Mapping[str, str], currency: str) -> list[str]:
    """The cases of a line, called `line`, of an account that requires what it lacks.

    All that follows is SQL: for its amount, its account, its dimensions and its currency.
    """
    cases = []
    for name in sorted({name for each in asking.values() for name in each.dims}):
        codes = among(account, (code for code, each in asking.items() if name in each.dims))
        missing = blank(dims[name]) if name in dims else "true"
        fault = f"concat('quarantine.dimension|', {literal(line + ': ')}, {account}, {literal(', ' + name)})"
        cases.append(f"WHEN {worth} <> 0 AND {codes} AND {missing} THEN {fault}")
    for kept in sorted({each.currency for each in asking.values()} - {""}):
        codes = among(account, (code for code, each in asking.items() if each.currency == kept))
        fault = f"concat('quarantine.account_currency|', {literal(line + ': ')}, {account}, ', ', {currency}, {literal(f' ({kept})')})"
        cases.append(f"WHEN {worth} <> 0 AND {codes} AND {currency} <> {literal(kept)} THEN {fault}")
    return cases
