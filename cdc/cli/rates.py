"""`ledgertail rates`: the rates of exchange that the store keeps for a book."""

from __future__ import annotations

from pathlib import Path

import click

from cdc.accounting.sql import literal
from cdc.cli import answer_of, config_option, config_path
from cdc.cli.output import check_output, output_options, write
from cdc.cli.report import chosen
from cdc.texts import text


@click.group("rates", help=text("cli.rates.help"), short_help=text("cli.rates.short"))
def command() -> None:
    pass


@command.command("list", help=text("cli.rates.list"))
@click.option("--book", help=text("cli.report.book"))
@output_options
@config_option
def list_rates(book: str | None, kind: str, output: Path | None) -> None:
    from cdc.serving.client import connect_config

    check_output(kind, output)
    sql = f"""SELECT currency, rate_type, rate_date, rate FROM ledger.rates WHERE book = {literal(chosen(book)[0])} ORDER BY ALL"""
    with connect_config(config_path()) as reader, reader.batches(sql) as found:
        write(found, kind, output)


@command.command("import", help=text("cli.rates.import"))
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--book", help=text("cli.report.book"))
@config_option
def import_file(file: Path, book: str | None) -> None:
    from cdc.accounting.rates import read_rates

    name, _ = chosen(book)
    click.echo(text("cli.rates.imported", **answer_of({"do": "rates", "book": name, "rates": read_rates(name, file)})))
