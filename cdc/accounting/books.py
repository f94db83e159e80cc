"""Books as rules see them: the config, with the codes of the chart, what its accounts require, and the tables that dimensions follow by."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cdc.accounting.charts import codes_by_name, income_accounts
from cdc.accounting.dimensions import Inference, inferences, required
from cdc.config import BookConfig
from cdc.errors import ConfigError
from cdc.types import Account


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
    codes, asking = frozenset(account.code for account in chart), required(name, config, chart)
    _check_accounts(name, config, codes)
    inferred = inferences(name, config, codes, asking, folder)
    return Book(name, config, codes, income_accounts(chart), codes_by_name(chart), asking, inferred)


def _check_accounts(name: str, config: BookConfig, codes: Collection[str]) -> None:
    named, beginnings = {"prior_year": config.prior_year}, dict[str, str]()
    if config.revaluation is not None:
        named |= {"revaluation.gain": config.revaluation.gain, "revaluation.loss": config.revaluation.loss}
        beginnings = {f"revaluation.accounts.{i}": code for i, code in enumerate(config.revaluation.accounts)}
    unknown = {key: code for key, code in named.items() if code is not None and code not in codes}
    unknown |= {key: begun for key, begun in beginnings.items() if not any(code.startswith(begun) for code in codes)}
    for key, code in unknown.items():
        raise ConfigError("rules.book", book=name, key=key, fault=f"account '{code}' is not in the chart '{config.chart}'")
