"""`ledgertail query`: one read of the store, as a table, CSV, JSON or Parquet."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from cdc.cli import config_option, config_path
from cdc.errors import LedgertailError
from cdc.texts import text

TABLE_ROWS_MAX = 1_000


@click.command("query", help=text("cli.query.help"), short_help=text("cli.query.short"))
@click.argument("sql")
@click.option("--format", "kind", type=click.Choice(["table", "csv", "json", "parquet"]), default="table", help=text("cli.query.format"))
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), metavar=text("cli.meta.file"), help=text("cli.query.output"))
@config_option
def command(sql: str, kind: str, output: Path | None) -> None:
    if kind == "parquet" and output is None and sys.stdout.isatty():
        raise click.UsageError(text("cli.query.parquet_terminal"))
    from cdc.cli import formats
    from cdc.serving.client import connect_config

    with connect_config(config_path()) as reader, reader.batches(sql) as answer, _target(output) as target:
        if kind == "table":
            if formats.write_table(answer, target, TABLE_ROWS_MAX, wide=output is not None or not sys.stdout.isatty()):
                click.echo(text("cli.query.truncated", rows=TABLE_ROWS_MAX), err=True)
        else:
            formats.WRITERS[kind](answer, target)


@contextmanager
def _target(output: Path | None) -> Iterator[BinaryIO]:
    """Where the answer goes: a file only appears, or changes, once it is whole."""
    if output is None:
        yield sys.stdout.buffer
        return
    part = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            yield file
        part.replace(output)
    except OSError as error:
        raise LedgertailError("cli.output", path=output, fault=error.strerror or error) from error
    finally:
        part.unlink(missing_ok=True)
