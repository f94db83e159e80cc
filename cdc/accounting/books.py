"""Books as rules see them: the config with the codes of the chart, what its accounts require, and the tables that dimensions follow by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pyarrow as pa

from cdc.accounting.charts import codes_by_name, income_accounts
from cdc.accounting.derivations import FROM, TO, BadTable, read_header, read_table
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


@dataclass(frozen=True, slots=True)
class Book:
    """A book with the codes of its chart. `income`: those of income and expenses; `codes`: all by the accounts' names; `required`: the
    accounts that require something of a line; `inferences`: what fills dimensions that lines lack, in order."""

    name: str
    config: BookConfig
    accounts: frozenset[str]
    income: frozenset[str] = frozenset()
    codes: Mapping[str, str] = field(default_factory=dict)
    required: Mapping[str, Account] = field(default_factory=dict)
    inferences: tuple[Inference, ...] = ()


def load_book(name: str, config: BookConfig, chart: Sequence[Account], folder: Path) -> Book:
    """A book with its chart, and its tables read; their paths start at `folder`. Raises ConfigError, also for an account that its config
    names and the chart does not have."""
    codes = frozenset(account.code for account in chart)
    _check_accounts(name, config, codes)
    asking = _required(config, chart)
    inferred = _inferences(name, config, codes, asking, folder)
    return Book(name, config, codes, income_accounts(chart), codes_by_name(chart), asking, inferred)


def _check_accounts(book: str, config: BookConfig, codes: Collection[str]) -> None:
    """Raises ConfigError for an account that the config names and is not in the chart; of those to be revalued, where none begins so."""
    named, beginnings = {f"accounts.{code}": code for code in config.accounts}, dict[str, str]()
    if config.prior_year is not None:
        named["prior_year"] = config.prior_year
    if config.revaluation is not None:
        named |= {"revaluation.gain": config.revaluation.gain, "revaluation.loss": config.revaluation.loss}
        beginnings = {f"revaluation.accounts.{i}": code for i, code in enumerate(config.revaluation.accounts)}
    unknown = {key: code for key, code in named.items() if code not in codes}
    unknown |= {key: begun for key, begun in beginnings.items() if not any(code.startswith(begun) for code in codes)}
    for key, code in unknown.items():
        raise ConfigError("rules.book", book=book, key=key, fault=f"account '{code}' is not in the chart '{config.chart}'")


def _required(config: BookConfig, chart: Sequence[Account]) -> dict[str, Account]:
    """The accounts that require something, by code: what the config says takes the place of what the chart says."""
    accounts = {account.code: account for account in chart}
    for code, asked in config.accounts.items():
        known = accounts[code]
        dims = known.dims if asked.dims is None else tuple(dict.fromkeys(asked.dims))
        accounts[code] = replace(known, dims=dims, currency=known.currency if asked.currency is None else asked.currency)
    return {code: account for code, account in accounts.items() if account.dims or account.currency}


def _inferences(book: str, config: BookConfig, codes: frozenset[str], asking: Mapping[str, Account], folder: Path) -> tuple[Inference, ...]:
    """What a book infers, in the order in which it is written. `codes`: its chart's; `asking`: its accounts that require something;
    paths start at `folder`. Raises ConfigError."""
    made = []
    for i, wanted in enumerate(config.infer):
        try:
            made.append(_inference(wanted, codes, asking, folder / wanted.csv))
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
