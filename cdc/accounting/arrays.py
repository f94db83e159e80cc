"""Arrays of a row, which are JSON texts or lists, taken apart into their elements.

An array makes a relation named by its number: `"#3"` has a row per element, with `#rid`, `#3.number` (its place, from 1) and `#3.json`;
what is looked up by elements is added there. It adds `#3!` to `c`, which tells why there are no elements, or is null.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from cdc.accounting.lookups import States, Step
from cdc.accounting.sql import literal, quote
from cdc.types import DELETE

SUMMED_DIGITS = 30  # at most, of what is summed over elements: so 10**8 of them are a DECIMAL(38) still


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
