"""What happens in a case, step by step: changes of rows, and what is kept of the books meanwhile.

`== periods` closes periods of a book and opens them again: `book`, `period`, `state` (`open`, `soft`, `closed`). `== rates` has all rates
that hold from then on for the books it names: `book`, `currency`, `rate_date`, `rate`, and `rate_type` if it is not `spot`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import pyarrow as pa

from cdc.accounting.rates import RATES
from cdc.cases.changes import batches
from cdc.cases.file import Case, Section, grid, told
from cdc.pipeline import Pipeline
from cdc.types import TableSchema

Step = Callable[[Pipeline], None]
_STATES = ("open", "soft", "closed")


def steps(case: Case, tables: Mapping[str, TableSchema]) -> Iterator[tuple[Section, Step]]:
    """What is done to a pipeline, one after the other, each with the section that tells it. Raises ConfigError."""
    changes = batches(case, tables)
    sources = sorted({schema.source for schema in tables.values()})
    for section in case.sections:
        if section.kind == "changes":
            batch = next(changes)
            yield section, lambda pipeline, batch=batch: _done(pipeline.apply([batch]))  # type: ignore[misc]
        elif section.kind == "periods":
            for book, period, state in _periods(section):
                yield section, lambda pipeline, b=book, p=period, s=state: pipeline.set_period(b, p, s)  # type: ignore[misc]
        elif section.kind == "rates":
            for book, rates in _rates(section).items():
                yield section, lambda pipeline, b=book, r=rates: _done(pipeline.set_rates(sources, b, r))  # type: ignore[misc]


def _done(_: object) -> None:
    """What it told does not matter."""


def _periods(section: Section) -> list[tuple[str, str, str]]:
    found = [(line, row["book"] or "", row["period"] or "", row["state"] or "") for line, row in _rows(section, "book", "period", "state")]
    for line, _, _, state in found:
        if state not in _STATES:
            raise section.fault("cases.state", line, state=state, known=", ".join(_STATES))
    return [(book, period, state) for _, book, period, state in found]


def _rates(section: Section) -> dict[str, pa.Table]:
    rows = [(line, {"rate_type": "spot", **row}) for line, row in _rows(section, "book", "currency", "rate_date", "rate")]
    made: dict[str, list[pa.Table]] = {}
    for line, row in rows:
        texts = pa.table({name: pa.array([row.get(name)], pa.string()) for name in RATES.names})
        try:
            made.setdefault(row["book"] or "", []).append(texts.cast(RATES))
        except (pa.ArrowInvalid, ValueError) as error:
            raise section.fault("cases.value", line, column="rate", value=row["rate"], type="DECIMAL(38,12)") from error
    return {book: pa.concat_tables(parts) for book, parts in made.items()}


def _rows(section: Section, *names: str) -> list[tuple[int, dict[str, str | None]]]:
    """The section's rows by column, each with its line. Raises ConfigError where a column is missing."""
    table = grid(section)
    for name in names:
        if name not in table.header:
            raise section.fault("cases.column", table.line, column=name, known=", ".join(names))
    return [(line, dict(zip(table.header, map(told, cells), strict=True))) for line, cells in table.rows]
