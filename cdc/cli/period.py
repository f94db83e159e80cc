"""`ledgertail period`: the accounting periods of the books."""

from __future__ import annotations

from pathlib import Path

import click

from cdc.accounting.sql import literal
from cdc.cli import answer_of, config_option, config_path
from cdc.cli.output import check_output, output_options, write
from cdc.cli.report import chosen, period_argument
from cdc.texts import text


@click.group("period", help=text("cli.period.help"), short_help=text("cli.period.short"))
def command() -> None:
    pass


@command.command("list", help=text("cli.period.list"))
@click.option("--book", help=text("cli.report.book"))
@output_options
@config_option
def list_periods(book: str | None, kind: str, output: Path | None) -> None:
    from cdc.serving.client import connect_config

    check_output(kind, output)
    name, _ = chosen(book)
    sql = f"""SELECT period, coalesce(p.state, 'open') AS state, coalesce(e.entries, 0) AS entries, coalesce(v.vouchers, 0) AS vouchers,
            CAST(coalesce(e.entries, 0) - coalesce(v.sealed, 0) AS BIGINT) AS unsealed
        FROM (SELECT period, count(*) AS entries FROM ledger.entries WHERE book = {literal(name)} GROUP BY period) e
        FULL JOIN (SELECT period, state FROM ledger.periods WHERE book = {literal(name)}) p USING (period)
        LEFT JOIN (SELECT period, count(number) AS vouchers, sum(entries) AS sealed FROM ledger.vouchers
            WHERE book = {literal(name)} GROUP BY period) v USING (period)
        ORDER BY period"""
    with connect_config(config_path()) as reader, reader.batches(sql) as found:
        write(found, kind, output)


@command.command("close", help=text("cli.period.close"))
@period_argument
@click.option("--book", help=text("cli.report.book"))
@click.option("--soft", is_flag=True, help=text("cli.period.soft"))
@config_option
def close(period: str, book: str | None, soft: bool) -> None:
    answer = answer_of({"do": "period", "book": chosen(book)[0], "period": period, "state": "soft" if soft else "closed"})
    click.echo(text("cli.period.softly" if soft else "cli.period.closed", **answer))


@command.command("open", help=text("cli.period.open"))
@period_argument
@click.option("--book", help=text("cli.report.book"))
@config_option
def open_again(period: str, book: str | None) -> None:
    click.echo(text("cli.period.opened", **answer_of({"do": "period", "book": chosen(book)[0], "period": period, "state": "open"})))


@command.command("revalue", help=text("cli.period.revalue"))
@period_argument
@click.option("--book", help=text("cli.report.book"))
@config_option
def revalue(period: str, book: str | None) -> None:
    click.echo(text("cli.period.revalued", **answer_of({"do": "revalue", "book": chosen(book)[0], "period": period})))
