"""Charts of accounts: those that ship with Ledgertail, or a CSV of your own (code,name,category,normal_balance; more are for people)."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

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
    accounts = [Account(book, row["code"].strip(), row["name"], row.get("category") or "", row.get("normal_balance") or "") for row in rows]
    codes = [account.code for account in accounts]
    if len(set(codes)) < len(codes) or "" in codes:
        raise ConfigError("rules.chart", book=book, chart=chart, fault="a code is empty or there twice")
    return accounts


def income_accounts(accounts: Iterable[Account]) -> frozenset[str]:
    """The codes of income and expenses, by their categories."""
    return frozenset(account.code for account in accounts if account.category.strip().casefold() in _INCOME)
