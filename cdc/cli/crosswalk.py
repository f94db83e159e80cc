"""`ledgertail crosswalk`: the trial balance of a book in another standard's accounts."""

from __future__ import annotations

from pathlib import Path

import click

from cdc.cli import config_option
from cdc.cli.output import check_output, output_options
from cdc.cli.report import answer, chosen, scope_options
from cdc.texts import text


@click.command("crosswalk", help=text("cli.crosswalk.help"), short_help=text("cli.crosswalk.short"))
@click.argument("chart")
@scope_options
@output_options
@config_option
def command(chart: str, book: str | None, first: str | None, last: str | None, account: str, kind: str, output: Path | None) -> None:
    from cdc.accounting import reports

    check_output(kind, output)
    name, config = chosen(book)
    scope = reports.Scope(name, first or "0001-01", last or "9999-12", account)
    walk = reports.crosswalk(name, config.chart, chart)
    answer(reports.trial_balance(scope, [], config.decimals, text("cli.report.total") if kind == "table" else None, walk), kind, output)
