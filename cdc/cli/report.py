"""`ledgertail report`: the trial balance and the ledger of a book, for accountants."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cdc.cli import config_option, config_path
from cdc.cli.output import check_output, output_options, write
from cdc.config import BookConfig, load
from cdc.texts import text

F = TypeVar("F", bound=Callable[..., Any])
_PERIOD = re.compile(r"\d{4}-(0[1-9]|1[0-2])")
_FIRST, _LAST = "0001-01", "9999-12"


@click.group("report", help=text("cli.report.help"), short_help=text("cli.report.short"))
def command() -> None:
    pass


def _period(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    if value is not None and not _PERIOD.fullmatch(value):
        raise click.BadParameter(text("cli.report.bad_period", value=value))
    return value


def period_argument(command: F) -> F:
    """PERIOD."""
    return click.argument("period", metavar=text("cli.meta.period"), callback=_period)(command)


def scope_options(command: F) -> F:
    """`--book`, `--from` (as `first`), `--to` (as `last`) and `--account`."""
    options = [
        click.option("--book", help=text("cli.report.book")),
        click.option("--from", "first", metavar=text("cli.meta.period"), callback=_period, help=text("cli.report.from")),
        click.option("--to", "last", metavar=text("cli.meta.period"), callback=_period, help=text("cli.report.to")),
        click.option("--account", default="", help=text("cli.report.account")),
    ]
    for option in reversed(options):
        command = option(command)
    return command


def chosen(book: str | None) -> tuple[str, BookConfig]:
    """The book named, or the only one there is."""
    books = load(config_path()).books
    if book is None and len(books) > 1:
        raise click.UsageError(text("cli.report.which_book", books=", ".join(books)))
    name = book or next(iter(books))
    if name not in books:
        raise click.UsageError(text("cli.report.no_book", book=name, books=", ".join(books)))
    return name, books[name]


def answer(sql: str, kind: str, output: Path | None) -> None:
    """Write what the store answers."""
    from cdc.serving.client import connect_config

    with connect_config(config_path()) as reader, reader.batches(sql) as found:
        write(found, kind, output)


@command.command("trial-balance", help=text("cli.report.trial_balance"))
@scope_options
@click.option("--by", multiple=True, metavar=text("cli.meta.dimension"), help=text("cli.report.by"))
@output_options
@config_option
def trial_balance(
    book: str | None, first: str | None, last: str | None, account: str, by: tuple[str, ...], kind: str, output: Path | None
) -> None:
    from cdc.accounting import reports

    check_output(kind, output)
    name, config = chosen(book)
    scope = reports.Scope(name, first or _FIRST, last or _LAST, account)
    answer(
        reports.trial_balance(scope, list(dict.fromkeys(by)), config.decimals, text("cli.report.total") if kind == "table" else None),
        kind,
        output,
    )


@command.command("ledger", help=text("cli.report.ledger"))
@scope_options
@click.option("--dim", multiple=True, metavar=text("cli.meta.dimension_value"), help=text("cli.report.dim"))
@output_options
@config_option
def ledger(
    book: str | None, first: str | None, last: str | None, account: str, dim: tuple[str, ...], kind: str, output: Path | None
) -> None:
    from cdc.accounting import reports

    check_output(kind, output)
    name, config = chosen(book)
    pairs = dict(pair.split("=", 1) for pair in dim if "=" in pair)
    if len(pairs) < len(dim):
        raise click.UsageError(text("cli.report.bad_dim"))
    scope = reports.Scope(name, first or _FIRST, last or _LAST, account)
    answer(reports.ledger(scope, pairs, config.decimals, text("cli.report.opening")), kind, output)
