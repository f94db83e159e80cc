"""`ledgertail run`: the daemon in the foreground."""

from __future__ import annotations

import sys

import click

from cdc.cli import config_option, config_path
from cdc.texts import text


@click.command("run", help=text("cli.run.help"), short_help=text("cli.run.short"))
@click.option("--until-caught-up", is_flag=True, help=text("cli.run.until_caught_up"))
@config_option
def command(until_caught_up: bool) -> None:
    from cdc.config import load
    from cdc.daemon import run
    from cdc.observe import log_to_stderr

    log_to_stderr()
    sys.exit(run(load(config_path()), until_caught_up=until_caught_up))
