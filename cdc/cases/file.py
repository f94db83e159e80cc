"""A case as a text file: what happens to rows, and which entries come of it, in tables that people read and write.

    An order is paid, then corrected.                      the title: prose

    == table shop.orders (key id)                          a table's columns and their DuckDB types
    | id     | total         | paid_at     |
    | BIGINT | DECIMAL(12,2) | TIMESTAMPTZ |

    == changes shop.orders                                 a transaction: a row per change
    | op | id | total  | paid_at                |
    | c  | 17 | 113.00 | 2026-10-31 16:00+08:00 |

    == also shop.payments                                  changes of another table in the same transaction
    == periods                                             periods that are closed, or open again, from here on
    == rates                                               rates of exchange from here on
    == entries                                             what is posted, in columns of the case's choice
    == quarantine                                          what lies there in the end
    == live                                                the entries that stand in the end

A blank cell is NULL. A text that begins or ends with a space, or that would be blank, stands in single quotes; `\\|`, `\\n`, `\\\\` and
`\\u001b` are a bar, a new line, a backslash and a control character. A line that begins with `#` is a comment. What each section may hold
is told where it is read: `cdc.cases.changes`, `cdc.cases.steps` and `cdc.cases.outcome`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cdc.errors import ConfigError

KINDS = ("table", "changes", "also", "periods", "rates", "entries", "quarantine", "live")
Cells = tuple[str, ...]

_ROW = re.compile(r"(\|(?:[^|\\]|\\.)*)+\|")
_CELL = re.compile(r"\|((?:[^|\\]|\\.)*)(?=\|)")
_ESCAPED = re.compile(r"\\(\\|\||n|u[0-9a-f]{4})")
_TO_ESCAPE = re.compile(r"[\\|\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Section:
    """`== <kind> <about>` in line `line` of a file, the first being 1; `body` are the lines below it."""

    path: Path
    line: int
    kind: str
    about: str
    body: Cells

    def fault(self, code: str, line: int | None = None, **values: object) -> ConfigError:
        """The error that something in the section is wrong; in its first line, if no other is given."""
        return ConfigError(code, path=self.path, line=line or self.line, **values)


@dataclass(frozen=True, slots=True)
class Grid:
    """A section's table: the header, its line, and below it each row with its line, cells as written. Without a table all is empty."""

    line: int
    header: Cells
    rows: tuple[tuple[int, Cells], ...]


@dataclass(frozen=True, slots=True)
class Case:
    """A case: its title and its sections, in order."""

    path: Path
    title: str
    sections: tuple[Section, ...]

    def of(self, kind: str) -> list[Section]:
        """The sections of a kind."""
        return [section for section in self.sections if section.kind == kind]


def read(path: Path, kinds: Collection[str] = KINDS) -> Case:
    """A case, its sections of the given kinds. Raises ConfigError for a file that can't be read, and for a section of another kind."""
    try:
        lines = path.read_text("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("cases.unreadable", path=path, fault=error) from error
    starts = [number for number, line in enumerate(lines) if line.startswith("== ")]
    sections = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=False):
        kind, _, about = lines[start].removeprefix("== ").strip().partition(" ")
        sections.append(Section(path, start + 1, kind, about.strip(), tuple(lines[start + 1 : end])))
        if kind not in kinds:
            raise sections[-1].fault("cases.section", kind=kind, known=", ".join(kinds))
    title = " ".join(" ".join(lines[: starts[0] if starts else len(lines)]).split())
    return Case(path, title or path.stem, tuple(sections))


def grid(section: Section) -> Grid:
    """The section's table. Raises ConfigError for a line that is no row of it."""
    rows: list[tuple[int, Cells]] = []
    for number, line in enumerate((line.strip() for line in section.body), section.line + 1):
        if not line or line.startswith("#"):
            continue
        if not _ROW.fullmatch(line):
            raise section.fault("cases.no_row", number, text=line)
        rows.append((number, tuple(cell.strip() for cell in _CELL.findall(line))))
        if len(rows[-1][1]) != len(rows[0][1]):
            raise section.fault("cases.cells", number, found=len(rows[-1][1]), columns=len(rows[0][1]))
    if not rows:
        return Grid(section.line, (), ())
    place, header = rows[0]
    return Grid(place, tuple(told(cell) or "" for cell in header), tuple(rows[1:]))


def told(cell: str) -> str | None:
    """What a cell says: a text, or NULL."""
    if len(cell) > 1 and cell[0] == cell[-1] == "'":
        cell = cell[1:-1].replace("''", "'")
    elif not cell:
        return None
    return _ESCAPED.sub(lambda found: {"n": "\n"}.get(found[1]) or (chr(int(found[1][1:], 16)) if found[1][0] == "u" else found[1]), cell)


def written(value: str | None) -> str:
    """The cell that says a text, or NULL."""
    if value is None:
        return ""
    cell = _TO_ESCAPE.sub(lambda found: _escape(found[0]), value)
    plain = cell == cell.strip() != "" and not (len(cell) > 1 and cell[0] == cell[-1] == "'")
    return cell if plain else "'" + cell.replace("'", "''") + "'"


def aligned(rows: Iterable[Cells], right: Collection[int] = ()) -> list[str]:
    """Rows of cells as lines, each column as wide as its widest cell is displayed; those at the places `right` end at the same place."""
    cells = list(rows)
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    return [
        "| " + " | ".join(_padded(cell, width, i in right) for i, (cell, width) in enumerate(zip(row, widths, strict=True))) + " |"
        for row in cells
    ]


def replaced(case: Case, tables: Sequence[tuple[str, int | None, list[str]]]) -> str:
    """The case's text with other tables: each with its kind and the line of the section it goes into, None for one that is added."""
    lines = case.path.read_text("utf-8-sig").rstrip("\n").split("\n")
    new = {line: table for _, line, table in tables if line is not None}
    for section in reversed(case.sections):
        if section.line in new:
            end = section.line + len(section.body)
            comments = [line for line in section.body if line.startswith("#")]
            lines[section.line : end] = [*comments, *new[section.line], *([""] if end < len(lines) else [])]
    for kind, line, table in tables:
        if line is None:
            lines += ["", f"== {kind}", *table]
    return "\n".join(lines) + "\n"


def _escape(character: str) -> str:
    return {"\n": "\\n"}.get(character) or (f"\\u{ord(character):04x}" if character not in "\\|" else f"\\{character}")


def _width(text: str) -> int:
    """How many columns of a terminal a text takes: Chinese characters two each."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _padded(cell: str, width: int, right: bool) -> str:
    padding = " " * (width - _width(cell))
    return padding + cell if right else cell + padding
