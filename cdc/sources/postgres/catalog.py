"""What the system catalogs know of the captured tables, and the TableSchema made of it.

Manual: 'System Catalogs' (pg_class, pg_attribute, pg_index, pg_partition_tree), 'Logical Replication Message Formats' (Relation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from cdc.decode.postgres.pgoutput import Relation
from cdc.decode.postgres.pgtypes import PgType, map_column
from cdc.errors import SchemaUnknown, SourceError
from cdc.sources.postgres.connection import Connection, quoted
from cdc.types import Column, TableSchema

_TABLES = """
SELECT w.name, c.oid::int8, c.relkind::text, n.nspname, c.relname
FROM unnest(%s::text[], %s::text[], %s::text[]) AS w(name, namespace, relation)
JOIN pg_namespace n ON n.nspname = w.namespace
JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = w.relation
"""
_LEAVES = """
SELECT t.relid::oid::int8, n.nspname, c.relname, c.relkind::text, c.relpersistence::text, c.relreplident::text,
       coalesce(pg_relation_filenode(c.oid), 0)::int8
FROM (SELECT relid FROM pg_partition_tree(%(oid)s::oid::regclass) WHERE isleaf
      UNION SELECT %(oid)s::oid WHERE %(plain)s) t
JOIN pg_class c ON c.oid = t.relid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind <> 'p' ORDER BY 1
"""
# Waits for whoever has the relation locked, as a copy does; nothing else here may.
_SIZES = """
SELECT reltuples::float8, relpages::int8, pg_relation_size(oid), pg_table_size(oid) FROM pg_class WHERE oid = %s::oid AND relkind = 'r'
"""
_INDEX_COLUMNS = """
SELECT ARRAY(SELECT a.attname::text FROM unnest(i.indkey[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k(attnum, place)
             JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum ORDER BY k.place)
FROM pg_index i WHERE i.indrelid = %s::oid AND i.indisvalid AND i.indimmediate AND """
_COLUMNS = """
SELECT attname, atttypid::int8, atttypmod, attgenerated <> '', attnotnull, atthasmissing OR atthasdef OR attidentity <> ''
FROM pg_attribute WHERE attrelid = %s::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum
"""
_TYPES = """
WITH RECURSIVE t AS (
    SELECT oid AS wanted, oid, typbasetype, typtypmod AS typmod FROM pg_type WHERE oid = ANY(%s::oid[])
    UNION ALL
    SELECT t.wanted, b.oid, b.typbasetype, CASE WHEN t.typmod >= 0 THEN t.typmod ELSE b.typtypmod END
    FROM t JOIN pg_type b ON b.oid = t.typbasetype
)
SELECT t.wanted::int8, b.typname, n.nspname = 'pg_catalog', t.typmod
FROM t JOIN pg_type b ON b.oid = t.oid JOIN pg_namespace n ON n.oid = b.typnamespace WHERE t.typbasetype = 0
"""
_ROOT = "SELECT relid::oid::int8 FROM pg_partition_ancestors(%s::oid::regclass)"


@dataclass(frozen=True, slots=True)
class Leaf:
    """A relation that holds rows of a captured table: the table itself or a partition. Sizes in bytes, once it is `measured`."""

    relid: int
    namespace: str
    name: str
    kind: str
    persistence: str
    identity: str
    key: tuple[str, ...]
    filenode: int
    rows_estimated: int = 0
    heap_size: int = 0
    total_size: int = 0

    @property
    def sql(self) -> str:
        return f"{quoted(self.namespace)}.{quoted(self.name)}"


@dataclass(frozen=True, slots=True)
class ColumnFact:
    """A column as it is now; `filled`: rows that were there before it may show a value the log never told."""

    name: str
    type_oid: int
    typmod: int
    generated: bool
    not_null: bool
    filled: bool


@dataclass(frozen=True, slots=True)
class Table:
    """A captured table as the catalogs have it now. `key` is what its rows are told apart by."""

    name: str
    relid: int
    namespace: str
    relation: str
    partitioned: bool
    leaves: tuple[Leaf, ...]
    columns: tuple[ColumnFact, ...]
    key: tuple[str, ...]
    primary: tuple[str, ...]

    @property
    def sql(self) -> str:
        return f"{quoted(self.namespace)}.{quoted(self.relation)}"


def split(table: str) -> tuple[str, str]:
    """Schema and relation of a table's name in the config: `orders` is in `public`."""
    namespace, dot, relation = table.partition(".")
    return (namespace, relation) if dot else ("public", table)


def money_digits(connection: Connection) -> int:
    """Digits after the point of the database's own `money`, which is stored as a count of the smallest unit."""
    with connection.transaction():
        connection.execute("SET LOCAL lc_monetary TO DEFAULT")
        row = connection.execute("SELECT scale(1::money::numeric)").fetchone()
    assert row is not None
    return int(row[0])


class Catalog:
    """The captured tables of one source, read over one connection."""

    def __init__(self, source: str, overrides: Mapping[str, str]) -> None:
        self.source = source
        self._overrides = overrides
        self._types: dict[int, PgType] = {}
        self._money_digits: int | None = None

    def tables(self, connection: Connection, names: Sequence[str]) -> dict[str, Table]:
        """Every table named, by name. Raises SourceError for one that is missing or can't be captured."""
        found = self.find(connection, names)
        for name in names:
            if name not in found:
                raise SourceError("source.table_missing", source=self.source, table=name, sql_name=".".join(map(quoted, split(name))))
        for table in found.values():
            self.refuse(table)
            if table.partitioned and connection.info.server_version < 130000:
                raise SourceError("source.partitioned", source=self.source, table=table.name)
        return {name: found[name] for name in names}

    def find(self, connection: Connection, names: Sequence[str]) -> dict[str, Table]:
        """Those of the tables named that exist, as they are."""
        namespaces, relations = zip(*map(split, names), strict=True)
        rows = connection.execute(_TABLES, (list(names), list(namespaces), list(relations))).fetchall()
        return {row[0]: self._table(connection, *row) for row in rows}

    def _table(self, connection: Connection, name: str, relid: int, kind: str, namespace: str, relation: str) -> Table:
        primary = _index_columns(connection, relid, "i.indisprimary")
        rows = connection.execute(_LEAVES, {"oid": relid, "plain": kind != "p"}).fetchall()
        leaves = tuple(_leaf(connection, row, primary) for row in rows)
        columns = tuple(ColumnFact(*row) for row in connection.execute(_COLUMNS, (relid,)).fetchall())
        key = primary if kind == "p" else leaves[0].key
        return Table(name, relid, namespace, relation, kind == "p", leaves, columns, key, primary)

    def refuse(self, table: Table) -> None:
        """Raise SourceError for a table whose changes the log does not hold, or not so that rows could be told apart."""
        values = {"source": self.source, "table": table.name, "sql_name": table.sql}
        for leaf in table.leaves:
            if leaf.kind != "r":
                raise SourceError("source.table_kind", **values)
            if leaf.persistence != "p":
                raise SourceError("source.table_unlogged", **{**values, "sql_name": leaf.sql})
            if (fault := identity_fault(table, leaf)) is not None:
                raise SourceError(fault, **{**values, "sql_name": leaf.sql})

    def root(self, connection: Connection, relid: int) -> int:
        """The topmost partitioned table a relation belongs to, or itself; 0 when there is no such relation any more."""
        if connection.execute("SELECT 1 FROM pg_class WHERE oid = %s::oid", (relid,)).fetchone() is None:
            return 0
        rows = connection.execute(_ROOT, (relid,)).fetchall()
        return int(rows[-1][0]) if rows else relid

    def schema(self, connection: Connection, table: Table) -> TableSchema:
        """The schema of a table as it is now; generated columns are left out."""
        columns = [(c.name, c.type_oid, c.typmod) for c in table.columns if not c.generated]
        return TableSchema(self.source, table.name, self._columns(connection, table.name, columns), table.key)

    def schema_of(self, connection: Connection, table: Table, relation: Relation) -> TableSchema:
        """The schema of a captured table as a Relation message tells it. Raises SchemaUnknown when a type of it is gone."""
        columns = self._columns(connection, table.name, [(c.name, c.type_oid, c.typmod) for c in relation.columns])
        flagged = tuple(c.name for c in relation.columns if c.key)
        if relation.identity == "f":
            key = table.primary if set(table.primary) <= set(flagged) else ()
        else:
            key = table.key if set(table.key) == set(flagged) else flagged
        return TableSchema(self.source, table.name, columns, key)

    def _columns(self, connection: Connection, table: str, columns: Sequence[tuple[str, int, int]]) -> tuple[Column, ...]:
        self._learn(connection, {oid for _, oid, _ in columns} - self._types.keys())
        made = []
        for name, oid, typmod in columns:
            if oid not in self._types:
                raise SchemaUnknown("source.type_gone", source=self.source, table=table, column=name, oid=oid)
            known = self._types[oid]
            pg_type = PgType(known.name, typmod if typmod >= 0 else known.typmod, known.builtin, known.money_digits)
            made.append(map_column(name, pg_type, self._overrides.get(f"{table}.{name}")))
        return tuple(made)

    def _learn(self, connection: Connection, oids: set[int]) -> None:
        if not oids:
            return
        for oid, name, builtin, typmod in connection.execute(_TYPES, (sorted(oids),)).fetchall():
            if name in ("money", "_money") and self._money_digits is None:
                self._money_digits = money_digits(connection)
            self._types[oid] = PgType(name, typmod, builtin, 2 if self._money_digits is None else self._money_digits)


def identity_fault(table: Table, leaf: Leaf) -> str | None:
    """The text code of what is wrong with a relation's replica identity, if anything is."""
    if leaf.identity == "n":
        return "source.identity_nothing"
    if leaf.identity == "f":
        return None
    if not leaf.key or not table.key:
        return "source.identity_missing"
    return None if set(leaf.key) == set(table.key) else "source.identity_mixed"


def _leaf(connection: Connection, row: tuple[Any, ...], primary: tuple[str, ...]) -> Leaf:
    relid, namespace, name, kind, persistence, identity, filenode = row
    own = "i.indisreplident" if identity == "i" else "i.indisprimary"
    key = primary if identity == "f" else _index_columns(connection, relid, own)
    return Leaf(relid, namespace, name, kind, persistence, identity, key, filenode)


def measured(connection: Connection, table: Table) -> Table:
    """A table with its sizes, which a copy of it is planned by."""
    return replace(table, leaves=tuple(_measured(connection, leaf) for leaf in table.leaves))


def _measured(connection: Connection, leaf: Leaf) -> Leaf:
    row = connection.execute(_SIZES, (leaf.relid,)).fetchone()
    if row is None:
        return leaf
    reltuples, relpages, heap_size, total_size = row
    pages = heap_size // 8192
    rows = round(reltuples / relpages * pages) if relpages > 0 and reltuples >= 0 else pages * 80
    return replace(leaf, rows_estimated=rows, heap_size=heap_size, total_size=total_size)


def _index_columns(connection: Connection, relid: int, which: str) -> tuple[str, ...]:
    row = connection.execute((_INDEX_COLUMNS + which).encode(), (relid,)).fetchone()
    return tuple(row[0]) if row else ()
