"""`ledgertail query`: one read of the store, as a table, CSV, JSON or Parquet."""

from __future__ import annotations

from pathlib import Path

import click

from cdc.cli import config_option, config_path
from cdc.cli.output import check_output, output_options, write
from cdc.texts import text


@click.command("query", help=text("cli.query.help"), short_help=text("cli.query.short"))
@click.argument("sql")
@output_options
@config_option
def command(sql: str, kind: str, output: Path | None) -> None:
    check_output(kind, output)
    from cdc.serving.client import connect_config

    with connect_config(config_path()) as reader, reader.batches(sql) as answer:
        write(answer, kind, output)
