"""Random transactions over a few tables with keys; and the stream of transactions: micro-batches, cut anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from cdc.types import DELETE, INSERT, UPDATE, MicroBatch, TableChanges, TableSchema
from tests.changes import Change, Row, changes, transactions

SOURCE, IDENTITY = "shop", "server 1, database shop"
CUTS = st.lists(st.integers(0, 200), max_size=8)
CRASHES = st.integers(0, 8)

Schemas = Mapping[str, TableSchema]
Tables = dict[str, dict[Any, Row]]  # by name, the rows by key
Logged = tuple[int, int, TableSchema, Change]  # a transaction's number from 1, and the change's ordinal in it
Step = tuple[str, Row | int]


@dataclass(frozen=True)
class Transaction:
    """A committed transaction: its changes in log order, each with its table's name, and the tables after it."""

    changes: list[tuple[str, Change]]
    tables: Tables = field(repr=False)


def put(name: str, rows: st.SearchStrategy[Row]) -> st.SearchStrategy[Step]:
    """A row is inserted into a table, or updated if its key is there."""
    return st.tuples(st.just(name), rows)


def delete(*names: str) -> st.SearchStrategy[Step]:
    """A row of one of some tables is deleted, if there is any."""
    return st.tuples(st.sampled_from(names), st.integers(0, 5))


@st.composite
def histories(
    draw: st.DrawFn,
    schemas: Schemas,
    steps: st.SearchStrategy[Step],
    transactions_max: int = 6,
    steps_max: int = 8,
    after: Tables | None = None,
) -> list[Transaction]:
    """Transactions one after another, from where the tables are as `after` says, else empty. One that logs nothing leaves none."""
    history, tables = list[Transaction](), after or {name: {} for name in schemas}
    for drawn in draw(st.lists(st.lists(steps, min_size=1, max_size=steps_max), min_size=1, max_size=transactions_max)):
        tables = {name: dict(rows) for name, rows in tables.items()}
        made = [(name, _carried_out(tables[name], schemas[name], step)) for name, step in drawn]
        if logged := [(name, change) for name, change in made if change is not None]:
            history.append(Transaction(logged, tables))
    return history


def _carried_out(rows: dict[Any, Row], schema: TableSchema, step: Row | int) -> Change | None:
    if isinstance(step, int):
        return Change(DELETE, rows.pop(sorted(rows)[step % len(rows)])) if rows else None
    key = step[schema.key[0]]
    change = Change(UPDATE if key in rows else INSERT, step)
    rows[key] = step
    return change


def stream(schemas: Schemas, history: Sequence[Transaction], cuts: Sequence[int] = (), first: int = 1) -> list[MicroBatch]:
    """Transactions, numbered from `first`, as micro-batches; see `cut`."""
    logged = [
        (number, ordinal, schemas[name], change)
        for number, transaction in enumerate(history, first)
        for ordinal, (name, change) in enumerate(transaction.changes)
    ]
    return cut(logged, cuts)


def cut(logged: Sequence[Logged], cuts: Sequence[int]) -> list[MicroBatch]:
    """Changes as micro-batches, cut before those at `cuts`, counted from the first. A cut within a transaction gives parts; the two changes
    of a key change stay together.
    """
    cuts = [at % (len(logged) + 1) for at in cuts]
    edges = sorted({0, len(logged), *(at for at in cuts if at == len(logged) or not logged[at][3].old)})
    return [
        _batch(logged[start:end], whole=end == len(logged) or logged[end][0] != logged[end - 1][0])
        for start, end in itertools.pairwise(edges)
    ]


def _batch(logged: Sequence[Logged], *, whole: bool) -> MicroBatch:
    numbers, tables = sorted({number for number, _, _, _ in logged}), dict[TableSchema, list[tuple[int, int, Change]]]()
    for number, ordinal, schema, change in logged:
        tables.setdefault(schema, []).append((numbers.index(number), ordinal, change))
    return MicroBatch(
        source=SOURCE,
        identity=IDENTITY,
        transactions=pa.concat_tables([transactions(1, number) for number in numbers]),
        changes=tuple(TableChanges(schema, changes(schema, rows)) for schema, rows in tables.items()),
        position=position(numbers[-1] if whole else numbers[-1] - 1),
        whole=whole,
    )


def position(number: int) -> str:
    """The place of the commit of a transaction, counted from 1; 0 is before all of them."""
    return f"{number:08}"
