"""`ledgertail voucher`: vouchers, sealed and shown."""

from __future__ import annotations

from pathlib import Path

import click

from cdc.accounting.sql import literal
from cdc.cli import answer_of, config_option, config_path
from cdc.cli.output import check_output, output_options, write
from cdc.cli.report import chosen, period_argument
from cdc.texts import text


@click.group("voucher", help=text("cli.voucher.help"), short_help=text("cli.voucher.short"))
def command() -> None:
    pass


@command.command("seal", help=text("cli.voucher.seal"))
@period_argument
@click.option("--book", help=text("cli.report.book"))
@config_option
def seal(period: str, book: str | None) -> None:
    click.echo(text("cli.voucher.sealed", **answer_of({"do": "seal", "book": chosen(book)[0], "period": period})))


@command.command("list", help=text("cli.voucher.list"))
@period_argument
@click.option("--book", help=text("cli.report.book"))
@output_options
@config_option
def list_vouchers(period: str, book: str | None, kind: str, output: Path | None) -> None:
    name, config = chosen(book)
    _write(
        f"""SELECT v.voucher_type, v.number, voucher_date, v.voucher_key, v.summary, attachments, documents, v.entries,
            CAST(coalesce(sum(debit), 0) AS DECIMAL(38,{config.decimals})) AS total
        FROM ledger.vouchers v JOIN ledger.voucher_lines l USING (voucher_id)
        WHERE v.book = {literal(name)} AND v.period = {literal(period)} AND v.number IS NOT NULL GROUP BY ALL ORDER BY ALL""",
        kind,
        output,
    )


@command.command("show", help=text("cli.voucher.show"))
@period_argument
@click.argument("number", metavar=text("cli.meta.voucher"))
@click.option("--book", help=text("cli.report.book"))
@output_options
@config_option
def show(period: str, number: str, book: str | None, kind: str, output: Path | None) -> None:
    name, config = chosen(book)
    voucher_type, _, digits = number.rpartition("-")
    if not digits.isdigit():
        raise click.UsageError(text("cli.voucher.bad_number", value=number))
    money = f"DECIMAL(38,{config.decimals})"
    of_type = f" AND voucher_type = {literal(voucher_type)}" if voucher_type else ""
    _write(
        f"""SELECT l.summary, l.account, a.name, l.dims, l.currency, CAST(l.orig_amount AS DECIMAL(38,2)) AS orig_amount,
            CAST(l.debit AS {money}) AS debit, CAST(l.credit AS {money}) AS credit, array_to_string(l.entries, ' ') AS entries
        FROM ledger.voucher_lines l LEFT JOIN ledger.accounts a ON a.book = l.book AND a.code = l.account
        WHERE l.book = {literal(name)} AND l.period = {literal(period)} AND l.number = {int(digits)}{of_type}
        ORDER BY l.debit IS NULL, l.account, l.dims""",
        kind,
        output,
    )


def _write(sql: str, kind: str, output: Path | None) -> None:
    from cdc.serving.client import connect_config

    check_output(kind, output)
    with connect_config(config_path()) as reader, reader.batches(sql) as found:
        write(found, kind, output)
