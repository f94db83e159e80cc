"""`ledgertail demo`."""

from __future__ import annotations

import click

from cdc.errors import EXIT_FAILED
from cdc.texts import text


@click.command(name="demo", help=text("demo.help.command"))
@click.option("--seconds", type=click.IntRange(1, 3600), default=20, show_default=True, help=text("demo.help.seconds"))
@click.option("--keep", is_flag=True, help=text("demo.help.keep"))
@click.option("--seed", type=int, default=2013, show_default=True, help=text("demo.help.seed"))
def command(seconds: int, keep: bool, seed: int) -> None:
    from cdc.demo.stage import play

    try:
        code = play(seconds, keep, seed)
    except KeyboardInterrupt:
        click.echo(text("demo.interrupted"), err=True)
        code = EXIT_FAILED
    raise SystemExit(code)
