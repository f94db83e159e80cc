"""What came of a case, beside what it says: entries with their lines, what lies in quarantine, the entries that stand.

The columns are the case's choice: those of `ledger.entries`, `ledger.lines` and `ledger.quarantine`, and

    entry         the entry's letter: A, B, ... as they come; `reverses` and `corrects` have one, too
    of            the key of the row it comes of, `{"id": 17}`
    line          the number of the line; what belongs to the entry as a whole stands in its first only
    account_name  by the book's chart
    dims.<name>   one dimension

An amount is the same with more or fewer zeros at its end.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any, Protocol

import pyarrow as pa

from cdc.cases.file import Case, Cells, aligned, grid, told, written
from cdc.texts import text
from cdc.types import ENTRIES, LINES, LIVE, QUARANTINED

CELLS_MAX = 12  # that a difference names one by one
Row = Mapping[str, Any]

_AMOUNTS = {field.name for field in LINES if pa.types.is_decimal(field.type)}
_COLUMNS = {
    "entries": {*ENTRIES.names, *LINES.names, "entry", "of", "line", "account_name"},
    "quarantine": {*QUARANTINED.names, "of", "status"},
    "live": {*LIVE.names, "entry", "of"} - {"lines"},
}
# The columns that are shown where the case names none: these always, of the others those that tell something here.
_ALWAYS = {"entry", "of", "rule", "entry_date", "account", "debit", "credit", "reason", "detail"}
_OFTEN = {
    "entries": "entry kind reverses book source_table of rule entry_date voucher_type voucher_key summary account debit credit "
    "currency orig_amount rate quantity unit",
    "quarantine": "source_table of book rule reason detail status",
    "live": "entry source_table of book rule",
}
_DULL: dict[str, set[Any]] = {"kind": {"post"}, "status": {"open"}, "rate": {Decimal(1)}}


class Journal(Protocol):
    """What a store in memory holds of entries: rows by column name."""

    entries: list[dict[str, Any]]
    lines: list[dict[str, Any]]
    live: list[dict[str, Any]]
    quarantine: dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One kind of what came of a case. `line` is that of the case's section, None if it has none; cells as they are written, and the
    lines of those that were expected."""

    kind: str
    line: int | None
    header: Cells
    expected: list[Cells]
    lines: list[int]
    actual: list[Cells]

    @property
    def fine(self) -> bool:
        """Whether it is as expected. Entries are to be told; of the others none are expected, or anything, where nothing is told."""
        if self.line is None:
            return self.kind == "live" or (self.kind == "quarantine" and not self.actual)
        return self.expected == self.actual

    def table(self) -> list[str]:
        """What came, as the section's table is written."""
        return aligned([tuple(map(written, self.header)), *self.actual], self._amounts())

    def difference(self) -> list[str]:
        """What was expected and what came, one above the other, for people; rows that differ are marked with `-` and `+`."""
        both = aligned([tuple(map(written, self.header)), *self.expected, *self.actual], self._amounts())
        header, expected, actual = both[0], both[1 : len(self.expected) + 1], both[len(self.expected) + 1 :]
        changed = [step for step in difflib.SequenceMatcher(None, self.expected, self.actual, False).get_opcodes() if step[0] != "equal"]
        gone = {i for _, start, end, _, _ in changed for i in range(start, end)}
        came = {i for _, _, _, start, end in changed for i in range(start, end)}
        return [
            text("cases.expected" if self.line else "cases.not_told", kind=self.kind, line=self.line),
            *([f"  {header}"] if expected else []),
            *(f"{'-' if i in gone else ' '} {row}" for i, row in enumerate(expected)),
            text("cases.actual", kind=self.kind),
            *([f"  {header}"] if actual else []),
            *(f"{'+' if i in came else ' '} {row}" for i, row in enumerate(actual)),
            *islice((line for _, *places in changed for line in self._cells(*places)), CELLS_MAX),
        ]

    def _amounts(self) -> set[int]:
        return {i for i, name in enumerate(self.header) if name in _AMOUNTS}

    def _cells(self, start: int, end: int, other: int, other_end: int) -> Iterator[str]:
        """Cell by cell what differs in rows that stand for each other."""
        if end - start == other_end - other:
            for i in range(end - start):
                for name, expected, actual in zip(self.header, self.expected[start + i], self.actual[other + i], strict=True):
                    if expected != actual:
                        yield text("cases.cell", line=self.lines[start + i], column=name, expected=expected or "''", actual=actual or "''")


def outcomes(case: Case, journal: Journal, account_names: Mapping[tuple[str, str], str]) -> list[Outcome]:
    """What came of a case, kind by kind. `account_names` by book and code. Raises ConfigError for a table that can't be read."""
    names = {entry["entry_id"]: _letters(i) for i, entry in enumerate(sorted(journal.entries, key=_place))}
    rows: dict[str, list[Row]] = {
        "entries": list(_entries(journal, names, account_names)),
        "quarantine": [item | {"of": item["row_key"]} for item in journal.quarantine.values()],
        "live": [
            entry | {"entry": names[entry["entry_id"]], "of": entry["row_key"]}
            for entry in sorted(journal.live, key=lambda e: _nth(names, e))
        ],
    }
    return [outcome for kind in rows for outcome in _outcomes(case, kind, rows[kind])]


def _outcomes(case: Case, kind: str, rows: Sequence[Row]) -> Iterator[Outcome]:
    """One for each section of a kind, or one without a section."""
    sections = case.of(kind)
    for section in sections:
        table = grid(section)
        for name in table.header:
            if name not in _COLUMNS[kind] and not (kind == "entries" and name.startswith("dims.")):
                raise section.fault("cases.column", table.line, column=name, known=", ".join(sorted(_COLUMNS[kind])))
        header = table.header or _header(kind, rows)
        expected = [tuple(map(_canonical, header, cells)) for _, cells in table.rows]
        yield Outcome(kind, section.line, header, expected, [line for line, _ in table.rows], _cells_of(rows, header))
    if not sections:
        header = _header(kind, rows)
        yield Outcome(kind, None, header, [], [], _cells_of(rows, header))


def _entries(journal: Journal, names: Mapping[str, str], account_names: Mapping[tuple[str, str], str]) -> Iterator[Row]:
    """A row per line, what belongs to the whole entry in the first of each."""
    lines: dict[str, list[dict[str, Any]]] = {}
    for line in sorted(journal.lines, key=lambda line: line["line_no"]):
        lines.setdefault(line["entry_id"], []).append(line)
    for entry in sorted(journal.entries, key=_place):
        head = entry | {"entry": names[entry["entry_id"]], "of": entry["row_key"]}
        head |= {name: names.get(entry[name]) for name in ("reverses", "corrects")}
        for line in lines[entry["entry_id"]]:
            dims = {f"dims.{name}": value for name, value in json.loads(line["dims"]).items()}
            own = {name: value for name, value in line.items() if name not in ENTRIES.names}
            yield {**head, **own, "line": line["line_no"], "account_name": account_names.get((entry["book"], line["account"])), **dims}
            head = {}


def _place(entry: Row) -> tuple[Any, ...]:
    ordinal = -1 if entry["ordinal"] is None else entry["ordinal"]
    return entry["batch_seq"], entry["position"], ordinal, entry["book"], entry["rule"], entry["kind"] == "post", entry["row_key"]


def _nth(names: Mapping[str, str], entry: Row) -> tuple[int, str]:
    return len(names[entry["entry_id"]]), names[entry["entry_id"]]


def _letters(number: int) -> str:
    """A, B, ... Z, AA, AB, ..."""
    return (_letters(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def _header(kind: str, rows: Sequence[Row]) -> Cells:
    """The columns that are shown where the case names none."""
    dims = sorted({name for row in rows for name in row if name.startswith("dims.")})
    return (*(name for name in _OFTEN[kind].split() if name in _ALWAYS or _tells(name, rows)), *dims)


def _tells(name: str, rows: Iterable[Row]) -> bool:
    """Whether a column tells what would be missed. What an amount was originally does where it was converted."""
    column = "rate" if name in ("currency", "orig_amount") else name
    values = {row[column] for row in rows if row.get(column) is not None} - _DULL.get(column, set())
    return len(values) > (name in ("book", "source_table"))


def _cells_of(rows: Iterable[Row], header: Cells) -> list[Cells]:
    return [tuple(written(_text(row.get(name))) for name in header) for row in rows]


def _canonical(name: str, cell: str) -> str:
    """An expected cell as it is written for the same value."""
    value = told(cell)
    if name in _AMOUNTS and value is not None:
        try:
            return written(_text(Decimal(value)))
        except InvalidOperation:
            pass
    return written(value)


def _text(value: Any) -> str | None:
    """A value as text; a decimal without its padding of zeros, but with two places."""
    if not isinstance(value, Decimal):
        return None if value is None else str(value)
    whole, _, places = f"{value:f}".partition(".")
    return f"{whole}.{places.rstrip('0').ljust(2, '0')}"
