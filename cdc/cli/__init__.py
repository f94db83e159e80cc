"""The command `ledgertail`: one file per command, imported when it is run."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from cdc.errors import EXIT_FAILED, LedgertailError, policy
from cdc.texts import text

F = TypeVar("F", bound=Callable[..., Any])

COMMANDS = (
    "init",
    "check",
    "rules",
    "run",
    "status",
    "query",
    "explain",
    "report",
    "crosswalk",
    "period",
    "voucher",
    "rates",
    "quarantine",
    "snapshot",
    "demo",
)


class Commands(click.Group):
    """Imports a command when it is asked for, and turns errors into messages and exit codes, once for all of them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"cdc.cli.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except LedgertailError as error:
            tell(error)
            ctx.exit(policy(error).exit_code)
        except KeyboardInterrupt:
            click.echo(err=True)
            ctx.exit(EXIT_FAILED)
        except BrokenPipeError:
            # The reader of our output has left; there is nobody to tell, also not when Python flushes at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(EXIT_FAILED)


def tell(error: LedgertailError) -> None:
    """What happened and what to do, on stderr."""
    click.secho(f"{text('cli.error')}: {error.message}", fg="red", err=True)
    click.echo(f"{text('cli.remedy')}: {error.hint} [{error.code}]", err=True)


def _keep_config(ctx: click.Context, _: click.Parameter, value: Path | None) -> None:
    if value is not None:
        ctx.find_root().obj = value


def config_option(command: F) -> F:
    """`--config`, which may stand before or after the command's name; read it with `config_path`."""
    option = click.option(
        "--config",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar=text("cli.meta.file"),
        help=text("cli.config"),
        expose_value=False,
        is_eager=True,
        callback=_keep_config,
    )
    return option(command)


def config_path() -> Path | None:
    """The config file named on the command line."""
    path: Path | None = click.get_current_context().find_root().obj
    return path


def answer_of(request: dict[str, Any]) -> dict[str, Any]:
    """What comes of a request, see `cdc.bookkeeping`; by the daemon if it runs."""
    from cdc import bookkeeping

    return bookkeeping.ask(config_path(), request)


@click.group(
    cls=Commands,
    help=text("cli.help"),
    epilog=text("cli.epilog"),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="ledgertail")
@config_option
def main() -> None:
    pass
