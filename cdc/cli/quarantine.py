"""`ledgertail quarantine`: rows that failed a check: what is wrong with them, and what is to become of them."""

from __future__ import annotations

import sys
from typing import Any

import click

from cdc.cli import answer_of, config_option, config_path
from cdc.errors import EXIT_FAILED, EXIT_FINE, StoreError
from cdc.texts import text

_LIST = """
    SELECT CAST(id AS VARCHAR) AS id, level, status, source_table, row_key, rule, reason, detail, first_seen
    FROM ledger.quarantine WHERE status = 'open' OR $1 ORDER BY first_seen, id"""
_SHOW = "SELECT * FROM ledger.quarantine WHERE starts_with(CAST(id AS VARCHAR), $1)"
_OPEN = """
    SELECT CAST(id AS VARCHAR) AS id FROM ledger.quarantine
    WHERE status = 'open' AND (len($1) = 0 OR list_contains($1, CAST(id AS VARCHAR)))"""


@click.group("quarantine", help=text("cli.quarantine.help"), short_help=text("cli.quarantine.short"))
@config_option
def command() -> None:
    pass


@command.command("list", help=text("cli.quarantine.list"))
@click.option("--all", "everything", is_flag=True, help=text("cli.quarantine.everything"))
@click.option("--format", "kind", type=click.Choice(["table", "csv", "json"]), default="table", help=text("cli.query.format"))
@config_option
def list_items(everything: bool, kind: str) -> None:
    from cdc.cli import formats
    from cdc.serving.client import connect_config

    out = sys.stdout.buffer
    with connect_config(config_path()) as reader, reader.batches(_LIST, [everything]) as items:
        if kind == "table":
            formats.write_table(items, out, rows_max=sys.maxsize, wide=not sys.stdout.isatty())
        else:
            formats.WRITERS[kind](items, out)


@command.command("show", help=text("cli.quarantine.show"))
@click.argument("item", metavar="ID")
@config_option
def show(item: str) -> None:
    from cdc.serving.client import connect_config

    with connect_config(config_path()) as reader:
        items = reader.query(_SHOW, [item.lower()]).to_pylist()
    if len(items) != 1:
        raise StoreError("cli.no_item" if not items else "cli.many_items", id=item)
    for name, value in items[0].items():
        click.echo(f"{name:13} {'' if value is None else value}")
    click.echo(_explained(items[0]["reason"]))


@command.command("retry", help=text("cli.quarantine.retry"))
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help=text("cli.quarantine.retry_all"))
@config_option
def retry(ids: tuple[str, ...], everything: bool) -> None:
    if bool(ids) == everything:
        raise click.UsageError(text("cli.quarantine.ids_or_all"))
    answer = _settle("retry", ids)
    click.echo(text("cli.quarantine.retried", **answer))
    sys.exit(EXIT_FAILED if answer["still_quarantined"] else EXIT_FINE)


@command.command("ignore", help=text("cli.quarantine.ignore"))
@click.argument("ids", nargs=-1, required=True, metavar="ID...")
@config_option
def ignore(ids: tuple[str, ...]) -> None:
    click.echo(text("cli.quarantine.ignored", **_settle("ignore", ids)))


def _settle(action: str, ids: tuple[str, ...]) -> dict[str, Any]:
    """Have open items retried or ignored, by the daemon if it runs; all of them if none is named. Raises for an id that isn't open."""
    from cdc.serving.client import connect_config

    with connect_config(config_path()) as reader:
        found = [row["id"] for row in reader.query(_OPEN, [[i.lower() for i in ids]]).to_pylist()]
    if missing := {i.lower() for i in ids} - set(found):
        raise StoreError("cli.no_item", id=min(missing))
    return answer_of({"do": "quarantine", "action": action, "ids": found})


def _explained(reason: str) -> str:
    """What the text catalogue says of a reason, which is one of its codes."""
    try:
        return f"{text(f'{reason}.what')}; {text(f'{reason}.hint')}"
    except KeyError:
        return ""
