"""`ledgertail snapshot`: have tables copied anew."""

from __future__ import annotations

import click

from cdc.cli import config_option, config_path
from cdc.texts import text


@click.command("snapshot", help=text("cli.snapshot.help"), short_help=text("cli.snapshot.short"))
@click.argument("source")
@click.argument("tables", nargs=-1, metavar="[TABLE]...")
@config_option
def command(source: str, tables: tuple[str, ...]) -> None:
    from cdc.paths import places
    from cdc.serving.client import Down, ask

    name, _, table = source.partition(".")
    wanted = [*([table] if table else []), *tables]
    try:
        answer = ask(places(config_path()).socket, {"do": "snapshot", "source": name, "tables": wanted})
        done = "cli.snapshot.now"
    except Down:
        from cdc.build import request_snapshot
        from cdc.config import load

        answer = request_snapshot(load(config_path()), name, wanted)
        done = "cli.snapshot.later"
    click.echo(text(done, tables=", ".join(f"{name}.{table}" for table in answer["tables"])))
