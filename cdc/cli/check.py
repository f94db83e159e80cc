"""`ledgertail check`: everything a run needs, looked at without changing anything; each lack with what mends it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from cdc.cli import config_option, config_path
from cdc.errors import EXIT_FAILED, EXIT_FINE, LedgertailError
from cdc.texts import text
from cdc.types import Finding

if TYPE_CHECKING:
    from cdc.config import Config
    from cdc.paths import Places
    from cdc.types import TableSchema

SPACE_FAIL, SPACE_WARN = 256 << 20, 2 << 30
_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}
Findings = Iterator[tuple[str, Finding]]


@click.command("check", help=text("cli.check.help"), short_help=text("cli.check.short"))
@click.option("--json", "as_json", is_flag=True, help=text("cli.json"))
@config_option
def command(as_json: bool) -> None:
    from cdc.config import load
    from cdc.paths import places

    config = load(config_path())
    where = places(config.path)
    findings = [("config", Finding("ok", text("cli.check.config", path=config.path))), *_store(where), *_sources_and_rules(config)]
    failed = any(finding.level == "fail" for _, finding in findings)
    if as_json:
        click.echo(json.dumps({"findings": [{"area": area, **asdict(finding)} for area, finding in findings]}, ensure_ascii=False))
    else:
        _print(findings)
    sys.exit(EXIT_FAILED if failed else EXIT_FINE)


def _store(where: Places) -> Findings:
    folder = where.store.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        yield "store", Finding("fail", text("cli.check.folder", folder=folder), f"install -d -m 0700 -o $(id -un) '{folder}'")
        return
    yield "store", _opened(where)
    free = shutil.disk_usage(folder).free
    level = "fail" if free < SPACE_FAIL else "warn" if free < SPACE_WARN else "ok"
    mend = "" if level == "ok" else text("cli.check.space_mend", folder=folder)
    yield "store", Finding(level, text("cli.check.space", folder=folder, free=f"{free / (1 << 30):.1f}"), mend)


def _opened(where: Places) -> Finding:
    """Whether a daemon could have the store: it is not there yet, or can be opened, or a daemon has it already."""
    from cdc.serving.client import Down, ask
    from sinks.duckdb import open_read_only

    try:
        ask(where.socket, {"do": "status"})
        return Finding("ok", text("cli.check.daemon", path=where.socket))
    except Down:
        pass
    except LedgertailError as error:
        return _failed(error)
    if not where.store.exists():
        return Finding("ok", text("cli.check.new_store", path=where.store))
    if not os.access(where.store, os.R_OK | os.W_OK):
        return Finding("fail", text("cli.check.store_access", path=where.store), f"chown $(id -un) '{where.store}'")
    try:
        open_read_only(where.store).close()
    except LedgertailError as error:
        return _failed(error)
    return Finding("ok", text("cli.check.old_store", path=where.store))


def _sources_and_rules(config: Config) -> Findings:
    """Each source's own findings, then the rules, against the schemas of the sources that answer."""
    from cdc.build import check_rules, inspection, kind

    schemas: dict[str, TableSchema] = {}
    for name, source in config.sources.items():
        yield from _decoding(name, kind(source))
        try:
            inspected = inspection(name, source)
        except LedgertailError as error:
            yield name, _failed(error)
            continue
        try:
            for finding in inspected.check():
                yield name, finding
            schemas |= {schema.name: schema for schema in inspected.schemas().values()}
        except LedgertailError as error:
            yield name, _failed(error)
        finally:
            inspected.close()
    checked = [rule for rule in config.rules if rule.table in schemas]
    try:
        check_rules(config, schemas)
        yield "rules", Finding("ok", text("cli.check.rules", checked=len(checked)))
    except LedgertailError as error:
        yield "rules", _failed(error)
    for rule in config.rules:
        if rule.table not in schemas:
            yield "rules", Finding("warn", text("cli.check.rule_unchecked", rule=rule.name, table=rule.table), text("cli.check.rule_mend"))


def _decoding(name: str, kind: str) -> Findings:
    from cdc.decode.kernels import KINDS, Form, kernel

    if kind not in KINDS:
        return
    try:
        form = kernel(kind).form
    except LedgertailError as error:
        yield name, _failed(error)
        return
    lacking = form in (Form.MISSING, Form.STALE)
    yield name, Finding("warn" if lacking else "ok", text(f"kernel.{form}"), text("cli.check.kernel_mend") if lacking else "")


def _failed(error: LedgertailError) -> Finding:
    return Finding("fail", error.message, error.hint)


def _print(findings: list[tuple[str, Finding]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2))
    for area, finding in findings:
        mark, color = _MARKS[finding.level]
        table.add_row(Text(mark, color), Text(area), Text(finding.what))
        if finding.mend:
            table.add_row("", "", Text(f"→ {finding.mend}", "bold"))
    Console(width=None if sys.stdout.isatty() else 160).print(table)
