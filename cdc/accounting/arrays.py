"""Lines for each element of an array: a JSON text of the row, or a list.

An array makes a relation named by its number: `"#3"` has a row per element, with `#rid`, `#3.number` (its place, from 1) and `#3.json`;
what is looked up by elements is added there. It adds `#3!` to `c`, which tells why there are no elements, or is null.

The lines are worked out over the elements, each with its change, and gathered by change: each line as a list of lines, `#lines.1`; the
sums of the sides, `#item.debit`; the first fault, `#item!`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from cdc.accounting.lookups import States, Step, rows
from cdc.accounting.sql import literal, quote
from cdc.types import DELETE


@dataclass(frozen=True, slots=True)
class Array(Step):
    """An array, to be taken apart. `array`: SQL over `c` for it as JSON text; `calls`: the fault columns of the calls in it."""

    array: str
    calls: tuple[str, ...]

    @property
    def readable(self) -> Mapping[str, pa.DataType]:
        """What expressions read of an element, by whatever path."""
        return {"number": pa.int64(), "json": pa.string()}

    @property
    def relation(self) -> str:
        """The relation of its elements."""
        return f"#{self.number}"

    @property
    def reason(self) -> str:
        """The code of its fault."""
        return "quarantine.array"

    def add(self, connection: duckdb.DuckDBPyConnection, states: States, columns: Iterable[str]) -> None:
        """Make the relation of the elements. NULL is an array without any."""
        failing = ", ".join([*map(quote, self.calls), literal("its expression fails")])
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE arrays AS SELECT "#rid", tried.doc AS doc, CASE
                WHEN tried IS NULL THEN failing WHEN NOT json_valid(tried.doc) THEN 'not JSON'
                WHEN json_type(tried.doc) NOT IN ('ARRAY', 'NULL') THEN concat('not an array, but ', json_type(tried.doc)) END AS fault
            FROM (SELECT "#rid", TRY(struct_pack(doc := {self.array})) AS tried, coalesce({failing}) AS failing
                FROM c WHERE "#op" <> '{DELETE}')"""
        )
        number, json = (quote(self.column(name)) for name in self.readable)
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE {quote(self.relation)} AS
            SELECT "#rid", generate_subscripts(elements, 1) AS {number}, CAST(unnest(elements) AS VARCHAR) AS {json}
            FROM (SELECT "#rid", json_extract(exact_json(doc), '$[*]') AS elements FROM arrays WHERE fault IS NULL)"""
        )
        self.widen(connection, f'SELECT c.*, fault AS {quote(self.fault)} FROM c LEFT JOIN arrays USING ("#rid")')


@dataclass(frozen=True, slots=True)
class Elements:
    """The lines of a rule that are there for each element of an array, as SQL.

    `applies`: over `c`, whether the rule does. `misses`: columns that tell what was not found. `inputs`: over the elements, by name;
    `failed`: the fault of an element on which one fails. Over those: `parts` of amounts (`<name>.part`), by the name of the input they are
    by, of which also the sum up to an element (`<name>.upto`) and of all (`<name>.all`) is there; `bases`, what parts in another currency
    are in the book's (`<name>.base`). Over all these: `fault`, or null; `lines`, by their place among the rule's; `sums`, by side.
    """

    name: str
    array: Array
    applies: str
    misses: str
    inputs: Mapping[str, str]
    failed: Mapping[str, str]
    parts: Mapping[str, str]
    bases: Mapping[str, str]
    fault: str
    lines: Mapping[int, str]
    sums: Mapping[str, str]

    def gathered(self, tried: bool = False) -> str:
        """SQL for the lines by change. `tried`: of what fails there is nothing, instead of an error."""
        wrap = "TRY({})" if tried else "{}"
        number = quote(self.array.column("number"))
        given = [f"list({wrap.format(line)} ORDER BY {number}) AS {quote(f'#lines.{i}')}" for i, line in self.lines.items()]
        given += [f"sum({wrap.format(amount)}) AS {quote(f'#{self.name}.{side}')}" for side, amount in self.sums.items()]
        fault = f"arg_min({self._placed(wrap.format(self.fault))}, {number}) AS {quote(f'#{self.name}!')}"
        return f"""SELECT "#rid", {fault}, {", ".join(given)} FROM ({self._worked_out(tried)}) GROUP BY "#rid" """

    def failing(self) -> str:
        """SQL for the `#rid` of each change with an element on which the rule fails, and the `fault` of its first."""
        number = quote(self.array.column("number"))
        shared = [*self.parts.items(), *self.bases.items()]
        cases = " ".join(_fails(sql, literal(f"quarantine.expression|{name.removeprefix('#')}")) for name, sql in shared)
        failed = f'coalesce("#failed", CASE {cases} END)' if cases else '"#failed"'
        given = ", ".join(f"v{i} := {sql}" for i, sql in enumerate([self.fault, *self.lines.values(), *self.sums.values()]))
        return f"""SELECT "#rid", arg_min({self._placed("fault")}, {number}) AS fault FROM (
            SELECT "#rid", {number}, coalesce({failed}, 'quarantine.expression|an amount is out of range') AS fault
            FROM ({self._worked_out(True)}) WHERE {failed} IS NOT NULL OR TRY(struct_pack({given})) IS NULL) GROUP BY "#rid" """

    def _placed(self, fault: str) -> str:
        """SQL for a fault with the element it is in."""
        number = quote(self.array.column("number"))
        return f"regexp_replace({fault}, '[|]', concat({literal(f'|{self.name} ')}, {number}, ', '))"

    def _worked_out(self, tried: bool) -> str:
        """SQL for inputs and parts; where they are tried also for the first that fails."""
        number, wrap = quote(self.array.column("number")), "TRY({})" if tried else "{}"
        applies = f"coalesce(TRY({self.applies}), true)" if tried else self.applies
        cases = " ".join(_fails(sql, self.failed[name]) for name, sql in self.inputs.items())
        failed = f""", CASE {cases} END AS "#failed" """ if tried else ""
        given = ", ".join(f"{wrap.format(sql)} AS {quote(name)}" for name, sql in self.inputs.items())
        worked_out = f"""SELECT "#rid", {number}{self.misses}{failed}, {given}
            FROM {rows(self.array.relation)} WHERE "#op" <> '{DELETE}' AND {applies}"""
        upto = {f"{name}.upto": f'sum({quote(name)}) OVER (PARTITION BY "#rid" ORDER BY {number})' for name in self.parts}
        everything = {f"{name}.all": f'sum({quote(name)}) OVER (PARTITION BY "#rid")' for name in self.parts}
        parts = {f"{name}.part": wrap.format(sql) for name, sql in self.parts.items()}
        bases = {f"{name}.base": wrap.format(sql) for name, sql in self.bases.items()}
        for added in filter(None, (upto | everything, parts, bases)):
            worked_out = f"SELECT *, {', '.join(f'{sql} AS {quote(name)}' for name, sql in added.items())} FROM ({worked_out})"
        return worked_out


def _fails(sql: str, fault: str) -> str:
    """The case of SQL that fails."""
    return f"WHEN TRY(struct_pack(v := {sql})) IS NULL THEN {fault}"
