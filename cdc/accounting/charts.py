"""Charts of accounts: those that ship with Ledgertail, or a CSV of your own (code,name,category,normal_balance,dims,currency; more are for
people).

`dims` has the names of the dimensions that a line of the account must have, with ; between them, `currency` the one it is kept in.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping
from importlib.resources import files
from pathlib import Path

from cdc.config import CURRENCY
from cdc.errors import ConfigError
from cdc.types import Account

_INCOME = {"损益", "收入", "费用", "income", "revenue", "expense", "expenses", "profit and loss"}
_SHIPPED = files("cdc.accounting").joinpath("charts")


def chart_text(chart: str) -> str:
    """The CSV of a chart that ships."""
    return _SHIPPED.joinpath(f"{chart}.csv").read_text("utf-8")


def load_chart(book: str, chart: str, folder: Path) -> list[Account]:
    """The accounts of a chart named in a book's config; a CSV's path starts at `folder`. Raises ConfigError."""
    shipped = _SHIPPED.joinpath(f"{chart}.csv")
    try:
        text = shipped.read_text("utf-8") if shipped.is_file() else (folder / chart).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("rules.chart", book=book, chart=chart, fault=error) from error
    rows = list(csv.DictReader(io.StringIO(text, newline=""), restval=""))
    if not rows or not {"code", "name"} <= rows[0].keys():
        raise ConfigError("rules.chart", book=book, chart=chart, fault="the columns code and name are missing")
    accounts = [_account(book, row) for row in rows]
    codes = [account.code for account in accounts]
    if len(set(codes)) < len(codes) or "" in codes:
        raise ConfigError("rules.chart", book=book, chart=chart, fault="a code is empty or there twice")
    for account in accounts:
        if account.currency and not re.fullmatch(CURRENCY, account.currency):
            fault = f"account '{account.code}': '{account.currency}' is no currency such as USD"
            raise ConfigError("rules.chart", book=book, chart=chart, fault=fault)
    return accounts


def income_accounts(accounts: Iterable[Account]) -> frozenset[str]:
    """The codes of income and expenses, by their categories."""
    return frozenset(account.code for account in accounts if account.category.strip().casefold() in _INCOME)


def codes_by_name(chart: Iterable[Account]) -> dict[str, str]:
    """The codes of accounts by their names, in both languages; without names that several have."""
    codes: dict[str, set[str]] = {}
    for account in chart:
        for name in {account.name.strip(), account.name_en.strip()} - {""}:
            codes.setdefault(name, set()).add(account.code)
    return {name: min(those) for name, those in codes.items() if len(those) == 1}


def _account(book: str, row: Mapping[str, str]) -> Account:
    given = {name: (row.get(name) or "").strip() for name in ("category", "normal_balance", "name_en", "currency")}
    dims = (name.strip() for name in re.split("[;；]", row.get("dims") or ""))
    return Account(book, row["code"].strip(), row["name"], dims=tuple(dict.fromkeys(filter(None, dims))), **given)
