"""Golden cases of the accountant: each file has the rules, the changes batch by batch, and what they come to.

    == rules      TOML: `[columns]` of the table `shop.t` and its `key`, `[book]` if it is not plain, `[files]`, `[functions]`,
                  and `[[rules]]`
    == changes    a batch: a row per change, `op` and the columns; `t` counts its transactions from 0. A blank is NULL, too.
                  `== changes without <rule>`: that rule has left the config; `== changes with <label>`: the rule of that `label`
                  has come into it, in place of the one of its name; `== changes with both`: all rules are in force
    == entries    what was posted, in order; the lines of an entry stand below its first. Entries are called A, B, ... as they come
    == quarantine what lies there in the end, and how each item stands

The columns of the last two are chosen by the case. `== live` tells which entries stand in the end.
"""

from __future__ import annotations

import string
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from cdc.accounting.accountant import Accountant
from cdc.accounting.functions import load_functions
from cdc.config import FunctionConfig, RuleConfig
from cdc.types import LIVE, LIVE_KEYS, Postings, TableSchema
from tests.changes import Change, book, changes, table, transactions

CASES = sorted(Path(__file__).parent.glob("*.txt"))
_DEFAULTS = {"book": "main", "table": "shop.t"}


@dataclass
class Ledger:
    """What a store would keep."""

    entries: list[dict[str, Any]] = field(default_factory=list)
    lines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    live: list[dict[str, Any]] = field(default_factory=list)
    quarantine: dict[str, dict[str, Any]] = field(default_factory=dict)

    def lookup(self, schema: TableSchema, keys: pa.Table | None) -> pa.Table:
        assert keys is not None and keys.schema == LIVE_KEYS
        wanted = {tuple(key.values()) for key in keys.to_pylist()}
        found = [row for row in self.live if (row["row_hash"], row["row_key"]) in wanted and row["source_table"] == schema.name]
        return pa.Table.from_pylist(found, LIVE)

    def post(self, part: Postings) -> None:
        self.entries += sorted(part.entries.to_pylist(), key=_place)
        for line in part.lines.to_pylist():
            self.lines.setdefault(line["entry_id"], []).append(line)
        ended = {row["entry_id"] for row in part.live_ended.to_pylist()}
        assert ended <= {row["entry_id"] for row in self.live}
        self.live = [row for row in self.live if row["entry_id"] not in ended] + part.live_begun.to_pylist()
        settled = [tuple(row.values()) for row in part.settled.to_pylist()]
        for item in self.quarantine.values():
            if (item["source_table"], item["row_key"], item["book"], item["rule"]) in settled:
                item["status"] = "resolved"
        for item in part.quarantined.to_pylist():
            self.quarantine.setdefault(item["id"], item)["status"] = "open"


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_golden(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sections = _sections(path.read_text("utf-8"))
    config = tomllib.loads(sections[0][1])
    monkeypatch.chdir(tmp_path)
    for name, content in config.get("files", {}).items():
        Path(name).write_text(content, "utf-8")
    schema = table("t", config.get("key", []), **config["columns"])
    rules = {rule.pop("label", rule["name"]): RuleConfig(**{**_DEFAULTS, **rule}) for rule in config["rules"]}
    names = {each.book for rule in rules.values() for each in rule.by_book()}
    books = {name: book(name, **config.get("book", {}))[name] for name in names}
    in_force = {label: rule for label, rule in rules.items() if label == rule.name}
    functions = load_functions(path, {name: FunctionConfig(**each) for name, each in config.get("functions", {}).items()})
    ledger, first, told = Ledger(), 1, {"entries"}
    for title, body in sections[1:]:
        kind, _, rest = title.partition(" ")
        if kind == "changes":
            if rest.startswith("without "):
                del in_force[rest.removeprefix("without ")]
            elif rest == "with both":
                in_force = rules
            elif rest.startswith("with "):
                rule = rules[rest.removeprefix("with ")]
                in_force[rule.name] = rule
            rows, numbers, count = _batch(schema, body)
            accountant = Accountant([each for rule in in_force.values() for each in rule.by_book()], books, functions)
            ledger.post(accountant.account(schema, changes(schema, rows, numbers), transactions(count, first), ledger.lookup))
            accountant.close()
            first += count
        else:
            told.discard(kind)
            header = _cells(body.splitlines()[0])
            assert _told(header, _answers(ledger, kind)) == _told(header, [_cells(line) for line in body.splitlines()[1:]])
    assert not told, "a case tells its entries"
    assert not ledger.quarantine or "quarantine" in dict(sections), "a case tells what is in quarantine"


def _sections(text: str) -> list[tuple[str, str]]:
    parts = text.split("\n== ")[1:]
    return [(part.split("\n", 1)[0].strip(), part.split("\n", 1)[1].strip()) for part in parts]


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _batch(schema: TableSchema, body: str) -> tuple[list[tuple[int, int, Change]], list[int], int]:
    """A batch's changes, the row numbers if the table has no key, and how many transactions it has."""
    header, *lines = (_cells(line) for line in body.splitlines())
    types = {c.name: c.type for c in schema.columns}
    rows, numbers, ordinals = [], [], dict[int, int]()
    for line in lines:
        given = dict(zip(header, line, strict=True))
        txn = int(given.get("t") or 0)
        values = {
            name: pa.scalar(text).cast(types[name]).as_py() for name, text in given.items() if name in types and text not in ("", "NULL")
        }
        ordinals[txn] = ordinals.get(txn, -1) + 1
        rows.append((txn, ordinals[txn], Change(given["op"], values)))
        numbers += [int(given["#n"])] if "#n" in given else []
    return rows, numbers, max(ordinals) + 1


def _place(entry: dict[str, Any]) -> tuple[Any, ...]:
    return entry["position"], entry["ordinal"], entry["book"], entry["rule"], entry["kind"] == "post", entry["row_key"]


def _answers(ledger: Ledger, kind: str) -> list[dict[str, Any]]:
    names = {entry["entry_id"]: string.ascii_uppercase[i] for i, entry in enumerate(ledger.entries)}
    assert len(names) == len(ledger.entries), "an entry is there twice"
    if kind == "quarantine":
        return [item | {"of": item["row_key"]} for item in ledger.quarantine.values()]
    if kind == "live":
        assert all(row["lines"] == _bare(ledger.lines[row["entry_id"]]) for row in ledger.live)
        return [
            row | {"entry": names[row["entry_id"]], "of": row["row_key"]} for row in sorted(ledger.live, key=lambda r: names[r["entry_id"]])
        ]
    answers = []
    for entry in ledger.entries:
        lines = sorted(ledger.lines[entry["entry_id"]], key=lambda line: line["line_no"])
        head = entry | {"entry": names[entry["entry_id"]], "reverses": names.get(entry["reverses"]), "of": entry["row_key"]}
        answers += [(head if i == 0 else {}) | {"line": line["line_no"], **_bare([line])[0]} for i, line in enumerate(lines)]
    return answers


def _bare(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: value for name, value in line.items() if name not in ("entry_id", "book", "period")} for line in lines]


def _told(header: list[str], rows: list[Any]) -> list[str]:
    """Rows as text, in columns of the same width, so that a difference is seen at a glance."""
    cells = [header] + [row if isinstance(row, list) else [_text(row.get(name)) for name in header] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return [" | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def _text(value: Any) -> str:
    """A decimal without its padding of zeros, but with two places."""
    if value is None:
        return ""
    whole, point, places = str(value).partition(".")
    return f"{whole}.{places.rstrip('0').ljust(2, '0')}" if point and places.isdigit() else str(value)
