"""What a book asks of its lines: the dimensions and the currency that accounts require, and the dimensions that follow by tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from cdc.accounting.derivations import FROM, ROW, TO, BadTable, Derivation, read_header, read_table
from cdc.accounting.sql import literal, quote
from cdc.config import BookConfig, InferConfig
from cdc.errors import ConfigError
from cdc.types import Account


@dataclass(frozen=True, slots=True)
class Inference:
    """Fills a dimension of the lines of some accounts by a derivation table. `on`: the conditions of the table, by which a line is
    inferred for that has them all: each is a dimension of it, `account`, a column of the row, or one of what its rule looks up."""

    dimension: str
    accounts: frozenset[str]
    path: Path
    table: pa.Table
    on: tuple[str, ...]

    @property
    def dated(self) -> bool:
        """Whether it depends on the entry's date."""
        return bool({FROM, TO} & set(self.table.column_names))


def required(book: str, config: BookConfig, chart: Sequence[Account]) -> dict[str, Account]:
    """The accounts that require something, by code: what the config says takes the place of what the chart says.

    Raises ConfigError for an account that is not in the chart.
    """
    accounts = {account.code: account for account in chart}
    for code, asked in config.accounts.items():
        if code not in accounts:
            fault = f"account '{code}' is not in the chart '{config.chart}'"
            raise ConfigError("rules.book", book=book, key=f"accounts.{code}", fault=fault)
        known = accounts[code]
        dims = known.dims if asked.dims is None else tuple(dict.fromkeys(asked.dims))
        accounts[code] = replace(known, dims=dims, currency=known.currency if asked.currency is None else asked.currency)
    return {code: account for code, account in accounts.items() if account.dims or account.currency}


def inferences(book: str, config: BookConfig, codes: Iterable[str], asking: Mapping[str, Account], folder: Path) -> tuple[Inference, ...]:
    """What a book infers, in the order in which it is written. `codes`: its chart's; `asking`: its accounts that require something;
    paths start at `folder`. Raises ConfigError."""
    made, known = [], frozenset(codes)
    for i, wanted in enumerate(config.infer):
        try:
            made.append(_inference(wanted, known, asking, folder / wanted.csv))
        except BadTable as error:
            raise ConfigError("rules.book", book=book, key=f"infer.{i}", fault=error) from error
    return tuple(made)


def _inference(wanted: InferConfig, codes: frozenset[str], asking: Mapping[str, Account], path: Path) -> Inference:
    for prefix in wanted.accounts:
        if not any(code.startswith(prefix) for code in codes):
            raise BadTable(f"no account of the chart begins with '{prefix}'")
    accounts = {code for code in codes if code.startswith(tuple(wanted.accounts))}
    accounts |= {code for code, account in asking.items() if wanted.dimension in account.dims}
    if not accounts:
        raise BadTable(f"no account requires the dimension '{wanted.dimension}'; name those it is inferred for: accounts = [...]")
    header = read_header(path)
    if wanted.dimension not in header:
        raise BadTable(f"'{path.name}' has no column '{wanted.dimension}' to infer it by")
    on = tuple(name for name in header if name not in (wanted.dimension, FROM, TO))
    return Inference(wanted.dimension, frozenset(accounts), path, read_table(path, on), on)


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
