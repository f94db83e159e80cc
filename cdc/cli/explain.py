"""`ledgertail explain`: where entries came from: row, place in the log, rule, lookups, rates, and what became of them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable
from typing import Any

import click

from cdc.accounting.sql import literal
from cdc.cli import config_option, config_path
from cdc.errors import StoreError
from cdc.texts import text

_ENTRY = re.compile(r"[0-9a-f]{4,8}(-[0-9a-f-]{0,27})?")
_VOUCHER = re.compile(r"(?P<book>\w+)/(?P<period>\d{4}-\d{2})/(?:(?P<type>[^-/]+)-)?(?P<number>\d+)")
_ENTRIES = """SELECT CAST(e.entry_id AS VARCHAR) AS entry_id,
        e.* EXCLUDE (entry_id, reverses, corrects, entry_date, doc_date, committed_at),
        CAST(e.reverses AS VARCHAR) AS reverses, CAST(e.corrects AS VARCHAR) AS corrects, CAST(e.entry_date AS VARCHAR) AS entry_date,
        CAST(e.doc_date AS VARCHAR) AS doc_date, CAST(e.committed_at AS VARCHAR) AS committed_at,
        CAST(b.applied_at AS VARCHAR) AS applied_at, b.hash, CAST(r.entry_id AS VARCHAR) AS reversed_by, r.txn AS reversed_by_txn,
        v.book || '/' || v.period || '/' || v.voucher_type || '-' || v.number AS voucher
    FROM ledger.entries e LEFT JOIN ledger.batches b USING (batch_seq)
    LEFT JOIN ledger.entries r ON r.reverses = e.entry_id
    LEFT JOIN ledger.voucher_entries m ON m.entry_id = e.entry_id LEFT JOIN ledger.vouchers v ON v.voucher_id = m.voucher_id
    WHERE {0} ORDER BY e.batch_seq, e.batch_row LIMIT {1}"""
_LINES = """SELECT CAST(entry_id AS VARCHAR) AS entry_id, line_no, l.account, a.name, CAST(debit AS VARCHAR) AS debit,
        CAST(credit AS VARCHAR) AS credit, currency, CAST(orig_amount AS VARCHAR) AS orig_amount, CAST(rate AS VARCHAR) AS rate, rate_type,
        CAST(rate_date AS VARCHAR) AS rate_date, CAST(dims AS VARCHAR) AS dims, CAST(origin AS VARCHAR) AS origin
    FROM ledger.lines l LEFT JOIN ledger.accounts a ON a.book = l.book AND a.code = l.account
    WHERE CAST(entry_id AS VARCHAR) IN ({0}) ORDER BY batch_seq, batch_row"""
_QUARANTINE = (
    """SELECT CAST(id AS VARCHAR) AS id, rule, reason, detail, status, position FROM ledger.quarantine WHERE {0} ORDER BY first_seen"""
)
ENTRIES_MAX = 200


@click.command("explain", help=text("cli.explain.help"), short_help=text("cli.explain.short"))
@click.argument("what", nargs=-1, required=True, metavar=text("cli.meta.explained"))
@click.option("--json", "as_json", is_flag=True, help=text("cli.json"))
@config_option
def command(what: tuple[str, ...], as_json: bool) -> None:
    from cdc.serving.client import connect_config

    entries_of, quarantine_of = _asked(what)
    with connect_config(config_path()) as reader:
        entries = reader.query(_ENTRIES.format(entries_of, ENTRIES_MAX + 1)).to_pylist()
        items = reader.query(_QUARANTINE.format(quarantine_of)).to_pylist() if quarantine_of else []
        ids = ", ".join(literal(entry["entry_id"]) for entry in entries) or "NULL"
        lines = reader.query(_LINES.format(ids)).to_pylist()
    if not entries and not items:
        raise StoreError("cli.nothing_to_explain", what=" ".join(what))
    more, entries = len(entries) > ENTRIES_MAX, entries[:ENTRIES_MAX]
    for entry in entries:
        entry["lines"] = [_line(line) for line in lines if line["entry_id"] == entry["entry_id"]]
    if as_json:
        click.echo(json.dumps({"entries": entries, "quarantine": items, "more": more}, ensure_ascii=False, default=str))
        return
    for entry in entries:
        _print(entry)
    for item in items:
        click.echo(text("cli.explain.item", **item))
    if more:
        click.echo(text("cli.explain.more", count=ENTRIES_MAX), file=sys.stderr)


def _asked(what: tuple[str, ...]) -> tuple[str, str]:
    """SQL for the entries and the quarantine items of an entry, a voucher or a row. Raises UsageError."""
    if len(what) == 1 and (voucher := _VOUCHER.fullmatch(what[0])):
        of_type = f" AND v.voucher_type = {literal(voucher['type'])}" if voucher["type"] else ""
        return (
            f"v.book = {literal(voucher['book'])} AND v.period = {literal(voucher['period'])} AND v.number = {voucher['number']}{of_type}",
            "",
        )
    if len(what) == 1 and _ENTRY.fullmatch(what[0].lower()):
        return f"starts_with(CAST(e.entry_id AS VARCHAR), {literal(what[0].lower())})", ""
    if len(what) == 2 and "." in what[0]:
        return _of_row("e.", *what), _of_row("", *what)
    raise click.UsageError(text("cli.explain.usage"))


def _of_row(relation: str, table: str, key: str) -> str:
    """SQL for a row, by its key as JSON, or by the value of a key of one column."""
    one = f"json_extract_string({relation}row_key, '$.*')[1] = {literal(key)} AND len(json_keys({relation}row_key)) = 1"
    return f"{relation}source_table = {literal(table)} AND " + (f"{relation}row_key = {literal(key)}" if key.startswith("{") else one)


def _line(line: dict[str, Any]) -> dict[str, Any]:
    told = {name: value for name, value in line.items() if name != "entry_id" and value is not None}
    return told | {name: json.loads(told[name]) for name in ("dims", "origin") if name in told}


def _print(entry: dict[str, Any]) -> None:
    kind = text(f"cli.explain.{entry['kind']}")
    click.secho(f"{kind} {entry['entry_id']}", bold=True)
    for name, value in _facts(entry):
        click.echo(f"  {text(f'cli.explain.{name}')}: {value}")
    for line in entry["lines"]:
        side, amount = ("debit", line["debit"]) if "debit" in line else ("credit", line["credit"])
        dims = "".join(f" {name}={value}" for name, value in line.get("dims", {}).items())
        click.echo(
            f"    {line['line_no']:>3} {text(f'cli.explain.{side}')} {_short(amount):>16}  {line['account']} {line.get('name') or ''}{dims}"
        )
        if "rate_type" in line:
            converted = {name: line[name] for name in ("currency", "rate_type", "rate_date")}
            click.echo(
                "        " + text("cli.explain.rate", orig_amount=_short(line["orig_amount"]), rate=_short(line["rate"]), **converted)
            )
        for name, origin in line.get("origin", {}).items():
            click.echo(f"        {name}: {origin if isinstance(origin, str) else json.dumps(origin, ensure_ascii=False)}")


def _facts(entry: dict[str, Any]) -> Iterable[tuple[str, str]]:
    yield "book", f"{entry['book']}, {entry['entry_date']} ({entry['period']})"
    if entry["doc_date"] != entry["entry_date"]:
        yield "doc_date", entry["doc_date"]
    yield "rule", f"{entry['rule']} ({entry['rule_version']})"
    if entry["summary"]:
        yield "summary", entry["summary"]
    if entry["voucher"] or entry["voucher_key"]:
        yield "voucher", entry["voucher"] or entry["voucher_key"]
    yield "row", f"{entry['source_table']} {entry['row_key']} ({text('cli.explain.op_' + entry['op'])})"
    yield "log", f"{entry['source']} {entry['position']}, {entry['txn']}, {entry['committed_at']}"
    yield "batch", f"{entry['batch_seq']}, {entry['applied_at']}, {entry['hash']}"
    for name in ("reverses", "corrects", "reversed_by"):
        if entry[name]:
            yield name, entry[name]


def _short(amount: str) -> str:
    """A decimal without its padding of zeros, but with two places."""
    whole, _, places = amount.partition(".")
    return f"{whole}.{places.rstrip('0').ljust(2, '0')}"
