"""The steps that a table's changes go through before its rules are run: what rules look up or call, each thing once, however many ask.

Each step adds columns to the relation of changes or to one of elements (see `lookups`), so that rules are plain SQL over what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import duckdb
import pyarrow as pa

from cdc.accounting.derivations import read_table
from cdc.accounting.functions import Call, Function
from cdc.accounting.lookups import Step
from cdc.accounting.sql import listed, literal, quote
from cdc.types import TableSchema

RULE_ROW = "rule_row"
_Made = TypeVar("_Made", bound=Step)


class Steps:
    """The steps of a table's rules. Keeps the relation RULE_ROW of all columns that can be read, without rows, until it is closed.

    `others`: the tables that may be looked up, `functions`: those that may be called, by their names.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        schema: TableSchema,
        others: Mapping[str, TableSchema],
        functions: Mapping[str, Function],
    ) -> None:
        self.connection, self.others, self.functions = connection, others, functions
        self._row = schema.arrow()
        self._made: list[Step] = []
        self._read: dict[int, set[str]] = {}  # by the step's number
        self._tables: dict[tuple[Path, tuple[str, ...]], pa.Table] = {}
        self._show()

    def close(self) -> None:
        """Let go of RULE_ROW."""
        self.connection.unregister(RULE_ROW)

    def add(self, make: Callable[[int], _Made]) -> _Made:
        """The step that is made with a number, or one that is there already and does the same."""
        for known in self._made:
            if known == (same := make(known.number)):
                return same
        step = make(len(self._made))
        self._made.append(step)
        self._read[step.number] = set()
        for name, kind in [*((step.column(name), kind) for name, kind in step.readable.items()), (step.fault, pa.string())]:
            self._row = self._row.append(pa.field(name, kind))
        self.close()
        self._show()
        return step

    def read(self, step: Step, *columns: str) -> None:
        """Note that columns of what a step finds are read."""
        self._read[step.number].update(columns)

    def in_order(self) -> tuple[tuple[Step, tuple[str, ...]], ...]:
        """The steps, each with the columns that are read of it."""
        return tuple((step, tuple(sorted(self._read[step.number]))) for step in self._made)

    def table(self, path: Path, conditions: tuple[str, ...]) -> pa.Table:
        """A derivation table, read once. Raises BadTable."""
        if (path, conditions) not in self._tables:
            self._tables[path, conditions] = read_table(path, conditions)
        return self._tables[path, conditions]

    def faults_of_calls(self, sql: str) -> tuple[str, ...]:
        """The fault columns of the calls that SQL holds the values of."""
        return tuple(step.fault for step in self._made if isinstance(step, Call) and quote(step.fault) in sql)

    def failed(self, key: str, sql: str) -> str:
        """SQL for the fault of a row on which a rule's key fails: that of a function it calls, or else its expression's."""
        expression, faults = literal(f"quarantine.expression|{key}"), listed(self.faults_of_calls(sql))
        return f"coalesce({literal(f'quarantine.function|{key}: ')} || coalesce({faults}), {expression})" if faults else expression

    def _show(self) -> None:
        self.connection.register(RULE_ROW, self._row.empty_table())
