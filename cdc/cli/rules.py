"""`ledgertail rules`: the rules, tried on cases that tell which entries are to come of which changes."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cdc.cli import config_option, config_path
from cdc.errors import EXIT_FAILED, EXIT_FINE, LedgertailError, policy
from cdc.texts import text

if TYPE_CHECKING:
    from cdc.cases.outcome import Outcome
    from cdc.cases.run import RuleCase

_MARKS = {"ok": ("✓", "green"), "accepted": ("✓", "yellow"), "failed": ("✗", "red"), "error": ("✗", "red")}
_COLORS = {"-": "red", "+": "green"}


@click.group("rules", help=text("cli.rules.help"), short_help=text("cli.rules.short"))
def command() -> None:
    pass


@command.command("test", help=text("cli.rules.test"), short_help=text("cli.rules.test_short"))
@click.argument("paths", metavar="[PATH]...", nargs=-1, type=click.Path(path_type=Path))
@click.option("--accept", is_flag=True, help=text("cli.rules.accept"))
@click.option("--json", "as_json", is_flag=True, help=text("cli.json"))
@config_option
def test(paths: tuple[Path, ...], accept: bool, as_json: bool) -> None:
    from cdc.cases.run import rule_cases

    code, told = EXIT_FINE, []
    for case in rule_cases(config_path(), paths):
        result, error = _tried(case, accept)
        told.append(result)
        code = max(code, policy(error).exit_code if error else EXIT_FAILED if result["state"] == "failed" else EXIT_FINE)
        if not as_json:
            _print(result)
    counts = {state: sum(result["state"] == state for result in told) for state in _MARKS}
    if as_json:
        click.echo(json.dumps({"cases": told, **counts}, ensure_ascii=False))
    else:
        click.echo(text("cli.rules.counts", cases=len(told), **counts))
    sys.exit(code)


def _tried(case: RuleCase, accept: bool) -> tuple[dict[str, Any], LedgertailError | None]:
    """How a case went: `ok`, `failed`, `accepted` or `error`, the last with the error, too."""
    result: dict[str, Any] = {"file": str(case.path), "title": None, "state": "ok", "differences": [], "error": None}
    try:
        read, came = case.play()
        wrong = [outcome for outcome in came if not outcome.fine]
        result |= {"title": read.title, "state": "failed" if wrong else "ok", "differences": [_difference(outcome) for outcome in wrong]}
        if wrong and accept:
            case.accept(read, came)
            result["state"] = "accepted"
    except LedgertailError as error:
        return result | {"state": "error", "error": {"code": error.code, "message": error.message, "hint": error.hint}}, error
    return result, None


def _difference(outcome: Outcome) -> dict[str, Any]:
    return {
        "section": outcome.kind,
        "line": outcome.line,
        "columns": outcome.header,
        "expected": outcome.expected,
        "actual": outcome.actual,
        "told": outcome.difference(),
    }


def _print(result: dict[str, Any]) -> None:
    mark, color = _MARKS[result["state"]]
    click.echo(f"{click.style(mark, color)} {result['file']}: {result['title'] or text('cli.error')}")
    if result["error"]:
        click.echo(f"  {result['error']['message']}\n  {text('cli.remedy')}: {result['error']['hint']} [{result['error']['code']}]")
    for difference in result["differences"] if result["state"] == "failed" else ():
        for line in difference["told"]:
            click.secho(f"  {line}", fg=_COLORS.get(line[0]))


@command.command("tables", help=text("cli.rules.tables"), short_help=text("cli.rules.tables_short"))
@config_option
def tables() -> None:
    from cdc.build import inspection
    from cdc.cases.changes import declared
    from cdc.config import load

    config = load(config_path())
    read = {name for rule in config.rules for name in (rule.table, *(lookup.table for lookup in rule.lookup.values()))}
    for name, source in config.sources.items():
        inspected = inspection(name, source)
        try:
            schemas = inspected.schemas().values()
        finally:
            inspected.close()
        for schema in schemas:
            if schema.name in read:
                click.echo("\n".join([*declared(schema), ""]))
