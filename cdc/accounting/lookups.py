"""Rows of other tables, as of the end of a change's own transaction.

The mirrors are written before the changes of a batch are accounted for. What they then no longer show is kept here: of each row that the
batch changed in a table that rules look up, the states it had, with the transactions (by their index in the batch) in which it had them.

A lookup adds columns to the relation `c` of changes, or to that of an array's elements if it is by these, named by its number:
`#3.region` for each column that rules read, and `#3!`, which tells why there is no one row, or is null.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cdc.accounting.sql import listed, literal, quote
from cdc.types import DELETE, INSERT, OP, TXN, TableSchema

CHANGES = "c"
FROM, TO = "#from", "#to"  # a state holds from a transaction up to, but without, another
BEFORE_ALL, FOR_EVER = -1, 2**31 - 1
MirrorOf = Callable[[TableSchema, pa.Table], Iterator[pa.Table]]


@dataclass(frozen=True, slots=True)
class Step(ABC):
    """Adds columns to the relation `over`: `c`, or one of elements. `time_zone`: that in which instants are days."""

    number: int
    time_zone: str
    over: str

    @property
    @abstractmethod
    def readable(self) -> Mapping[str, pa.DataType]:
        """What can be read of what it finds, by name."""

    @abstractmethod
    def add(self, connection: duckdb.DuckDBPyConnection, states: States, columns: Iterable[str]) -> None:
        """Add some of that. `states`: those of looked-up rows during the batch."""

    def column(self, name: str) -> str:
        """The column that has one of what was found."""
        return f"#{self.number}.{name}"

    @property
    def fault(self) -> str:
        """The column that tells why nothing was found."""
        return f"#{self.number}!"

    @property
    def reason(self) -> str:
        """The code of that fault."""
        return "quarantine.lookup"

    @property
    def relation(self) -> str:
        """The relation that has the columns."""
        return self.over

    def widen(self, connection: duckdb.DuckDBPyConnection, wider: str) -> None:
        """Put what SQL gives in place of the relation."""
        connection.execute(f"CREATE TEMP TABLE wider AS {wider}")
        connection.execute(f"DROP TABLE {quote(self.over)}; ALTER TABLE wider RENAME TO {quote(self.over)}")


def keys(relation: str) -> list[str]:
    """The columns that tell the rows of a relation apart, in log order."""
    return ["#rid"] if relation == CHANGES else ["#rid", f"{relation}.number"]


def rows(relation: str) -> str:
    """SQL for the rows of a relation, elements with their changes."""
    return CHANGES if relation == CHANGES else f'{quote(relation)} JOIN {CHANGES} USING ("#rid")'


@dataclass(frozen=True, slots=True)
class Lookup(Step):
    """A row of another table, looked up for each change or element. `on`: its columns with SQL for the value each must have."""

    schema: TableSchema
    on: tuple[tuple[str, str], ...]

    @property
    def readable(self) -> Mapping[str, pa.DataType]:
        """The row's columns."""
        return {column.name: column.type for column in self.schema.columns}

    def add(self, connection: duckdb.DuckDBPyConnection, states: States, columns: Iterable[str]) -> None:
        """Add some of the row's columns."""
        types = {column.name: column.store_type for column in self.schema.columns}
        values = {f"#k{i}": f"TRY_CAST(TRY({sql}) AS {types[name]})" for i, (name, sql) in enumerate(self.on)}
        names, moving = [name for name, _ in self.on], states.moved(self.schema)
        asked = ", ".join([f"{sql} AS {quote(key)}" for key, sql in values.items()] + [quote(TXN)] * moving)
        connection.execute(
            f"CREATE OR REPLACE TEMP TABLE asked AS SELECT DISTINCT {asked} FROM {rows(self.over)} WHERE {quote(OP)} <> '{DELETE}'"
        )
        keys = connection.execute(f"SELECT DISTINCT {listed(values)} FROM asked").to_arrow_table().rename_columns(names)
        connection.register("states", states.find(self.schema, keys))
        try:
            self.widen(connection, self._wider(values, columns, moving))
        finally:
            connection.unregister("states")

    def _wider(self, values: Mapping[str, str], columns: Iterable[str], moving: bool) -> str:
        """SQL for the relation with the columns, and why there are none. `values`: SQL for each key in `asked`; `moving`: so is #txn."""
        within = ' AND a."#txn" >= s."#from" AND a."#txn" < s."#to"' if moving else ""
        same = " AND ".join(f"s.{quote(name)} = a.{quote(key)}" for key, (name, _) in zip(values, self.on, strict=True))
        found = {name: quote(self.column(name)) for name in columns}
        one = 'CASE count(s."#from") WHEN 1 THEN any_value(s.{}) END'  # of several rows none is taken
        picked = "".join(f", {one.format(quote(name))} AS {column}" for name, column in found.items())
        told = " || ', ' || ".join(
            f"{literal(name + ' = ')} || coalesce(CAST(f.{quote(key)} AS VARCHAR), 'NULL')"
            for key, (name, _) in zip(values, self.on, strict=True)
        )
        joined = " AND ".join(
            [f"f.{quote(key)} IS NOT DISTINCT FROM {sql}" for key, sql in values.items()] + ['f."#txn" = c."#txn"'] * moving
        )
        return f"""WITH f AS MATERIALIZED (
                SELECT a.*, count(s."#from") AS "#count" {picked} FROM asked a LEFT JOIN states s ON {same}{within} GROUP BY ALL)
            SELECT {quote(self.over)}.*, {"".join(f"f.{column}, " for column in found.values())}
                CASE f."#count" WHEN 1 THEN NULL ELSE f."#count" || ' rows with ' || {told} END AS {quote(self.fault)}
            FROM {rows(self.over)} LEFT JOIN f ON {joined}"""


class States:
    """The states of looked-up rows during one batch. `mirror` gives rows as they are now, by some of their columns."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, mirror: MirrorOf) -> None:
        self._db, self._mirror = connection, mirror
        self._noted: dict[str, pa.Table] = {}  # by table: states, a row of each transaction's end, with OP, TXN and the key's columns

    def note(self, schema: TableSchema, rows: pa.Table) -> None:
        """Remember a table's next changes (complete rows). To be called before they are written to the mirror."""
        known = self._noted.get(schema.name)
        new = pc.all(pc.equal(rows.column(OP), pa.scalar(INSERT, pa.string()))).as_py()
        before = schema.arrow().empty_table() if new else self._rows(schema, rows.select(list(schema.key)))
        values = ", ".join(quote(column.name) for column in schema.columns)
        unknown = "" if known is None else f"ANTI JOIN known USING ({listed(schema.key)})"
        found = self._run(
            f"""SELECT 'r' AS "#op", {BEFORE_ALL}::INTEGER AS "#txn", {values} FROM before {unknown}
            UNION ALL BY NAME SELECT "#op", "#txn", {values} FROM (SELECT *, row_number() OVER () AS "#rid" FROM rows)
            QUALIFY row_number() OVER (PARTITION BY {listed(schema.key)}, "#txn" ORDER BY "#rid" DESC) = 1""",
            before=before,
            rows=rows,
            **({} if known is None else {"known": known}),
        )
        self._noted[schema.name] = found if known is None else self._later(schema, known, found)

    def moved(self, schema: TableSchema) -> bool:
        """Whether rows of a table have changed in the batch, so that it matters as of which transaction they are looked up."""
        return schema.name in self._noted

    def find(self, schema: TableSchema, keys: pa.Table) -> pa.Table:
        """Every state of the rows whose columns have the values that `keys` (a column for each, named like it) has in a row.

        Columns: the schema's, FROM and TO.
        """
        rows, noted = self._rows(schema, keys), self._noted.get(schema.name)
        values = ", ".join(quote(column.name) for column in schema.columns)
        always = f"SELECT {values}, {BEFORE_ALL}::INTEGER AS {quote(FROM)}, {FOR_EVER}::INTEGER AS {quote(TO)} FROM rows"
        if noted is None:
            return self._run(always, rows=rows)
        key = listed(schema.key)
        return self._run(
            f"""{always} ANTI JOIN noted USING ({key})
            UNION ALL SELECT * EXCLUDE ("#op") FROM (
                SELECT {values}, {quote(TXN)} AS {quote(FROM)},
                    lead({quote(TXN)}, 1, {FOR_EVER}) OVER (PARTITION BY {key} ORDER BY {quote(TXN)})::INTEGER AS {quote(TO)}, {quote(OP)}
                FROM noted)
            SEMI JOIN keys USING ({listed(keys.column_names)}) WHERE {quote(OP)} <> '{DELETE}'""",
            rows=rows,
            noted=noted,
            keys=keys,
        )

    def _rows(self, schema: TableSchema, keys: pa.Table) -> pa.Table:
        return pa.concat_tables([schema.arrow().empty_table(), *self._mirror(schema, keys)], promote_options="permissive")

    def _later(self, schema: TableSchema, known: pa.Table, found: pa.Table) -> pa.Table:
        """Both, the later where a row changed in both within one transaction."""
        return self._run(
            f"SELECT * FROM known ANTI JOIN found USING ({listed((*schema.key, TXN))}) UNION ALL BY NAME SELECT * FROM found",
            known=known,
            found=found,
        )

    def _run(self, sql: str, **tables: pa.Table) -> pa.Table:
        for name, table in tables.items():
            self._db.register(name, table)
        try:
            return self._db.execute(sql).to_arrow_table()
        finally:
            for name in tables:
                self._db.unregister(name)
