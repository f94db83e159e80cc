"""`ledgertail snapshot`: have tables copied anew."""

from __future__ import annotations

import click

from cdc.cli import answer_of, config_option
from cdc.texts import text


@click.command("snapshot", help=text("cli.snapshot.help"), short_help=text("cli.snapshot.short"))
@click.argument("source")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@config_option
def command(source: str, tables: tuple[str, ...]) -> None:
    name, _, table = source.partition(".")
    answer = answer_of({"do": "snapshot", "source": name, "tables": [*([table] if table else []), *tables]})
    done = "cli.snapshot.now" if answer["daemon"] == "up" else "cli.snapshot.later"
    click.echo(text(done, tables=", ".join(f"{name}.{table}" for table in answer["tables"])))
